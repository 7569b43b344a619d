"""What people may declare in the simulated world, and what it means there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from orchestrator.core.spec import (
    Alternate,
    AttachMode,
    Awaited,
    Command,
    Demand,
    Endpoint,
    FileIdentity,
    InputFile,
    InstanceSpec,
    ModelSet,
    ModelSpec,
    OnDemand,
    OnFailure,
    PolicyName,
    RestartPolicy,
    StopPolicy,
    Strategy,
    UpdatePolicy,
)

NAMES = ("a", "b", "c", "o")
OLLAMA = "o"
PORTS = (1, 2, 3, 4, 5, 6)
MODELS = ("m", "n")
AWAITED = "m"
MEMORY = 100
"""All that the machine has."""
GOOD, OTHER, BAD = "1", "2", "bad"
"""Settings of an engine: with the last one it never comes up."""


@dataclass(frozen=True)
class Wish:
    """One instance of a profile. `borrows`: a llama-server on a model that the Ollama has.

    `second` is the port of what is started beside it, where it has one: 0 is ten more than `port`.
    """

    port: int
    ctx: str = GOOD
    description: str = ""
    needs: tuple[str, ...] = ()
    policy: PolicyName = "on-failure"
    on_failure: OnFailure = "rollback"
    attach: AttachMode = "never"
    models: tuple[str, ...] = ()
    preload: bool = False
    auto_port: bool = False
    borrows: bool = False
    memory: int | None = None
    on_demand: OnDemand | None = None
    strategy: Strategy = "stop-first"
    second: int = 0

    @property
    def ports(self) -> tuple[int, int]:
        return self.port, self.second or self.port + 10

    def resolve(
        self,
        name: str,
        versions: Mapping[str, int],
        store: Collection[str],
        kept: Collection[str],
        runs_on: int = 0,
    ) -> InstanceSpec:
        """Its spec, given the versions of files, the models in the store, those that a server is
        known to have, and the port that it runs on: one that was chosen for it stays."""
        ollama = name == OLLAMA
        first, second = self.ports
        if self.auto_port and runs_on == second:
            first, second = second, first
        twice = self.strategy == "start-first" and self.auto_port and not ollama
        argv = ("ollama", "serve") if ollama else ("llama-server",)
        awaits = None
        if self.borrows and AWAITED not in store:
            awaits = Awaited(OLLAMA, AWAITED, kept=AWAITED in kept)
            argv = (*argv, "--model", AWAITED)
        elif self.borrows:
            argv = (*argv, "--model", "/store/blob")
        path = f"/{name}.gguf"
        inputs = () if ollama or awaits else (InputFile("model", path, means(path, versions)),)
        held = tuple(ModelSpec(model, preload=self.preload) for model in self.models)
        return InstanceSpec(
            name,
            "ollama" if ollama else "llama-server",
            self._command(argv, first),
            Endpoint("127.0.0.1", first),
            model=AWAITED if self.borrows else path,
            description=self.description,
            auto_port=self.auto_port,
            inputs=inputs,
            needs=self.needs,
            restart=RestartPolicy(self.policy, initial=1.0, max=4.0, limit=2),
            stop=StopPolicy(3.0),
            update=UpdatePolicy(self.on_failure, self.strategy if twice else "stop-first"),
            attach=self.attach if ollama else "never",
            holds=ModelSet(held) if ollama else None,
            awaits=awaits,
            on_demand=None if ollama else self.on_demand,
            demand=None if self.memory is None else Demand(self.memory, declared=True),
            alternate=Alternate(self._command(argv, second), Endpoint("127.0.0.1", second))
            if twice and awaits is None
            else None,
        )

    def _command(self, argv: tuple[str, ...], port: int) -> Command:
        return Command((*argv, "--port", str(port), "--ctx", self.ctx), {}, "/")


def means(path: str, versions: Mapping[str, int]) -> FileIdentity:
    """The identity of a file: each version of it has another."""
    return FileIdentity(1, versions.get(path, 0), 1)
