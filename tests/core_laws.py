"""What must always be so in the simulated world: of a plan, a fold, an act, a pass, and at rest.

Each law is said here anew, without the functions of the core that are to obey it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from orchestrator.core import fold as folding
from orchestrator.core import plan as planning
from orchestrator.core.event import Event, EventType
from orchestrator.core.plan import Action, Plan, Verb
from orchestrator.core.spec import Desired, InstanceSpec
from orchestrator.core.status import (
    InstanceStatus,
    ModelState,
    Observed,
    Phase,
    ProcessRef,
    lost_its_port,
)
from orchestrator.core.successor import base_of, next_of, old_of
from tests.core_wishes import BAD

if TYPE_CHECKING:
    from tests.core_world import World

ALIVE = ("starting", "ready", "unready", "stopping")
SERVING = ("starting", "ready", "unready")

BEGINS_A_RUN = (EventType.STARTING, EventType.ADOPTED, EventType.PROMOTED)


def watched(world: World) -> dict[str, Callable[..., Any]]:
    """The functions of the core as the loop calls them, under supervision."""

    def make_plan(desired: Desired, observed: Observed, now: float, *more: Any) -> Plan:
        before, world.circumstances = dict(observed), more
        plan = planning.make_plan(desired, observed, now, *more)
        assert plan == planning.make_plan(desired, observed, now, *more)
        assert observed == before, "a plan changes nothing"
        _of_a_plan(plan, desired, observed)
        return plan

    def fold(observed: Observed, event: Event) -> Observed:
        after = folding.fold(observed, event)
        _of_a_fold(observed, event, after)
        return after

    return {"make_plan": make_plan, "fold": fold}


# --- a plan ---------------------------------------------------------------------------------------


def _of_a_plan(plan: Plan, desired: Desired, observed: Observed) -> None:
    touched = [action.instance for action in plan.actions]
    assert len(touched) == len(set(touched)), f"two actions for one instance: {plan.actions}"
    for action in plan.actions:
        _of_an_action(action, desired, observed)
    for name in plan.forget:
        assert name not in desired
        assert observed[name].phase not in ALIVE
    for name in plan.pending:
        assert name in desired
        # What waits may be for its successor to do: it is looked after as before.
        assert (name, False) not in [(a.instance, a.verb is Verb.UPDATE) for a in plan.actions]
    for action in plan.actions:
        if action.verb is Verb.PROMOTE:
            assert next_of(action.instance) not in touched
    ports = [a.spec.endpoint.port for a in plan.actions if a.verb is Verb.START and a.spec]
    assert len(ports) == len(set(ports)), "one port for two that start"


def _of_an_action(action: Action, desired: Desired, observed: Observed) -> None:
    status = observed.get(action.instance)
    match action.verb:
        case Verb.START:
            assert action.spec is not None
            _of_a_start(action.spec, status, desired[base_of(action.instance)], observed)
        case Verb.KILL:
            assert status is not None
            assert status.phase is Phase.STOPPING
            assert status.hurry
        case Verb.PROMOTE:
            assert observed[next_of(action.instance)].phase is Phase.READY
            assert old_of(action.instance) not in observed, "two on their way out"
        case _:
            assert status is not None
            assert status.phase in SERVING, f"{action.verb} of what is {status.phase}"


def _of_a_start(
    spec: InstanceSpec, status: InstanceStatus | None, declared: InstanceSpec, observed: Observed
) -> None:
    assert spec.awaits is None, "started without its model"
    if spec.on_demand is not None and not spec.on_demand.preload:
        # Of a successor: for what it is to follow.
        known = observed.get(base_of(spec.name))
        assert known is not None, "nobody has asked for it"
        down = known.phase is Phase.STOPPED and known.rests
        assert not down or known.redo, "nobody has asked for it"
    for need in spec.needs:
        assert need in observed, f"started without {need}"
        assert observed[need].phase is Phase.READY, f"started before {need} is ready"
    for other in observed.values():
        if other.name != spec.name and other.phase in ALIVE:
            assert other.spec.endpoint.port != spec.endpoint.port, f"port of {other.name}"
    if status is None:
        return
    assert status.phase not in ALIVE, "started twice"
    assert not status.held, "started though held"
    if status.phase is Phase.FAILED:
        known = [replace(one, name=spec.name) for one in both(declared)]
        asked = status.redo or observed[base_of(spec.name)].redo
        assert asked or status.spec not in known, "failed, and nobody asked"


# --- a fold ---------------------------------------------------------------------------------------


def _of_a_fold(before: Observed, event: Event, after: Observed) -> None:
    name = event.instance
    assert folding.fold(after, event) == after, f"doubled, {event.type} changes something"
    about = {base_of(name), next_of(base_of(name)), old_of(base_of(name))}
    assert {k: v for k, v in before.items() if k not in about} == {
        k: v for k, v in after.items() if k not in about
    }, "an event changes another instance"
    if event.type is EventType.PROMOTED:
        assert after[name].phase is Phase.READY
        assert next_of(name) not in after
        return
    then, now = before.get(name), after.get(name)
    start_id = event.data.get("start_id")
    if start_id is not None and event.type not in BEGINS_A_RUN:
        known = then is not None and then.start_id == start_id
        assert known or now == then, f"{event.type} of another run changes something"
    if then is None or now is None:
        return
    if then.phase is Phase.FAILED and now.phase is not Phase.FAILED:
        known = (*BEGINS_A_RUN, EventType.HELD, EventType.MENDED)
        assert event.type is not EventType.WANTED, "a request mends nothing"
        assert event.type in known, f"failed is left by {event.type}"
    if now.held and not then.held:
        assert event.type is EventType.HELD
    if then.held and not now.held:
        assert event.type in (EventType.REDO, EventType.RELEASED), f"{event.type} releases"
    if now.phase not in ALIVE:
        assert now.process is None, f"{event.type}: a process of what is {now.phase}"
        assert now.attached is None
    if now.phase is Phase.BACKOFF:
        assert now.retry_at is not None, "in backoff for ever"


# --- an act ---------------------------------------------------------------------------------------


def may_start(world: World, spec: InstanceSpec) -> None:
    """One living process of an instance, one of ours on a port."""
    name = spec.name
    assert name not in world.starts, "two starts in flight"
    assert name not in world.attached, "started while attached"
    assert world.run_of(name) is None, "two processes of one instance"
    port = spec.endpoint.port
    for run in world.runs:
        known = world.loop.observed.get(run.name)
        # One that was adopted as it runs may have had another port than anybody knows.
        if known is None or known.start_id == run.start_id:
            assert run.spec.endpoint.port != port, f"port {port} of {run.name} given to {name}"
    for other, _ in world.starts.values():
        assert other.endpoint.port != port, f"port {port} given twice"


def may_stop(world: World, name: str) -> None:
    """Somebody asked for it, or it is no longer what is declared, or it does not answer."""
    declared = (world.loop.desired or {}).get(name)
    if declared is None or name in world.asked:
        return
    if world.loop.observed[name].reason == "idle":
        _of_an_idle_stop(world, name, declared)
        return
    _stays_until_its_successor_is_ready(world, name)
    if name in world.attached:
        other_port = world.attached[name].port != declared.endpoint.port
        assert other_port or declared.attach == "never", f"{name} is let go of for nothing"
        return
    run = world.run_of(name)
    if run is None:
        spec = world.starts[name][0] if name in world.starts else None
        condemned = False
    else:
        spec, condemned = run.spec, run.condemned
    commands = [one.command for one in both(declared)]
    same = spec is not None and spec.command in commands and declared.attach != "only"
    assert condemned or not same, f"{name} is stopped for nothing"
    undone = _is_undone(declared, world.loop.observed[name])
    assert condemned or not undone, f"{name} is stopped for what was rejected"


def may_take_over(world: World, name: str) -> None:
    """Only what has come up, and while it is what is declared."""
    status = world.loop.observed[name]
    assert status.phase is Phase.READY, f"{name} is taken over by what is {status.phase}"
    run = world.run_of(next_of(name))
    assert run is None or run.told, f"{name} is taken over by what was not ready"
    declared = (world.loop.desired or {})[name]
    assert any(one.command == status.spec.command for one in both(declared))


def may_sweep(world: World, strays: Collection[ProcessRef]) -> None:
    """Of what an earlier daemon left, only what another of that name stands in for."""
    swept = [run for run in world.runs if run.ref in strays]
    left = {base_of(run.name) for run in world.runs if run not in swept}
    for run in swept:
        assert base_of(run.name) in left, f"{run.name} is swept, and was all there was of it"


def _stays_until_its_successor_is_ready(world: World, name: str) -> None:
    """What is ready is not ended for a change, where two fit beside each other."""
    declared, status = (world.loop.desired or {})[name], world.loop.observed[name]
    if declared.alternate is None or status.ready_at is None or status.condemned or status.held:
        return
    run = world.run_of(name)
    if run is None or not run.serves or status.guessed:
        return
    second = beside(declared, status.spec.endpoint.port)
    ports = {s.endpoint.port for n, s in (world.loop.desired or {}).items() if n != name}
    mine = status.spec.endpoint.port
    room = declared.demand is None and not ports & {second, mine}
    assert not room, f"{name} was ready, and is stopped before its successor is"


def both(spec: InstanceSpec) -> list[InstanceSpec]:
    """What may run, as far as its port goes."""
    first = replace(spec, alternate=None)
    if spec.alternate is None:
        return [first]
    other = spec.alternate
    return [first, replace(first, command=other.command, endpoint=other.endpoint)]


def beside(spec: InstanceSpec, port: int) -> int:
    """The port of its successor."""
    return next(one.endpoint.port for one in both(spec) if one.endpoint.port != port)


def _of_an_idle_stop(world: World, name: str, declared: InstanceSpec) -> None:
    """Only what runs on demand is stopped because nobody uses it; for another, neither what is at
    work nor what is pinned."""
    status = world.loop.observed[name]
    assert declared.on_demand is not None, f"{name} is always to run"
    if status.message.startswith("makes room"):
        assert name not in world.busy | world.wanted, f"{name} is at work"
        assert not declared.on_demand.pin, f"{name} is pinned"
        whom = status.message.split()[-1]
        assert whom in world.loop.plan.pending or whom in world.starts or whom in world.busy, whom


def rests(spec: InstanceSpec, status: InstanceStatus | None) -> bool:
    """It runs on demand, is down, and nobody has asked for it."""
    if spec.on_demand is None or status is None:
        return spec.on_demand is not None and not spec.on_demand.preload
    asked = status.held or status.redo or not status.rests
    return status.phase is Phase.STOPPED and not asked


def essence(spec: InstanceSpec) -> InstanceSpec:
    """Without what is no part of a change: who says so, and what is on disk."""
    return replace(spec, profiles=(), inputs=(), alternate=None)


# --- a pass ---------------------------------------------------------------------------------------


def after_a_pass(world: World) -> None:
    """Nothing that can be done is left, no wake-up is forgotten, `converged` is true iff so."""
    loop, desired, observed = world.loop, world.loop.desired, world.loop.observed
    if desired is None:
        assert not loop.plan.actions
        return
    left = planning.make_plan(desired, observed, world.clock, *world.circumstances)
    assert not left.actions, f"a pass leaves something to do: {left.actions}"
    assert not left.forget
    for name, status in observed.items():
        base = base_of(name)
        if status.phase is Phase.BACKOFF and base in desired and base not in loop.plan.pending:
            wake_at, retry_at = world.wake_at, status.retry_at
            assert wake_at is not None, f"nobody wakes {name}"
            assert retry_at is not None
            assert wake_at <= retry_at, f"{name} is woken too late"
            most = max(status.spec.restart.max, 2.0)
            assert world.clock < wake_at <= world.clock + most, f"{name} waits too long"
    if any("of memory" in why.message for why in loop.plan.pending.values()):
        assert world.wake_at is not None, "nobody looks whether there is memory"
        assert world.wake_at <= world.clock + 1.0
    waits = loop.plan.pending.keys()
    extra = observed.keys() - desired.keys()
    awake = {n: spec for n, spec in desired.items() if not rests(spec, observed.get(n))}
    lacking = [n for n, spec in awake.items() if not _as_declared(spec, observed.get(n))]
    assert loop.state.converged == (not extra and not lacking), (loop.state, lacking, extra)
    assert bool(loop.state.missing) != loop.state.converged
    on_its_way = {n for n, status in observed.items() if _moves(status, base_of(n) in waits)}
    assert not (loop.state.settled and on_its_way), f"settled, and on their way: {on_its_way}"


def _moves(status: InstanceStatus, waits: bool) -> bool:
    """What becomes of it is about to be seen, and nobody has to do anything for that."""
    finds_a_port = lost_its_port(status) and not waits
    return status.phase in (Phase.STARTING, Phase.STOPPING) or finds_a_port


def _argv(spec: InstanceSpec) -> tuple[str, ...]:
    """But for where its model lies: what has read one, has it."""
    argv = list(spec.command.argv)
    if "--model" in argv:
        del argv[argv.index("--model") + 1]
    return tuple(argv)


def _is_undone(spec: InstanceSpec, status: InstanceStatus) -> bool:
    """What was rejected stays so, until what is declared changes or somebody asks."""
    rejected = status.rejected
    return rejected is not None and essence(rejected.spec) in map(essence, both(spec))


def _as_declared(spec: InstanceSpec, status: InstanceStatus | None) -> bool:
    if status is None or status.phase is not Phase.READY:
        return False
    if status.attached is not None:
        same = status.spec.endpoint == spec.endpoint and spec.attach != "never"
    else:
        same = _argv(status.spec) in map(_argv, both(spec)) and spec.attach != "only"
        same = same and status.spec.model == spec.model and not _is_undone(spec, status)
    rows = {row.name: row for row in status.models}
    models = spec.holds.models if spec.holds else ()
    if status.looking and models:
        # Until it was looked, nobody knows.
        return False
    return same and all(
        model.name in rows
        and rows[model.name].state is ModelState.PRESENT
        and (rows[model.name].loaded or rows[model.name].rested or not model.preload)
        for model in models
    )


# --- at rest --------------------------------------------------------------------------------------


def at_rest(world: World) -> None:
    """The world was left alone and well: all is as declared, but for what has a reason."""
    desired, observed = world.loop.desired, world.loop.observed
    assert desired is not None
    unasked = {name for name, spec in desired.items() if rests(spec, observed.get(name))}
    tried = {name for name in observed if _is_kept_trying(name, world)}
    there = (observed.keys() - tried) | world.loop.plan.pending.keys() | unasked
    assert desired.keys() == there
    kept = world.wanted - world.loop.plan.pending.keys()
    assert not kept, f"requests wait for ever: {kept}"
    assert world.loop.state.settled, f"`apply` would wait for ever: {world.loop.state}"
    for name, spec in desired.items():
        assert _may_rest(world, name, spec), f"{name} rests as {observed.get(name)}"
    names = [run.name for run in world.runs]
    assert len(names) == len(set(names)), f"two processes of one instance: {names}"
    for run in world.runs:
        status = observed[run.name]
        assert (status.phase, status.start_id) == (Phase.READY, run.start_id), f"{run} is known as"


def _may_rest(world: World, name: str, spec: InstanceSpec) -> bool:
    status = world.loop.observed.get(name)
    if rests(spec, status):
        return world.run_of(name) is None
    if name in world.loop.plan.pending:
        without = spec.awaits is not None or any(_is_away(world, need) for need in spec.needs)
        return without or name in _undone(world) or _is_kept_out(world, name)
    if status is None:
        return False
    if status.held:
        return status.phase is Phase.STOPPED
    if status.phase is not Phase.READY:
        return status.phase is Phase.FAILED or status.reason == "exited"
    if status.attached is not None:
        return name in world.attached and _as_declared(spec, status)
    run = world.run_of(name)
    assert run is not None, f"{name} is called ready, and does not run"
    assert run.serves, f"{name} is called ready, and does not serve"
    if next_of(name) in world.loop.observed:
        return _is_kept_trying(next_of(name), world)
    same = run.spec.command in [one.command for one in both(spec)]
    return same or _is_undone(spec, status) or spec.awaits is not None


def _is_kept_trying(name: str, world: World) -> bool:
    """A change that was given up, and is to be kept all the same: what ran before it goes on."""
    status = world.loop.observed[name]
    keeps = status.spec.update.on_failure == "keep"
    return name == next_of(base_of(name)) and status.phase is Phase.FAILED and keeps


def _undone(world: World) -> dict[str, InstanceStatus]:
    desired, observed = world.loop.desired or {}, world.loop.observed
    return {n: s for n, s in observed.items() if n in desired and _is_undone(desired[n], s)}


def _is_kept_out(world: World, name: str) -> bool:
    """By another one that went back to what it was, and to its port and memory of then."""
    waits = world.loop.plan.pending.get(name)
    others = [status for n, status in _undone(world).items() if n != name]
    port = (world.loop.desired or {})[name].endpoint.port
    for_memory = waits is not None and "of memory" in waits.message
    for_memory = for_memory and (bool(others) or _may_wait_for_memory(world, name))
    return for_memory or any(status.spec.endpoint.port == port for status in others)


def _may_wait_for_memory(world: World, name: str) -> bool:
    """Nobody goes for what is loaded in advance, and what is pinned goes for nobody. What cannot
    be changed yet, for what it needs is away, runs as it was."""
    desired, observed = world.loop.desired or {}, world.loop.observed
    on_demand, status = desired[name].on_demand, observed.get(name)
    in_advance = on_demand is not None and (status is None or status.rests)
    pinned = [n for n, spec in desired.items() if spec.on_demand and spec.on_demand.pin]
    stays = [
        n
        for n in world.loop.plan.pending
        if any(_is_away(world, need) for need in desired[n].needs)
    ]
    return in_advance or any(world.run_of(other) for other in [*pinned, *stays])


def _is_away(world: World, need: str) -> bool:
    status = world.loop.observed.get(need)
    return status is None or status.phase is not Phase.READY


def all_well(world: World) -> None:
    """After `apply`, too: what can come up has come up, and nothing else is there."""
    desired = world.loop.desired or {}
    hopeless = {name for name, spec in desired.items() if spec.command.argv[-1] == BAD}
    hoped = {name for name in desired if _hopes_for(name, desired, hopeless)}
    for name in list(hoped):
        if _is_kept_out(world, name):
            hoped.discard(name)
            continue
        status = world.loop.observed.get(name)
        assert rests(desired[name], status) or _as_declared(desired[name], status), (
            f"{name} does not come up: {world.loop.state.missing}"
        )
    if hoped == desired.keys():
        assert world.loop.state.converged
        unasked = {n for n, spec in desired.items() if rests(spec, world.loop.observed.get(n))}
        assert {run.name for run in world.runs} | world.attached.keys() == desired.keys() - unasked


def _hopes_for(name: str, desired: Desired, hopeless: set[str]) -> bool:
    spec = desired[name]
    if name in hopeless or spec.awaits is not None:
        return False
    return all(need in desired and _hopes_for(need, desired, hopeless) for need in spec.needs)
