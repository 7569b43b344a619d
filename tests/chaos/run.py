"""One run: draw, hurt, mend, wait, check; then the next one. Ends with what came of it."""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.checks import Invariants, differences, rows_of
from tests.chaos.declared import touched
from tests.chaos.fault import Draw, Fault, Kind, nothing
from tests.chaos.faults import ALL, draw_one, draw_two, refs_of
from tests.chaos.world import ChaosWorld, Ref
from tests.look import status

PATIENCE = 45.0
"""Seconds beyond what is configured after which it will not converge any more."""

PAIRED = 0.2
"""How often two faults come at once."""

ENOUGH = 5
"""Violations after which a run ends: what is broken by then hides the rest."""

BUDGET = 1.0
"""Seconds beyond the engine's own start and the configured waiting, at the 99th percentile."""


PLAIN, COMMAND, LOADED = "faults alone", "with commands", "with a model loaded by Ollama"
"""What the seconds until all is well again are told apart by."""


@dataclass
class Report:
    """What a run found. `late` are the seconds from a fault to converged, beyond the engine's own
    start and the configured waits, by what else is in them; `command` are those of a command that
    does nothing."""

    seed: int
    asked: int
    faults: Counter[str] = field(default_factory=Counter[str])
    steps: int = 0
    violations: list[str] = field(default_factory=list[str])
    command: float = 0.0
    late: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    late_by_kind: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    skipped: list[str] = field(default_factory=list[str])
    kept: Path | None = None
    took: float = 0.0

    def lines(self) -> list[str]:
        """For people."""
        done = sum(self.faults.values())
        said = [
            f"seed {self.seed}: {done} of {self.asked} faults in {self.took:.0f} s, "
            f"{len(self.violations)} violations"
        ]
        for kind, count in sorted(self.faults.items()):
            late = self.late_by_kind.get(kind, [])
            slow = f"  p50 {quantile(late, 50):.2f} s, most {max(late):.2f} s" if late else ""
            said.append(f"  {count:4} {kind:14}{slow}")
        said.append(
            f"from fault to converged, beyond the engine's own start and the configured waits"
            f" (budget: p99 of {BUDGET:g} s; a command that does nothing: {self.command:.2f} s)"
        )
        for group, late in sorted(self.late.items()):
            p50, p99 = quantile(late, 50), quantile(late, 99)
            said.append(f"  {len(late):4} {group:30} p50 {p50:.2f} s, p99 {p99:.2f} s")
        said += [f"!!! {line}: SKIPPED" for line in self.skipped]
        said += [f"VIOLATION: {line}" for line in self.violations]
        if self.kept is not None:
            said.append(f"the daemon's log, the instances' and the store are in {self.kept}")
        return said


def quantile(values: list[float], percent: int) -> float:
    """The value that so many per cent are not above."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


@dataclass
class Plan:
    """What to run. `seconds` bounds the whole; `kinds` are those that are drawn from."""

    seed: int
    faults: int
    seconds: float
    kinds: tuple[Kind, ...] = ALL
    pairs: bool = True
    say: Callable[[str], None] = print


def run(world: ChaosWorld, plan: Plan) -> Report:
    """Begin, do it, end. The world is gone afterwards, but for what a violation needs kept."""
    report = Report(plan.seed, plan.faults)
    began = time.monotonic()
    try:
        world.begin()
        if world.no_disk:
            report.skipped.append(f"full-disk: no small disk is to be had ({world.no_disk})")
        if world.ollama is None:
            report.skipped.append("faults of Ollama: it is not built")
        report.command = _bare_command(world)
        with contextlib.suppress(KeyboardInterrupt):
            _Chaos(world, plan, report).go(began + plan.seconds)
        if "Traceback" in world.world.log():
            report.violations.append("the log of the daemon has a traceback")
        if report.violations:
            report.kept = world.keep()
    finally:
        # Who is in a hurry is not to leave engines behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            world.end()
        finally:
            signal.signal(signal.SIGINT, before)
        left = world.everything()
        if left:
            report.violations.append(f"`down` left processes behind: {left}")
        report.took = time.monotonic() - began
    return report


def _bare_command(world: ChaosWorld) -> float:
    """The seconds of a command that has nothing to do: Python's start, above all."""
    took: list[float] = []
    for _ in range(5):
        began = time.monotonic()
        world.cli("--version")
        took.append(time.monotonic() - began)
    return statistics.median(took)


class _Chaos:
    """The loop. Each step has a generator of its own, so that none depends on another's draws."""

    def __init__(self, world: ChaosWorld, plan: Plan, report: Report) -> None:
        self._world = world
        self._plan = plan
        self._report = report
        self._invariants = Invariants(world)

    def go(self, until: float) -> None:
        wrong = self._converges({}, allowed=0.0) or self._invariants.wrong({})
        if wrong:
            self._violated("the beginning", wrong)
            return
        self._world.base = self._leaders()
        report = self._report
        while sum(report.faults.values()) < report.asked:
            if time.monotonic() >= until:
                report.skipped.append("the rest of the faults: the time is over")
                return
            if not self._step():
                return

    def _step(self) -> bool:
        """One fault, or two at once. False ends the run."""
        report, world = self._report, self._world
        random = Random(f"{self._plan.seed}/{report.steps}")
        before = world.declared.copy()
        faults = self._draw(random)
        report.steps += 1
        world.refused.clear()
        new = touched(before, world.declared).union(*(fault.anew for fault in faults))
        world.declared.unsettled -= new
        about = f"{report.steps}: " + " + ".join(f"{f.kind} ({f.about})" for f in faults)
        may = new.union(*(fault.names for fault in faults))
        anew = refs_of(world, faults)
        untouched = self._untouched(faults, may)
        began = self._act(faults)
        commands = world.commands
        allowed = sum(fault.allowed for fault in faults)
        wrong = self._converges(anew, allowed=allowed)
        late = time.monotonic() - began - allowed
        converged = not wrong
        group = LOADED if any(fault.loads for fault in faults) else COMMAND if commands else PLAIN
        if converged:
            changed = self._changed()
            late = max(0.0, late - self._own_start(changed))
            ollamas = {n for n, one in world.declared.running().items() if one.engine == "ollama"}
            group = LOADED if changed & ollamas else group
        wrong += self._invariants.wrong(untouched)
        for fault in faults:
            report.faults[fault.kind] += 1
            report.late_by_kind.setdefault(fault.kind, []).append(late)
        report.late.setdefault(group, []).append(late)
        self._plan.say(f"{about}  {late:.2f} s")
        if wrong:
            self._violated(about, wrong)
            converged = self._recovers()
        world.base = self._leaders()
        world.bystanders.forget()
        return converged and len(report.violations) < ENOUGH

    def _draw(self, random: Random) -> list[Fault]:
        if self._plan.pairs and random.random() < PAIRED:
            return draw_two(self._world, random)
        return [draw_one(Draw(self._world, random), self._plan.kinds)]

    def _untouched(self, faults: list[Fault], may: set[str]) -> dict[str, Ref]:
        """The processes of before that must be the same ones afterwards."""
        running = self._world.declared.running()
        return {
            name: ref
            for name, ref in self._world.base.items()
            if name in running and name not in may
        }

    def _act(self, faults: list[Fault]) -> float:
        """Do all of it. Returns when the last of it began."""
        began = self._clock()
        for fault in faults:
            fault.hurt()
        for fault in faults:
            if fault.mend is not nothing:
                began = self._clock()
                fault.mend()
        return began

    def _clock(self) -> float:
        self._world.commands = 0
        return time.monotonic()

    def _converges(self, anew: dict[str, Ref], *, allowed: float) -> list[str]:
        """Wait until all is as declared; what is not, when the time is over."""
        end = time.monotonic() + PATIENCE + allowed
        while wrong := self._differences(anew):
            if time.monotonic() >= end:
                return [f"not converged within {PATIENCE + allowed:.0f} s: {one}" for one in wrong]
            time.sleep(0.02)
        return []

    def _differences(self, anew: dict[str, Ref]) -> list[str]:
        try:
            return differences(self._world, anew)
        except Exception as error:  # noqa: BLE001 - a daemon that is just going away, above all
            return [repr(error)]

    def _changed(self) -> set[str]:
        """The instances that are another process than at the last check."""
        base = self._world.base
        return {name for name, ref in self._leaders().items() if base.get(name) != ref}

    def _own_start(self, changed: set[str]) -> float:
        """The longest that an engine took which was started for the last fault, by the needs."""
        shown = rows_of(status(self._world.world))
        took = {name: shown[name]["ready_after_s"] or 0.0 for name in changed if name in shown}
        running = self._world.declared.running()
        chains = [took[n] + sum(took.get(need, 0.0) for need in running[n].needs) for n in took]
        return max(chains, default=0.0)

    def _leaders(self) -> dict[str, Ref]:
        running = self._world.declared.running()
        return {name: refs[0] for name, refs in self._world.marked().items() if name in running}

    def _violated(self, about: str, wrong: list[str]) -> None:
        for one in wrong:
            self._plan.say(f"VIOLATION after {about}: {one}")
        self._report.violations.append(f"{about}: {'; '.join(wrong)}")
        for line in self._world.refused:
            self._plan.say(f"  {line}")
        document = status(self._world.world)
        for row in document["instances"]:
            self._plan.say(f"  {row['name']} {row['phase']} {row['reason']} {row['message']}")

    def _recovers(self) -> bool:
        """Go on from what is declared, where a plain `apply` brings that about."""
        world = self._world
        world.declared.apply(world.declared.applied)
        world.cli("apply", *(world.path(file) for file in world.declared.applied))
        wrong = self._converges({}, allowed=0.0)
        world.said.clear()
        return not wrong
