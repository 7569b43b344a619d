"""What there is to verify: the blobs of a store, each once, and GGUF files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from orchestrator.discovery.ollama_manifest import Layer, Manifest
from orchestrator.discovery.ollama_store import read_manifests
from orchestrator.discovery.verify import Check, Fault, check_of


class Plan(Struct):
    """What there is to check, and what is wrong before a byte is read."""

    checks: list[Check] = field(default_factory=list[Check])
    faults: list[Fault] = field(default_factory=list[Fault])

    @property
    def total(self) -> int:
        """Bytes that are to be read."""
        return sum(check.size or 0 for check in self.checks if check.digest)

    def extend(self, other: Plan) -> None:
        self.checks += other.checks
        self.faults += other.faults


def plan_store(store: str, tags: Iterable[str] | None = None) -> Plan:
    """Every blob of the store (of these tags, as Ollama shows them), each once."""
    manifests, errors = read_manifests(store)
    wanted = None if tags is None else set(tags)
    plan = Plan()
    if wanted is None:
        plan.faults += [Fault("corrupt", one.path, one.message, ()) for one in errors]
    users: dict[str, list[tuple[Layer, Manifest]]] = {}
    for manifest in manifests:
        for layer in manifest.contents():
            users.setdefault(layer.digest, []).append((layer, manifest))
    for uses in users.values():
        # Of a blob that only some of the wanted models use, all that suffer are named.
        if wanted is None or any(manifest.tag in wanted for _, manifest in uses):
            plan.checks.append(check_of(store, uses[0][0], [manifest for _, manifest in uses]))
    return plan


def plan_file(ref: str, parts: Sequence[str]) -> Plan:
    """The structure of a GGUF file, or of all parts of one."""
    return Plan([Check(path, (ref,)) for path in parts])
