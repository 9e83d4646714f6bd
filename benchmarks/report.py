"""Size of ``report.html``, the time to write it, and the time until a browser shows its first figure.

The run is made up: 500 trials of 100 epochs, or what is asked for. Times in the browser need Debian's
``chromium`` and ``chromium-driver``; each is that of a new tab that opens the file from disk.

    python benchmarks/report.py
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import spread, stated

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import invented  # the same made-up runs as in the tests
from shrinkage.report import html

MEGABYTE = 10**6
AIMS = "aims: at most 6 MB; the first figure within 2 s"

# Noted by the browser's own clock, from the begin of loading: the first frame in which a figure stands.
WATCH = """
const look = () => {
  if (document.querySelector('svg.chart')) {
    // After the frame that is drawn next, the figure has been painted.
    requestAnimationFrame(() => setTimeout(() => { window.figure = performance.now(); }));
  } else {
    requestAnimationFrame(look);
  }
};
look();
"""
ASK = """
const [page] = performance.getEntriesByType('navigation');
const [paint] = performance.getEntriesByName('first-contentful-paint');
return [paint ? paint.startTime : null, window.figure ?? null, page.loadEventEnd || null];
"""


def written(results: Any, path: Path, repeats: int) -> list[float]:
    """Write the page several times; return the seconds of each."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        html.write([results], path)
        seconds.append(time.perf_counter() - begun)
    return seconds


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless Chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        yield driver
    finally:
        driver.quit()


def shown(driver: Any, path: Path) -> tuple[float, float, float]:
    """Open the page; return milliseconds until the first paint, the first figure, and all of it."""
    driver.get(path.as_uri())
    while None in (times := driver.execute_script(ASK)):
        time.sleep(0.01)
    first, figure, whole = times
    return first, figure, whole


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arms", type=int, default=9, help="beside the baseline, which has no strength")
    parser.add_argument("--strengths", type=int, default=11)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args(argv)
    sizes = {name: getattr(options, name) for name in ("arms", "strengths", "seeds", "epochs")}
    with stated(), tempfile.TemporaryDirectory() as folder:
        results, path = invented.results(**sizes), Path(folder) / "report.html"
        seconds = written(results, path, options.repeats)
        print(f"{len(results.frame)} trials of {options.epochs} epochs; {AIMS}")
        print(f"size                      {path.stat().st_size / MEGABYTE:.2f} MB")
        print(f"written in                {spread(seconds)} s")
        if not (shutil.which("chromium") and shutil.which("chromedriver")):
            print("left out: the times in a browser need the Debian packages chromium and chromium-driver")
            return
        with chromium() as driver:
            times = [shown(driver, path) for _ in range(options.repeats)]
        for name, values in zip(
            ("first paint", "first figure painted", "loaded"), zip(*times, strict=True), strict=True
        ):
            print(f"{name:25} {spread(values, 1, 0)} ms")


if __name__ == "__main__":
    main()
