"""What several profile files mean together, or where they contradict each other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.core.gate import overlaps
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.problem import Path
from orchestrator.core.replicas import families
from orchestrator.core.resolved import ResolvedFile
from orchestrator.core.shared_store import Clash, clashes
from orchestrator.core.spec import Desired, InstanceSpec


class Conflict(Struct, frozen=True):
    """Two instances that cannot both be applied: that of `file` contradicts what came before it,
    in `other` or in the same file. `path` is where it does, where that is not the whole instance.
    """

    file: str
    other: str
    instance: str
    message: str
    hint: str
    path: Path = ()

    @property
    def where(self) -> Path:
        if self.path:
            return self.path
        return (GATEWAY,) if self.instance == GATEWAY else ("instances", self.instance)


def unite(files: Iterable[ResolvedFile]) -> tuple[Desired, list[Conflict]]:
    """The union of all files: one name in two files must mean one thing, one port one instance,
    and one model of one folder is made in one way."""
    desired: Desired = {}
    first_in: dict[str, str] = {}
    by_port: dict[int, list[InstanceSpec]] = {}
    conflicts: list[Conflict] = []
    kin: dict[str, tuple[set[str], str]] = {}
    for file in files:
        conflicts += _replica_conflicts(file, desired, kin, first_in)
        for name, spec in file.specs.items():
            known = desired.get(name)
            if known is None:
                for other in by_port.setdefault(spec.endpoint.port, []):
                    if overlaps(other.endpoint, spec.endpoint):
                        port = spec.endpoint.port
                        message = f"port {port} of {name!r} is also that of {other.name!r}"
                        where = first_in[other.name]
                        hint = f"it is declared in {where}"
                        conflicts.append(Conflict(file.file, where, name, message, hint))
                conflicts += [
                    _model_conflict(file.file, spec, clash, first_in[clash.other])
                    for clash in clashes(spec, desired.values())
                ]
                desired[name] = spec
                by_port[spec.endpoint.port].append(spec)
                first_in[name] = file.file
            elif replace(spec, profiles=known.profiles) == known:
                profiles = (*known.profiles, *spec.profiles)
                desired[name] = replace(known, profiles=tuple(dict.fromkeys(profiles)))
            else:
                conflicts.append(_other_meaning(file.file, first_in[name], spec))
    return desired, conflicts


def _replica_conflicts(
    file: ResolvedFile,
    desired: Desired,
    kin: dict[str, tuple[set[str], str]],
    first_in: dict[str, str],
) -> Iterator[Conflict]:
    """What has replicas is a name, too: it means as many everywhere, and nothing else. `kin` are
    the replicas of each that was seen so far, and the file where; it grows."""
    own = families(file.specs.values())
    for name, replicas in own.items():
        before, where = kin.setdefault(name, (replicas, file.file))
        if before != replicas or name in desired:
            yield _differs(file.file, where if before != replicas else first_in[name], name)
    for name in file.specs:
        if name in kin and name not in own:
            yield _differs(file.file, kin[name][1], name)


def _other_meaning(file: str, other: str, spec: InstanceSpec) -> Conflict:
    if spec.gateway is not None:
        message = f"the gateway is declared differently in {other}"
        hint = "there is one for all: declare it in one file, or alike in both"
        return Conflict(file, other, spec.name, message, hint)
    return _differs(file, other, spec.replica_of or spec.name)


def _differs(file: str, other: str, name: str) -> Conflict:
    message = f"instance {name!r} is declared differently in {other}"
    hint = "give it another name, or declare it alike in both files"
    return Conflict(file, other, name, message, hint)


def _model_conflict(file: str, spec: InstanceSpec, clash: Clash, other: str) -> Conflict:
    name, model = spec.name, clash.model.name
    store = spec.holds.store if spec.holds is not None else ""
    message = (
        f"model {model!r} of {name!r} is made otherwise than that of {clash.other!r}, "
        f"with the same folder {store}: {clash.words}"
    )
    hint = (
        f"declare it as in {other}, give one of them another name, or give one of the instances "
        "a folder of its own by `settings: {models: ...}`"
    )
    return Conflict(file, other, name, message, hint, ("instances", name, "models", clash.index))
