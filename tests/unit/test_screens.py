"""What people read of Ollama instances: the status table, the live block, quiet lines, the plan."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.cli import progress
from orchestrator.cli.apply import (
    _finish as finish,  # pyright: ignore[reportPrivateUsage]
)
from orchestrator.cli.progress import LineProgress, LiveProgress, Speeds
from orchestrator.cli.render import plan_lines
from orchestrator.cli.status_table import models_table, status_table
from orchestrator.core.convergence import convergence
from orchestrator.core.plan import Plan
from orchestrator.core.preview import preview
from orchestrator.core.report import ProfileReport, instance_rows, status_document
from orchestrator.core.spec import Built, Copied, Endpoint, ModelSet, ModelSpec, Pulled
from orchestrator.core.status import (
    AttachedTo,
    Health,
    InstanceStatus,
    ModelState,
    ModelStatus,
    Phase,
)
from tests.unit.test_plan import A, spec, status

GIB = 1 << 30
CHAT = ModelSpec("llama3.1:8b", preload=True)
REVIEWER = ModelSpec("reviewer:latest", Built("/p/reviewer.Modelfile", "FROM x"), keep_alive=60.0)
OLLAMA = replace(
    spec("ollama", port=11434),
    engine="ollama",
    model="",
    holds=ModelSet((CHAT, REVIEWER)),
)
PULLING = ModelStatus("llama3.1:8b", ModelState.PULLING, bytes_done=GIB, bytes_total=4 * GIB)
FAILED = ModelStatus(
    "llama3.1:8b", ModelState.FAILED, reason="failed", message="manifest unknown\x1b[2J"
)


def seen(*models: ModelStatus, **more: Any) -> InstanceStatus:
    return replace(status(OLLAMA, Phase.READY, models=models), **more)


def document(*instances: InstanceStatus, profiles: tuple[ProfileReport, ...] = ()) -> Any:
    observed = {one.name: one for one in instances}
    desired = {one.name: one.spec for one in instances}
    made = status_document(
        version="1",
        daemon={"pid": 1, "since": "2026-01-01T00:00:00.000Z"},
        profiles=profiles,
        rows=instance_rows(desired, observed, Plan(), now=9.0, usage={}, stale={}),
        state=convergence(desired, observed, Plan()),
    )
    return {**made, "applied": 1}


def plain(lines: list[str]) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "\n".join(lines))


def row(one: InstanceStatus, width: int = 200) -> str:
    return plain(status_table(document(one), width=width)).splitlines()[1]


# --- status ------------------------------------------------------------------------------------


def test_its_models_are_counted_and_what_moves_is_named() -> None:
    loaded = ModelStatus("reviewer:latest", ModelState.PRESENT, loaded=True)

    said = row(seen(PULLING, loaded))

    assert "2 models, 1 loaded" in said
    assert "pulling llama3.1:8b 25 %" in said


def test_a_single_model_is_named() -> None:
    one = replace(OLLAMA, holds=ModelSet((REVIEWER,)))

    assert "reviewer:latest  ready" in row(seen(spec=one))
    assert "missing reviewer:latest" in row(seen(spec=one))
    assert "  -  " in row(seen(spec=replace(OLLAMA, holds=ModelSet())))


def test_a_model_that_failed_comes_first_and_cannot_steer_the_terminal() -> None:
    said = row(seen(FAILED))

    assert "llama3.1:8b failed: manifest unknown" in said
    assert said.index("failed: manifest") < said.index("missing reviewer:latest")
    assert "\x1b" not in "".join(status_table(document(seen(FAILED)), width=200)[1:]).replace(
        "\x1b[32m", ""
    ).replace("\x1b[0m", "")


def test_an_attached_server_is_marked_and_measured_only_where_it_can_be_seen() -> None:
    said = row(seen(attached=AttachedTo(77, "ollama", "0.34.4")))

    assert "attached, of ollama" in said
    assert " 77 " in said
    assert "0 B" not in said


def test_the_class_of_its_health_is_shown() -> None:
    assert "slow 6.2 s" in row(seen(health=Health("slow", 6.21)))


def test_without_a_server_nothing_is_loaded_or_under_way() -> None:
    dead = seen(PULLING, ModelStatus("reviewer:latest", ModelState.PRESENT, True))
    [shown] = document(replace(dead, phase=Phase.STOPPED))["instances"]

    assert [(m["state"], m["loaded"]) for m in shown["models"]] == [
        ("missing", False),
        ("present", False),
    ]
    assert "pulling" not in row(replace(dead, phase=Phase.STOPPED))


def test_one_instance_is_listed_with_its_models() -> None:
    there = ModelStatus("reviewer:latest", ModelState.PRESENT, loaded=True)

    said = plain(models_table(document(seen(PULLING, there)))).split("\n")

    assert re.fullmatch(r"llama3.1:8b +pulling 25 % +- +1.0 GiB of 4.0 GiB", said[2])
    assert re.fullmatch(r"reviewer:latest +present +yes", said[3])
    assert models_table(document(seen(PULLING), status(A))) == []
    assert models_table(document(status(A))) == []


def test_on_a_narrow_screen_numbers_make_way_for_words() -> None:
    head, said = plain(status_table(document(seen(FAILED)), width=80)).splitlines()

    assert "PID" not in head
    assert "RESTARTS" not in head
    assert "llama3.1:8b failed: manifest unkn" in said
    assert len(said) <= 80
    assert "RESTARTS" in plain(status_table(document(seen(FAILED)), width=160))
    assert "RESTARTS" in plain(status_table(document(status(A)), width=80))


# --- progress ----------------------------------------------------------------------------------


class Clock:
    """Seconds as the test wants them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def shown(one: InstanceStatus) -> dict[str, Any]:
    return {"status": document(one), "events": []}


def test_the_live_block_has_a_bar_bytes_and_a_speed(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    live = LiveProgress()
    for done in (1, 2):
        message = f"{done}.1 of 4.3 GB, 512 MB/s"
        live.show(shown(seen(replace(PULLING, bytes_done=done * GIB, message=message))))
        clock.now += 2.0

    first, second = plain([capsys.readouterr().err]).split("  ready ")[1:]
    assert "████░░░░░░░░░░░░  25 % 1.1 of 4.3 GB, 512 MB/s" in first
    assert "left" not in first
    assert "████████░░░░░░░░  50 % 2.1 of 4.3 GB, 512 MB/s (4s left)" in second
    assert "reviewer:latest    missing" in second


def test_the_live_block_is_no_wider_or_longer_than_the_screen(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("LINES", "6")
    names = tuple(ModelSpec(f"a-model-with-a-long-name-{n}:latest") for n in range(9))
    models = (replace(PULLING, name=one.name, message="m" * 99) for one in names)

    LiveProgress().show(shown(seen(*models, spec=replace(OLLAMA, holds=ModelSet(names)))))

    lines = plain([capsys.readouterr().err]).splitlines()
    assert max(map(len, lines)) < 50
    assert len(lines) < 6
    assert "… and 7 more" in lines[-1]
    assert clock.now == 100.0


def test_lines_tell_changes_of_state_and_now_and_then_bytes(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = LineProgress()
    there = ModelStatus("reviewer:latest", ModelState.PRESENT)
    story: list[tuple[float, ModelStatus]] = [
        (0.0, ModelStatus("llama3.1:8b")),
        (0.1, replace(PULLING, bytes_done=0, bytes_total=0, message="pulling manifest")),
        (1.0, PULLING),
        (6.0, replace(PULLING, bytes_done=2 * GIB)),
        (7.0, replace(PULLING, bytes_done=3 * GIB)),
        (8.0, ModelStatus("llama3.1:8b", ModelState.PRESENT)),
        (9.0, ModelStatus("llama3.1:8b", ModelState.PRESENT, loaded=True)),
    ]
    for at, model in story:
        clock.now = 100.0 + at
        lines.show(shown(seen(model, there)))

    said = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert said[0].startswith("ollama ready http://127.0.0.1:11434")
    assert said[1] == "ollama: llama3.1:8b pulling pulling manifest"
    assert said[2].startswith("ollama: llama3.1:8b pulling")
    assert "50 % 2.0 GiB of 4.0 GiB" in said[2]
    assert said[3:] == ["ollama: llama3.1:8b loading", "ollama: llama3.1:8b loaded"]


def test_what_is_pulled_by_an_attached_server_is_shown_as_well(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    LineProgress().show(shown(seen(PULLING, attached=AttachedTo(7, "ollama", "0.34.4"))))

    first, second = capsys.readouterr().err.splitlines()
    assert "attached" in first
    assert "25 %" in second
    assert clock.now == 100.0


def test_a_speed_is_of_what_moves_now() -> None:
    speeds = Speeds()

    def rate(done: int, now: float, state: str = "pulling") -> float | None:
        model = {"name": "m", "state": state, "bytes_done": done}
        return speeds.rate("a", model, now)

    assert rate(0, 0.0) is None
    assert rate(100, 1.0) == 100.0
    assert rate(100, 3.0) == pytest.approx(33.3, abs=0.1)
    # Of the last seconds only.
    assert rate(100, 20.0) is None
    # Another layer, or another try, begins anew.
    assert rate(10, 21.0) is None
    assert rate(60, 22.0) == 50.0
    assert rate(60, 23.0, "present") is None


# --- how an apply ends -------------------------------------------------------------------------


def test_what_failed_is_named_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    import click

    failed = replace(FAILED, message="pull model manifest: file does not exist")
    with pytest.raises(click.exceptions.Exit) as ended:
        finish(document(seen(failed)), as_json=False)

    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert "ollama: model llama3.1:8b: failed: pull model manifest: file does not exist" in said
    assert "hint: orchestrate logs ollama" in said
    assert "model reviewer" in said


# --- plan --------------------------------------------------------------------------------------


def planned(have: InstanceStatus | None, want: Any) -> list[str]:
    observed = {"ollama": have} if have else {}
    actions = preview({"ollama": want}, observed, 9.0)
    return [
        " ".join(line.split())
        for line in plain(plan_lines([a.as_json() for a in actions])).splitlines()
    ]


def test_a_new_instance_says_which_models_it_will_have_and_how() -> None:
    assert planned(None, OLLAMA) == [
        "start ollama new",
        "models.llama3.1:8b: pulled, preload (new)",
        "models.reviewer:latest: built by /p/reviewer.Modelfile, keep_alive 1m (new)",
    ]


def test_one_that_has_to_wait_says_so_too() -> None:
    lines = planned(None, replace(OLLAMA, needs=("a",)))

    assert lines[0].startswith("start ollama needs a")
    assert len(lines) == 3


def test_other_models_are_provided_in_place() -> None:
    other = ModelSet(
        (replace(CHAT, origin=Pulled(insecure=True)), ModelSpec("c:latest", Copied("x:1")))
    )

    assert planned(seen(), replace(OLLAMA, holds=other)) == [
        "provision ollama models.llama3.1:8b: pulled, preload -> pulled without TLS, preload",
        "models.c:latest: a copy of x:1 (new)",
        "models.reviewer:latest: built by /p/reviewer.Modelfile, keep_alive 1m -> unloaded",
    ]


def test_pruning_says_what_it_would_delete() -> None:
    lines = planned(seen(), replace(OLLAMA, holds=ModelSet((CHAT,), prune=True)))

    assert any(line.endswith("-> deleted") for line in lines)


def test_another_try_is_announced() -> None:
    assert planned(seen(FAILED), OLLAMA) == ["provision ollama models, again"]


def test_a_changed_address_still_says_why() -> None:
    moved = replace(
        OLLAMA,
        endpoint=Endpoint("127.0.0.1", 1),
        command=replace(OLLAMA.command, argv=("o", "--ctx-size", "2")),
    )

    assert planned(seen(), moved)[0].startswith("replace ollama ")
