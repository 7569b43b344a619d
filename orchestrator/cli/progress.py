"""What moves while one waits: lines for each instance and its unfinished models on a terminal,
quiet lines in a pipe."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import click

from orchestrator.cli import model_lines
from orchestrator.cli.cells import cut
from orchestrator.cli.render import PHASE_COLOURS, every_row, inert
from orchestrator.core.wording import is_idle

_MARKS = {"ready": "●", "failed": "✗", "backoff": "✗", "stopped": "○", "unready": "●"}
_SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

QUIET = 5.0
"""Seconds between two lines about a model whose bytes move, where lines are all there is."""

_RESTS = "present"
"""The word for a model that is as declared."""

_WINDOW = 5.0
"""Seconds over which a speed is taken."""
_SOON = 0.5
"""Seconds that must have been seen before there is a speed."""


class Progress(Protocol):
    """Shown each snapshot; `close` leaves the screen as it should stay."""

    def show(self, snapshot: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def progress(*, as_json: bool) -> Progress:
    """The kind that fits: events as JSON lines, a live block, or a line for each change."""
    if as_json:
        return JsonProgress()
    return LiveProgress() if sys.stderr.isatty() else LineProgress()


class Speeds:
    """Bytes a second of each model, from what was seen lately."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], deque[tuple[float, int]]] = {}

    def rate(self, instance: str, model: Mapping[str, Any], now: float) -> float | None:
        """Of what is under way, at `now` (seconds of any clock); None until it is known."""
        seen = self._seen.setdefault((instance, model["name"]), deque())
        done = model["bytes_done"]
        if model["state"] not in model_lines.MOVING or (seen and done < seen[-1][1]):
            # Nothing of it moves, or something else does now.
            seen.clear()
        seen.append((now, done))
        while len(seen) > 2 and seen[1][0] < now - _WINDOW:
            seen.popleft()
        seconds, count = now - seen[0][0], done - seen[0][1]
        return count / seconds if seconds >= _SOON and count else None


class JsonProgress:
    """One event a line on stdout; the final status is the caller's to print."""

    def show(self, snapshot: Mapping[str, Any]) -> None:
        for event in snapshot["events"]:
            click.echo(json.dumps(event))

    def close(self) -> None:
        return


class LineProgress:
    """A line on stderr when an instance's phase or a model's state changes, and now and then
    while bytes move."""

    def __init__(self) -> None:
        self._phases: dict[str, str] = {}
        self._models: dict[tuple[str, str], tuple[str, int, float]] = {}
        self._speeds = Speeds()

    def show(self, snapshot: Mapping[str, Any]) -> None:
        now = time.monotonic()
        for one in every_row(snapshot["status"]):
            if self._phases.get(one["name"]) != one["phase"]:
                self._phases[one["name"]] = one["phase"]
                click.echo(_line(one, mark=""), err=True)
            open_ = model_lines.unfinished(one)
            for model in one["models"]:
                word = model_lines.doing(model) if model in open_ else _RESTS
                self._show_model(one["name"], model, word, now)

    def _show_model(self, instance: str, model: Mapping[str, Any], word: str, now: float) -> None:
        rate = self._speeds.rate(instance, model, now)
        # What is there from the beginning, or not even begun, is no news.
        begun = (_RESTS if word == _RESTS else "missing", 0, now)
        before, done, said = self._models.setdefault((instance, model["name"]), begun)
        moves = word in model_lines.MOVING and done != model["bytes_done"]
        if word == before and not (moves and now - said >= QUIET):
            return
        self._models[instance, model["name"]] = word, model["bytes_done"], now
        shown = "loaded" if word == _RESTS and model["loaded"] else word
        text = model_lines.line(model, rate=rate, word=shown)
        click.echo(f"  {instance}: {text}", err=True)

    def close(self) -> None:
        return


class LiveProgress:
    """A block on the terminal that is drawn over itself."""

    def __init__(self) -> None:
        self._drawn = 0
        self._turn = 0
        self._speeds = Speeds()

    def show(self, snapshot: Mapping[str, Any]) -> None:
        self._turn += 1
        size = shutil.get_terminal_size()
        instances = every_row(snapshot["status"])
        groups = [self._group(one, size.columns) for one in instances]
        room = max(size.lines - 2, 1)
        lines = [line for group in groups for line in group]
        if len(lines) > room:
            # On a small screen those that are still moving matter most.
            done = [
                is_idle(one) or (one["phase"] == "ready" and not one["lacking"])
                for one in instances
            ]
            order = sorted(range(len(groups)), key=lambda index: done[index])
            lines = [line for index in order for line in groups[index]]
            lines = [*lines[: room - 1], f"  … and {len(lines) - room + 1} more"]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        sys.stderr.write(f"{up}{body}\x1b[J")
        sys.stderr.flush()
        self._drawn = len(lines)

    def _group(self, one: Mapping[str, Any], columns: int) -> Sequence[str]:
        """An instance's line, and below it those of its unfinished models."""
        now = time.monotonic()
        open_ = model_lines.unfinished(one)
        moving = any(model["state"] != "failed" for model in open_)
        spin = _SPIN[self._turn % len(_SPIN)]
        mark = spin if moving else _MARKS.get(one["phase"], spin)
        lines = [_line(one, mark=f"{mark} ", limit=columns - 1)]
        width = max((len(model["name"]) for model in open_), default=0)
        for model in open_ if one["phase"] in ("ready", "unready") else ():
            rate = self._speeds.rate(one["name"], model, now)
            shown = model_lines.line(model, rate=rate, width=max(width, 18), limit=columns - 5)
            lines.append(f"    {shown}")
        return lines

    def close(self) -> None:
        self._drawn = 0


def _line(one: Mapping[str, Any], *, mark: str, limit: int = 0) -> str:
    detail = inert(one["message"])
    if one["phase"] == "ready":
        took = one["ready_after_s"]
        attached = "" if one["managed"] else f"  {detail or 'attached'}"
        after = f"  ready after {took:.2f} s" if took is not None and not attached else ""
        detail = f"{one['url']}{attached}{after}"
    elif one["reason"]:
        detail = f"{one['reason']}: {detail}"
    text = f"{mark}{one['name']:<20} {one['phase']:<9} {detail}".rstrip()
    if limit:
        text = cut(text, limit)
    phase = one["phase"]
    return text.replace(phase, click.style(phase, fg=PHASE_COLOURS.get(phase)), 1)
