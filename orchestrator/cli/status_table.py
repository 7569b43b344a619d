"""What `status` shows: the table of instances, and what stands below it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from orchestrator.cli import model_lines, traffic_lines
from orchestrator.cli.cells import cut, pad, wide, wrapped
from orchestrator.cli.render import PHASE_COLOURS, inert, problem_text, since, size
from orchestrator.cli.tables import GAP, table, with_room
from orchestrator.core.wording import how_many, is_idle

HEAD = ["INSTANCE", "MODEL", "PHASE", "FOR", "PORT", "PID", "MEMORY", "CPU", "RESTARTS"]
_PHASE = HEAD.index("PHASE")
_RESTARTS = HEAD.index("RESTARTS")
_LEAST_WANTED = ("RESTARTS", "FIRST", "CPU", "MEMORY", "PID", "TOK/S", "FOR", "REQS")
SHRINKING = {"MODEL": 8, "INSTANCE": 8}
"""Columns that are cut where nothing can be left out any more, and the cells that they keep."""
_MESSAGE = 40
"""Characters of a message that numbers make way for."""


def status_table(document: Mapping[str, Any], *, width: int | None = None) -> list[str]:
    """The lines of `orchestrate status`, no longer than the terminal."""
    rows = [cells(instance, document) for instance in document["instances"]]
    messages = [message(instance) for instance in document["instances"]]
    limit = width or terminal_width()
    head = head_of(document)
    if any(messages):
        rows = [[*row, said] for row, said in zip(rows, messages, strict=True)]
        head = [*head, "MESSAGE"]
    # On a narrow screen the last words count more than some of the numbers.
    head, *rows = with_room(
        [head, *rows],
        limit,
        least_wanted=_LEAST_WANTED,
        shrinking=SHRINKING,
        last=_MESSAGE if any(messages) else 0,
    )
    return _table(head, rows, limit)


def models_table(document: Mapping[str, Any], *, width: int | None = None) -> list[str]:
    """The models of the one instance that was asked for; none when there are none."""
    if len(document["instances"]) != 1 or not document["instances"][0]["models"]:
        return []
    head, rows = model_lines.table(document["instances"][0])
    return ["", *table(head, rows, width=width)]


def terminal_width() -> int:
    """Columns that a line may have; 0 in a pipe, where nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def head_of(document: Mapping[str, Any]) -> list[str]:
    """The columns: where there is a gateway, also those of what goes through it."""
    if document.get("gateway") is None:
        return HEAD
    return [*HEAD[:_RESTARTS], *traffic_lines.HEAD, *HEAD[_RESTARTS:]]


def cells(one: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """What stands below `head_of` for one instance of the document."""
    traffic = document.get("gateway") is not None
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
        *(traffic_lines.cells(one["requests"]) if traffic else ()),
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
    widths = [max(wide(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [click.style(_line(head, widths, limit), bold=True)]
    lines += [_line(coloured(row), widths, limit) for row in rows]
    return lines


def coloured(row: Sequence[str]) -> list[str]:
    """The same cells, the phase in its colour."""
    phase = row[_PHASE]
    shown = click.style(phase, fg=PHASE_COLOURS.get(phase.rstrip("*")))
    return [*row[:_PHASE], shown, *row[_PHASE + 1 :]]


def _line(row: Sequence[str], widths: Sequence[int], limit: int) -> str:
    text = GAP.join(pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
    return cut(text, limit) if limit else text


def in_full(document: Mapping[str, Any]) -> list[str]:
    """What the table had no room for: the messages that are longer than their column, folded."""
    limit = terminal_width()
    if not limit:
        return []
    shown = status_table(document, width=limit)[1:]
    lines: list[str] = []
    for one, line in zip(document["instances"], shown, strict=True):
        said = message(one)
        if said and said not in click.unstyle(line):
            name, *rest = wrapped(f"{one['name']}: {said}", limit - 2)
            lines += [name, *(f"  {piece}" for piece in rest)]
    return ["", *lines] if lines else []


def gateway_lines(document: Mapping[str, Any]) -> list[str]:
    """Where the gateway is, and what goes through it; nothing where there is none."""
    row = document.get("gateway")
    if row is None:
        return []
    line = traffic_lines.line(row, message(row), colour=PHASE_COLOURS.get(row["phase"]))
    return [line, *(f"  ! {inert(one['message'])}" for one in row["alerts"])]


def names_table(document: Mapping[str, Any], *, width: int | None = None) -> list[str]:
    """The names that the gateway serves, where it is one of those that were asked for."""
    lines: list[str] = []
    for row in document["instances"]:
        if names := row.get("names"):
            lines += ["", *traffic_lines.names_table(names, width=width)]
    return lines


def _missing(document: Mapping[str, Any]) -> str:
    """What is not as declared. On a terminal that is too narrow for all of it, without the
    reasons, which stand in the table above."""
    limit = terminal_width()
    items = [inert(one) for one in document["missing"]]
    said = "; ".join(items) or "see below"
    if limit and wide(said) + len("not converged: ") > limit and document["instances"]:
        return "; ".join(item.partition(" (")[0] for item in items)
    return said


def ready_words(document: Mapping[str, Any]) -> str:
    """How many are ready, and how many idle, of what has converged."""
    count, idle = len(document["instances"]), sum(map(is_idle, document["instances"]))
    if not count:
        return "the gateway is ready" if document["gateway"] else "nothing is applied"
    return how_many(count - idle, idle, count)


def summary(document: Mapping[str, Any]) -> list[str]:
    """What stands below the table: convergence, profiles, and what is wrong."""
    lines: list[str] = []
    if document["daemon"] is None:
        lines.append(click.style("no daemon is running; this is what was last known", fg="yellow"))
    elif document["converged"]:
        lines.append(click.style(f"converged: {ready_words(document)}", fg="green"))
    else:
        lines.append(click.style(f"not converged: {_missing(document)}", fg="yellow"))
    for profile in document["profiles"]:
        if not profile["ok"]:
            file = inert(profile["file"])
            lines.append(click.style(f"{file} is invalid; its last good state is kept", fg="red"))
            for error in profile["errors"]:
                lines += problem_text(error).splitlines()
    lines += gateway_lines(document)
    lines += [click.style(f"warning: {inert(w)}", fg="yellow") for w in document["warnings"]]
    return lines
