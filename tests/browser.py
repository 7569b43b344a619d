"""A real browser, as a person would use it: Debian's Chromium, headless, with a profile of its own.

It is a tree of processes that ends with the block: whatever of it survives its own way to end is
killed, and was marked as a test's, like all that a test starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from orchestrator.runtime.identity import all_pids, read_stat

PATIENCE = 30.0

QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--force-device-scale-factor=1",
)


class Browser:
    """One window. What is looked for is waited for."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def go(self, url: str) -> None:
        self.driver.get(url)

    def one(self, selector: str) -> WebElement:
        """The first shown element that matches; waits for it."""
        return self.until(lambda: self.shown(selector), selector)

    def shown(self, selector: str) -> WebElement | None:
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return next((one for one in found if one.is_displayed()), None)

    def text(self, selector: str) -> str:
        """What is written there, whether it is shown or not; empty where there is nothing."""
        return self.js("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def click(self, selector: str) -> None:
        """Press it once it can be pressed."""
        self.until(lambda: self._pressed(selector), f"{selector} can be pressed")

    def _pressed(self, selector: str) -> bool:
        element = self.shown(selector)
        if element is None or not element.is_enabled():
            return False
        element.click()
        return True

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, what: Any, why: str = "") -> Any:
        """Look until it is so; what the page said is in the failure."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + PATIENCE
        while True:
            seen: Any = None
            # An element may be replaced, or moved, between finding and asking it.
            with contextlib.suppress(WebDriverException):
                seen = what()
            if seen:
                return seen
            assert time.monotonic() < end, f"never came: {why}\n{self.said()}"
            time.sleep(0.02)

    def until_text(self, selector: str, wanted: str) -> None:
        self.until(lambda: wanted in self.text(selector), f"{wanted!r} in {selector}")

    def said(self) -> str:
        """All that the page shows, and what its console says."""
        body = self.js("return document.body ? document.body.innerText : ''")
        return f"{self.driver.current_url}\n{body}\n{self.complaints()}"

    def complaints(self) -> list[str]:
        """What the console has said since the last look: errors of scripts, refusals of policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def asked_outside(self) -> list[str]:
        """Addresses of other places that the page has asked."""
        return self.js(
            "return performance.getEntriesByType('resource').map((one) => one.name)"
            ".filter((name) => !name.startsWith(location.origin + '/'))"
        )

    def size(self, width: int, height: int) -> None:
        """The size of what is seen of the page, as on a device."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def prefers(self, scheme: str) -> None:
        """`light` or `dark`, as the system would say."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(self.driver.get_screenshot_as_png())


@contextlib.contextmanager
def chromium(folder: Path, **env: str) -> Generator[Browser]:
    """A browser whose profile lies in the folder."""
    data = folder / "chromium"
    data.mkdir(parents=True, exist_ok=True)
    options = Options()
    options.binary_location = shutil.which("chromium") or "chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*QUIET, f"--user-data-dir={data}"):
        options.add_argument(flag)
    environment = {**os.environ, "HOME": str(folder), "SE_OFFLINE": "true", **env}
    service = Service(shutil.which("chromedriver"), env=environment)
    driver = webdriver.Chrome(options, service)
    pid: int = service.process.pid
    tree = _tree(pid)
    try:
        yield Browser(driver)
    finally:
        tree |= _tree(pid)
        with contextlib.suppress(Exception):
            driver.quit()
        _end(tree)


def _tree(root: int) -> set[int]:
    """A process and all that descends from it."""
    parents = {pid: _parent(pid) for pid in all_pids()}
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _parent(pid: int) -> int | None:
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(after_name[1])


def _end(pids: set[int]) -> None:
    """Wait a moment for them to be gone, then kill what is not."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if not any((stat := read_stat(pid)) is not None and stat.living for pid in pids):
            return
        time.sleep(0.02)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
