"""Chromium for the tests of the report, and the reports that they look at."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import invented
from shrinkage.report import html
from shrinkage.study.results import Results

REQUIRED = "SHRINKAGE_REQUIRE_BROWSER"
MISSING = "tests of the report in a browser need the Debian packages chromium and chromium-driver"
SCREENS = "SHRINKAGE_SCREENSHOTS"

ARMS = [
    {"name": "L2", "recipe": "Conv2D, Dense: kernel = l2(strength)", "strengths": [1e-4, 1e-2, 1.0]},
    {"name": "L1", "recipe": "Conv2D, Dense: kernel = l1(strength)", "strengths": [1e-4, 1e-2, 1.0]},
]


CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests out where there is no Chromium, and say so once; or refuse to."""
    own = [item for item in items if HERE in item.path.parents]
    if not own or (CHROMIUM and DRIVER):
        return
    if os.environ.get(REQUIRED):
        raise pytest.UsageError(f"{MISSING}; {REQUIRED} is set, so they can't be left out.")
    own[0].add_marker(pytest.mark.skip(reason=f"all {len(own)} {MISSING}"))  # one line for all of them
    config.hook.pytest_deselected(items=own[1:])
    items[:] = [item for item in items if item not in own[1:]]


class Browser:
    """A tab of a headless Chromium, and the few things that the tests ask of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, width: int = 1280, scheme: str = "light", scripts: bool = True) -> None:
        """Load a file in a window of this width, afresh."""
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self.command("Emulation.setScrollbarsHidden", hidden=True)
        self.look(scheme)
        self.messages(), self.requests()  # of the page before
        self.driver.get(path.as_uri())

    def look(self, scheme: str = "light", medium: str = "screen") -> None:
        """Show the page in light or dark, on the screen or as on paper."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=medium, features=features)

    def command(self, name: str, **arguments: Any) -> Any:
        """Send a command of Chromium's own protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns; the page's policy does not hold for it."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        """Return the elements that a selector finds."""
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        """Return the first element that a selector finds."""
        return self.driver.find_element("css selector", selector)

    def press(self, element: Any) -> None:
        """Click on an element, wherever it lies on the page."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def keys(self, *keys: str) -> None:
        """Press keys where the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def unfold(self) -> None:
        """Open whatever is folded."""
        self.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")

    def messages(self) -> list[str]:
        """Return what the console said since it was last asked, at any level."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses asked for since last time, save embedded data and what the policy stopped."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = {
            event["params"]["requestId"]: event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }
        for event in events:
            if event["method"] == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp":
                sent.pop(event["params"]["requestId"], None)
        return [url for url in sent.values() if not url.startswith("data:")]

    def screenshot(self, path: Path) -> Path:
        """Write a picture of the whole page."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        taken = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(taken["data"]))
        return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The one browser of a session."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # No sandbox: a container's root has none. No shared memory: a container's is small.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield Browser(started)
    started.quit()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run as the command line stores it: 14 short trainings on the digits."""
    from shrinkage.study.study import Study

    directory = tmp_path_factory.mktemp("run") / "digits"
    study = Study(
        "shrinkage.models:cnn",
        "digits",
        name="digits",
        model_options={"filters": [4]},
        arms=ARMS,
        seeds=2,
        training={"epochs": 3, "batch_size": 128, "learning_rate": 0.01},
    )
    study.run(directory)
    return Results.load(directory)


@pytest.fixture(scope="session")
def page(trained: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run."""
    return html.write([trained], tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="session")
def several(trained: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs side by side."""
    other = invented.results(failed=True, resampled=True)
    return html.write([trained, other], tmp_path_factory.mktemp("pages") / "report.html")


@pytest.fixture
def screens(tmp_path: Path) -> Path:
    """Where pictures of pages go: a folder that a person named, or one that nobody looks at."""
    folder = Path(os.environ.get(SCREENS) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
