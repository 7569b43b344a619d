"""Gathers what is known of a run that ended, for `core.cause` to judge; and what it hangs on.

Everything here reads files, and may walk the process table: not for the event loop.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from orchestrator.core.cause import Cause, Evidence, FileFact, Mending, OomKind, Seen
from orchestrator.core.secret import is_secret_name, masked_argv
from orchestrator.core.spec import InstanceSpec
from orchestrator.runtime import ports
from orchestrator.runtime.marks import mark_of, state_of
from orchestrator.runtime.oom import OomWatch, available
from orchestrator.runtime.process import Exit, signal_name


def gather(
    spec: InstanceSpec,
    ended: Exit,
    *,
    lines: list[str],
    was_ready: bool,
    memory: OomWatch,
) -> Evidence:
    """All there is to know of a run of `spec`, just after its end."""
    return Evidence(
        ended=str(ended),
        code=ended.code,
        signal=signal_name(ended.signal) if ended.signal is not None else "",
        lines=tuple(lines),
        was_ready=was_ready,
        taken=_taken(spec) if ended.code else "",
        oom=_oom(ended, memory),
        peak=ended.peak,
        available=available(memory.groups),
        files=tuple(
            FileFact(file.role, file.path, state_of(file.path, file.identity))
            for file in spec.inputs
        ),
    )


def levels(spec: InstanceSpec, cause: Cause, *, groups: tuple[str, ...] = ()) -> dict[str, Any]:
    """What an instance that failed for this hangs on, as the data of an event has it."""
    paths = dict.fromkeys(_paths(spec, cause))
    files = tuple(Seen(path, mark_of(path)) for path in paths)
    return Mending(files, cause.memory, groups if cause.memory else ()).as_json()


def _oom(ended: Exit, memory: OomWatch) -> OomKind:
    # 137: a shell around the engine says so of its child. None: nobody could say.
    killed = ended.signal == 9 or ended.code in (137, None)
    return memory.verdict() if killed else ""


def _taken(spec: InstanceSpec) -> str:
    """Who listens on the port of a group that is gone: nobody of ours."""
    endpoint = spec.endpoint
    found = ports.conflicting(endpoint.connect_host, endpoint.port, ports.listeners())
    if not found:
        return ""
    # It was free when it was looked at; whoever listens now was quicker by a moment.
    return f"port {endpoint.port} was taken by {ports.holder(found[0])} while it started"


_QUOTED = re.compile(r"'(/[^']+)'")


def _paths(spec: InstanceSpec, cause: Cause) -> Iterator[str]:
    """Every file that it reads, as far as its command, its environment or its last words tell."""
    for file in spec.inputs:
        yield file.path
    env = spec.command.env.items()
    words = [*masked_argv(spec.command.argv), *(v for name, v in env if not is_secret_name(name))]
    for word in (*words, *_QUOTED.findall(cause.message)):
        if os.path.isabs(word) and "\n" not in word and len(word) < 4096:
            yield word
    if cause.reason.startswith("binary-") and spec.command.argv:
        # A library that is missing comes beside the program, or in the folder next to it.
        program = os.path.dirname(os.path.realpath(spec.command.argv[0]))
        yield f"{program}/"
        yield f"{os.path.dirname(program)}/lib/"
