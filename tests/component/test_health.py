"""One that computes is not taken for one that hangs: but not for ever."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from orchestrator.control.health import Silence, health
from orchestrator.core.liveness import Verdict
from orchestrator.core.spec import Command, Endpoint, InstanceSpec, Liveness, Readiness
from orchestrator.runtime.probe import HttpProbe
from tests.component.test_inference import mute

SPEC = InstanceSpec(
    "a",
    "llama-server",
    Command(("llama-server",), {}, "/"),
    Endpoint("127.0.0.1", 1),
    liveness=Liveness(timeout=2.0),
    readiness=Readiness(deadline=3600.0),
)


def asked(port: int, pid: int, silence: Silence) -> Verdict:
    spec = replace(SPEC, endpoint=Endpoint("127.0.0.1", port))
    return asyncio.run(health(HttpProbe(spec.endpoint, "/health"), spec, pid, silence))


@pytest.mark.parametrize(("silent", "kind"), [(0.0, "slow"), (3000.0, "slow"), (3600.0, "down")])
def test_one_that_computes_without_one_answer_hangs_after_the_deadline(
    silent: float, kind: str
) -> None:
    silence = Silence(time.monotonic() - silent if silent else None)
    with mute("works") as (port, pid):
        verdict = asked(port, pid, silence)
    assert (verdict.kind, verdict.counts) == (kind, kind == "down"), verdict
    assert silence.since is not None
    assert ("no answer for 3602 s" in verdict.message) == (kind == "down"), verdict
