"""What the dashboard shows of a gateway, in a real browser, while requests go through it."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser import Browser, chromium
from tests.conftest import MARK, world_of_a_file
from tests.gateway_client import ask, asked
from tests.machine_has import needs_program
from tests.world import World

pytestmark = [needs_program("chromium", "chromedriver"), pytest.mark.timeout(240)]

HOSTILE = "<img src=x onerror=alert(1)>"

AUDIT = (Path(__file__).parent.parent / "audit.js").read_text()

GATEWAY = "[data-name=gateway]"


class Desk:
    """A machine with a gateway and two instances, and a browser before its page."""

    def __init__(self, world: World, page: Browser, url: str) -> None:
        self.world, self.page, self.url = world, page, url
        self.port = world.port()

    def apply(self, *, gateway: bool = True) -> None:
        model = str(self.world.model)
        # A long context, so that a stream that nobody reads goes on; one slot, so that others wait.
        slow = {"ctx-size": 65536, "parallel": 1}
        whole: dict[str, Any] = {
            "instances": {
                "a": {"model": model, "port": "auto", "flags": slow},
                "b": {"model": model, "port": "auto"},
            }
        }
        if gateway:
            routes = {HOSTILE: {"to": ["a", "b"]}, "chat": {"to": ["b"], "fallback": ["a"]}}
            whole["gateway"] = {"port": self.port, "routes": routes}
        self.world.write("profiles/day.yaml", yaml.safe_dump(whole, sort_keys=False))
        self.world.run("apply", "day")

    def open(self) -> None:
        self.page.go(f"{self.url}/#/")
        self.page.until(lambda: self.page.text("#link-text") == "live", "the page is live")

    def names(self) -> dict[str, str]:
        """What the card says of each name."""
        rows = self.page.js(
            "return [...document.querySelectorAll('[data-name=gateway] tbody tr')]"
            ".map((row) => [...row.children].map((cell) => cell.textContent))"
        )
        return {name: f"{served.strip()} | {asked}" for name, served, asked in rows}


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, model: Path, llama_server: str
) -> Generator[Desk]:
    folder = tmp_path_factory.mktemp("dashboard")
    with world_of_a_file(folder, model, llama_server) as world:
        url = f"http://127.0.0.1:{world.port()}"
        world.env["ORCHESTRATE_LISTEN"] = url.removeprefix("http://")
        with chromium(folder / "browser", **{MARK: world.env[MARK]}) as browser:
            made = Desk(world, browser, url)
            made.apply()
            browser.go(world.run("dashboard", "--no-open").out.strip())
            browser.until_text("#link-text", "live")
            yield made


def test_the_gateway_is_shown_with_its_address_and_its_names(desk: Desk) -> None:
    desk.open()
    page = desk.page
    page.until_text(f"{GATEWAY} .phase", "ready")
    assert page.text(f"{GATEWAY} code") == f"http://127.0.0.1:{desk.port}"
    names = desk.names()
    assert names["a"] == "● a | 0"
    assert names["chat"].startswith("● b else a | ")
    assert "● a" in names[HOSTILE]
    assert "● b" in names[HOSTILE]
    # It is none of the instances.
    assert page.text("#instances-count") == "2"


def test_its_address_can_be_copied(desk: Desk) -> None:
    desk.open()
    page = desk.page
    page.click(f"{GATEWAY} button[aria-label^='Copy']")
    page.until(lambda: page.shown("#toasts .toast"), "it says what it did")
    said = page.text("#toasts .toast")
    if "is copied" in said:
        assert f"http://127.0.0.1:{desk.port}" in said
    else:
        assert page.js("return getSelection().toString()") == f"http://127.0.0.1:{desk.port}"


def test_requests_are_seen_while_they_are_under_way(desk: Desk) -> None:
    desk.open()
    page = desk.page
    page.until_text(f"{GATEWAY} .now", "0 in flight · 0 waiting")
    with asked(desk.port, "a", stream=True, max_tokens=60000, ignore_eos=True) as answer:
        assert answer.status == 200
        waits = threading.Thread(target=ask, args=(desk.port, "a"))
        waits.start()
        page.until_text(f"{GATEWAY} .now", "1 in flight · 1 waiting")
        page.until_text("[data-name=a] .traffic", "1 in flight, 1 waiting")
        page.until_text(f"{GATEWAY} .now", " tokens/s")
    # Who left is not generated for: the next one has its turn.
    waits.join(60)
    assert not waits.is_alive()
    page.until_text(f"{GATEWAY} .now", "0 in flight · 0 waiting")
    page.until(lambda: page.text(f"{GATEWAY} .gauge b") not in ("", "\u2013", "0/s"), "requests/s")
    page.until_text("[data-name=a] .traffic", "first after ")
    page.until(lambda: desk.names()["a"].endswith("| 2"), "both are counted")


def test_who_is_down_and_who_answers_instead_is_seen(desk: Desk) -> None:
    desk.open()
    page = desk.page
    desk.world.run("stop", "b")
    page.until(lambda: desk.names()["b"].startswith("○ b (not ready)"), "b is not ready")
    assert "content" in ask(desk.port, "chat")["choices"][0]["message"]
    page.until(lambda: "fell back" in desk.names()["chat"], "it fell back")
    page.until_text(f"{GATEWAY} .now", "fell back")
    desk.world.run("start", "b")
    page.until(lambda: desk.names()["b"].startswith("● b"), "b is ready again")


def test_its_log_can_be_read(desk: Desk) -> None:
    ask(desk.port, "b", headers={"x-request-id": "seen-in-the-log"})
    desk.open()
    desk.page.click(f"{GATEWAY} a[href='#/logs/gateway']")
    desk.page.until_text("#log", '"id":"seen-in-the-log"')


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(desk: Desk, scheme: str) -> None:
    desk.page.prefers(scheme)
    desk.open()
    desk.page.until_text(f"{GATEWAY} .phase", "ready")
    assert desk.page.js(AUDIT) == []
    assert desk.page.asked_outside() == []
    assert desk.page.complaints() == []


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_is_cut_off_on_a_small_screen(desk: Desk, width: int) -> None:
    desk.page.size(width, 780)
    try:
        desk.open()
        desk.page.until_text(f"{GATEWAY} .phase", "ready")
        assert desk.page.js("return document.documentElement.scrollWidth") <= width
    finally:
        desk.page.size(1280, 900)


def test_what_passed_is_in_the_history_of_charts(desk: Desk) -> None:
    ask(desk.port, "a", stream=False)

    def series() -> set[str]:
        history = desk.page.driver.execute_async_script(
            "const done = arguments[0];"
            "fetch('/v1/history').then((one) => one.text()).then(done, (e) => done(String(e)))"
        )
        return set(json.loads(history)["instances"].get("gateway", ()))

    wanted = {"requests_s", "first_token_s", "tokens_s", "memory_bytes"}
    desk.page.until(lambda: wanted <= series(), "a sample is taken every ten seconds")


def test_without_a_gateway_there_is_none_to_be_seen(desk: Desk) -> None:
    desk.open()
    desk.page.until_text(f"{GATEWAY} .phase", "ready")
    desk.apply(gateway=False)
    try:
        desk.page.until(lambda: not desk.page.shown("#gateway-part"), "it is gone")
        assert desk.page.complaints() == []
    finally:
        desk.apply()
    desk.page.until(lambda: desk.page.shown("#gateway-part"), "it is there again")
