"""A restart by hand that would only take away what runs is refused."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.core.cause import FileFact
from orchestrator.core.prospect import Prospect, refusal
from orchestrator.core.status import AttachedTo, Phase
from tests.unit.test_plan import A, status

GONE = Prospect((FileFact("model", "/m.gguf", "missing"),))


@pytest.mark.parametrize(
    ("prospect", "why"),
    [
        (GONE, "/m.gguf does not exist"),
        (Prospect((FileFact("binary", "/b", "unreadable"),)), "/b may not be read"),
        (Prospect((FileFact("model", "/m", "folder"),)), "/m is a folder"),
        (Prospect(damaged=(("/m", "is empty"),)), "/m is empty"),
        (Prospect(taken="port 1 is taken by pid 7 (nc) of me"), "port 1 is taken by pid 7"),
    ],
)
def test_what_cannot_come_up_again_goes_on(prospect: Prospect, why: str) -> None:
    refused = refusal(status(A), prospect)

    assert refused is not None
    assert refused.message.startswith("a is not restarted, for it would not come up again: " + why)
    assert "--force" in refused.hint


def test_nothing_speaks_against_the_restart_of_what_is_well_or_does_not_run() -> None:
    fine = Prospect((FileFact("model", "/m", "there"), FileFact("model", "/n", "changed")))
    assert refusal(status(A), fine) is None
    assert refusal(status(A, Phase.FAILED), GONE) is None
    assert refusal(None, GONE) is None
    attached = replace(status(A), attached=AttachedTo(7, "ollama", "0.34.4"))
    assert refusal(attached, GONE) is None
