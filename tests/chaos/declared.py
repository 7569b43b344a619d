"""What should run, as the harness knows it: what it wrote, applied and held by hand. Pure.

Every choice of a run is made from a seed and this alone, never from what was seen, so a seed gives
the same sequence again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

GATEWAY = "gateway"

BACKOFF = 0.1
"""Seconds: what every instance has as `restart.initial` and `restart.max`."""

GRACE = 2
"""Seconds between SIGTERM and SIGKILL."""

LIVENESS = {"interval": "300ms", "timeout": "1s", "failures": 3}
HUNG_AFTER = 3 * (0.3 + 1.0) + 0.3
"""Seconds within which one with `LIVENESS` must be found to hang."""


@dataclass(frozen=True)
class Server:
    """An instance as its profile has it. `port` None is `auto`.

    `knob` is what tells one setting from another: the context of a llama-server, the number of
    parallel requests of an Ollama, how many may wait in the gateway. `mark` is its alias. `note`,
    `lively` and `needs` reach no process. `models` are the GGUF-made models of an Ollama, the first
    of them preloaded. `first`: the next process is started before the one that runs ends.
    """

    engine: str
    port: int | None
    knob: int
    mark: str = ""
    model: str = ""
    note: str = ""
    lively: bool = False
    policy: str = "always"
    needs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    first: bool = False

    @property
    def process(self) -> tuple[Any, ...]:
        """What needs a new process when it is another."""
        if self.engine == GATEWAY:
            return (self.engine, self.port)
        return (self.engine, self.port, self.knob, self.mark, self.model)

    def as_yaml(self) -> dict[str, Any]:
        """What stands in the profile."""
        if self.engine == GATEWAY:
            return {"port": self.port, "queue": {"size": self.knob}}
        common: dict[str, Any] = {
            "description": self.note,
            "port": self.port or "auto",
            "stop": {"grace": f"{GRACE}s"},
            "restart": {
                "policy": self.policy,
                "initial": f"{BACKOFF}s",
                "max": f"{BACKOFF}s",
                "limit": "10000 in 1m",
            },
        }
        if self.lively:
            common["liveness"] = dict(LIVENESS)
        if self.first:
            common["update"] = {"strategy": "start-first"}
        if self.needs:
            common["needs"] = list(self.needs)
        if self.engine == "ollama":
            made = [{"name": name, "gguf": self.model} for name in self.models]
            models = [{**one, "preload": index == 0} for index, one in enumerate(made)]
            settings = {"num_parallel": self.knob}
            mine = {"engine": "ollama", "attach": "never", "settings": settings, "models": models}
        else:
            flags = {"ctx-size": self.knob, "alias": self.mark, "parallel": 1}
            mine = {"model": self.model, "flags": flags}
        return {**mine, **common}


Content = dict[str, Server]
"""What a profile says, by instance; the gateway among them, by its own name."""


def document(content: Content) -> dict[str, Any]:
    """A profile that says so."""
    blocks = {name: one.as_yaml() for name, one in content.items()}
    gateway = {GATEWAY: blocks.pop(GATEWAY)} if GATEWAY in blocks else {}
    return {**gateway, "instances": blocks}


@dataclass
class Declared:
    """What each file says while it is valid, which files are applied, and what is held down."""

    files: dict[str, Content] = field(default_factory=dict[str, Content])
    applied: list[str] = field(default_factory=list[str])
    held: set[str] = field(default_factory=set[str])
    exited: set[str] = field(default_factory=set[str])
    """Ended well by themselves under `on-failure`: they stay down, but for a new process."""
    stale: set[str] = field(default_factory=set[str])
    """Their model file is another than they have read: an apply may take it up."""

    unsettled: set[str] = field(default_factory=set[str])
    """Lost a model from memory since they were started: each further loss is waited out longer."""

    def wanted(self) -> Content:
        """The union of what is applied."""
        return {name: one for file in self.applied for name, one in self.files[file].items()}

    def running(self) -> Content:
        """What is to answer now."""
        down = self.held | self.exited
        return {name: one for name, one in self.wanted().items() if name not in down}

    def needed(self) -> set[str]:
        """What others wait for: down, it would hold them up."""
        return {need for one in self.wanted().values() for need in one.needs}

    def settle(self) -> None:
        """What is not declared any more is neither held nor stale."""
        wanted = self.wanted().keys()
        self.held &= wanted
        self.exited &= wanted
        self.stale &= wanted

    def edit(self, file: str, content: Content) -> None:
        """A file says something else now: what ended well is started anew when it concerns it."""
        before = self.wanted()
        self.files[file] = content
        after = self.wanted()
        self.exited = {
            n for n in self.exited if n in after and before[n].process == after[n].process
        }
        self.settle()

    def apply(self, files: list[str]) -> None:
        """The verb: holds are released, what is stale is taken up."""
        self.applied = files
        self.held, self.exited, self.stale = set(), set(), set()
        self.settle()

    def add(self, file: str) -> None:
        """The verb, with `--add`: it is about the instances of that file alone."""
        self.applied = [*self.applied, file]
        named = self.files[file].keys()
        self.held -= named
        self.exited -= named
        self.stale -= named
        self.settle()

    def copy(self) -> Declared:
        return copy.deepcopy(self)


def touched(before: Declared, after: Declared) -> set[str]:
    """Which instances may have another process after what was done, or none."""
    old, new = before.running(), after.running()
    changed = {n for n in {*old, *new} if n not in old or n not in new}
    changed |= {n for n in old if n in new and old[n].process != new[n].process}
    return changed | (before.stale - after.stale)
