"""What people read: plans, problems, events, and how time and bytes are said."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from orchestrator.core.wording import as_written

_SELECTORS = re.compile("[\ufe00-\ufe0f]")

PHASE_COLOURS = {
    "ready": "green",
    "starting": "cyan",
    "pending": "cyan",
    "stopping": "cyan",
    "unready": "yellow",
    "backoff": "yellow",
    "failed": "red",
    "stopped": "bright_black",
}

VERB_COLOURS = {
    "start": "green",
    "stop": "red",
    "kill": "red",
    "replace": "yellow",
    "update": "cyan",
    "provision": "cyan",
}


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=2))


def inert(text: object) -> str:
    """Text from outside, unable to steer the terminal it is shown on."""
    said = str(text)
    if said.isascii() and said.isprintable():
        return said
    # Of what only asks for another look of the character before, no two terminals make the same.
    said = _SELECTORS.sub("", said)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said)


def problem_text(error: Mapping[str, Any]) -> str:
    """One problem with its place, source line and caret."""
    from orchestrator.core.parse import render_problem
    from orchestrator.core.problem import Place, Problem

    place = Place(error["file"], error["line"], error["column"], error.get("source", ""))
    return render_problem(Problem(error["message"], place, (), error["hint"]))


def every_row(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is kept: the instances of a status document, and after them the gateway, if any."""
    gateway = document.get("gateway")
    return [*document["instances"], *([gateway] if gateway is not None else [])]


def plan_lines(actions: Sequence[Mapping[str, Any]]) -> list[str]:
    """What `plan` prints, and `apply` before it acts."""
    if not actions:
        return ["nothing to do: what runs is what is declared"]
    width = max(len(action["instance"]) for action in actions)
    wide = max(len(action["action"]) for action in actions)
    lines: list[str] = []
    for action in actions:
        verb = click.style(f"{action['action']:<{wide}}", fg=VERB_COLOURS.get(action["action"]))
        first, *others = _why(action)
        lines.append(f"  {verb} {action['instance']:<{width}}  {first}".rstrip())
        lines += [f"  {'':{wide}} {'':<{width}}  {other}" for other in others]
    return lines


def _why(action: Mapping[str, Any]) -> list[str]:
    """Field by field; the message first, where it says something else than the fields."""
    # Of a replacement, not every field is what it takes it for.
    live = {"live": " (live)"} if action["action"] == "replace" else {}
    reasons = [_reason(one) + live.get(one["class"], "") for one in action["reasons"]]
    said = inert(action["message"])
    return reasons if reasons and said.startswith(reasons[0]) else [said, *reasons]


def _reason(reason: Mapping[str, Any]) -> str:
    field, have, want = (
        inert(reason["field"]),
        as_written(reason["have"]),
        as_written(reason["want"]),
    )
    if have is None:
        return f"{field}: {inert(want)} (new)"
    if want is None:
        return f"{field}: {inert(have)} (gone)"
    return f"{field}: {inert(have)} -> {inert(want)}"


def event_line(event: Mapping[str, Any]) -> str:
    """One line of the timeline."""
    moment = datetime.fromisoformat(event["time"]).astimezone()
    clock = click.style(moment.strftime("%Y-%m-%d %H:%M:%S"), fg="bright_black")
    what = f"{event['type']} ({event['reason']})" if event["reason"] else event["type"]
    name = event["instance"] or "-"
    return f"{clock}  {name:<16} {what}  {inert(event['message'])}".rstrip()


def since(moment: str | None) -> str:
    """How long ago, in one or two units."""
    if moment is None:
        return "-"
    then = datetime.fromisoformat(moment)
    return duration((datetime.now(UTC) - then).total_seconds())


def duration(seconds: float) -> str:
    """`7s`, `3m12s`, `4h05m`, `2d03h`."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size(count: float) -> str:
    """Bytes as people say them: `23 MiB`, `4.7 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
