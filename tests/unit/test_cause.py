"""The table of causes, on what real engines have said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.core.cause import Cause, Evidence, FileFact, Mending, Seen, condemned, judge
from orchestrator.core.cause_table import KINDS, RULES

RECORDED = sorted((Path(__file__).parent.parent / "data" / "causes").glob("*.txt"))
PERMANENT = {name for name, kind in KINDS.items() if kind.permanent}


def evidence_of(path: Path) -> tuple[Evidence, dict[str, str]]:
    """A recording: what is known of the end, a line each, then the engine's whole output."""
    head, _, log = path.read_text().partition("\n---\n")
    facts = dict(line.split(": ", 1) for line in head.splitlines())
    code = int(facts["exit"]) if "exit" in facts else None
    how = f"exited with code {code}" if code is not None else f"killed by {facts['signal']}"
    known: dict[str, Any] = {"oom": facts.get("oom", ""), "taken": facts.get("taken", "")}
    lines = tuple(line.strip() for line in log.splitlines() if line.strip())
    return Evidence(how, code, facts.get("signal", ""), lines, **known), facts


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_end_is_understood(path: Path) -> None:
    evidence, facts = evidence_of(path)
    cause = judge(evidence)
    assert cause.reason == path.name.split(".")[0]
    assert cause.permanent == (cause.reason in PERMANENT)
    # The engine's word alone does not say which port it is about.
    assert cause.waits == ("taken" in facts)
    # Its own words are in the message, wherever it had any.
    assert facts.get("says", "") in cause.message
    assert evidence.ended in cause.message
    assert cause.hint


def test_every_rule_has_a_recording_and_every_cause_a_rule_or_a_reason() -> None:
    lines = [line for path in RECORDED for line in evidence_of(path)[0].lines]
    silent = [rule.says for rule in RULES if not any(map(rule.matches, lines))]
    assert silent == []
    assert {rule.reason for rule in RULES} <= KINDS.keys()


def test_what_a_server_says_of_requests_is_not_why_it_ended() -> None:
    said = "error loading model: unknown model architecture: 'martian'"
    served = Evidence("killed by SIGSEGV", None, "SIGSEGV", (said, "done"), was_ready=True)
    assert judge(served).reason == "crashed"
    assert judge(replace(served, was_ready=False)).reason == "unsupported-model"
    said = "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory"
    assert judge(replace(served, lines=(said,))).reason == "out-of-memory"
    # But not of one that was hours ago.
    assert judge(replace(served, lines=(said, *["request"] * 50))).reason == "crashed"


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGKILL", "SIGABRT", "SIGBUS", "signal 40"])
def test_a_crash_names_its_signal(signal: str) -> None:
    cause = judge(Evidence(f"killed by {signal}", None, signal, ("fatal: last words",)))
    words = ": fatal: last words" if signal != "SIGKILL" else ""
    assert cause == Cause("crashed", f"killed by {signal}{words}", cause.hint)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0.00.015.084 I srv  slot release: id 3 | stop processing", ""),
        ("0.00.015.084 I srv  done: GET /health 200", ""),
        ("0.00.015.084 E srv  what it is about", ": srv  what it is about"),
        ("GGML_ASSERT(n > 0) failed", ": GGML_ASSERT(n > 0) failed"),
        ("terminate called after throwing an instance", ": terminate called after throwing an "),
    ],
)
def test_of_a_crash_only_what_looks_like_an_error_is_quoted(line: str, told: str) -> None:
    evidence = Evidence("killed by SIGSEGV", None, "SIGSEGV", (line, "I all is well"))
    assert judge(evidence).message.startswith(f"killed by SIGSEGV{told}")
    assert bool(told) == (": " in judge(evidence).message)
    # What was said long ago is not about it either.
    served = replace(evidence, lines=(line, *["request"] * 50), was_ready=True)
    assert judge(served).message == "killed by SIGSEGV"


def test_an_unknown_instruction_means_another_processor_only_while_it_loads() -> None:
    evidence = Evidence("killed by SIGILL", None, "SIGILL", ("loading",))
    assert judge(evidence).reason == "binary-incompatible"
    assert judge(replace(evidence, was_ready=True)).reason == "crashed"


@pytest.mark.parametrize(
    ("role", "state", "reason"),
    [
        ("model", "missing", "model-missing"),
        ("model", "unreadable", "model-unreadable"),
        ("mmproj", "folder", "model-unreadable"),
        ("binary", "missing", "binary-missing"),
        ("binary", "unreadable", "permission"),
        ("model", "changed", "crashed"),
        ("model", "there", "crashed"),
    ],
)
def test_words_that_nobody_knows_are_explained_by_its_files(
    role: str, state: Any, reason: str
) -> None:
    files = (FileFact("model", "/m/a.gguf", "there"), FileFact(role, "/m/b.gguf", state))
    evidence = Evidence("exited with code 3", 3, lines=("oh no",), files=files)
    assert judge(evidence).reason == reason
    assert judge(replace(evidence, was_ready=True)).reason == "crashed"


def test_the_kernels_word_on_memory_counts_most() -> None:
    evidence = Evidence("killed by SIGKILL", None, "SIGKILL", ("loading",), oom="cgroup")
    cause = judge(evidence)
    assert (cause.reason, cause.permanent) == ("out-of-memory", False)
    assert "control group" in cause.message
    assert "the machine" in judge(replace(evidence, oom="host")).message


def test_without_enough_memory_it_is_not_tried_again_until_there_is() -> None:
    evidence = Evidence(
        "killed by SIGKILL", None, "SIGKILL", oom="cgroup", peak=100 << 20, available=50 << 20
    )
    cause = judge(evidence)
    assert cause.permanent
    assert cause.memory > 100 << 20
    assert "at least 110 MiB are needed, 50 MiB are available" in cause.message
    # There is enough now, or there was once: then the restart policy decides.
    for other in (replace(evidence, available=1 << 30), replace(evidence, was_ready=True)):
        cause = judge(other)
        assert (cause.reason, cause.permanent, cause.memory) == ("out-of-memory", False, 0)


def test_memory_that_it_does_without_is_no_cause() -> None:
    for line in (
        "warning: failed to mlock 5 byte buffer (after locking 0 bytes): Cannot allocate memory",
        "ggml_cuda_host_malloc: failed to allocate 5.00 MiB of pinned memory: out of memory",
    ):
        assert judge(Evidence("exited with code 1", 1, lines=(line,))).reason == "crashed"


def test_what_was_asked_for_counts_where_the_engine_says_it() -> None:
    line = "ggml_aligned_malloc: insufficient memory (attempted to allocate 1000.00 MB)"
    evidence = Evidence("exited with code 1", 1, lines=(line,), peak=100 << 20, available=1 << 30)
    assert judge(evidence).memory == int((1100 << 20) * 1.1)
    assert judge(replace(evidence, available=2 << 30)).memory == 0


def test_whoever_took_the_port_is_named() -> None:
    taken = "port 8080 was taken by pid 7 (nginx) of root while it started"
    evidence = Evidence("exited with code 1", 1, lines=("it is all in vain",), taken=taken)
    cause = judge(evidence)
    assert (cause.reason, cause.waits, cause.permanent) == ("port-taken", True, False)
    assert cause.message.startswith(taken)
    for line in ("bind: address already in use", "srv start: couldn't bind HTTP server socket"):
        cause = judge(replace(evidence, lines=(line,)))
        assert (cause.reason, cause.waits) == ("port-taken", True)
        assert cause.message == f"{taken}; exited with code 1: {line}"
    # But one with a flag that nobody knows would not have come up on another port either.
    flag = ("error: invalid argument: --x",)
    assert judge(replace(evidence, lines=flag)).reason == "bad-flag"


def test_an_address_in_use_is_waited_for_only_where_its_own_port_is_seen_taken() -> None:
    evidence = Evidence("exited with code 1", 1, lines=("bind: Address already in use",))
    cause = judge(evidence)
    assert (cause.reason, cause.waits, cause.permanent) == ("port-taken", False, False)
    assert judge(replace(evidence, taken="port 8080 was taken by pid 7")).waits


def test_what_changed_while_it_was_read_is_worth_another_try() -> None:
    files = (FileFact("model", "/m.gguf", "there"),)
    evidence = Evidence("exited with code 1", 1, lines=("failed to read magic",), files=files)
    assert judge(evidence).permanent
    changed = judge(replace(evidence, files=(FileFact("model", "/m.gguf", "changed"),)))
    assert (changed.reason, changed.permanent) == ("model-unreadable", False)


@pytest.mark.parametrize(
    "line",
    [
        "warn: failed to set process priority: Permission denied",
        "plugin: No module named 'numa'",
    ],
)
def test_a_word_in_passing_is_not_why_it_ended(line: str) -> None:
    evidence = Evidence("exited with code 1", 1, lines=(line, "a passing fault"))
    assert (judge(evidence).reason, judge(evidence).permanent) == ("crashed", False)
    # As its very last word it is; and a shell says by its code that it could not run a program.
    assert judge(replace(evidence, lines=("a passing fault", line))).permanent
    assert judge(replace(evidence, code=126)).permanent


GIB = 1 << 30


def test_more_memory_than_there_is_at_all_is_not_waited_for() -> None:
    evidence = Evidence("killed by SIGKILL", None, "SIGKILL", oom="host", peak=30 * GIB)
    evidence = replace(evidence, available=20 * GIB, total=32 * GIB)
    assert judge(evidence).memory == int(0.9 * 32 * GIB)
    # It had nearly all, and has it again: only the restart policy can say.
    assert not judge(replace(evidence, available=31 * GIB)).permanent
    assert judge(replace(evidence, total=64 * GIB)).memory == 33 * GIB


def test_a_limit_that_others_share_is_not_waited_for_in_full() -> None:
    evidence = Evidence("killed by SIGKILL", None, "SIGKILL", oom="cgroup", peak=30 * GIB)
    evidence = replace(evidence, available=20 * GIB, total=64 * GIB, limit=32 * GIB)
    assert judge(evidence).memory == int(0.9 * 32 * GIB)
    # Where it had the group for itself, only a higher limit helps.
    assert judge(replace(evidence, available=31 * GIB)).memory == 33 * GIB


def test_a_good_end_is_no_failure() -> None:
    assert judge(Evidence("exited with code 0", 0, lines=("error: x",))).reason == "exited"


def test_what_is_ended_says_why_and_what_can_be_done() -> None:
    timeout = condemned("timeout", "not ready within 5 s", ["loading", "still loading"])
    assert timeout.message == "not ready within 5 s; its last words: still loading"
    assert "readiness.timeout" in timeout.hint
    assert condemned("hung", "no answer in 5 s", ["a request"]).told == "no answer in 5 s"


def test_what_it_hangs_on_survives_json() -> None:
    mending = Mending((Seen("/m", "ENOENT"),), 5, ("/sys/fs/cgroup/x",))
    assert Mending.of_json(mending.as_json()) == mending
