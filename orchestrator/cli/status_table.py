"""What `status` shows: the table of instances, what stands below it, and both on a small screen."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import click

from orchestrator.cli import model_lines
from orchestrator.cli.render import PHASE_COLOURS, cut, inert, problem_text, since, size
from orchestrator.cli.tables import table

_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
_LEAST_WANTED = ("RESTARTS", "CPU", "MEMORY", "PID", "FOR")
_MESSAGE = 40
"""Characters of a message that numbers make way for."""
_LEAST = 4
"""Lines of the table that a screen shows, whatever stands below."""
_SMALL = 8
"""Lines of a screen on which each counts."""


def status_table(document: Mapping[str, Any], *, width: int | None = None) -> list[str]:
    """The lines of `orchestrate status`, no longer than the terminal."""
    head = ["INSTANCE", "MODEL", "PHASE", "FOR", "PORT", "PID", "MEMORY", "CPU", "RESTARTS"]
    rows = [_row(instance) for instance in document["instances"]]
    messages = [message(instance) for instance in document["instances"]]
    limit = width or terminal_width()
    if any(messages):
        rows = [[*row, said] for row, said in zip(rows, messages, strict=True)]
        head.append("MESSAGE")
        head, *rows = _with_room([head, *rows], limit)
    return _table(head, rows, limit)


def _with_room(lines: list[list[str]], limit: int) -> list[list[str]]:
    """On a narrow screen the last words count more than some of the numbers."""
    for name in _LEAST_WANTED:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        taken = sum(widths[:-1]) + 2 * len(widths[:-1])
        if not limit or taken + min(widths[-1], _MESSAGE) <= limit:
            break
        at = lines[0].index(name)
        lines = [[*line[:at], *line[at + 1 :]] for line in lines]
    return lines


def models_table(document: Mapping[str, Any], *, width: int | None = None) -> list[str]:
    """The models of the one instance that was asked for; none when there are none."""
    if len(document["instances"]) != 1 or not document["instances"][0]["models"]:
        return []
    head, rows = model_lines.table(document["instances"][0])
    return ["", *table(head, rows, width=width)]


def terminal_width() -> int:
    """Columns that a line may have; 0 in a pipe, where nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def _row(one: Mapping[str, Any]) -> list[str]:
    # Of a server that somebody else runs, there may be nothing to be seen.
    measured = one["pid"] and (one["managed"] or one["memory_bytes"])
    return [
        one["name"],
        cut(_model(one), 32),
        one["phase"] + ("*" if one["stale"] else ""),
        since(one["since"]),
        str(one["port"]),
        str(one["pid"] or "-"),
        size(one["memory_bytes"]) if measured else "-",
        f"{one['cpu_percent']:.0f}%" if measured else "-",
        str(one["restarts"]),
    ]


def _model(one: Mapping[str, Any]) -> str:
    """A path by its last part: there is no room for more, and `status --json` has it all."""
    model = one["model"]
    if one["engine"] == "ollama":
        return model_lines.cell(one)
    path = model.startswith(("/", "./", "../", "~/"))
    return inert(os.path.basename(model) if path else model)


def message(one: Mapping[str, Any]) -> str:
    """All that is to be said of an instance in one line, what is wrong first."""
    reason, text = one["reason"], inert(one["message"])
    said = [f"{reason}: {text}" if reason and text else reason or text]
    if one["stale"] and not said[0]:
        said.append("a file of it changed on disk, or is gone: the next apply or restart meets it")
    if not one["managed"] and "attached" not in text:
        said.append(f"attached{', of ' + inert(one['owner']) if one['owner'] else ''}")
    if one["phase"] in ("ready", "unready", "starting"):
        said.append(model_lines.remark(one))
    if one["health"] is not None:
        said.append(f"{one['health']['class']} {one['health']['latency_s']:.2g} s")
    said += [f"! {inert(alert['message'])}" for alert in one["alerts"]]
    return "; ".join(part for part in said if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], limit: int) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [_line(head, widths, limit, None)]
    lines += [_line(row, widths, limit, row[2].rstrip("*")) for row in rows]
    return lines


def _line(cells: Sequence[str], widths: Sequence[int], limit: int, phase: str | None) -> str:
    plain = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    text = "  ".join(plain).rstrip()
    if limit:
        text = cut(text, limit)
    if phase is None:
        return click.style(text, bold=True)
    at = sum(widths[:2]) + 4
    cell = text[at : at + widths[2]]
    return text[:at] + click.style(cell, fg=PHASE_COLOURS.get(phase)) + text[at + widths[2] :]


def summary(document: Mapping[str, Any]) -> list[str]:
    """What stands below the table: convergence, profiles, and what is wrong."""
    lines: list[str] = []
    count = len(document["instances"])
    if document["daemon"] is None:
        lines.append(click.style("no daemon is running; this is what was last known", fg="yellow"))
    elif document["converged"]:
        what = f"{count} of {count} ready" if count else "nothing is applied"
        lines.append(click.style(f"converged: {what}", fg="green"))
    else:
        missing = "; ".join(inert(one) for one in document["missing"])
        lines.append(click.style(f"not converged: {missing or 'see below'}", fg="yellow"))
    for profile in document["profiles"]:
        if not profile["ok"]:
            file = inert(profile["file"])
            lines.append(click.style(f"{file} is invalid; its last good state is kept", fg="red"))
            for error in profile["errors"]:
                lines += problem_text(error).splitlines()
    lines += [click.style(f"warning: {inert(w)}", fg="yellow") for w in document["warnings"]]
    return lines


def screen(document: Mapping[str, Any], columns: int, rows: int) -> list[str]:
    """Table, models and summary in a window: what there is no room for is cut and counted.

    The summary's first line is always there, for it says whether all is well.
    """
    below = [_narrowed(line, columns) for line in summary(document)]
    head, *table = status_table(document, width=columns)
    above = [*table, *models_table(document, width=columns)]
    gap = [""] if rows > _SMALL else []
    least = min(len(above), _LEAST if rows > _SMALL else 1)
    below = below[: max(rows - 1 - len(gap) - least, 1)]
    room = max(rows - 1 - len(gap) - len(below), 0)
    if len(above) > room:
        more = f"… and {len(above) - room + 1} more"
        above = [*above[: room - 1], more] if room else []
    return [head, *above, *gap, *below][-rows:]


def _narrowed(line: str, limit: int) -> str:
    """A line with colours in it, cut to so many characters that are seen."""
    pieces = _STYLE.split(line)
    shown: list[str] = []
    room = limit
    for text, style in zip_longest(pieces[::2], pieces[1::2], fillvalue=""):
        shown += [cut(text, room) if room else "", style]
        room -= min(len(text), room)
    return "".join(shown)
