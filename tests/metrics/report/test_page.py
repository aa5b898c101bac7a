"""The report's page in a real browser: it works alone, without scripts, at any width.

Chromium is driven over the two pipes of its debugging protocol, where commands and events are JSON
texts that end in a zero byte: no driver, no open port.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metrics import Difference
from metrics.facts import DifferenceFacts
from metrics.report import documents as report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_browser() -> str | None:
    """Path of an installed Chromium, or of the one named by REFINE_CHROMIUM."""
    given = os.environ.get("REFINE_CHROMIUM")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab; `events` are all that the browser told, in order."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._rest, self._number, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, page: Path, *, width: int, height: int = 900, script: bool = True) -> None:
        """Load a file at a window size and wait until it is loaded; forget earlier events."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self._next()

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def mouse(self, kind: str, x: float, y: float) -> None:
        """A mouse event such as "mouseMoved" at a place of the window."""
        button = "none" if kind == "mouseMoved" else "left"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def key(self, name: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
            )

    def seen(self, method: str) -> list[dict[str, Any]]:
        """Parameters of the events of a kind since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            arrived = os.read(self._read, 1 << 16)
            assert arrived, "the browser has ended"
            self._rest += arrived
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def open_browser(executable: str, profile: Path) -> Iterator[Browser]:
    """A headless browser with a profile of its own, ended afterwards."""
    to_read, write = os.pipe()
    read, to_write = os.pipe()

    def as_3_and_4() -> None:
        # The numbers that --remote-debugging-pipe reads from and writes to.
        ours = os.dup(to_write)
        os.dup2(to_read, 3)
        os.dup2(ours, 4)

    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        [executable, *flags, "--no-first-run", f"--user-data-dir={profile}"],
        close_fds=False,
        preexec_fn=as_3_and_4,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(to_write)
    try:
        yield Browser(write, read)
    finally:
        os.close(write)
        os.close(read)
        process.terminate()
        process.wait(30)


MARKUP = "<script>alert(1)</script><b>7</b>"


def difference(metric: str, before: float, after: float) -> DifferenceFacts:
    change = after - before
    return Difference(metric, before, after, 0.2, change - 0.4, change + 0.4, 5000).facts()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium here: install Debian's chromium, or name one in REFINE_CHROMIUM")
    with open_browser(executable, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    comparison = {
        "num_images": 5000,
        "seed": 0,
        "groups": 20,
        "label": None,
        "noise_mode": "random",
        "seconds": 12.0,
        "floor": 1.25,
        "differences": [difference("frechet_distance", 15.3, 7.9), difference("recall", 0.6, 0.5)],
        "null": difference("frechet_distance", 15.3, 15.2),
        "classes": [{"name": MARKUP} | difference("kernel_distance", 3.0, 1.0)],
        "images": {
            "num_images": 2000,
            "drift": {"p10": 0.1, "median": 0.4, "p90": 1.5},
            "improved_share": 0.7,
            "improved_reach": 0.02,
            "improved": [3, 4],
            "worsened": [7],
        },
        "space": {"name": "digits (64-d)", "dim": 64, "sha256": "ab" * 32, "is_inception": False},
        "reference": {"source": "a/" + "long" * 40, "num_images": 6000, "sha256": "cd" * 32},
    }
    points = [(0, 15.3), (10, 9.0), (20, 7.9)]
    facts = {
        "title": "gan.pkl refined by diff-instruct",
        "comparison": comparison,
        "curve": [
            {"kimg": kimg, "frechet_distance": value, "num_images": 1000} for kimg, value in points
        ],
        "health": [{"sigma": 0.5, "share": 0.4}],
        "settings": {"kimg": 20},
        "provenance": {"command": "refine.py gan " + "--option=value " * 20},
    }
    grids = {
        name: rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
        for name in ("before", "after", "largest improvements", "latent interpolation")
    }
    folder = tmp_path_factory.mktemp("report")
    report.write_report(folder, facts, grids=grids)
    return folder / "report.html"


def split(browser: Browser) -> float:
    """Where the slider stands: percent of the width that is "before"."""
    style = browser.value("getComputedStyle(document.querySelector('.slider .now')).clipPath")
    return float(style.removeprefix("inset(").removesuffix(")").split()[-1].removesuffix("%"))


def box(browser: Browser) -> dict:
    browser.value("document.querySelector('.slider').scrollIntoView()")
    return browser.value("document.querySelector('.slider').getBoundingClientRect().toJSON()")


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_asks_for_nothing_complains_of_nothing_and_fits_the_window(
    browser: Browser, page: Path, width: int
) -> None:
    browser.open(page, width=width)
    requested = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert page.as_uri() in requested
    assert all(url == page.as_uri() or url.startswith("data:") for url in requested)
    for complaint in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
        assert browser.seen(complaint) == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert browser.value(f"document.images.length == 4 && {loaded}")


@pytest.mark.parametrize("script", [True, False])
def test_the_slider_follows_the_mouse_and_stays_where_it_was_clicked(
    browser: Browser, page: Path, script: bool
) -> None:
    browser.open(page, width=1400, script=script)
    place = box(browser)
    assert split(browser) == 50
    y = place["y"] + place["height"] / 2
    browser.mouse("mouseMoved", place["x"] + 0.2 * place["width"], y)
    assert split(browser) == pytest.approx(20, abs=2)
    for kind in ("mousePressed", "mouseReleased"):
        browser.mouse(kind, place["x"] + 0.8 * place["width"], y)
    browser.mouse("mouseMoved", 1, 1)
    assert split(browser) == pytest.approx(80, abs=2)


def test_the_slider_moves_by_the_arrow_keys(browser: Browser, page: Path) -> None:
    browser.open(page, width=400)
    browser.value("document.querySelector('.slider input:checked').focus()")
    before = split(browser)
    browser.key("ArrowRight", 39)
    assert split(browser) == before + 2.5


def test_a_class_name_with_markup_is_text(browser: Browser, page: Path) -> None:
    browser.open(page, width=1400)
    assert MARKUP in browser.value("document.body.innerText")
    assert browser.value("document.scripts.length") == 0
    assert browser.seen("Page.javascriptDialogOpening") == []
