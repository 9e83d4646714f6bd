"""What the process says of errors and warnings, and how it ends: on a signal, within seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from typing import NoReturn

from shrinkage.errors import ShrinkageWarning

_GRACE = 4.0  # seconds between a signal and the end, even if the program is inside a long compilation


def fail(message: str, code: int) -> NoReturn:
    """Say in one sentence what is wrong, and end the process."""
    with contextlib.suppress(OSError):
        print(f"shrinkage: {message}", file=sys.stderr)
    sys.exit(code)


def one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning as one line, as `warnings.formatwarning` is to."""
    name = "" if issubclass(category, ShrinkageWarning) else f"{category.__name__}: "
    return f"shrinkage: {name}{message}\n"


class Stopped(BaseException):
    """A signal asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Ending:
    """Ends on SIGINT and SIGTERM: at the next Python instruction, or after a few seconds in any case.

    Python runs signal handlers between instructions, and one instruction can be a minute of XLA
    compilation. Everything on disk survives a kill at any moment, so a thread that is woken by the
    signal itself ends the process if the handler has not. ``words`` are said at the end.
    """

    def __init__(self) -> None:
        self.words = "stopped."
        self._over = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    def __enter__(self) -> Ending:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        sys.unraisablehook = self._unraisable
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not Stopped:  # else the watch goes on, for what comes after may hang too
            self._over.set()

    def _stop(self, number: int, frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)  # once is enough; a second one would disturb the cleaning up
        raise Stopped(number)

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        # The signal may have come in a destructor, or while garbage was collected.
        if isinstance(lost.exc_value, Stopped):
            self.leave(lost.exc_value.number)
        sys.__unraisablehook__(lost)

    def _watch(self) -> None:
        number = self._reader.recv(1)
        if number and not self._over.wait(_GRACE):
            self.leave(number[0])

    def leave(self, number: int) -> NoReturn:
        """End the process, with the exit code of a signal."""
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # the progress display hides it
        with contextlib.suppress(OSError):
            print(f"{cursor}shrinkage: {self.words}", file=sys.stderr, flush=True)
        os._exit(128 + number)
