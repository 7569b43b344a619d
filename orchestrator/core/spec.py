"""What the configuration means on this machine: fully resolved, frozen, comparable.

`InstanceSpec` is all that is needed to start, probe, restart and stop one instance, with no
further look at a profile. It is what the store keeps, so a daemon that comes back knows what each
running process was meant to be.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from orchestrator.core.gateway_spec import GatewaySpec

PolicyName = Literal["always", "on-failure", "never"]
AttachMode = Literal["auto", "never", "only"]
LivenessMode = Literal["http", "inference"]
OnFailure = Literal["rollback", "keep"]
Strategy = Literal["stop-first", "start-first"]
StartMode = Literal["always", "on-demand"]


class Command(Struct, frozen=True):
    """A process exactly as executed. Drift is computed on it.

    `env` holds only what the profile and the engine declare: the inherited rest is passed on but
    never compared, or a daemon started from another shell would restart everything.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str


class FileIdentity(Struct, frozen=True):
    """Tells one content of a path from another without reading it."""

    size: int
    mtime_ns: int
    inode: int


class InputFile(Struct, frozen=True):
    """A file that the process reads at its start: change it, and what runs is stale."""

    role: Literal["model", "binary", "mmproj", "adapter"]
    path: str
    identity: FileIdentity | None


_REACHED_BY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class Endpoint(Struct, frozen=True):
    """Where an instance listens. `prefix` is its URL prefix, without a trailing slash."""

    host: str
    port: int
    scheme: Literal["http", "https"] = "http"
    prefix: str = ""

    @property
    def connect_host(self) -> str:
        """The address to reach it from this machine: a wildcard bind is reached by loopback."""
        return _REACHED_BY.get(self.host, self.host)

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL."""
        host = self.connect_host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"


class Readiness(Struct, frozen=True):
    """May it serve? Seconds: `timeout` without any progress, `deadline` in all."""

    timeout: float = 120.0
    deadline: float = 1800.0
    path: str = "/health"


class Liveness(Struct, frozen=True):
    """Must it be restarted? `failures` probes in a row, `interval` seconds apart.

    `mode` is what a probe asks for: an answer on the health path within `timeout` seconds, or one
    generated token, which is `slow` after so many seconds and `down` after so many.
    """

    interval: float = 10.0
    timeout: float = 5.0
    failures: int = 3
    mode: LivenessMode = "http"
    slow: float = 5.0
    down: float = 15.0


class Inference(Struct, frozen=True):
    """The request that makes a server generate as little as it can: POST this JSON `body` there."""

    path: str
    body: str


class RestartPolicy(Struct, frozen=True):
    """When to start again: delays in seconds; given up after `limit` failures in `window`."""

    policy: PolicyName = "on-failure"
    initial: float = 1.0
    max: float = 60.0
    limit: int = 5
    window: float = 600.0


class StopPolicy(Struct, frozen=True):
    """Seconds between SIGTERM and SIGKILL, and before: for what the gateway has sent it."""

    grace: float = 10.0
    drain: float = 30.0


class UpdatePolicy(Struct, frozen=True):
    """What becomes of a change that does not come up: `rollback` to what was ready before, or
    `keep` trying it; and whether what runs ends before its successor starts, or once that is
    ready."""

    on_failure: OnFailure = "rollback"
    strategy: Strategy = "stop-first"


class Limits(Struct, frozen=True):
    """What an instance may take: beyond a `warn` it is told, beyond a `max` the instance is ended.

    Memory in bytes, CPU in percent of one core, restarts within so many seconds.
    """

    memory_warn: int | None = None
    memory_max: int | None = None
    cpu_warn: float | None = None
    restarts_warn: int | None = None
    restarts_window: float = 3600.0


class Pulled(Struct, frozen=True, tag_field="kind", tag="pulled"):
    """From the registry that the model's name begins with; `insecure` means without TLS."""

    insecure: bool = False


class Built(Struct, frozen=True, tag_field="kind", tag="built"):
    """By a Modelfile: its absolute path, and what it said when it was read."""

    path: str
    text: str


class Imported(Struct, frozen=True, tag_field="kind", tag="imported"):
    """From GGUF files on disk: the model, and its projector where it has one."""

    files: tuple[InputFile, ...]


class Copied(Struct, frozen=True, tag_field="kind", tag="copied"):
    """Another name of the model `of`, which has its tag written out."""

    of: str


ModelOrigin = Pulled | Built | Imported | Copied


class ModelSpec(Struct, frozen=True):
    """A model that an Ollama instance is to have: `name` with its tag, as Ollama shows it.

    `preload`: in memory as soon as the server is ready. `keep_alive`: seconds after its last use
    until it may leave memory, -1 for never; None leaves that to the server.
    """

    name: str
    origin: ModelOrigin = field(default_factory=Pulled)
    preload: bool = False
    keep_alive: float | None = None


class ModelSet(Struct, frozen=True):
    """What an Ollama instance is to hold, and how. `store` is the folder of its own server.

    `prune`: what leaves `models` is deleted, not only unloaded. `verify`: seconds between two
    looks at the files of the models, None for none. `limit`: how many fit into memory together,
    None where the server decides.
    """

    models: tuple[ModelSpec, ...] = ()
    store: str = ""
    prune: bool = False
    verify: float | None = None
    limit: int | None = None


class Awaited(Struct, frozen=True):
    """A model that another instance is still to bring: until then there is nothing to start.

    `kept`: it has brought it, but where it cannot be found from here.
    """

    instance: str
    model: str
    kept: bool = False


class Demand(Struct, frozen=True):
    """Memory that an instance takes, in bytes by place. `declared`: its profile says so, else it is
    an estimate.

    `host` is its own in the machine's memory, `mapped` what it reads in place, by file: two that
    map one file share it. `gpus` is by the index of the GPU. `least` is what it settles for of its
    own accord in the machine's memory, weights included, when there is no more. `fits_itself`: it
    chooses what goes to the GPUs, by what is free while it starts.
    """

    host: int = 0
    mapped: dict[str, int] = field(default_factory=dict[str, int])
    gpus: dict[int, int] = field(default_factory=dict[int, int])
    least: int | None = None
    fits_itself: bool = False
    declared: bool = False


class ModelFacts(Struct, frozen=True):
    """What people are told of a model, as its header or its server says: bytes, counts; empty or 0
    where nobody says. `modified` is an instant, `context` the tokens that it was trained with."""

    family: str = ""
    parameters: int = 0
    parameter_size: str = ""
    quantization: str = ""
    context: int = 0
    size: int = 0
    digest: str = ""
    modified: str = ""
    capabilities: tuple[str, ...] = ()


class OnDemand(Struct, frozen=True):
    """Of an instance that is only started when somebody asks for it.

    `idle`: seconds after its last use until it is stopped; None leaves it running. `pin`: never
    stopped to make room for another. `preload`: started when it is applied, before anybody asks.
    """

    idle: float | None = None
    pin: bool = False
    preload: bool = False


class Alternate(Struct, frozen=True):
    """The same instance on its second port: one that is started beside what runs needs another."""

    command: Command
    endpoint: Endpoint


class InstanceSpec(Struct, frozen=True):
    """One desired instance. `model` is what people call it; `inputs` what is really read.

    `attach` says whether a server that somebody else runs at the endpoint is to be used. `holds`
    is None for an engine that serves the one model it was started with, `demand` where nobody
    knows how much memory it takes, `facts` where nobody knows more of its model, `gpus` where the
    engine chooses among all there are, `on_demand` where it is always to run, `alternate` where
    nothing is ever started beside it.
    """

    name: str
    engine: str
    command: Command
    endpoint: Endpoint
    profiles: tuple[str, ...] = ()
    model: str = ""
    description: str = ""
    auto_port: bool = False
    inputs: tuple[InputFile, ...] = ()
    needs: tuple[str, ...] = ()
    readiness: Readiness = field(default_factory=Readiness)
    liveness: Liveness = field(default_factory=Liveness)
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    stop: StopPolicy = field(default_factory=StopPolicy)
    update: UpdatePolicy = field(default_factory=UpdatePolicy)
    limits: Limits = field(default_factory=Limits)
    attach: AttachMode = "never"
    holds: ModelSet | None = None
    inference: Inference | None = None
    awaits: Awaited | None = None
    demand: Demand | None = None
    gpus: tuple[int, ...] | None = None
    facts: ModelFacts | None = None
    gateway: GatewaySpec | None = None
    alternate: Alternate | None = None
    on_demand: OnDemand | None = None
    replica_of: str = ""
    """What the profile calls it and its like together."""


Desired = dict[str, InstanceSpec]
