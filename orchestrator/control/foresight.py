"""Looks at what a start would meet, for `core.prospect` to judge. Reads files: for a thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.core.cause import FileFact
from orchestrator.core.prospect import Prospect
from orchestrator.core.spec import InputFile, InstanceSpec
from orchestrator.core.status import InstanceStatus
from orchestrator.core.successor import on_port
from orchestrator.discovery.gguf_header import HeaderError, read_header
from orchestrator.runtime import ports
from orchestrator.runtime.files import identity_of
from orchestrator.runtime.marks import state_of


def foresee(spec: InstanceSpec, status: InstanceStatus) -> Prospect:
    """What a start as `spec` would find, once what runs is gone."""
    facts = tuple(FileFact(file.role, file.path, state_of(file.path, None)) for file in spec.inputs)
    argv = spec.command.argv
    if argv and os.path.isabs(argv[0]) and not any(file.path == argv[0] for file in facts):
        facts += (FileFact("binary", argv[0], state_of(argv[0], None)),)
    return Prospect(facts, tuple(_damaged(spec, status)), _taken(spec, status))


def _damaged(spec: InstanceSpec, status: InstanceStatus) -> Iterator[tuple[str, str]]:
    """Models that are others than what runs has read, and cannot be read."""
    read = {file.path: file.identity for file in status.spec.inputs}
    for file in spec.inputs:
        if _is_gguf(file) and read.get(file.path) != identity_of(file.path):
            try:
                read_header(file.path)
            except HeaderError as error:
                yield file.path, str(error)
            except OSError:
                # That is told by how the file is.
                continue


def _is_gguf(file: InputFile) -> bool:
    return file.role in ("model", "mmproj", "adapter")


def _taken(spec: InstanceSpec, status: InstanceStatus) -> str:
    """Who listens there but for the very processes that are to go. Of two ports, the one that it
    has counts: who has the other one is in nobody's way, for then its successor gets another."""
    endpoint, leader = on_port(spec, status.spec.endpoint.port).endpoint, status.process
    found = ports.conflicting(endpoint.host, endpoint.port, ports.listeners())
    if leader is not None:
        found = [one for one in found if not ports.all_owned_by(leader, [one])]
    return f"port {endpoint.port} is taken by {ports.holder(found[0])}" if found else ""
