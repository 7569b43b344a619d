"""What people may declare in the simulated world, and what it means there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from orchestrator.core.spec import (
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
    """One instance of a profile. `borrows`: a llama-server on a model that the Ollama has."""

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

    def resolve(
        self,
        name: str,
        versions: Mapping[str, int],
        store: Collection[str],
        kept: Collection[str],
    ) -> InstanceSpec:
        """Its spec, given the versions of files, the models in the store, and those that a
        server is known to have."""
        ollama = name == OLLAMA
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
            Command((*argv, "--port", str(self.port), "--ctx", self.ctx), {}, "/"),
            Endpoint("127.0.0.1", self.port),
            model=AWAITED if self.borrows else path,
            description=self.description,
            auto_port=self.auto_port,
            inputs=inputs,
            needs=self.needs,
            restart=RestartPolicy(self.policy, initial=1.0, max=4.0, limit=2),
            stop=StopPolicy(3.0),
            update=UpdatePolicy(self.on_failure),
            attach=self.attach if ollama else "never",
            holds=ModelSet(held) if ollama else None,
            awaits=awaits,
            on_demand=None if ollama else self.on_demand,
            demand=None if self.memory is None else Demand(self.memory, declared=True),
        )


def means(path: str, versions: Mapping[str, int]) -> FileIdentity:
    """The identity of a file: each version of it has another."""
    return FileIdentity(1, versions.get(path, 0), 1)
