"""HTML for notebooks: names stay text, and the table is one that a screen reader can read."""

from __future__ import annotations

import pytest

from shrinkage.markup import paragraphs, table, text


class Shown:
    def __init__(self, content):
        self.content = content

    def _repr_html_(self):
        return self.content


def page(name):
    return Shown(table(name, [name, "n"], [[name, name], ["b", "2"]], texts=(name,)) + paragraphs([name]))


def test_a_hostile_name_is_text_wherever_it_stands(shown, hostile):
    found, harmless = shown(page(hostile)), shown(page("harmless"))
    assert found.elements == harmless.elements
    readable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in hostile)
    assert found.cells == [readable if cell == "harmless" else cell for cell in harmless.cells]


def test_a_table_has_a_caption_and_headings_with_a_scope(shown):
    found = shown(Shown(table("Sizes", ["layer", "units", "why"], [["a", "1", "x"]], texts=["why"])))
    headings = [dict(e[1:])["scope"] for e in found.elements if e[0] == "th"]
    assert headings == ["col", "col", "col", "row"]
    assert found.cells == ["Sizes", "layer", "units", "why", "a", "1", "x"]
    styles = [dict(e[1:])["style"] for e in found.elements if e[0] in ("th", "td")]
    assert ["left" in style for style in styles] == [True, False, True] * 2


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="argument"):
        table("t", ["a", "b"], [["1"]])


def test_lines_are_kept_and_tabs_are_seen():
    assert text("a\nb\t&") == "a\nb\\t&amp;"
