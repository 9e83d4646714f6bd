"""One directory a run: what is stored, and how nothing of it is lost.

Every file is written beside its place, flushed to disk and renamed, so that a kill at any moment leaves
either the old one or the new one. A trial's curve and weights are stored before its row in the database,
and a trial is finished when that row is there.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import filelock
import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from shrinkage.errors import RunError
from shrinkage.study.complaint import concealed

if TYPE_CHECKING:  # what is stored can be read where no backend of Keras is installed
    from shrinkage.study.design import Trial

_FORMAT = 1
_STATES = {"complete": "COMPLETE", "stopped": "PRUNED", "diverged": "FAIL"}  # ours, and Optuna's
_LOCK = ".shrinkage-lock"  # stays, and says that a run was begun here
_UNFINISHED = ".unfinished-"  # begins the name of what is being written
# What a run writes, in the order in which it is removed: a kill in between leaves a directory that still
# says what it is, and can be removed or resumed.
_OWN = (
    "study.db",
    "study.db-journal",
    "summary.json",
    "report.html",
    "pictures.npz",
    "run.json",
    "test.json",
    "plan.json",
    "search.json",
    "descents.json",
    "checkpoints",
    "validation_curve.png",
    "learning_curves.png",
    "curves",
    "models",
    "refit",
    "nested",
    "inputs",
    "study.toml",
)


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's file is for its owner alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)  # there is no way to ask without setting
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of any kind atomically."""
    write_atomically(path, lambda file: _discard(file.write(content)))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; NaN is not allowed in it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def save_model(model: Any, path: Path) -> None:
    """Save a Keras model atomically as a ``.keras`` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_UNFINISHED) as folder:
        temporary = Path(folder) / path.name
        model.save(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _discard(_: object) -> None:
    """Make an expression a statement."""


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class RunDirectory:
    """The files of one run.

    Parameters
    ----------
    path
        The directory; made on first writing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "study.toml"
        self.database = path / "study.db"  # unless the study names another storage
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.provenance = path / "run.json"
        self.pictures = path / "pictures.npz"
        self.models = path / "models"
        self.plan = path / "plan.json"  # how the trials are trained: what the last bits depend on
        self.search = path / "search.json"  # what the strategy has asked for
        self.descents = path / "descents.json"  # what the hypergradient has proposed
        self.checkpoints = Checkpoints(path / "checkpoints")

    @property
    def exists(self) -> bool:
        """Whether a study was begun here."""
        return self.spec.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory: one driver at a time. The lock falls with the process, however it ends.

        Raises
        ------
        RunError
            If another process holds it, or the directory holds something else.
        """
        self._refuse_foreign()
        lock = filelock.FileLock(self.path / _LOCK, timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise RunError(f"Another process is running the study in {str(self.path)!r}.") from None
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"The run directory {str(self.path)!r} can't be written: {reason}.") from None
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{str(self.path)!r} is a file; give a directory for the run.")
        # A folder that holds somebody's study.toml is no run directory yet: a run has a lock or a database.
        begun = (self.path / _LOCK).exists()
        if not self.path.is_dir() or (self.exists and (begun or self.database.exists())):
            return
        own = _OWN if begun else ()
        foreign = sorted(
            p.name for p in self.path.iterdir() if p.name not in own and not p.name.startswith(".")
        )
        if foreign:
            raise RunError(
                f"{str(self.path)!r} holds {foreign[0]!r} and is no run directory; give a new or empty one."
            )

    def _sweep(self) -> None:
        """Remove what a killed run was writing."""
        for folder in (
            self.path,
            self.path / "curves",
            self.models,
            self.path / "inputs",
            self.checkpoints.path,
        ):
            for path in folder.glob(f"{_UNFINISHED}*"):
                _remove(path)

    def part(self, name: str) -> RunDirectory:
        """Return a folder inside for a training apart, laid out alike; who holds this one holds it too."""
        inside = RunDirectory(self.path / name)
        inside._sweep()
        return inside

    def clear(self, keep_inputs: bool = False) -> None:
        """Remove what a run has written here, and nothing else; a study may begin anew from its inputs."""
        for name in _OWN:
            if not (keep_inputs and name == "inputs"):
                _remove(self.path / name)

    def curve(self, key: str) -> Path:
        """Return where a trial's curve is."""
        return self.path / "curves" / f"{key}.parquet"

    def write_curve(self, trial: Trial, rows: Sequence[Mapping[str, float]]) -> None:
        """Store a trial's curve: one row an epoch."""
        frame = pd.DataFrame(rows)
        for column in reversed(("arm", "strength", "seed", "fold")):
            value = getattr(trial, column)
            frame.insert(0, column, np.nan if value is None else value)
        write_atomically(self.curve(trial.key), lambda file: frame.to_parquet(file, index=False))

    def curves(self, keys: Sequence[str]) -> pd.DataFrame:
        """Return the curves of these trials, one row a trial and epoch."""
        parts = [pd.read_parquet(self.curve(key)) for key in keys if self.curve(key).exists()]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def epochs(self, key: str) -> int:
        """Return how many epochs a trial was trained; 0 if it has no curve."""
        from pyarrow import parquet

        return parquet.read_metadata(self.curve(key)).num_rows if self.curve(key).exists() else 0

    def weights(self, key: str) -> Path:
        """Return where a trial's weights are kept while they may still be asked for."""
        return self.models / f"{key}.npz"

    def write_weights(self, key: str, weights: Sequence[NDArray[Any]]) -> None:
        """Store a trial's weights, in the order of ``model.get_weights()``."""
        # NumPy's format does not know bfloat16; float32 holds each of its values.
        plain = [
            w if w.dtype.kind != "V" and w.dtype.name != "bfloat16" else w.astype("float32") for w in weights
        ]
        write_atomically(self.weights(key), lambda file: np.savez(file, *plain))

    def read_weights(self, key: str) -> tuple[NDArray[Any], ...] | None:
        """Return a trial's weights, or None if they are not kept."""
        if not self.weights(key).exists():
            return None
        with np.load(self.weights(key), allow_pickle=False) as stored:
            return tuple(stored[f"arr_{i}"] for i in range(len(stored.files)))

    def keep_weights(self, keys: Sequence[str]) -> None:
        """Remove the weights of all trials but these."""
        for path in self.models.glob("*.npz") if self.models.exists() else ():
            if path.stem not in keys:
                path.unlink(missing_ok=True)

    def write_pictures(self, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Store sets of images by name."""
        write_atomically(self.pictures, lambda file: np.savez_compressed(file, **pictures))  # type: ignore[arg-type]

    def read_pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Return the sets of images by name; none if none are stored."""
        if not self.pictures.exists():
            return {}
        with np.load(self.pictures, allow_pickle=False) as stored:
            return dict(stored)

    def read_json(self, path: Path) -> Any:
        """Return what one of the directory's JSON files holds, or None if there is none."""
        return json.loads(path.read_text()) if path.exists() else None

    def test_scores(self) -> dict[str, dict[str, float]]:
        """Return the test scores by trial key."""
        scores: dict[str, dict[str, float]] = self.read_json(self.path / "test.json") or {}
        return scores

    def write_test_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Store the test scores by trial key."""
        write_json(self.path / "test.json", scores)


class Checkpoints:
    """Where a loop keeps what it needs to go on in the middle of a trial; removed when it is over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npz"

    def read(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return a checkpoint, or None."""
        if not self._file(name).exists():
            return None
        with np.load(self._file(name), allow_pickle=False) as stored:
            return dict(stored)

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a checkpoint in the place of an older one."""
        write_atomically(self._file(name), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def remove(self, name: str) -> None:
        """Remove a checkpoint, if there is one."""
        self._file(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all checkpoints."""
        _remove(self.path)


class TrialStore:
    """Finished trials in an Optuna storage: parameters, state, objective and figures.

    Parameters
    ----------
    directory
        The run's directory.
    url
        Any SQLAlchemy URL; None is ``study.db`` in the directory.
    name
        The study's name in the storage.

    Raises
    ------
    RunError
        If the storage can't be opened.
    """

    def __init__(self, directory: Path, url: str | None, name: str) -> None:
        self._url = url or _sqlite(RunDirectory(directory).database)
        self._name = name
        with quiet():
            try:
                self._study = _opened(optuna.storages.get_storage(self._url), name)
            except Exception as error:  # whatever the database's driver raises
                reason = str(error).strip().partition("\n")[0].replace(self._url, concealed(self._url))
                raise RunError(f"The storage {concealed(self._url)!r} can't be opened: {reason}") from error
        self._arms: list[str] = []

    def claim(self, digest: str, facts: Mapping[str, str], arms: Sequence[str]) -> None:
        """Mark the stored study as the one with this hash, these facts and these arms.

        Raises
        ------
        RunError
            If it is another, or its data, model or backend is.
        """
        self._arms = list(arms)
        known = self._study.user_attrs
        if "digest" not in known:
            self._study.set_user_attr("format", _FORMAT)
            self._study.set_user_attr("facts", dict(facts))
            self._study.set_user_attr("digest", digest)
        elif known["digest"] != digest:
            before = known.get("facts", {})
            changed = [
                f"backend ({before.get(name)} -> {facts[name]})" if name == "backend" else name
                for name in facts
                if before.get(name) != facts[name]
            ]
            what = (
                f"The {' and the '.join(changed)} of this study changed since its run was begun"
                if changed
                else f"The storage {concealed(self._url)!r} holds another study named {self._name!r}"
            )
            raise RunError(f"{what}. Give another directory or name, or --restart to begin anew.")

    def delete(self) -> None:
        """Remove the study from its storage."""
        optuna.delete_study(study_name=self._name, storage=self._url)

    def add(
        self, trial: Trial, state: str, figures: Mapping[str, Any], rungs: Mapping[int, float] | None = None
    ) -> None:
        """Store a finished trial.

        A diverged one is Optuna's FAIL, which needs no value, and one stopped at a rung is PRUNED.
        ``rungs`` are validation data losses by epoch, Optuna's intermediate values.
        """
        space: dict[str, Any] = {"arm": optuna.distributions.CategoricalDistribution(self._arms)}
        params: dict[str, Any] = {"arm": trial.arm, "seed": trial.seed, "fold": trial.fold}
        space["seed"] = space["fold"] = optuna.distributions.IntDistribution(-1, 2**62)
        if trial.strength is not None:
            params["strength"] = trial.strength
            space["strength"] = optuna.distributions.FloatDistribution(0.0, float(np.finfo("float64").max))
        frozen = optuna.trial.create_trial(
            state=optuna.trial.TrialState[_STATES[state]],
            value=None if state == "diverged" else figures["val_data_loss"],
            intermediate_values=dict(rungs or {}),
            params=params,
            distributions=space,
            # One attribute for all figures: each is a row of its own in the database.
            user_attrs={"key": trial.key, "state": state, "figures": _json_safe(figures)},
        )
        with quiet():
            self._study.add_trial(frozen)

    def finished(self) -> dict[str, dict[str, Any]]:
        """Return each finished trial by its key: arm, strength (None: fixed), seed, fold, state, figures."""
        rows = {}
        for frozen in self._study.get_trials(deepcopy=False):
            key = frozen.user_attrs.get("key")
            if key is not None:
                attrs = frozen.user_attrs
                rows[key] = {"strength": None, **frozen.params, "state": attrs["state"], **attrs["figures"]}
        return rows


def _opened(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    """Return a study of the storage, which is written to only where there is no such study."""
    try:
        return optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)


def _json_safe(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in figures.items()}


def _sqlite(path: Path) -> str:
    from sqlalchemy.engine import URL

    # A path may hold what means something in a URL: a question mark, a percent sign.
    return URL.create("sqlite", database=str(path.resolve())).render_as_string()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log lines out of the progress display."""
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
