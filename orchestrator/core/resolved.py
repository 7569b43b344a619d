"""What one profile file means, once it is resolved: what is kept of it, stored, and compared."""

from __future__ import annotations

from msgspec import Struct, field

from orchestrator.core.spec import InstanceSpec


class ResolvedFile(Struct, frozen=True):
    """What one profile file means. `specs` by instance name, in the file's order.

    `reads` are the other files that it says to read, with the digest of each: a change of one of
    them is a change of the profile.
    """

    file: str
    name: str
    revision: str
    specs: dict[str, InstanceSpec] = field(default_factory=dict[str, InstanceSpec])
    reads: dict[str, str] = field(default_factory=dict[str, str])
