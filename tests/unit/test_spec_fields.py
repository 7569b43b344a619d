"""Each field of a spec is of the one class that the table says: live, restart, or a mirror."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.core.drift import input_drift, live_drift, restart_drift
from orchestrator.core.field_class import LIVE, RESTART, SPEC_FIELDS
from orchestrator.core.gateway_spec import GatewaySpec
from orchestrator.core.spec import (
    Alternate,
    Awaited,
    Command,
    Demand,
    Endpoint,
    FileIdentity,
    Inference,
    InputFile,
    Limits,
    Liveness,
    ModelFacts,
    ModelSet,
    ModelSpec,
    OnDemand,
    Readiness,
    RestartPolicy,
    StopPolicy,
    UpdatePolicy,
)
from tests.unit.test_plan import spec

HAVE = spec("a", inputs=(InputFile("model", "/m.gguf", FileIdentity(1, 1, 1)),))

OTHERS: dict[str, object] = {
    "name": "b",
    "engine": "ollama",
    "command": Command(("other",), {}, "/"),
    "endpoint": Endpoint("127.0.0.1", 9),
    "inputs": (InputFile("model", "/m.gguf", FileIdentity(2, 2, 2)),),
    "profiles": ("other",),
    "model": "other",
    "description": "other",
    "auto_port": True,
    "needs": ("other",),
    "readiness": Readiness(timeout=1.0),
    "liveness": Liveness(interval=1.0),
    "restart": RestartPolicy("never"),
    "stop": StopPolicy(1.0),
    "update": UpdatePolicy("keep"),
    "limits": Limits(memory_max=1),
    "attach": "auto",
    "holds": ModelSet((ModelSpec("m"),)),
    "inference": Inference("/v1", "{}"),
    "awaits": Awaited("o", "m"),
    "demand": Demand(1, declared=True),
    "gpus": (0,),
    "facts": ModelFacts(family="llama"),
    "gateway": GatewaySpec(waiting=1),
    "alternate": Alternate(Command(("other",), {}, "/"), Endpoint("127.0.0.1", 9)),
    "on_demand": OnDemand(),
    "replica_of": "other",
}
"""Another value of each field."""


def test_another_value_of_every_field_is_tried() -> None:
    assert OTHERS.keys() == SPEC_FIELDS.keys()


@pytest.mark.parametrize("name", SPEC_FIELDS)
def test_a_change_is_seen_as_what_the_table_says_and_as_nothing_else(name: str) -> None:
    want = replace(HAVE, **{name: OTHERS[name]})  # type: ignore[arg-type]
    assert want != HAVE
    restarts = (*restart_drift(HAVE, want), *input_drift(HAVE, want))
    kind = SPEC_FIELDS[name]
    assert bool(restarts) is (kind is RESTART)
    assert bool(live_drift(HAVE, want)) is (kind is LIVE)
