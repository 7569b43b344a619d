"""The other screens of a watch: logs and events as they come, profiles, and what the keys do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from orchestrator.cli.client import Client
from orchestrator.cli.render import event_line, inert, problem_text
from orchestrator.cli.watch_feed import Feed, Inbox, lines_of
from orchestrator.cli.watch_frame import dim, ends
from orchestrator.cli.watch_pager import KEPT, Pager
from orchestrator.core.event import is_transient
from orchestrator.errors import OrchestrateError

MOVING = "↑↓ g G move"
_CLOCK = len("2026-01-01 00:00:00")

HELP = """\
In the table
  up down j k        select another instance; g and G the first and the last
  Enter, l           its logs, live
  r                  restart it
  s                  stop it, and hold it down; start it when it is down
  K                  kill it: stop it at once, without grace
  e                  what happened, with causes
  p                  profiles: what is applied, and what is wrong with it
  /                  only instances with this in their names; Escape shows all
  d                  start the daemon, when there is none
  q, Ctrl-C          leave; everything goes on running
  Ctrl-Z             to the shell; `fg` comes back

What costs something is asked about first: y does it, any other key does not.

In logs, events and here
  up down j k        move; space and b by pages, u and d by halves, g and G to the ends
  G, f               the end, and on as it grows
  /                  search; n and N the next and the one before, Escape ends it
  w                  long lines are folded, or cut
  o                  logs of the run before, and back; events of all, or of the selected one
  q, Escape, left    back to the table

A `*` behind a phase: a file of it changed on disk, the next restart takes it up. A line that begins
with `!` is an alert. Charts are of the last minutes, a sign for each ten seconds.
"""


class Page:
    """A text with a title. A page that is fed says when its source is gone."""

    def __init__(self, title: str, pager: Pager) -> None:
        self.title = title
        self.pager = pager
        self.lost = ""
        self.keys = f"{MOVING}  / search  n N next  w fold  q back"

    def lines(self, columns: int, rows: int) -> list[str]:
        """The title and what fits below it."""
        note = f"{self.lost}  " if self.lost else ""
        right = f"{note}{'following' if self.pager.follow else self.pager.place()}"
        head = ends(click.style(self.title, bold=True), dim(right), columns)
        return [head, *self.pager.rows(columns, rows - 1)]

    def key(self, key: str) -> str | None:
        """Act on it; what is to be said then. None for a key that does nothing here."""
        if self.pager.key(key):
            return ""
        if key == "f":
            self.pager.follow = True
        elif key == "w":
            self.pager.fold = not self.pager.fold
        elif key in ("n", "N"):
            return self.pager.next(backward=key == "N")
        else:
            return None
        return ""

    def close(self) -> None:
        """Nothing comes any more."""


class _Fed(Page):
    """A page that comes from the daemon, and begins anew with another daemon."""

    def __init__(self, title: str, pager: Pager, client: Client, inbox: Inbox) -> None:
        super().__init__(title, pager)
        self._client, self._inbox = client, inbox
        self._feed: Feed | None = None

    def follow(self, path: str, come: Callable[[bytes], None], **query: object) -> None:
        """From now on, this."""
        self.close()
        self._feed = Feed(
            lambda: self._client.stream(path, **query),
            self._inbox,
            begun=self._begun,
            came=come,
            lost=self._lost,
        )

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()

    def _begun(self) -> None:
        self.lost = ""
        # All that there is comes again: nothing is missed, and nothing shown twice.
        self.pager.clear()

    def _lost(self, error: OrchestrateError) -> None:
        self.lost = inert(error.message)


class LogPage(_Fed):
    """What an instance writes, over restarts of it and of the daemon."""

    def __init__(self, name: str, client: Client, inbox: Inbox) -> None:
        super().__init__(name, Pager(follow=True), client, inbox)
        self._name = name
        self._previous = False
        self.keys = f"{MOVING}  f follow  / search  n N next  w fold  o older run  q back"
        self._show()

    def key(self, key: str) -> str | None:
        if key != "o":
            return super().key(key)
        self._previous = not self._previous
        self._show()
        return ""

    def _show(self) -> None:
        run = " (the run before)" if self._previous else ""
        self.title = f"logs of {self._name}{run}"
        self.pager.clear()
        path = f"/v1/instances/{self._name}/logs"
        query = {"lines": KEPT, "previous": int(self._previous), "follow": 1}
        self.follow(path, self.pager.feed, **query)


class EventPage(_Fed):
    """The timeline, of all or of one."""

    def __init__(self, name: str, client: Client, inbox: Inbox) -> None:
        super().__init__("", Pager(follow=True, paint=_clock_dimmed), client, inbox)
        self._name = name
        self._only = False
        self.keys = f"{MOVING}  f follow  / search  n N next  w fold  o only {name}  q back"
        self._show()

    def key(self, key: str) -> str | None:
        if key != "o" or not self._name:
            return super().key(key)
        self._only = not self._only
        self._show()
        return ""

    def _show(self) -> None:
        self.title = f"events of {self._name}" if self._only else "events"
        self.pager.clear()
        name = self._name if self._only else ""
        self.follow("/v1/events", lines_of(self._take), recent=500, instance=name, follow=1)

    def _take(self, line: bytes) -> None:
        if not line.startswith(b"data: "):
            return
        event = json.loads(line[6:])
        if not is_transient(event["type"], event["reason"], event["data"]):
            self.pager.add([click.unstyle(event_line(event))])


def _clock_dimmed(row: str) -> str:
    if row[:1].isdigit() and row[4:5] == "-":
        return dim(row[:_CLOCK]) + row[_CLOCK:]
    return row


def help_page() -> Page:
    """What the keys do."""
    pager = Pager()
    pager.add(HELP.splitlines())
    return Page("keys", pager)


def profiles_page(document: Mapping[str, Any]) -> Page:
    """What is applied, with every error and warning in full."""
    pager = Pager()
    for profile in document["profiles"]:
        names = [o["name"] for o in document["instances"] if profile["name"] in o["profiles"]]
        state = "ok" if profile["ok"] else "invalid; its last good state is kept"
        pager.add([f"{inert(profile['name'])}: {state}", f"  {inert(profile['file'])}"])
        pager.add([f"  instances: {', '.join(names) or 'none'}"])
        for error in profile["errors"]:
            pager.add(["", *(f"  {inert(line)}" for line in _plain(problem_text(error)))])
        pager.add([""])
    if not document["profiles"]:
        pager.add(["nothing is applied: orchestrate apply FILE"])
    pager.add(f"warning: {inert(warning)}" for warning in document["warnings"])
    return Page("profiles", pager)


def _plain(text: str) -> list[str]:
    return click.unstyle(text).splitlines()
