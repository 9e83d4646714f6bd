"""Tables of a run as CSV, JSON or Parquet: what is read back is what was written, to the bit."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from shrinkage.study.records import as_json

if TYPE_CHECKING:  # the names of the formats are wanted before it is needed
    import pandas as pd

FORMATS = ("csv", "parquet", "json")


def exported(table: pd.DataFrame, form: str) -> bytes:
    r"""Return a table as the content of a file.

    Parameters
    ----------
    table
        Columns of numbers and texts.
    form
        ``csv`` and ``json`` are UTF-8, and their numbers have all the digits that it takes. A number that
        is not there is an empty cell, or ``null``, as infinity is there; ``json`` is a list with an object a
        row.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"arm": ["none", "l2"], "strength": [float("nan"), 0.1]})
    >>> exported(table, "csv")
    b'arm,strength\nnone,\nl2,0.1\n'
    """
    if form == "parquet":
        file = io.BytesIO()
        table.to_parquet(file, index=False)
        return file.getvalue()
    if form == "csv":
        return table.to_csv(index=False, lineterminator="\n").encode()
    rows: list[Any] = as_json(table.astype(object).where(table.notna(), None).to_dict("records"))
    return (json.dumps(rows, indent=2, allow_nan=False) + "\n").encode()
