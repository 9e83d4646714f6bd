"""HTML for notebooks: a table and paragraphs, in which every text is escaped.

A notebook shows an object by its ``_repr_html_``. There are no scripts, no colours and nothing from outside
in these pieces, so that they look right on a light page and on a dark one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

_TEXT = "text-align: left; vertical-align: top; white-space: pre-line"
_NUMBER = "text-align: right; vertical-align: top; white-space: nowrap; font-variant-numeric: tabular-nums"


def text(content: str) -> str:
    r"""Return ``content`` escaped; a character that does not print is shown as Python writes it.

    Examples
    --------
    >>> text("a < b"), text("\x1b[31m")
    ('a &lt; b', '\\x1b[31m')
    """
    seen = (
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in content
    )
    return escape("".join(seen))


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Collection[str] = ()
) -> str:
    """Return a table.

    Parameters
    ----------
    caption
        What the table shows.
    head
        One heading a column.
    rows
        One text a column; the first names the row.
    texts
        Headings of the columns, besides the first, that hold text; the others hold numbers.

    Examples
    --------
    >>> "<caption" in table("Sizes", ["layer", "units"], [["dense", "8"]])
    True
    """
    columns = [_TEXT if i == 0 or name in texts else _NUMBER for i, name in enumerate(head)]
    body = "\n".join(_row(row, columns) for row in rows)
    return (  # tables of a page in quirks mode inherit no colour
        '<table style="color: inherit">\n'
        f'<caption style="caption-side: top; text-align: left; color: inherit">{text(caption)}</caption>\n'
        f"<thead>\n{_row(head, columns, 'col')}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    )


def _row(cells: Sequence[str], columns: Sequence[str], scope: str = "row") -> str:
    """Return one row: headings in a head, else a heading and its cells."""
    parts = []
    for i, (cell, style) in enumerate(zip(cells, columns, strict=True)):
        tag, attribute = ("th", f' scope="{scope}"') if scope == "col" or i == 0 else ("td", "")
        parts.append(f'<{tag}{attribute} style="{style}">{text(cell)}</{tag}>')
    return f"<tr>{''.join(parts)}</tr>"


def paragraphs(lines: Iterable[str]) -> str:
    """Return one paragraph a line.

    Examples
    --------
    >>> paragraphs(["No findings."])
    '<p>No findings.</p>'
    """
    return "\n".join(f"<p>{text(line)}</p>" for line in lines)
