"""Finds what an earlier daemon left running, and makes it known to the reconciler.

Two sources: the record in the store, and the mark that every child carries. The record says what
a process was meant to be, the process table what is true. Nothing is started here, and only what
carries our mark, or is exactly the recorded process, is ever signalled.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from msgspec.structs import replace

from orchestrator.control.bus import Bus
from orchestrator.control.executor import Executor
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import (
    Command,
    Desired,
    Endpoint,
    InstanceSpec,
    ModelSet,
    Readiness,
)
from orchestrator.core.status import ALIVE, InstanceStatus, Observed, Phase, ProcessRef
from orchestrator.core.successor import base_of, is_next, next_of, variants
from orchestrator.runtime import process
from orchestrator.runtime.identity import Owned, boot_id, command_of, environment_of, find_owned

_TICKS = os.sysconf("SC_CLK_TCK")


def take_over(
    recorded: Observed, *, owner: str, bus: Bus, executor: Executor, desired: Desired
) -> list[ProcessRef]:
    """Post `adopted` or `exited` for every recorded instance, and adopt what is not recorded.

    Returns the leaders of groups that have no right to be: doubles, and groups whose leader is
    gone. `sweep` ends them.
    """
    found = find_owned(owner)
    leaders = _first_of_each_run([one for one in found if one.leads])
    runs: set[str] = set()
    served: set[str] = set()
    known = {status.start_id for status in recorded.values()}
    unknown = [one for one in leaders if one.start_id not in known]
    begun_again = {base_of(one.instance) for one in unknown}
    living = {one.start_id for one in leaders}
    for status in recorded.values():
        if status.phase not in ALIVE:
            continue
        # Process 1 may not have waited for it yet: its corpse must not stand in for what follows.
        over = status.start_id not in living and base_of(status.name) in begun_again
        if _resume(status, leaders, bus, executor, over=over):
            served.add(status.name)
            runs.add(status.start_id)
    for name, one in _by_their_marks(unknown, served):
        if _adopt_unrecorded(one, name, desired.get(base_of(name)), bus, executor):
            runs.add(one.start_id)
    # What a living run of ours has put into a group or session of its own is that run's affair.
    strays = {one.group for one in found if one.start_id not in runs}
    return [_oldest(group, found) for group in sorted(strays)]


def _first_of_each_run(leaders: list[Owned]) -> list[Owned]:
    """The youngest run first; of a run only its first process, which is the one we started."""
    first: dict[str, Owned] = {}
    for one in sorted(leaders, key=lambda c: c.ref.start_ticks):
        first.setdefault(one.start_id, one)
    return list(reversed(first.values()))


def _by_their_marks(unknown: list[Owned], served: Collection[str]) -> Iterator[tuple[str, Owned]]:
    """Who each of the runs is that no record knows: of every name the youngest.

    A mark says what a run was begun as. What was begun as a successor follows what runs, or has
    followed it if nothing does.
    """
    taken = set(served)
    by_base: dict[str, list[Owned]] = {}
    for one in unknown:
        by_base.setdefault(base_of(one.instance), []).append(one)
    for base, runs in by_base.items():
        follows = is_next(runs[0].instance) and (base in taken or len(runs) > 1)
        names = [next_of(base), base] if follows else [base]
        free = [name for name in names if name not in taken]
        # First whom the other is to follow: it is what goes on if that fails.
        yield from sorted(zip(free, runs, strict=False), key=lambda one: is_next(one[0]))


def _oldest(group: int, found: list[Owned]) -> ProcessRef:
    """A reference to a group by its number and the earliest start among those that carry it."""
    ticks = min(one.ref.start_ticks for one in found if one.group == group)
    return ProcessRef(group, ticks, boot_id())


async def sweep(strays: list[ProcessRef], bus: Bus) -> None:
    """End groups of ours that no instance accounts for."""
    for stray in strays:
        ended = await process.end_group(stray)
        what = "ended" if ended else "could not end"
        message = f"{what} process group {stray.pid}, left by an earlier daemon"
        bus.post(Event(EventType.SWEPT, message=message, data={"pid": stray.pid}))


def _resume(
    status: InstanceStatus, leaders: list[Owned], bus: Bus, executor: Executor, *, over: bool
) -> bool:
    """Watch again what is recorded, or report its end. True where it goes on.

    `over`: its process has ended, whether it is still in the process table or not.
    """
    if status.attached is not None and status.phase is not Phase.STOPPING:
        # Nothing of ours runs there, so nothing is adopted.
        executor.attach_again(status)
        return True
    if status.attached is not None:
        data = {"start_id": status.start_id}
        message = "let go of by the next daemon"
        bus.post(Event(EventType.DETACHED, status.name, message=message, data=data))
        return False
    ref = status.process or next((o.ref for o in leaders if o.start_id == status.start_id), None)
    running = process.adopt(ref) if ref is not None and not over else None
    if ref is None or running is None:
        _report_gone(status, bus)
        return False
    _post_adopted(status.name, status.start_id, ref, status.started_at, status.spec, bus)
    executor.adopt(replace(status, process=ref), running)
    if status.phase is Phase.STOPPING:
        grace = status.spec.stop.grace
        executor.stop(status.name, start_id=status.start_id, grace=grace, drain=status.drain)
    return True


def _report_gone(status: InstanceStatus, bus: Bus) -> None:
    """It ended while no daemon looked. It is not to blame when the machine was started anew, or
    when the daemon died between the record of the start and the start."""
    if status.process is None:
        blameless, message = True, "had no process yet when the daemon died"
    elif status.process.boot_id != boot_id():
        blameless, message = True, "ended with the machine"
    else:
        blameless, message = False, "ended while no daemon was running"
    data = {
        "start_id": status.start_id,
        "exit_code": None,
        "signal": None,
        "blameless": blameless,
    }
    bus.post(Event(EventType.EXITED, status.name, reason="crashed", message=message, data=data))


def _post_adopted(
    name: str,
    start_id: str,
    ref: ProcessRef,
    started_at: float | None,
    spec: InstanceSpec,
    bus: Bus,
    *,
    guessed: bool = False,
) -> None:
    data = {
        "start_id": start_id,
        "pid": ref.pid,
        "start_ticks": ref.start_ticks,
        "boot_id": ref.boot_id,
        "started_at": started_at,
        "guessed": guessed,
    }
    message = f"pid {ref.pid}, as it runs"
    bus.post(Event(EventType.ADOPTED, name, message=message, data=data, spec=spec))


def _adopt_unrecorded(
    one: Owned, name: str, wanted: InstanceSpec | None, bus: Bus, executor: Executor
) -> bool:
    """The store knows nothing of it, the mark does. It is what it runs; the plan does the rest.
    False when it has just ended."""
    running = process.adopt(one.ref)
    if running is None:
        return False
    declared = variants(wanted) if wanted is not None else ()
    known = next((spec for spec in declared if runs_as(one.ref, spec)), None)
    spec = replace(known or _spec_as_it_runs(one), name=name)
    started_at = one.ref.start_ticks / _TICKS
    guessed = known is None
    _post_adopted(name, one.start_id, one.ref, started_at, spec, bus, guessed=guessed)
    status = InstanceStatus(
        name, Phase.STARTING, spec, one.start_id, one.ref, started_at=started_at
    )
    executor.adopt(status, running)
    return True


def runs_as(ref: ProcessRef, wanted: InstanceSpec) -> bool:
    """True when a process is what this spec would start, as far as the process table tells.

    A script's interpreter, and what a wrapper made of the program's name, come before what counts.
    """
    program, *arguments = wanted.command.argv
    argv, env = command_of(ref.pid), environment_of(ref.pid)
    same = argv == [program, *arguments] or (
        bool(arguments) and argv[-len(arguments) :] == arguments
    )
    return same and all(env.get(name) == value for name, value in wanted.command.env.items())


def _spec_as_it_runs(one: Owned) -> InstanceSpec:
    argv = tuple(command_of(one.ref.pid))
    env = environment_of(one.ref.pid)
    if argv[-1:] == ("serve",) and "OLLAMA_HOST" in env:
        return _ollama_as_it_runs(one.instance, argv, env)
    port = _after("--port", argv)
    endpoint = Endpoint(_after("--host", argv) or "127.0.0.1", int(port) if port.isdigit() else 0)
    return InstanceSpec(one.instance, "llama-server", Command(argv, {}, "/"), endpoint)


def _ollama_as_it_runs(name: str, argv: tuple[str, ...], env: dict[str, str]) -> InstanceSpec:
    """Its models are not known, only where they lie: the plan brings what is declared."""
    host, _, port = env["OLLAMA_HOST"].rpartition(":")
    endpoint = Endpoint(host.strip("[]"), int(port) if port.isdigit() else 0)
    return InstanceSpec(
        name,
        "ollama",
        Command(argv, {}, "/"),
        endpoint,
        readiness=Readiness(path="/api/version"),
        holds=ModelSet(store=env.get("OLLAMA_MODELS", "")),
    )


def _after(flag: str, argv: tuple[str, ...]) -> str:
    at = argv.index(flag) + 1 if flag in argv else len(argv)
    return argv[at] if at < len(argv) else ""
