"""Gathers what is known of a run that ended, for `core.cause` to judge; and what it hangs on.

Everything here reads files, and may walk the process table: not for the event loop.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.core.cause import Cause, Evidence, FileFact, Mending, OomKind, Seen
from orchestrator.core.spec import InstanceSpec
from orchestrator.runtime import oom, ports
from orchestrator.runtime.marks import mark_of, state_of
from orchestrator.runtime.oom import OomWatch
from orchestrator.runtime.process import Exit, signal_name


def gather(
    spec: InstanceSpec,
    ended: Exit,
    *,
    lines: list[str],
    was_ready: bool,
    memory: OomWatch,
    began: Mapping[str, str] | None = None,
) -> Evidence:
    """All there is to know of a run of `spec`, just after its end.

    `began` is what `marks_of` said when it began.
    """
    known = began or {}
    return Evidence(
        ended=str(ended),
        code=ended.code,
        signal=signal_name(ended.signal) if ended.signal is not None else "",
        lines=tuple(lines),
        was_ready=was_ready,
        taken=_taken(spec) if ended.code else "",
        oom=_oom(ended, memory),
        peak=ended.peak,
        available=oom.available(memory.groups),
        total=oom.total(),
        limit=oom.limit(memory.groups),
        files=tuple(
            FileFact(file.role, file.path, state_of(file.path, known.get(file.path)))
            for file in spec.inputs
        ),
    )


def marks_of(spec: InstanceSpec) -> dict[str, str]:
    """The marks of the files that a run of `spec` reads, by path: to be taken as it begins."""
    return {path: mark_of(path) for path in _read(spec)}


def levels(
    spec: InstanceSpec,
    cause: Cause,
    *,
    groups: tuple[str, ...] = (),
    began: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What an instance that failed for this hangs on, as the data of an event has it.

    Files count as they were when the run began, as far as `began` has them: what became whole
    between the engine's look and this one has changed since.
    """
    known = began or {}
    paths = dict.fromkeys([*_read(spec), *_named(spec, cause)])
    files = tuple(Seen(path, known.get(path) or mark_of(path)) for path in paths)
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


_OUTPUTS = re.compile(r"^--?(log-file|log-dir|logdir|slot-save-path|prompt-cache)$")
_KEPT = re.compile(r"(_CACHE|_CACHE_DIR|_LOG_FILE|_LOG_DIR|_SLOT_SAVE_PATH)$|^(HF_HOME|TMPDIR)$")
"""Flags and variables that name what an engine writes: that changes without being mended."""
_GIVEN = re.compile(r"^--[a-z-]+-file$")
"""Flags whose value is in a file, which may be mended."""

_PATH = re.compile(r"""'(/[^'\n]+)'|"(/[^"\n]+)"|(?<![^\s=(])(/[^\s'":,;()]+)""")
_LIBRARY = re.compile(r"loading shared librar(?:y|ies):? ([^/\s:]+)")


def _read(spec: InstanceSpec) -> Iterator[str]:
    """The files that it was resolved with, its program, and what flags give it in files."""
    for file in spec.inputs:
        yield file.path
    argv = spec.command.argv
    if argv and os.path.isabs(argv[0]):
        yield argv[0]
    for flag, value in itertools.pairwise(argv):
        if _GIVEN.match(flag) and not _OUTPUTS.match(flag) and os.path.isabs(value):
            yield value


def _named(spec: InstanceSpec, cause: Cause) -> Iterator[str]:
    """What its last words name, but for what it writes itself."""
    written = tuple(_written(spec))
    for quoted in _PATH.findall(cause.message):
        path = "".join(quoted)
        if len(path) < 4096 and not any(_is_within(path, folder) for folder in written):
            yield path
    if cause.reason.startswith("binary-") and spec.command.argv:
        # A library that is missing comes beside the program, or in the folder next to it.
        folder = os.path.dirname(os.path.realpath(spec.command.argv[0]))
        for library in _LIBRARY.findall(cause.message):
            yield os.path.join(folder, library)
            yield os.path.join(os.path.dirname(folder), "lib", library)


def _written(spec: InstanceSpec) -> Iterator[str]:
    argv = spec.command.argv
    for at, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if _OUTPUTS.match(flag):
            yield value if equals else "".join(argv[at + 1 : at + 2])
    yield from (value for name, value in spec.command.env.items() if _KEPT.search(name))


def _is_within(path: str, folder: str) -> bool:
    return bool(folder) and (path == folder or path.startswith(folder.rstrip("/") + "/"))
