"""The first screen of a watch: whether all is well, the instances, and one of them in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from msgspec import Struct, field

from orchestrator.cli import model_lines, traffic_lines
from orchestrator.cli.cells import cut, pad, wide, wrapped
from orchestrator.cli.progress import Speeds
from orchestrator.cli.render import PHASE_COLOURS, duration, inert, since, size
from orchestrator.cli.status_table import (
    SHRINKING,
    cells,
    gateway_lines,
    head_of,
    message,
    ready_words,
)
from orchestrator.cli.tables import GAP, table, with_room
from orchestrator.cli.watch_frame import dim, ends, selected
from orchestrator.cli.watch_trends import Trends, bar

MEMORY_CHART, CPU_CHART = "MEM 2m", "CPU 2m"
_CHART = 12
"""Signs of a chart in the table: two minutes."""
_LONG_CHART = 30
_MEMORY_BAR = 20
_LEAST_WANTED = (
    CPU_CHART,
    MEMORY_CHART,
    "PID",
    "RESTARTS",
    "FIRST",
    "MESSAGE",
    "PORT",
    "FOR",
    "CPU",
    "TOK/S",
    "MEMORY",
    "REQS",
    "MODEL",
)
_MESSAGE = 24
"""Cells of the last words that are worth a column: all of them are below, for the selected one."""
_NARROW = 48
"""Columns up to which there is no room for who says it."""
_TABLE = 4
"""Lines of the table that stay when the screen is small."""


class Seen(Struct):
    """All that is known when a frame is drawn."""

    document: Mapping[str, Any]
    trends: Trends = field(default_factory=Trends)
    speeds: Speeds = field(default_factory=Speeds)
    machine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What `/v1/machine` says, or as much of it as could be found out without."""
    lost: str = ""
    """Why what is shown is not what is: no daemon answers."""
    now: float = 0.0


class Instances:
    """Which of them are shown, and which is selected: by name, for others come and go."""

    def __init__(self, only: Sequence[str]) -> None:
        self._only = frozenset(only)
        self.filter = ""
        self.name = ""
        """The selected one; empty when there is none."""
        self._rows: list[Mapping[str, Any]] = []
        self._first = 0
        self._height = 1

    @property
    def row(self) -> Mapping[str, Any] | None:
        """What is known of the selected one."""
        return next((one for one in self._rows if one["name"] == self.name), None)

    def take(self, document: Mapping[str, Any]) -> None:
        """What there is now. One that is gone hands its selection to who stands there now."""
        before = [one["name"] for one in self._rows]
        self._rows = [
            one
            for one in document["instances"]
            if (not self._only or one["name"] in self._only) and self.filter in one["name"]
        ]
        names = [one["name"] for one in self._rows]
        if self.name not in names:
            at = before.index(self.name) if self.name in before else 0
            self.name = names[min(at, len(names) - 1)] if names else ""

    def key(self, key: str) -> bool:
        """Select another, as the key says; whether it is one for that."""
        page = max(self._height - 1, 1)
        far = len(self._rows)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page-up": -page, "page-down": page}
        steps |= {"home": -far, "g": -far, "end": far, "G": far}
        if key not in steps:
            return False
        names = [one["name"] for one in self._rows]
        if names:
            self.name = names[min(max(names.index(self.name) + steps[key], 0), len(names) - 1)]
        return True

    def lines(self, seen: Seen, columns: int, rows: int) -> list[str]:
        """As many as fit, the table with the selected one in it."""
        head = heading(seen, columns)[: max(rows - 2, 1)]
        row = self.row
        below = details(row, seen, columns) if row is not None else []
        room = rows - len(head)
        if len(self._rows) + 1 + len(below) > room:
            least = min(len(self._rows), _TABLE) + 1
            below = below[: max(min(len(below), max(room // 2, room - len(self._rows) - 1)), 0)]
            below = below[: max(room - least, 0)]
        lines = self._table(seen, columns, room - len(below))
        return [*head, *lines, *below]

    def _table(self, seen: Seen, columns: int, height: int) -> list[str]:
        if not self._rows:
            what = f"no instance has {inert(self.filter)!r} in its name (Escape shows all)"
            return [dim(what if self.filter else "no instances: orchestrate apply FILE")]
        cellses = [_cells(one, seen) for one in self._rows]
        head = head_of(seen.document)
        top = [*head[:7], MEMORY_CHART, head[7], CPU_CHART, *head[8:], "MESSAGE"]
        said = any(row[-1] for row in cellses)
        if not said:
            top, cellses = top[:-1], [row[:-1] for row in cellses]
        head, *shown = with_room(
            [top, *cellses],
            columns - 2,
            least_wanted=_LEAST_WANTED,
            shrinking=SHRINKING,
            last=_MESSAGE if said else 0,
        )
        widths = [max(map(wide, column)) for column in zip(head, *shown, strict=True)]
        self._height = max(height - 1, 1)
        self._scroll()
        lines = [click.style("  " + _joined(head, widths), bold=True)]
        if len(self._rows) > self._height:
            last = min(self._first + self._height, len(self._rows))
            lines = [ends(lines[0], dim(f"{self._first + 1}-{last} of {len(self._rows)}"), columns)]
        for index in range(self._first, min(self._first + self._height, len(self._rows))):
            if self._rows[index]["name"] == self.name:
                lines.append(selected("> " + _joined(shown[index], widths), columns))
            else:
                lines.append("  " + _joined(_phase_coloured(head, shown[index]), widths))
        return lines[:height]

    def _scroll(self) -> None:
        """As little as it takes for the selected one to be seen."""
        at = next((i for i, one in enumerate(self._rows) if one["name"] == self.name), 0)
        least = max(at - self._height + 1, 0)
        most = max(len(self._rows) - self._height, 0)
        self._first = min(max(min(self._first, at), least), most)


def heading(seen: Seen, columns: int) -> list[str]:
    """Whether all is well, and why not; the gateway; what memory there is; then a blank line."""
    gateway = [cut(line, columns) for line in gateway_lines(seen.document)]
    return [*_verdict(seen, columns), *gateway, *_memory(seen.machine, columns), ""]


def _verdict(seen: Seen, columns: int) -> list[str]:
    document = seen.document
    name = click.style("orchestrate", bold=True) + GAP if columns > _NARROW else ""
    if seen.lost:
        said, why = click.style(seen.lost, fg="red", bold=True), "what follows was last known"
    elif document["converged"]:
        said, why = click.style(f"converged: {ready_words(document)}", fg="green"), ""
    else:
        said, why = click.style("not converged", fg="yellow"), _missing(document)
    daemon = document["daemon"]
    right = f"daemon {daemon['pid']}, {since(daemon['since'])}" if daemon and not seen.lost else ""
    title = f"{name}{said}"
    if why and wide(title) + wide(why) + wide(right) + 4 <= columns:
        # On a line that is there anyway, so that the table stays where it is.
        title, why = f"{title}: {why}", ""
    lines = [ends(title, dim(right) if right else "", columns)]
    lines += [f"  {one}" for one in _two(wrapped(why, columns - 2))] if why else []
    warnings = [inert(one) for one in document["warnings"]]
    if warnings:
        more = f" (and {len(warnings) - 1} more: p)" if len(warnings) > 1 else ""
        shown = _two(wrapped(f"warning: {warnings[0]}{more}", columns))
        lines += [click.style(one, fg="yellow") for one in shown]
    return lines


def _missing(document: Mapping[str, Any]) -> str:
    return "; ".join(map(inert, document["missing"]))


def _two(lines: list[str]) -> list[str]:
    """The first two; that there are more is marked."""
    return lines if len(lines) <= 2 else [lines[0], f"{lines[1].rstrip()}…"]


def _memory(machine: Mapping[str, Any], columns: int) -> list[str]:
    """The machine's memory, and that of its GPUs, with what instances take."""
    lines: list[str] = []
    memory = machine.get("memory")
    if memory and memory["total"]:
        used = memory["total"] - memory["available"]
        ours = sum(memory["instances"].values())
        text = f"{size(used)} of {size(memory['total'])}, instances {size(ours)}"
        lines.append(_share("memory", used / memory["total"], text, columns))
    for gpu in machine.get("gpus", ()):
        if gpu["total"]:
            used = gpu["total"] - (gpu["free"] if gpu["free"] is not None else gpu["total"])
            whose = f", {', '.join(gpu['instances'])}" if gpu["instances"] else ""
            text = f"{size(used)} of {size(gpu['total'])}{whose}"
            lines.append(_share(f"gpu {gpu['index']}", used / gpu["total"], text, columns))
    return lines


def _share(name: str, share: float, text: str, columns: int) -> str:
    colour = "red" if share > 0.95 else "yellow" if share > 0.85 else "green"
    shown = click.style(bar(share, min(_MEMORY_BAR, columns // 4)), fg=colour)
    return f"{pad(name, 7)} {shown} {inert(text)}"


def _cells(one: Mapping[str, Any], seen: Seen) -> list[str]:
    row = cells(one, seen.document)
    charts = one["pid"] is not None
    memory = seen.trends.memory(one["name"], _CHART) if charts else ""
    cpu = seen.trends.cpu(one["name"], _CHART) if charts else ""
    return [*row[:7], memory, row[7], cpu, *row[8:], message(one)]


def _joined(row: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _phase_coloured(head: Sequence[str], row: Sequence[str]) -> list[str]:
    at = head.index("PHASE")
    colour = PHASE_COLOURS.get(row[at].rstrip("*"))
    return [*row[:at], click.style(row[at], fg=colour), *row[at + 1 :]]


# --- one of them ---------------------------------------------------------------------------------


def details(one: Mapping[str, Any], seen: Seen, columns: int) -> list[str]:
    """All that is known of the selected one, what is wrong first."""
    name = f" {one['name']} "
    rule = dim("─" * 2) + click.style(name, bold=True) + dim("─" * max(columns - len(name) - 2, 0))
    return [
        "",
        rule,
        *_said(one, columns),
        *_facts(one, seen, columns),
        *(cut(line, columns) for line in traffic_lines.details(one["requests"])),
        *_models(one, seen, columns),
    ]


def _said(one: Mapping[str, Any], columns: int) -> list[str]:
    said = message(one)
    if one["retry_in_s"] is not None:
        said += f" (again in {duration(one['retry_in_s'])})"
    if one["held"]:
        said = f"{said.removeprefix('held')} held by hand: s starts it"
    lines = wrapped(said.strip(), columns) if said else []
    colour = PHASE_COLOURS.get(one["phase"]) if one["phase"] in _TROUBLE else None
    return [click.style(line, fg=colour) if colour else line for line in lines[:_WORDS]]


_TROUBLE = frozenset({"failed", "backoff", "unready"})
_WORDS = 6
"""Lines of a message, at most: logs tell the rest."""


def _facts(one: Mapping[str, Any], seen: Seen, columns: int) -> list[str]:
    model = f"  {inert(one['model'])}" if one["model"] else ""
    pid = f"  pid {one['pid']}" if one["pid"] else ""
    lines = [f"{one['url']}  {one['engine']}{pid}{model}"]
    took = [f"restarts {one['restarts']}"]
    if one["ready_after_s"] is not None:
        took.append(f"ready after {one['ready_after_s']:.2f} s")
    if one["exit_code"] is not None:
        took.append(f"exit code {one['exit_code']}")
    took.append(f"profile {', '.join(one['profiles']) or '-'}")
    lines.append(GAP.join(took))
    if one["pid"]:
        room = min(max((columns - 40) // 2, 0), _LONG_CHART)
        memory, cpu = seen.trends.memory(one["name"], room), seen.trends.cpu(one["name"], room)
        lines.append(
            f"memory {memory} {size(one['memory_bytes'])}{GAP}cpu {cpu} {one['cpu_percent']:.0f}%"
        )
    return lines


def _models(one: Mapping[str, Any], seen: Seen, columns: int) -> list[str]:
    """Models of an Ollama: what moves with a bar, then all of them."""
    if not one["models"]:
        return []
    head, rows = model_lines.table(one)
    moving = [
        model_lines.line(model, rate=seen.speeds.rate(one["name"], model, seen.now), limit=columns)
        for model in one["models"]
        if model["state"] in model_lines.MOVING
    ]
    return ["", *moving, *table(head, rows, width=columns)]
