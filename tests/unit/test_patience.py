"""How long `apply` and `wait` wait for models, by snapshots and a clock made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from orchestrator.cli import apply, status
from orchestrator.core.status import InstanceStatus, ModelState, ModelStatus, Phase
from orchestrator.errors import OrchestrateError, TimedOutError
from orchestrator.settings import Settings
from tests.unit.test_plan import A
from tests.unit.test_plan import status as observed
from tests.unit.test_screens import FAILED, GIB, PULLING, document, seen

THERE = ModelStatus("llama3.1:8b", ModelState.PRESENT, loaded=True)
OTHER = ModelStatus("reviewer:latest", ModelState.PRESENT)
WHERE = Settings("/nowhere", "/nowhere", "/nowhere")


class Story:
    """Snapshots, each so many seconds after the one before it; stands for the daemon's client."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
        self.now, self.step = 0.0, step
        self.shown: list[dict[str, Any]] = []
        for module in (apply, status):
            monkeypatch.setattr(module, "Client", lambda _settings: self)  # pyright: ignore
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def snapshots(self, **_: object) -> Iterator[dict[str, Any]]:
        for one in self.shown:
            yield {"status": one, "events": []}
            self.now += self.step


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(monkeypatch, 2.0)


def waiting(timeout: float) -> None:
    apply._wait(  # pyright: ignore[reportPrivateUsage]
        WHERE, {"after": 0, "number": 1}, timeout, 0.0, as_json=False
    )


def pulling(done: int) -> dict[str, Any]:
    return document(seen(replace(PULLING, bytes_done=done * GIB), OTHER))


def test_an_apply_never_times_out_while_bytes_move(story: Story) -> None:
    story.shown = [*(pulling(done) for done in range(1, 5)), document(seen(THERE, OTHER))]

    waiting(3.0)

    assert story.now > 3.0


def test_a_pull_that_stands_still_does(story: Story) -> None:
    story.shown = [pulling(1), pulling(2), pulling(2), pulling(2), pulling(2)]

    with pytest.raises(TimedOutError, match="not ready within 3 s: ollama: pulling"):
        waiting(3.0)

    assert story.now == 6.0


def run_wait(*words: str) -> Any:
    return CliRunner().invoke(status.wait_command, words)


def test_a_wait_is_for_the_models_as_well(story: Story) -> None:
    story.shown = [pulling(1), pulling(2), document(seen(THERE, OTHER)), pulling(4)]

    assert run_wait("ollama").exit_code == 0
    assert story.now == 4.0


def test_a_wait_for_others_is_not(story: Story) -> None:
    whole = document(seen(PULLING), observed(A))
    story.shown = [whole]

    assert run_wait("a").exit_code == 0


def test_a_model_that_failed_ends_a_wait(story: Story) -> None:
    story.shown = [pulling(1), document(seen(FAILED, OTHER)), pulling(2)]

    ran = run_wait()

    assert isinstance(ran.exception, OrchestrateError)
    assert ran.exception.exit_code == 1
    assert "ollama: model llama3.1:8b: manifest unknown" in ran.exception.message
    assert story.now == 2.0


def test_what_is_known_of_a_server_that_starts_again_ends_none(story: Story) -> None:
    again: InstanceStatus = replace(seen(FAILED), phase=Phase.STARTING)
    story.shown = [document(again), document(seen(THERE, OTHER))]

    assert run_wait("ollama").exit_code == 0
