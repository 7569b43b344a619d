"""What a fault is, and what one is drawn from.

Each kind draws its particulars from the seed and from what is declared, changes what is declared at
once, and acts later: so two can be drawn, and act together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.chaos.world import ChaosWorld

FEWEST, MOST = 7, 12
"""Instances of the main profile, and its gateway, at any time."""

LINGER = 0.6
"""Seconds for which what is mended later stays broken."""

WAIT_AGAIN = 0.9
"""Seconds after which what waits for a port or a log is tried again, the look included."""

LOADED_AGAIN = 5.0 + 6.0
"""Seconds until it is seen that a model has left memory, and until it is loaded again."""


def nothing() -> None:
    """Most faults have nothing to mend."""


@dataclass
class Fault:
    """One of them, drawn. `anew` must have another process afterwards; `allowed` seconds are the
    configured waiting that it brings. `loads`: it is over once an Ollama has loaded a model."""

    kind: str
    about: str
    hurt: Callable[[], None]
    mend: Callable[[], None] = nothing
    anew: set[str] = field(default_factory=set[str])
    names: set[str] = field(default_factory=set[str])
    allowed: float = 0.0
    loads: bool = False


@dataclass
class Draw:
    """What a kind may choose from. `avoid` is taken by the other fault of a pair."""

    world: ChaosWorld
    random: Random
    avoid: frozenset[str] = frozenset()
    paired: bool = False

    def running(self, engine: str = "llama-server", *, free: bool = False) -> list[str]:
        """Names that run; with `free`, those alone that nobody waits for."""
        declared = self.world.declared
        needed = declared.needed() if free else set[str]()
        return sorted(
            name
            for name, one in declared.running().items()
            if one.engine == engine and name not in needed | self.avoid
        )

    def down(self) -> list[str]:
        declared = self.world.declared
        return sorted((declared.held | declared.exited) - self.avoid)

    def some(self, names: list[str], most: int) -> list[str]:
        return sorted(self.random.sample(names, min(len(names), self.random.randint(1, most))))

    def one_port(self) -> int | None:
        """A port that no file names."""
        used = {
            one.port for content in self.world.declared.files.values() for one in content.values()
        }
        free = [port for port in self.world.ports if port not in used]
        return self.random.choice(free) if free else None

    def file(self) -> str:
        """The applied profile that is edited."""
        return self.world.declared.applied[0]


Kind = Callable[[Draw], Fault | None]


def quietly(world: ChaosWorld, *words: object) -> None:
    """A command whose exit code is not looked at: what came of it is."""
    world.cli(*words)
