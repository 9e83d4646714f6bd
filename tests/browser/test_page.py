"""``report.html`` as a person meets it: in Chromium, on screens of several widths, on paper, by keyboard."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

import invented
from shrinkage.report import html

PHONE, TABLET, DESK = 400, 768, 1280
PAPER = 718  # A4 within Chromium's margins, at 96 dots per inch
MEGABYTE = 10**6

#: Of every cell of every sortable table: the table's section, row, heading, stored number and shown text.
CELLS = """
return Array.from(document.querySelectorAll('section.run'), (run) =>
  Array.from(run.querySelectorAll('table.sortable'), (table) => ({
    section: table.closest('section[id]').id,
    heads: Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent.trim()),
    rows: Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => (
      {value: cell.dataset.value ?? null, text: cell.textContent.trim()}))),
  }))).flat();
"""

AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations));
"""


def tables(browser, section):
    return [table for table in browser.run(CELLS) if table["section"] == section]


def rows_of(browser, section, number=0):
    """Return the rows of a table as dictionaries: heading -> cell."""
    table = tables(browser, section)[number]
    return [dict(zip(table["heads"], row, strict=True)) for row in table["rows"]]


def stored(value):
    """Return what the page holds of a number: all of its digits, nothing for one that does not exist."""
    return "" if value is None or not math.isfinite(value) else repr(value)


@pytest.fixture
def opened(browser, page):
    browser.open(page)
    return browser


# --- numbers --------------------------------------------------------------------------------------------


def test_the_table_of_arms_holds_the_numbers_of_the_summary(opened, trained):
    summary = json.loads((trained.directory / "summary.json").read_text())
    rows = rows_of(opened, "r0-arms")
    assert len(rows) == len(summary["arms"]) == 3
    for row, arm in zip(rows, summary["arms"], strict=True):
        chosen, one_se = arm["selection"]["chosen"], arm["selection"]["one_se"]
        assert row["arm"]["text"].startswith(arm["arm"])
        assert row["λ"]["value"] == stored(chosen["strength"])
        assert row["1‑SE\u00a0λ"]["value"] == stored(one_se and one_se["strength"])
        for head, field in (
            ("validation data loss", "val_data_loss"),
            ("test data loss", "test_data_loss"),
            ("test accuracy", "test_accuracy"),
        ):
            assert row[head]["value"] == stored(chosen[field]["mean"])
        assert row["difference"]["value"] == stored(arm["accuracy"] and arm["accuracy"]["test"]["mean"])
        assert row["verdict"]["text"] == arm["verdict"]


def test_the_marks_and_their_table_hold_the_numbers_of_the_summary(opened, trained):
    summary = json.loads((trained.directory / "summary.json").read_text())
    cells = [cell for arm in summary["arms"] for cell in arm["cells"]]
    for measure, field in (("loss", "val_data_loss"), ("accuracy", "val_accuracy")):
        for scale in opened.run(
            f"return Array.from(document.querySelectorAll('svg.chart[data-measure={measure}]'), (svg) => "
            "Array.from(svg.querySelectorAll('.mean[data-mean]'), (mark) => ({...mark.dataset})))"
        ):
            marks = [(m.get("strength", ""), m["mean"], m["se"]) for m in scale]
            assert marks == [
                (stored(c["strength"]), stored(c[field]["mean"]), stored(c[field]["se"])) for c in cells
            ]
    rows = rows_of(opened, "r0-validation")
    assert [row["data loss"]["value"] for row in rows] == [stored(c["val_data_loss"]["mean"]) for c in cells]
    assert [row["accuracy"]["value"] for row in rows] == [stored(c["val_accuracy"]["mean"]) for c in cells]


def test_every_training_is_there_with_its_numbers(opened, trained):
    rows = rows_of(opened, "r0-trials")
    frame = trained.frame
    assert [row["arm"]["text"] for row in rows] == frame["arm"].to_list()
    for head, column in (
        ("λ", "strength"),
        ("training data loss", "train_data_loss"),
        ("validation data loss", "val_data_loss"),
        ("validation accuracy", "val_accuracy"),
        ("penalty", "penalty"),
        ("test data loss", "test_data_loss"),
        ("test accuracy", "test_accuracy"),
    ):
        assert [row[head]["value"] for row in rows] == [stored(v) for v in frame[column]], head
    for head, column in (("seed", "seed"), ("epochs", "epochs")):
        assert [int(row[head]["value"]) for row in rows] == frame[column].to_list()


def test_what_is_shown_of_a_number_is_that_number_rounded(browser, several):
    browser.open(several)
    found = 0
    for table in browser.run(CELLS):
        for head, cell in itertools.chain(*(zip(table["heads"], row, strict=True) for row in table["rows"])):
            where = f"{table['section']}, {head}: {cell}"
            if not cell["value"]:
                assert cell["value"] is None or cell["text"] in ("–", "no strength"), where
                continue
            shown = re.match(r"[+−-]?[\d,]+(?:\.(\d+))?(?:e([+-]\d+))?", cell["text"])
            assert shown, where
            unit = 0.01 if re.search("%|point", cell["text"]) else 1.0
            power = 10.0 ** int(shown[2] or 0)
            number = float(shown[0].replace("−", "-").replace(",", "")) * unit
            half = 0.5 * 10.0 ** -len(shown[1] or "") * power * unit
            assert abs(number - float(cell["value"])) <= half * (1 + 1e-6), where
            found += 1
    assert found > 100


# --- what can be switched -------------------------------------------------------------------------------

HIDDEN = """
return Array.from(document.querySelectorAll(`#run-${arguments[0]} svg.chart [data-arm="${arguments[1]}"]`),
                  (mark) => getComputedStyle(mark).display === 'none');
"""


def test_a_toggle_hides_one_arm_in_all_figures_of_its_run(browser, several):
    browser.open(several)
    box = browser.one("#run-1 [data-toggle-arm='1']")
    for hidden in (True, False):
        browser.press(box)
        for run, arm in itertools.product((0, 1), (0, 1, 2)):
            marks = browser.run(HIDDEN, run, arm)
            assert marks, (run, arm)
            assert set(marks) == {hidden and (run, arm) == (1, 1)}, (run, arm)


def test_the_view_of_the_scores_can_be_chosen(opened):
    seen = """return Array.from(document.querySelectorAll('svg[data-measure]'))
        .filter((svg) => svg.checkVisibility()).map((svg) => [svg.dataset.measure, svg.dataset.scale])"""
    assert opened.run(seen) == [["loss", "close-up"], ["accuracy", "close-up"]]
    for view in ("log", "linear", "close-up", "log"):
        opened.press(opened.one(f"[data-scale-button={view}]"))
        accuracies = "linear" if view == "log" else view
        assert opened.run(seen) == [["loss", view], ["accuracy", accuracies]]
        pressed = {b.get_attribute("data-scale-button"): b.get_attribute("aria-pressed")
                   for b in opened.all("[data-scale-button]")}  # fmt: skip
        assert pressed == {name: str(name == view).lower() for name in ("close-up", "linear", "log")}


SORT = """
const [number, column] = arguments;
const table = document.querySelectorAll('table.sortable')[number];
table.tHead.rows[0].cells[column].querySelector('button').click();
return {
  marked: Array.from(table.tHead.rows[0].cells, (head) => head.getAttribute('aria-sort')),
  found: Array.from(table.tBodies[0].rows, (row) => row.cells[column].dataset.value
                    ?? row.cells[column].textContent.trim()),
  numeric: Array.from(table.tBodies[0].rows).some((row) => row.cells[column].dataset.value !== undefined),
};
"""


def test_every_column_of_every_table_sorts_both_ways(browser, several):
    browser.open(several)
    shapes = browser.run(
        "return Array.from(document.querySelectorAll('table.sortable'), (t) => t.tHead.rows[0].cells.length)"
    )
    assert len(shapes) >= 8
    moved = 0
    for table, columns in enumerate(shapes):
        for column in range(columns):
            for direction in ("ascending", "descending"):
                after = browser.run(SORT, table, column)
                found = after["found"]
                present = [x for x in found if not (after["numeric"] and x == "")]
                assert found[: len(present)] == present, "what is missing comes last"
                value = float if after["numeric"] else str
                assert present == sorted(present, key=value, reverse=direction == "descending")
                assert [mark for mark in after["marked"] if mark] == [direction]
                assert after["marked"][column] == direction
                moved += present != present[::-1]
    assert moved > 40


def test_trainings_can_be_filtered_and_are_counted(opened, trained):
    opened.unfold()
    field = opened.one("[data-filter-trials]")
    frame = trained.frame
    l1 = frame["arm"] == "L1"
    cases = {
        "L1": l1,
        "l1 complete seed 1": l1 & (frame["state"] == "complete") & (frame["seed"] == 1),
        "0.0001": frame["strength"] == 1e-4,
        "seed 3": frame["seed"] == 3,
        "3": frame["epochs"] == 3,
        "no such thing": frame["seed"] < 0,
        " ": frame["seed"] >= 0,
    }
    for typed, wanted in cases.items():
        field.clear()
        field.send_keys(typed)
        shown = opened.run(
            "return Array.from(document.querySelectorAll('#r0-trials tbody tr'), (r) => r.checkVisibility())"
        )
        assert shown == wanted.tolist(), typed
        assert opened.one("#r0-trials output").text == f"{wanted.sum()} of {len(frame)}"
    assert l1.any()
    assert not l1.all()


def test_learning_curves_of_another_strength_can_be_chosen(opened):
    place = "return document.querySelectorAll('#r0-curves .chosen-curve svg.chart').length"
    select = "#r0-curves [data-choose-curve]"
    options = opened.run(f"return Array.from(document.querySelector('{select}').options, (o) => o.text)")
    assert len(options) > 3
    assert opened.run(place) == 0
    for number in (1, len(options) - 1):
        opened.press(opened.one(f"{select} option:nth-child({number + 1})"))
        assert opened.run(place) == 4  # data loss, accuracy, gap, penalty
        assert opened.one("#r0-curves .chosen-curve h3").text == options[number]
    opened.press(opened.one(f"{select} option"))
    assert opened.run(place) == 0


def test_a_curve_chosen_later_is_hidden_with_its_arm(opened):
    box = opened.one("[data-toggle-arm='2']")
    opened.press(box)
    options = opened.all("#r0-curves [data-choose-curve] option")
    (wanted,) = [option for option in options if option.text.startswith("L1 at λ = 0.01")]
    opened.press(wanted)
    shown = opened.run(
        "return Array.from(document.querySelectorAll('.chosen-curve [data-arm=\"2\"]'),"
        " (m) => getComputedStyle(m).display)"
    )
    assert shown
    assert set(shown) == {"none"}


@pytest.mark.parametrize(("setting", "said"), [("granted", "Copied"), ("denied", "Selected")])
def test_what_is_to_be_pasted_is_copied_or_at_least_selected(browser, page, setting, said):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.command("Browser.setPermission", permission={"name": "clipboard-write"}, setting=setting)
    browser.open(page)
    browser.unfold()
    for button in browser.all("button.copy"):
        browser.press(button)
        WebDriverWait(browser.driver, 10, 0.02).until(lambda _, b=button: b.text == said)
        if said == "Selected":
            text = browser.one(f"#{button.get_attribute('data-copy')}").get_attribute("textContent")
            assert browser.run("return getSelection().toString()").strip() == text.strip()
    assert browser.messages() == []
    browser.command("Browser.resetPermissions")


# --- alone ----------------------------------------------------------------------------------------------


def test_it_asks_for_nothing_and_the_console_stays_empty(browser, several):
    browser.open(several)
    browser.unfold()
    for button in browser.all("button:not(.copy), input[type=checkbox]"):
        browser.run("arguments[0].click()", button)
    browser.run("scrollTo(0, document.body.scrollHeight)")
    assert browser.messages() == []
    assert browser.requests() == [several.as_uri()]


def test_no_address_leads_out_of_the_page(opened):
    links = opened.run("""
        const leading = /^(src|href|xlink:href|action|srcset|data|poster)$/;
        return Array.from(document.querySelectorAll('*'), (e) => Array.from(e.attributes)).flat()
            .filter((a) => leading.test(a.name)).map((a) => a.value);""")
    assert links
    assert {link for link in links if not link.startswith(("#", "data:"))} == set()


INJECT = """
window.fired = [];
const put = (name, attributes, text = '') => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  document.body.append(made);
};
put('script', {}, "fired.push('script')");
put('img', {src: 'data:,', onerror: "fired.push('handler')"});
put('img', {src: 'http://127.0.0.1:9/picture.png'});
put('div', {style: 'position: fixed', id: 'styled'});
put('a', {href: "javascript:fired.push('link')", id: 'link'}, 'x');
document.getElementById('link').click();
setTimeout(arguments[arguments.length - 1], 200);
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_code_that_got_into_the_page_would_not_run(browser, page, tmp_path, guarded):
    if not guarded:  # so that the other case could fail
        text = re.sub("<meta http-equiv=.*?>", "", page.read_text())
        page = tmp_path / "report.html"
        page.write_text(text)
    browser.open(page)
    policy = [m.get_attribute("content") for m in browser.all("meta[http-equiv=Content-Security-Policy]")]
    browser.driver.execute_async_script(INJECT)
    fired = browser.run("return fired")
    styled = browser.run("return getComputedStyle(document.getElementById('styled')).position")
    asked = [url for url in browser.requests() if not url.startswith("file:")]
    if guarded:
        assert policy[0].startswith("default-src 'none';")
        assert "unsafe" not in policy[0]
        assert (fired, styled, asked) == ([], "static", [])
    else:
        assert policy == []
        assert (sorted(fired), styled) == (["handler", "link", "script"], "fixed")
        assert asked == ["http://127.0.0.1:9/picture.png"]


# --- for everybody --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, several, width, scheme):
    browser.open(several, width=width, scheme=scheme)
    browser.unfold()
    browser.run(files("selenium_axe_python").joinpath("axe-core/axe.min.js").read_text("utf-8"))
    violations = browser.driver.execute_async_script(AXE)
    serious = [
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]} (of {len(v['nodes'])})"
        for v in violations
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_arms_stand_out_from_the_page_and_differ_without_colour(browser, tmp_path, scheme):
    browser.open(html.write([invented.results(arms=6)], tmp_path / "report.html"), scheme=scheme)
    marks = browser.run("""
        const card = getComputedStyle(document.querySelector('.card')).backgroundColor;
        return Array.from(document.querySelectorAll('fieldset.arms .key .mean'), (mark) =>
            ({colour: getComputedStyle(mark).fill, shape: mark.getAttribute('d'), card}));""")
    assert len(marks) == 7
    assert all(contrast(mark["colour"], mark["card"]) >= 3 for mark in marks)  # WCAG 2.2, 1.4.11
    assert len({mark["colour"] for mark in marks}) == 7
    assert len({mark["shape"] for mark in marks[:6]}) == 6
    assert marks[6]["shape"] != marks[5]["shape"]


def contrast(one, other):
    """Return the contrast ratio of two colours that a style gives."""

    def luminance(colour):
        channels = np.array([float(c) for c in re.findall(r"[\d.]+", colour)[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


FOCUS = """
const at = document.activeElement, style = getComputedStyle(at);
return {
  kind: at.tagName.toLowerCase() + Array.from(at.classList, (c) => '.' + c).join('')
    + ['data-toggle-arm', 'data-scale-button', 'data-choose-curve', 'data-filter-trials'].filter((a) =>
        at.hasAttribute(a)).map((a) => `[${a}]`).join(''),
  visible: at.checkVisibility() && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
};
"""


def test_the_keyboard_reaches_everything_and_shows_where_it_is(opened):
    from selenium.webdriver.common.keys import Keys

    opened.unfold()
    reached = {}
    for _ in range(400):
        opened.keys(Keys.TAB)
        at = opened.run(FOCUS)
        if at["kind"] == "body":
            break
        assert at["visible"], at
        reached[at["kind"]] = reached.get(at["kind"], 0) + 1
    every = {
        "input[data-toggle-arm]": "input[data-toggle-arm]",
        "button[data-scale-button]": "[data-scale-button]",
        "button.sort": "button.sort",
        "button.copy": "button.copy",
        "select[data-choose-curve]": "select",
        "input[data-filter-trials]": "input[type=search]",
        "summary": "summary",
        "div.scroll": ".scroll",
    }
    for kind, selector in every.items():
        assert reached.get(kind) == len(opened.all(selector)), kind


def test_space_and_enter_do_what_a_click_does(opened):
    from selenium.webdriver.common.keys import Keys

    def focus(selector):
        opened.run("document.querySelector(arguments[0]).focus()", selector)

    focus("[data-toggle-arm='1']")
    opened.keys(Keys.SPACE)
    assert set(opened.run(HIDDEN, 0, 1)) == {True}
    for key, scale in ((Keys.ENTER, "log"), (Keys.SPACE, "linear")):
        focus(f"[data-scale-button={scale}]")
        opened.keys(key)
        assert opened.one(f"[data-scale-button={scale}]").get_attribute("aria-pressed") == "true"
    focus("#r0-arms th:nth-child(4) button")
    opened.keys(Keys.ENTER)
    assert opened.one("#r0-arms th:nth-child(4)").get_attribute("aria-sort") == "ascending"
    focus("#r0-trials summary")
    opened.keys(Keys.ENTER)
    assert opened.one("#r0-trials table").is_displayed()


def test_a_reader_finds_headings_captions_and_names(browser, several):
    browser.open(several)
    levels = browser.run("return Array.from(document.querySelectorAll('h1,h2,h3,h4'), (h) => +h.tagName[1])")
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert browser.run("return document.documentElement.lang") == "en"
    for selector in ("table:not(:has(caption))", "svg.chart:not([aria-label])", "img:not([alt])"):
        assert browser.all(selector) == [], selector
    labels = browser.run("return Array.from(document.querySelectorAll('svg.chart'), (s) => s.ariaLabel)")
    assert all(len(label) > 20 for label in labels)


# --- wherever it is read --------------------------------------------------------------------------------

WIDE = """return Array.from(document.querySelectorAll(arguments[0]))
    .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.outerHTML.slice(0, 80));"""


@pytest.mark.parametrize("width", [320, PHONE, TABLET, DESK])
def test_the_page_never_scrolls_sideways(browser, several, width):
    browser.open(several, width=width)
    browser.unfold()
    inner, outer = browser.run(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    )
    assert inner <= outer <= width
    assert browser.run(WIDE, ".scroll") or width > TABLET  # tables do, each for itself


@pytest.mark.parametrize("width", [PHONE, TABLET, DESK])
def test_what_is_written_in_figures_can_be_read(browser, several, width):
    browser.open(several, width=width)
    browser.unfold()
    small = browser.run("""
        const scale = ({a, b}) => Math.hypot(a, b);
        const size = (text) => parseFloat(getComputedStyle(text).fontSize) * scale(text.getScreenCTM());
        return Array.from(document.querySelectorAll('svg.chart text')).filter((t) => !t.closest('[hidden]'))
            .map(size).filter((s) => s < 9.5);""")
    assert small == []


def test_without_scripts_everything_is_there_but_the_switches(browser, page):
    browser.open(page, scripts=False)
    try:
        assert browser.all("html.scripting") == []
        for selector, least in (("svg.chart", 6), ("table", 4), ("#r0-verdict h2", 1), ("#r0-trials tr", 14)):
            assert len(browser.all(selector)) >= least, selector
        assert browser.one("#r0-validation svg.chart").is_displayed()
        assert browser.one("#r0-arms table").is_displayed()
        for selector in ("button.copy", "[data-scale-button]", "[data-filter-trials]", "[data-choose-curve]"):
            assert not any(e.is_displayed() for e in browser.all(selector)), selector
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)


def test_figures_are_painted_before_any_script_runs(page):
    text = page.read_text()
    body = text.index("<body")
    assert text.rindex("<svg") < text.index("<script", body)
    assert "<script" not in text[:body]


def test_on_paper_it_is_black_on_white_and_whole(browser, several):
    browser.open(several, width=PAPER, scheme="dark")
    browser.look("dark", "print")
    browser.unfold()  # as `beforeprint` does
    inner, outer = browser.run(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    )
    assert inner <= outer
    ground = browser.run("return getComputedStyle(document.documentElement).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    missing = browser.run("""
        const essential = 'h1, h2, h3, p:not(.scripted), table, pre, svg.chart, svg.key, img';
        return Array.from(document.querySelectorAll(essential))
            .filter((e) => !e.checkVisibility() && !e.closest('figure[hidden]'))
            .map((e) => e.outerHTML.slice(0, 80));""")
    assert missing == []
    assert not any(e.is_displayed() for e in browser.all("button.copy, [data-filter-trials], select"))
    assert browser.run(WIDE, ".scroll, pre") == []


def test_printing_unfolds_what_is_folded(browser, page):
    browser.open(page)
    assert browser.all("details:not([open])")
    pdf = base64.b64decode(browser.command("Page.printToPDF")["data"])
    assert browser.all("details:not([open])") == []
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", pdf)) > 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, TABLET, DESK])
def test_pictures_of_the_page(browser, several, screens, width, scheme):
    browser.open(several, width=width, scheme=scheme)
    with Image.open(browser.screenshot(screens / f"report-{width}-{scheme}.png")) as picture:
        assert picture.width == width
        pixels = np.asarray(picture.convert("L"))
    common = np.bincount(pixels.ravel()).argmax()
    assert common > 200 if scheme == "light" else common < 60
    # Somewhere on every screenful there is something.
    assert all(np.ptp(part) > 60 for part in np.array_split(pixels, max(1, len(pixels) // 900)))


# --- studies of other sizes -----------------------------------------------------------------------------


def test_500_trials_of_100_epochs_are_at_most_6_megabytes(browser, tmp_path):
    results = invented.results(arms=9, strengths=11, seeds=5, epochs=100)
    assert (len(results.frame), len(results.curves)) == (500, 50_000)
    path = html.write([results], tmp_path / "report.html")
    assert path.stat().st_size <= 6 * MEGABYTE
    browser.open(path)
    assert len(browser.all("#r0-trials tbody tr")) == 500
    assert browser.messages() == []
    drawn = io.BytesIO(browser.screenshot(tmp_path / "large.png").read_bytes())
    assert Image.open(drawn).height > 900


def test_one_epoch_is_drawn_as_dots(browser, tmp_path):
    browser.open(html.write([invented.results(epochs=1, seeds=1)], tmp_path / "report.html"))
    drawn = browser.run("""
        const thick = Array.from(document.querySelectorAll('#r0-curves svg.chart .thick'));
        return thick.map((path) => [path.getAttribute('d'), getComputedStyle(path).strokeLinecap,
                                    parseFloat(getComputedStyle(path).strokeWidth)]);""")
    assert drawn
    assert all(re.fullmatch(r"M[\d.]+,[\d.]+h0", d) and cap == "round" and w >= 5 for d, cap, w in drawn)
