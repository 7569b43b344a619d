"""The dashboard as a person uses it: in a real browser, on a real daemon with real engines.

One daemon and one browser for all of it; each story begins with both as they were left by `apply`.
"""

from __future__ import annotations

import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from orchestrator.api import static
from tests import look
from tests.browser import Browser, chromium
from tests.conftest import MARK, world_of_a_file
from tests.machine_has import needs_program
from tests.world import World

pytestmark = [needs_program("chromium", "chromedriver"), pytest.mark.timeout(240)]

BUDGET = 60_000
"""Bytes that come over the wire for the whole page."""

HOSTILE = "<img src=x onerror=alert(1)>"

VIEWS = ("#/", "#/logs/a", "#/profiles", "#/profiles/day", "#/models")


class Desk:
    """A person before the page: the machine, the browser, and where the page is."""

    def __init__(self, world: World, browser: Browser, url: str) -> None:
        self.world, self.page, self.url = world, browser, url
        self.ports = {"a": world.port(), "b": world.port()}

    def day(self, **flags: object) -> str:
        """The text of the profile that all begins with."""
        ctx = flags.get("ctx", 512)
        return (
            "name: day\n"
            f"description: 'For the day {HOSTILE}'\n"
            "instances:\n"
            "  a:\n"
            f"    model: {self.world.model}\n"
            f"    port: {self.ports['a']}\n"
            f"    flags: {{ctx-size: {ctx}}}\n"
            "  b:\n"
            f"    model: {self.world.model}\n"
            f"    port: {self.ports['b']}\n"
        )

    def begin(self) -> None:
        """Everything as it is at first."""
        self.world.write("profiles/day.yaml", self.day())
        night = self.day().replace("name: day", "name: night").partition("  b:")[0]
        self.world.write("profiles/night.yaml", night)
        broken = self.day().replace("name: day", "name: broken").replace("port:", "prot:", 1)
        self.world.write("profiles/broken.yaml", broken)
        self.world.run("apply", "day")
        self.page.size(1280, 900)
        self.page.prefers("light")
        self.page.go("about:blank")
        self.page.complaints()
        self.open("#/")
        self.page.until_text("#verdict-text", "all 2 instances are ready")

    def open(self, view: str) -> None:
        self.page.go(f"{self.url}/{view}")
        self.page.until(lambda: self.page.text("#link-text") == "live", "the page is live")

    def log_in(self) -> None:
        self.page.go(self.link())
        self.page.until_text("#link-text", "live")

    def link(self) -> str:
        return self.world.run("dashboard", "--no-open").out.strip()

    def phase(self, name: str) -> str:
        return self.page.text(f"[data-name={name}] .phase")

    def pid(self, name: str) -> int:
        return look.rows(self.world)[name]["pid"]

    def press(self, name: str, word: str) -> None:
        self.page.click(f"[data-name={name}] [aria-label^='{word}']")

    def edit(self, old: str, new: str) -> None:
        """Change a piece of the text as one who types."""
        self.page.until(lambda: old in self.typed(), f"{old!r} is in the text")
        at = self.typed().index(old)
        area = self.page.one("#text")
        self.page.js(
            "arguments[0].focus(); arguments[0].setSelectionRange(arguments[1], arguments[2])",
            area,
            at,
            at + len(old),
        )
        area.send_keys(new)

    def typed(self) -> str:
        return self.page.js("return document.getElementById('text').value")

    def on_disk(self) -> str:
        return (self.world.folder / "profiles/day.yaml").read_text()


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, model: Path, llama_server: str
) -> Generator[Desk]:
    folder = tmp_path_factory.mktemp("dashboard")
    with world_of_a_file(folder, model, llama_server) as world:
        url = f"http://127.0.0.1:{world.port()}"
        world.env["ORCHESTRATE_LISTEN"] = url.removeprefix("http://")
        with chromium(folder / "browser", **{MARK: world.env[MARK]}) as browser:
            desk = Desk(world, browser, url)
            world.write("profiles/day.yaml", desk.day())
            world.run("apply", "day")
            desk.log_in()
            yield desk


@pytest.fixture
def desk(shared: Desk) -> Iterator[Desk]:
    shared.begin()
    yield shared
    # A page that was left with unsaved text would ask before it goes.
    shared.page.go("about:blank")


@pytest.fixture
def stranger(desk: Desk) -> Iterator[Desk]:
    """Somebody whose browser has no cookie; logged in again for the next."""
    desk.page.driver.delete_all_cookies()
    yield desk
    desk.log_in()


def get(url: str, **headers: str) -> Any:
    """An answer, whatever its status."""
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10)
    except urllib.error.HTTPError as answer:
        return answer


# --- coming in -------------------------------------------------------------------------------


def test_a_stranger_logs_in_with_the_token(stranger: Desk) -> None:
    page = stranger.page
    page.go(stranger.url)
    page.one("#token").send_keys("not-it", Keys.ENTER)
    page.until_text("#refused", "not the token")

    page.one("#token").send_keys((stranger.world.state / "token").read_text().strip(), Keys.ENTER)

    page.until_text("#verdict-text", "all 2 instances are ready")


def test_a_link_logs_in_once(stranger: Desk) -> None:
    link = stranger.link()
    stranger.page.go(link)
    stranger.page.until_text("#link-text", "live")
    assert "code" not in stranger.page.driver.current_url

    stranger.page.driver.delete_all_cookies()
    stranger.page.go(link)

    assert "used already" in stranger.page.one("#refused").text


def test_whose_cookie_is_gone_is_told_and_goes_on_after_logging_in(stranger: Desk) -> None:
    page = stranger.page
    kept = page.driver.get_cookies()
    page.go("about:blank")
    stranger.log_in()
    stranger.open("#/profiles/day")
    stranger.edit("ctx-size: 512", "ctx-size: 513")
    kept = page.driver.get_cookies()
    page.driver.delete_all_cookies()
    look.kill_daemon(stranger.world)
    stranger.world.run("daemon", "start")

    page.until_text("#lost", "You are logged out")
    for cookie in kept:
        page.driver.add_cookie(cookie)

    page.until(lambda: page.text("#link-text") == "live", "the page goes on")
    assert "ctx-size: 513" in stranger.typed(), "what was typed is still there"


def test_the_command_opens_a_browser_where_there_is_a_screen(desk: Desk) -> None:
    seen = desk.world.folder / "seen"
    browser = desk.world.write("browser.sh", f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)

    ran = desk.world.run("dashboard", BROWSER=str(browser))

    assert re.fullmatch(rf"{desk.url}/login\?code=\S+", ran.out.strip())
    desk.world.until(lambda: seen.exists() and seen.read_text() == ran.out, "it was opened")
    unseen = desk.world.run("dashboard")
    assert "hint: open it here, or elsewhere after `ssh -L" in unseen.err
    assert desk.world.run("dashboard", "--json").json["url"].startswith(desk.url)


# --- what it shows -----------------------------------------------------------------------------


def test_it_shows_at_a_glance_what_is(desk: Desk) -> None:
    page = desk.page
    assert page.text("#verdict .mark") == "●"
    assert page.driver.title.startswith("● Converged: all 2 instances are ready")
    for name in ("a", "b"):
        card = page.one(f"[data-name={name}]")
        assert desk.phase(name) == "ready"
        assert "tiny" in card.text
        assert f"127.0.0.1:{desk.ports[name]}" in card.text
        labels = (
            f"return [...document.querySelectorAll('[data-name={name}] .gauge svg')]"
            ".map((one) => one.getAttribute('aria-label'))"
        )
        page.until(lambda ask=labels: "MB" in page.js(ask)[0], "the chart has numbers")
        assert page.js(labels)[1].startswith("CPU")
    page.until(lambda: "free" in page.text("#machine") and "MB" in page.text("#machine .legend"))
    page.until(lambda: "ready" in page.text("#timeline"), "the timeline has the start")
    assert "version" in page.text("#daemon")
    assert page.asked_outside() == []
    assert page.complaints() == []


def test_a_kill_and_the_return_are_seen_live(desk: Desk) -> None:
    # Of one that was adopted nobody would know how it ended.
    desk.world.run("restart", "b")
    page, pid = desk.page, desk.pid("b")
    page.click("[data-name=b] [aria-controls]")
    page.until_text("[data-name=b] .facts", str(pid))

    os.kill(pid, signal.SIGKILL)

    page.until_text("[data-name=b] .ends", "killed by SIGKILL")
    page.until_text("#timeline", "killed by SIGKILL")
    page.until_text("[data-name=b] .restarts", "1 restart")
    look.until_row(desk.world, "b", lambda row: row["pid"] not in (pid, None))
    page.until_text("[data-name=b] dl", str(desk.pid("b")))
    page.until(lambda: desk.phase("b") == "ready", "it is back")
    page.until_text("#verdict-text", "all 2 instances are ready")
    assert str(pid) not in page.text("[data-name=b] dl")


def test_what_fails_says_why_and_what_to_do(desk: Desk) -> None:
    gone = desk.world.folder / "gone.gguf"
    gone.write_bytes(desk.world.model.read_bytes())
    text = desk.day().replace(f"model: {desk.world.model}", f"model: {gone}", 1)
    desk.world.write("profiles/day.yaml", text)
    desk.world.run("apply", "day")
    gone.unlink()
    os.kill(desk.pid("a"), signal.SIGKILL)

    desk.page.until(lambda: desk.phase("a") == "failed", "it has failed")

    assert "model-missing" in desk.page.text("[data-name=a] .told")
    desk.page.until_text("#verdict-text", "Not converged: a failed")
    assert "a: " in desk.page.text("#missing")


def test_the_models_are_listed_and_searched(desk: Desk) -> None:
    (desk.world.folder / "models").mkdir(exist_ok=True)
    (desk.world.folder / "models" / f"{HOSTILE.replace('/', '')}.gguf").write_bytes(
        desk.world.model.read_bytes()
    )
    desk.open("#/models")

    desk.page.click("#model-refresh")
    desk.page.until_text("#models", HOSTILE)

    desk.page.one("#model-search").send_keys("no such model")
    desk.page.until_text("#model-count", "0 models")


# --- by hand -----------------------------------------------------------------------------------


def test_stop_asks_first_and_start_brings_it_back(desk: Desk) -> None:
    pid = desk.pid("a")
    desk.press("a", "Stop")
    assert "stays down" in desk.page.one("#ask-body").text
    desk.page.click("#ask-no")
    assert desk.pid("a") == pid, "whoever says no changes nothing"

    desk.press("a", "Stop")
    desk.page.click("#ask-yes")
    desk.page.until(lambda: desk.phase("a") == "stopped by hand", "it is held down")
    assert "Not converged" in desk.page.text("#verdict-text")

    desk.press("a", "Start")
    desk.page.until(lambda: desk.phase("a") == "ready", "it is back")
    assert desk.pid("a") != pid


def test_restart_and_kill_are_by_hand_too(desk: Desk) -> None:
    pid = desk.pid("a")
    desk.press("a", "Restart")
    desk.page.click("#ask-yes")
    desk.page.until(lambda: desk.pid("a") not in (pid, None) and desk.phase("a") == "ready")

    desk.press("a", "Details")
    desk.press("a", "Kill")
    assert "no time to finish" in desk.page.one("#ask-body").text
    desk.page.click("#ask-yes")

    desk.page.until(lambda: desk.phase("a") == "stopped by hand", "it is down")


def test_all_of_it_goes_by_keyboard(desk: Desk) -> None:
    page = desk.page
    page.js("document.activeElement.blur()")
    press(page, Keys.TAB)
    assert focused(page) == "Skip to content"
    for _ in range(40):
        if focused(page) == "Stop a":
            break
        press(page, Keys.TAB)
        ring = page.js("return getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none", f"the focus is seen on {focused(page)}"
    assert focused(page) == "Stop a"

    press(page, Keys.ENTER)
    assert focused(page) == "Cancel", "what costs something is not what Enter does"
    press(page, Keys.TAB)
    press(page, Keys.ENTER)

    page.until(lambda: desk.phase("a") == "stopped by hand", "it is stopped")
    assert page.js("return document.activeElement !== document.body"), "the focus is not lost"
    page.until_text("#said", "a: stopped")


def press(page: Browser, key: str) -> None:
    page.driver.switch_to.active_element.send_keys(key)


def focused(page: Browser) -> str:
    return page.js(
        "const one = document.activeElement;"
        "return one.getAttribute('aria-label') || one.textContent.trim()"
    )


# --- the editor --------------------------------------------------------------------------------


def test_an_edit_is_previewed_saved_and_applied(desk: Desk) -> None:
    desk.open("#/profiles/day")
    before = desk.world.pids()
    desk.edit("ctx-size: 512", "ctx-size: 768")

    desk.page.until_text("#preview", "Interrupts a")
    assert "ctx-size" in desk.page.text("#preview .plan")
    assert "Goes on untouched: b" in desk.page.text("#preview")
    assert desk.on_disk() == desk.day(), "nothing is saved yet"
    desk.page.one("#text").send_keys(Keys.CONTROL, "s")

    desk.page.until(lambda: desk.on_disk() == desk.day(ctx=768), "it is on disk")
    desk.page.until_text("#edit-state", "saved")
    desk.world.until(lambda: desk.pid("a") not in (before["a"], None), "a is another")
    assert desk.pid("b") == before["b"]
    look.until_phase(desk.world, "a", "ready")
    settings = desk.world.props(desk.ports["a"])["default_generation_settings"]
    assert settings["n_ctx"] == 768


def test_a_mistake_is_shown_beside_its_line(desk: Desk) -> None:
    page = desk.page
    desk.open("#/profiles/day")
    desk.edit("port: ", "prot: ")

    page.until_text("#notes .note em", "did you mean 'port'?")
    line = next(n for n, text in enumerate(desk.typed().split("\n"), 1) if "prot" in text)
    assert page.text("#gutter .wrong") == str(line)
    assert page.text("#notes .note u") == "prot"
    top = page.js("return document.querySelector('.note').getBoundingClientRect().top")
    number = page.js("return document.querySelector('#gutter .wrong').getBoundingClientRect().top")
    assert abs(top - number) < 3, "it is beside its line"
    assert f"line {line}, column 5" in page.text("#problems")
    assert "\n    ^" in page.text("#problems pre")
    assert page.js("return document.getElementById('text').getAttribute('aria-invalid')") == "true"

    page.one("#text").send_keys(Keys.CONTROL, "s")
    page.until_text("#toasts", "was not saved")
    assert desk.on_disk() == desk.day()

    page.js("document.getElementById('text').setSelectionRange(0, 0)")
    page.click("#problems button")
    place = page.js("return document.getElementById('text').selectionStart")
    assert desk.typed()[place:].startswith("prot"), "the place is a way to it"

    desk.edit("prot: ", "port: ")
    page.until_text("#problems", "Valid")
    assert page.text("#notes") == ""


def test_a_file_that_changed_meanwhile_is_a_conflict_and_nothing_is_lost(desk: Desk) -> None:
    page, theirs = desk.page, desk.day(ctx=1024)
    desk.open("#/profiles/day")
    desk.edit("ctx-size: 512", "ctx-size: 768")
    desk.world.write("profiles/day.yaml", theirs)

    page.until_text("#conflict", "changed on disk")
    assert "ctx-size: 1024" in page.text("#conflict del")
    assert "ctx-size: 768" in page.text("#conflict ins")
    assert desk.typed() == desk.day(ctx=768)

    page.click("#conflict button:first-of-type")
    page.until(lambda: desk.typed() == theirs, "the one on disk")
    page.click("#conflict button")
    page.until(lambda: desk.typed() == desk.day(ctx=768), "back to what was typed")
    page.click("#edit-save")
    page.until(lambda: desk.on_disk() == desk.day(ctx=768), "it is on disk")


def test_saving_over_a_change_that_was_not_seen_yet_is_refused(desk: Desk) -> None:
    page = desk.page
    # One that is not applied: nobody tells the page of its changes.
    desk.open("#/profiles/night")
    desk.edit("ctx-size: 512", "ctx-size: 768")
    path = desk.world.folder / "profiles/night.yaml"
    theirs = path.read_text().replace("ctx-size: 512", "ctx-size: 1024")
    desk.world.write("profiles/night.yaml", theirs)

    page.click("#edit-save")

    page.until_text("#conflict", "changed on disk")
    assert path.read_text() == theirs
    page.click("#conflict .danger")
    page.click("#edit-save")
    page.until(lambda: "ctx-size: 768" in path.read_text(), "mine, knowing theirs")


def test_unsaved_text_is_kept_and_asked_for(desk: Desk) -> None:
    page = desk.page
    desk.open("#/profiles/day")
    desk.edit("ctx-size: 512", "ctx-size: 640")

    leaving = "const e = new Event('beforeunload', {cancelable: true}); dispatchEvent(e);"
    assert page.js(f"{leaving} return e.defaultPrevented")
    page.click("nav a[href='#/']")
    page.click("nav a[href='#/profiles']")
    page.until_text("[data-name=day] .badge:last-child", "unsaved")
    page.click("[aria-label='Edit day']")
    page.until(lambda: "ctx-size: 640" in desk.typed(), "as it was left")

    page.click("#edit-undo")
    page.click("#ask-yes")
    page.until(lambda: desk.typed() == desk.day(), "as on disk")
    assert not page.js(f"{leaving} return e.defaultPrevented")


# --- logs --------------------------------------------------------------------------------------


def test_a_log_is_live_searched_and_inert(desk: Desk) -> None:
    page = desk.page
    desk.open("#/logs/b")
    page.until(lambda: page.js("return document.querySelectorAll('#log div').length") > 5)
    log = desk.world.state / "logs/b.log"
    with log.open("ab") as file:
        file.write(
            b"\x1b[31mneedle one\x1b[0m <script>alert(1)</script> " + HOSTILE.encode() + b"\n"
            b"\x1b]0;title\x07needle \x1b[2J\xe2\x80\xaetwo\n"
            b"half\rneedle three\r\n"
        )

    page.one("#log-search").send_keys("needle")
    wanted = [
        f"needle one <script>alert(1)</script> {HOSTILE}",
        "needle \ufffdtwo",
        "needle three",
    ]
    shown = (
        "const lines = [...document.querySelectorAll('#log div:not([hidden])')];"
        "return lines.map((one) => one.textContent)"
    )
    page.until(lambda: page.js(shown) == wanted, f"just {wanted}")
    assert page.text("#log-count").startswith("3 of ")
    assert page.text("#log mark") == "needle"
    assert page.js("return document.querySelectorAll('#log script, #log img').length") == 0

    page.one("#log-search").clear()
    page.one("#log-search").send_keys("/needle (two|three|\\S*two)/")
    page.until(lambda: page.text("#log-count").startswith("2 of "), "two lines match")
    page.click("#log-only")
    lines = "return document.querySelectorAll('#log div:not([hidden])').length"
    page.until(lambda: page.js(lines) > 5, "all lines, with the matches marked")
    assert page.complaints() == []


def test_the_log_of_the_run_before_is_there(desk: Desk) -> None:
    desk.world.run("restart", "a")
    desk.open("#/logs/a")
    live = desk.page.text("#log")

    desk.page.js(
        "const run = document.getElementById('log-run'); run.value = '1';"
        "run.dispatchEvent(new Event('change'))"
    )

    desk.page.until(lambda: desk.page.text("#log") not in ("", live), "another log")


# --- profiles ----------------------------------------------------------------------------------


def test_a_costly_switch_warns_first(desk: Desk) -> None:
    page, before = desk.page, desk.world.pids()
    desk.open("#/profiles")
    page.until_text("[data-name=day] .badge", "active")
    assert HOSTILE in page.text("[data-name=day]")

    page.click("[aria-label='Switch to night']")
    page.until_text("#ask-body", "Stops b")
    assert "Goes on untouched: a" in page.text("#ask-body")
    page.click("#ask-no")
    assert desk.world.pids() == before

    page.click("[aria-label='Switch to night']")
    page.click("#ask-yes")
    page.until_text("#verdict-text", "Converged: a is ready")
    assert desk.world.pids() == {"a": before["a"]}


def test_an_unhealthy_switch_is_not_made(desk: Desk) -> None:
    desk.open("#/profiles")
    desk.page.until_text("[data-name=broken] .badge", "error")

    desk.page.click("[aria-label='Switch to broken']")

    desk.page.until_text("#ask-title", "broken is not healthy")
    assert "prot" in desk.page.text("#ask-body")
    assert desk.page.shown("#ask-yes") is None
    desk.page.click("#ask-no")
    assert set(desk.world.pids()) == {"a", "b"}


def test_what_cannot_fit_into_memory_is_switched_to_only_by_force(desk: Desk) -> None:
    text = desk.day().replace("name: day", "name: huge")
    huge = text.replace("    flags:", "    resources: {memory: 900TiB}\n    flags:")
    desk.world.write("profiles/huge.yaml", huge)
    desk.open("#/profiles")

    desk.page.click("[aria-label='Switch to huge']")

    desk.page.until_text("#ask-body", "more memory than this machine has")
    assert desk.page.one("#ask-yes").text == "Switch anyway"
    desk.page.click("#ask-no")
    (desk.world.folder / "profiles/huge.yaml").unlink()


# --- when it is not there ----------------------------------------------------------------------


def test_a_lost_connection_is_shown_and_comes_back(desk: Desk) -> None:
    page, pids = desk.page, desk.world.pids()
    # A page to which nothing has happened yet has no event to go on from.
    page.driver.refresh()
    page.until_text("#timeline", "converged")
    look.kill_daemon(desk.world)

    page.until_text("#lost", "Connection lost, trying again")
    assert page.shown("#lost") is not None
    assert "What you see is from" in page.text("#lost")
    assert page.one("[data-name=a]"), "what was known stays to be seen"
    desk.world.run("daemon", "start")

    page.until(lambda: page.text("#link-text") == "live", "it is back")
    page.until(lambda: page.shown("#lost") is None)
    page.until_text("#verdict-text", "all 2 instances are ready")
    assert desk.world.pids() == pids
    page.until_text("#timeline", f"daemon started pid {desk.world.status()['daemon']['pid']}")


# --- how it is made ----------------------------------------------------------------------------


def test_it_is_small() -> None:
    assert sum(len(one.packed) for one in static.assets().values()) <= BUDGET


def test_it_is_served_strictly(desk: Desk) -> None:
    token = (desk.world.state / "token").read_text().strip()
    bearer = {"Authorization": f"Bearer {token}"}
    index = get(f"{desk.url}/", **bearer).read().decode()
    parts = re.findall(r"\"(/page/[^\"]+)\"", index)
    assert any(part.endswith("/app.js") for part in parts)
    for path in ("/", *parts, "/page/other-version/app.js"):
        answer = get(f"{desk.url}{path}", **bearer)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        tag = answer.headers["ETag"]
        assert get(f"{desk.url}{path}", **bearer, **{"If-None-Match": tag}).status == 304
        assert get(f"{desk.url}{path}").status in (200, 401), "to a stranger the form, at most"
    for wrong in ("/page/v/../../app.py", "/page/v/%2e%2e%2fapp.py", "/page/v/index.html"):
        assert get(f"{desk.url}{wrong}", **bearer).status == 404
    for page in ("index.html", "login.html"):
        text = static.assets()[page].body.decode()
        assert "<script>" not in text
        assert not re.search(r"\son\w+=|javascript:|style=", text)
        assert not re.search(r"(src|href)=\"?(https?:)?//", text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(desk: Desk, scheme: str) -> None:
    desk.page.prefers(scheme)
    for view in VIEWS:
        desk.open(view)
        desk.page.until(lambda: desk.page.js("return document.fonts.status") == "loaded")
        assert desk.page.js(AUDIT) == [], f"{view} in {scheme}"


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_is_cut_off_on_a_small_screen(desk: Desk, width: int) -> None:
    desk.page.size(width, 780)
    for view in VIEWS:
        desk.open(view)
        wide = "return document.documentElement.scrollWidth"
        assert desk.page.js(wide) <= width, f"{view} scrolls sideways"


AUDIT = (Path(__file__).parent.parent / "audit.js").read_text()
