"""What a restart by hand would meet, and whether it is better refused. Pure.

What runs is not given up for a start that cannot come up: whoever wants that all the same says so.
"""

from __future__ import annotations

from msgspec import Struct

from orchestrator.core.cause import FileFact
from orchestrator.core.status import SERVING, InstanceStatus


class Prospect(Struct, frozen=True):
    """What a start of an instance would find: its files, and who of others has its port.

    `damaged` continues the path of a file that is there and cannot be used; `taken` names who
    listens, empty when nobody does.
    """

    files: tuple[FileFact, ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    taken: str = ""


class Refusal(Struct, frozen=True):
    """Why it is not done, and what to do."""

    message: str
    hint: str


def refusal(status: InstanceStatus | None, prospect: Prospect) -> Refusal | None:
    """Of a restart; None where nothing speaks against it, or nothing runs that could be lost."""
    if status is None or status.phase not in SERVING or not status.managed:
        return None
    found = [f"{file.path} {_STATES[file.state]}" for file in prospect.files if _is_bad(file)]
    found += [f"{path} {why}" for path, why in prospect.damaged]
    hint = "put the file in order"
    if not found and prospect.taken:
        found, hint = [prospect.taken], "stop that, or choose another port"
    if not found:
        return None
    message = f"{status.name} is not restarted, for it would not come up again: {found[0]}"
    return Refusal(message, f"{hint}; it goes on as it is. --force restarts it all the same")


_STATES = {
    "missing": "does not exist",
    "unreadable": "may not be read",
    "folder": "is a folder",
}


def _is_bad(file: FileFact) -> bool:
    return file.state in _STATES
