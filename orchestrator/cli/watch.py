"""`status --watch` on a terminal: one loop that draws, and acts on keys and on what is posted."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from orchestrator.cli.client import SILENT_AFTER, Client
from orchestrator.cli.render import inert
from orchestrator.cli.status import fetch, only
from orchestrator.cli.watch_actions import VERBS, Doing, question
from orchestrator.cli.watch_feed import Feed, Inbox, beside, lines_of
from orchestrator.cli.watch_frame import dim
from orchestrator.cli.watch_keys import BACKSPACE, ENTER, ESCAPE, Key, Pasted
from orchestrator.cli.watch_table import Instances, Seen
from orchestrator.cli.watch_terminal import Terminal
from orchestrator.cli.watch_text import EventPage, LogPage, Page, help_page, profiles_page
from orchestrator.errors import NoDaemonError, OrchestrateError
from orchestrator.settings import Settings

REFRESH_MS = 1000
"""Milliseconds between two snapshots though nothing happens, for memory and CPU."""
SILENT = 3.0
"""Seconds without one after which it is said that what is shown is old."""
MACHINE = 5.0
"""Seconds between two looks at the machine's memory."""
FOOT = 2
"""Lines at the bottom: what was said last, and the keys."""

KEYS = "↑↓ select  l logs  r restart  s stop/start  K kill  e events  ? help  q quit"


def watch(settings: Settings, names: Sequence[str]) -> None:
    """Until it is left. Raises `NoDaemonError` when there is none to begin with."""
    document = fetch(settings)
    names = only(document, names)
    if document["daemon"] is None:
        raise NoDaemonError("no daemon is running", hint="orchestrate daemon start")
    with Terminal(os.environ) as terminal:
        screen = Watch(settings, names, document)
        screen.run(terminal)
    terminal.die_as_told()


class Watch:
    """What is shown, and what was said last. All of it belongs to one thread."""

    def __init__(self, settings: Settings, names: Sequence[str], document: Any) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._inbox = Inbox()
        self._instances = Instances(names)
        self._seen = Seen(document, now=time.monotonic())
        self._instances.take(document)
        self._page: Page | None = None
        self._note = ""
        self._doing = Doing()
        self._asked: Callable[[], None] | None = None
        self._typed: str | None = None
        self._left = False
        self._heard = time.monotonic()
        self._looked = float("-inf")
        self._measure()
        Feed(
            lambda: self._client.stream(
                "/v1/status", SILENT_AFTER, follow=1, refresh_ms=REFRESH_MS
            ),
            self._inbox,
            begun=self._found,
            came=lines_of(self._take),
            lost=self._lose,
            alone=self._look_alone,
        )

    def run(self, terminal: Terminal) -> None:
        """Draw, wait, act."""
        while not self._left and not terminal.ended:
            self._look_at_machine()
            columns, rows = terminal.size()
            terminal.draw(self.lines(columns, rows))
            for key in terminal.wait([self._inbox.fileno()], REFRESH_MS / 1000):
                self.key(key)
            self._inbox.make_calls()
        if self._page is not None:
            self._page.close()

    # --- what is shown -------------------------------------------------------------------------

    def lines(self, columns: int, rows: int) -> list[str]:
        """The whole screen."""
        foot = FOOT if rows > 2 * FOOT else 1
        self._seen.now = time.monotonic()
        if self._page is not None:
            body = self._page.lines(columns, rows - foot)
        else:
            silent = self._seen.now - self._heard
            shown = self._seen
            if not shown.lost and silent > SILENT:
                shown = Seen(**{name: getattr(shown, name) for name in Seen.__struct_fields__})
                shown.lost = f"the daemon has been silent for {silent:.0f} s"
            body = self._instances.lines(shown, columns, rows - foot)
        body = [*body, *[""] * (rows - foot - len(body))][: rows - foot]
        keys = self._page.keys if self._page is not None else self._table_keys()
        return [*body, self._said(), dim(keys)][-rows:] if foot > 1 else [*body, self._said()]

    def _table_keys(self) -> str:
        return "d start the daemon  " + KEYS if self._seen.lost else KEYS

    def _said(self) -> str:
        if self._typed is not None:
            return f"/{self._typed}\x1b[7m \x1b[27m"
        return self._note or dim(self._doing.text())

    # --- keys ----------------------------------------------------------------------------------

    def key(self, key: Key) -> None:
        """What a key does, here and now."""
        if self._typed is not None:
            self._type(key)
        elif not isinstance(key, str):
            # Pasted text is not meant as keys.
            return
        elif self._asked is not None:
            asked, self._asked = self._asked, None
            self._note = "left as it is"
            if key in ("y", "Y"):
                asked()
        else:
            self._note = ""
            if self._page is not None:
                self._page_key(self._page, key)
            else:
                self._table_key(key)

    def _type(self, key: Key) -> None:
        assert self._typed is not None
        if isinstance(key, Pasted):
            self._typed += inert(key.text.strip())
        elif key == BACKSPACE:
            self._typed = self._typed[:-1] if self._typed else None
        elif key in (ESCAPE, "ctrl-u"):
            self._typed = None
            self._search("")
        elif key == ENTER:
            wanted, self._typed = self._typed, None
            self._search(wanted)
        elif isinstance(key, str) and len(key) == 1 and key.isprintable():
            self._typed += key

    def _search(self, wanted: str) -> None:
        if self._page is not None:
            self._note = self._page.pager.search(wanted)
            return
        self._instances.filter = wanted
        self._instances.take(self._seen.document)

    def _page_key(self, page: Page, key: str) -> None:
        if key == "/":
            self._typed = ""
        elif key == ESCAPE and page.pager.wanted:
            page.pager.search("")
        elif key in ("q", ESCAPE, "left"):
            page.close()
            self._page = None
        else:
            said = page.key(key)
            self._note = said if said is not None else f"{key}: no such key here"

    def _table_key(self, key: str) -> None:
        name = self._instances.name
        pages: dict[str, Callable[[], Page]] = {
            "l": partial(LogPage, name, self._client, self._inbox),
            "e": partial(EventPage, name, self._client, self._inbox),
            "p": lambda: profiles_page(self._seen.document),
            "?": help_page,
        }
        pages[ENTER] = pages["right"] = pages["l"]
        if key == "q":
            self._left = True
        elif key == "/":
            self._typed = ""
        elif key == ESCAPE:
            self._search("")
        elif key == "d" and self._seen.lost:
            self._start_daemon()
        elif key in VERBS:
            self._act(key)
        elif key in pages:
            if name or key not in ("l", ENTER, "right"):
                self._page = pages[key]()
        elif not self._instances.key(key):
            self._note = f"{key}: no such key (? shows them)"

    # --- acting --------------------------------------------------------------------------------

    def _act(self, key: str) -> None:
        row = self._instances.row
        if row is None:
            return
        if self._seen.lost:
            self._complain(NoDaemonError("no daemon answers", hint="d starts one"))
            return
        verb = VERBS[key](row)
        act = partial(self._do, verb, row["name"])
        asked = question(verb, row)
        if asked:
            self._note = click.style(f"{asked} (y/n)", bold=True)
            self._asked = act
        else:
            act()

    def _do(self, verb: str, name: str) -> None:
        self._note = ""
        ended = self._doing.begin(verb, name)

        def done(outcome: dict[str, Any]) -> None:
            ended()
            said = f"{name}: {outcome['phase']}"
            said += f": {inert(outcome['message'])}" if outcome["message"] else ""
            self._note = click.style(said, fg="green" if outcome["ok"] else "red")

        def failed(error: OrchestrateError) -> None:
            ended()
            self._complain(error)

        path = f"/v1/instances/{name}/{verb}"
        beside(self._inbox, lambda: self._client.post(path, {}, wait=1), done, failed)

    def _start_daemon(self) -> None:
        from orchestrator.cli.launch import ensure_daemon

        ended = self._doing.begin("start", "the daemon")

        def failed(error: OrchestrateError) -> None:
            ended()
            self._complain(error)

        beside(self._inbox, lambda: ensure_daemon(self._settings), lambda _: ended(), failed)

    def _complain(self, error: OrchestrateError) -> None:
        hint = f" ({inert(error.hint)})" if error.hint else ""
        self._note = click.style(f"error: {inert(error.message)}{hint}", fg="red")

    # --- what is posted ------------------------------------------------------------------------

    def _found(self) -> None:
        self._seen.lost = ""
        history = partial(self._client.get, "/v1/history")
        # One of another version need not have it: charts then begin with what is seen from here.
        beside(self._inbox, history, self._seen.trends.recall, lambda _: None)

    def _take(self, line: bytes) -> None:
        self._show(json.loads(line)["status"])
        self._seen.trends.note(self._seen.document["instances"], self._heard)

    def _show(self, document: Any) -> None:
        self._heard = time.monotonic()
        self._seen.document = document
        self._instances.take(document)

    def _lose(self, error: OrchestrateError) -> None:
        self._seen.lost = inert(error.message)
        self._looked = float("-inf")

    def _look_alone(self) -> None:
        """In the feed's thread: what still runs, as far as that is known without a daemon."""
        from orchestrator.cli.offline import status_without_daemon

        document = status_without_daemon(self._settings)

        def show() -> None:
            if self._seen.lost:
                self._show(document)

        self._inbox.post(show)

    def _look_at_machine(self) -> None:
        if self._seen.now - self._looked < MACHINE:
            return
        self._looked = self._seen.now
        if not self._seen.lost:
            beside(
                self._inbox,
                partial(self._client.get, "/v1/machine"),
                self._know_machine,
                lambda _: self._measure(),
            )
        else:
            self._measure()

    def _know_machine(self, machine: dict[str, Any]) -> None:
        self._seen.machine = machine

    def _measure(self) -> None:
        """The host's memory, read here: where no daemon says it."""
        from orchestrator.runtime.memory_budget import machine_room

        with contextlib.suppress(OSError, LookupError):
            room = machine_room()
            rows = self._seen.document["instances"]
            taken = {one["name"]: one["memory_bytes"] for one in rows}
            memory = {"total": room.total, "available": room.free, "instances": taken}
            self._seen.machine = {"memory": memory}
