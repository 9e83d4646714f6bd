"""Nothing that comes from a name, a label, a path or a text becomes markup, whatever it says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace

import pytest

from invented import Words, results
from shrinkage.report import html

FIRED = "document.documentElement.setAttribute('fired', '1')"

HOSTILE = [
    f"<script>{FIRED}</script>",
    f"</script><script>{FIRED}</script>",
    f"</style><script>{FIRED}</script>",
    f"</title><script>{FIRED}</script>",
    f"</pre></details><script>{FIRED}</script>",
    f"</svg><script>{FIRED}</script>",
    f"</template><script>{FIRED}</script>",
    f"</select></textarea><script>{FIRED}</script>",
    f"<ScRiPt>{FIRED}</sCrIpT>",
    f"<script\n>{FIRED}</script\t>",
    f"<<script>{FIRED}//<</script>",
    f'"><script>{FIRED}</script>',
    f"'><script>{FIRED}</script>",
    f'<img src="data:," onerror="{FIRED}">',
    f"<img src=data:, onerror={FIRED}>",
    f'" onmouseover="{FIRED}" x="',
    f"' onfocus='{FIRED}' autofocus x='",
    f" onload={FIRED} ",
    f"` onclick=`{FIRED}`",
    f'<svg onload="{FIRED}"/>',
    f"<svg><script>{FIRED}</script></svg>",
    f'<body onload="{FIRED}">',
    f'<details open ontoggle="{FIRED}">',
    f'<a href="javascript:{FIRED}">x</a>',
    f"javascript:{FIRED}",
    '<iframe src="https://example.org"></iframe>',
    '<meta http-equiv="refresh" content="0;url=https://example.org">',
    '<base href="https://example.org/">',
    '<link rel="stylesheet" href="https://example.org/x.css">',
    "<style>* { display: none }</style>",
    "<!-- ",
    "--> <b>",
    "<![CDATA[ <b>x</b> ]]>",
    f"&lt;script&gt;{FIRED}&lt;/script&gt;",
    f"&#60;script&#62;{FIRED}&#60;/script&#62;",
    "<b",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "${7 * 7} %s %(x)s {0} \\u003cb\\u003e",
    "\N{FULLWIDTH LESS-THAN SIGN}b\N{FULLWIDTH GREATER-THAN SIGN} \N{RIGHT-TO-LEFT OVERRIDE}b>",
    "<b>a</b>\n<i>b\x00\x07\x1b[31m\x7f\x85",
]
PLACES = [field.name for field in fields(Words)]

#: Of a page that no script of runs: how often each tag with its attributes is there, and every address.
SHAPE = """
const parsed = new DOMParser().parseFromString(arguments[0], 'text/html'), tags = [], addresses = [];
const walk = (root) => root.querySelectorAll('*').forEach((e) => {
  const names = Array.from(e.attributes, (a) => a.name);
  tags.push([e.namespaceURI, e.tagName, ...names.sort()].join(' '));
  for (const name of ['href', 'src', 'action', 'xlink:href']) {
    if (e.hasAttribute(name)) addresses.push(e.getAttribute(name));
  }
  if (e instanceof HTMLTemplateElement) walk(e.content);
});
walk(parsed);
return {tags, addresses};
"""


def harmless(text):
    """Return a text as long, with its breaks in the same places, that no reader of HTML can take for more."""
    return re.sub(r"\S", "x", text)


def page(words):
    """Return the report of a run with these texts."""
    return html.render([small(words)])


def small(words):
    return results(words, arms=1, strengths=2, seeds=1, epochs=2, resampled=True)


def shape(browser, text):
    found = browser.run(SHAPE, text)
    return Counter(found["tags"]), found["addresses"]


def assert_same(found, expected):
    (tags, addresses), (wanted, _) = found, expected
    assert (tags - wanted, wanted - tags) == (Counter(), Counter())
    assert not any(re.search(r"\bon\w+", tag) or "style" in tag.split()[2:] for tag in tags)
    assert all(address.startswith(("#", "data:")) for address in addresses)


@pytest.fixture(scope="module")
def blank(browser, tmp_path_factory):
    """An empty page to take others apart in."""
    path = tmp_path_factory.mktemp("blank") / "blank.html"
    path.write_text("<!doctype html><title>blank</title>")
    browser.open(path)
    return browser


def test_there_are_40_strings_and_8_places():
    assert len(set(HOSTILE)) >= 40
    assert len(PLACES) >= 8


def test_every_place_is_on_the_page():
    words = {place: f"place-{place}-here" for place in PLACES}
    text = page(Words(**words))
    assert [place for place, word in words.items() if word not in text] == []


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_a_text_in_every_place_adds_no_element(blank, hostile):
    expected = shape(blank, page(Words.all(harmless(hostile))))
    assert_same(shape(blank, page(Words.all(hostile))), expected)


@pytest.mark.parametrize("place", PLACES)
def test_a_text_in_one_place_adds_no_element(blank, place):
    hostile = f"""<b x='"'>"><img src=x onerror={FIRED}>'</script><!--"""
    expected = shape(blank, page(replace(Words(), **{place: harmless(hostile)})))
    assert_same(shape(blank, page(replace(Words(), **{place: hostile}))), expected)


def test_a_path_that_is_no_text_is_shown(blank, tmp_path):
    odd = html.write([small(Words(directory="/tmp/\udcff<b>"))], tmp_path / "report.html")
    assert_same(shape(blank, odd.read_text()), shape(blank, page(Words())))


def test_markup_that_is_not_escaped_would_be_found(blank):
    text = page(Words())
    changed = text.replace("All of this is made up.", "All of <b>this</b>")
    with pytest.raises(AssertionError):
        assert_same(shape(blank, changed), shape(blank, text))


@pytest.mark.parametrize("number", range(0, len(HOSTILE), 8))
def test_nothing_of_it_runs_or_is_asked_for(browser, tmp_path, number):
    path = html.write([small(Words.all(hostile)) for hostile in HOSTILE[number : number + 8]],
                      tmp_path / "report.html")  # fmt: skip
    browser.open(path)
    browser.unfold()
    for control in browser.all("button, summary, input[type=checkbox]")[:40]:
        browser.run("arguments[0].click()", control)
    assert browser.one("html").get_attribute("fired") is None
    assert browser.messages() == []
    assert browser.requests() == [path.as_uri()]


def test_every_text_is_read_as_it_was_given(browser, tmp_path):
    texts = [text for text in HOSTILE if text.isprintable()]
    browser.open(html.write([small(Words(note=text)) for text in texts], tmp_path / "report.html"))
    for i, text in enumerate(texts):
        notes = browser.run(
            f"return Array.from(document.querySelectorAll('#r{i}-made li'), (item) => item.textContent)"
        )
        assert notes[-1] == text
