"""The exposition, as Prometheus's own tools and its client read it, and what engines add to it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as open_parser

from orchestrator.api import relay
from orchestrator.api.families import Moment, Sheet, filled, written
from orchestrator.api.metric_table import TABLE
from orchestrator.api.relay import Loaded, Relayed, path_of, relayed
from orchestrator.core.spec import Command, Endpoint, ModelSet
from orchestrator.core.status import InstanceStatus, Observed, Phase
from tests.machine_has import needs_program
from tests.metric_moments import HOSTILE, moment_of, observed_of, text_of
from tests.unit.test_plan import spec, status

OPEN = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
"""What Prometheus asks for."""

PLAIN_NAMES = [f"instance-{number}" for number in range(12)]


def read(text: str) -> dict[str, Metric]:
    """As the client's own reader has it; every metric once."""
    metrics = list(parser.text_string_to_metric_families(text))
    names = [metric.name for metric in metrics]
    assert len(names) == len(set(names)), "a metric is told of twice"
    return dict(zip(names, metrics, strict=True))


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for metric in read(text).values():
        for sample in metric.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(text: str, name: str, /, **labels: str) -> float:
    """That of the one sample with these labels, whatever others it has."""
    (only,) = [v for had, v in samples(text)[name] if labels.items() <= had.items()]
    return only


# --- the exposition ------------------------------------------------------------------------------


@needs_program("promtool")
@pytest.mark.parametrize("names", [PLAIN_NAMES, HOSTILE, []], ids=["plain", "hostile", "none"])
def test_promtool_has_nothing_to_say(names: list[str]) -> None:
    said = checked(text_of(moment_of(observed_of(names))))
    assert said == ""


def checked(text: str) -> str:
    """What `promtool check metrics` says of it; nothing is what it should."""
    program = shutil.which("promtool")
    assert program is not None
    ran = subprocess.run(
        [program, "check", "metrics"], input=text.encode(), capture_output=True, timeout=60
    )
    return (ran.stdout + ran.stderr).decode()


@needs_program("promtool")
def test_promtool_would_find_something() -> None:
    assert "no help text" in checked("x_total 1\n")


@pytest.mark.parametrize("names", [PLAIN_NAMES, HOSTILE, []], ids=["plain", "hostile", "none"])
def test_openmetrics_says_the_same(names: list[str]) -> None:
    moment = moment_of(observed_of(names))
    text = text_of(moment, OPEN)
    assert text.endswith("# EOF\n")
    metrics = list(open_parser.text_string_to_metric_families(text))
    plain = samples(text_of(moment))
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for metric in metrics:
        for sample in metric.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    for name in ("orchestrate_instance_phase", "orchestrate_instance_restarts_total"):
        assert found.get(name) == plain.get(name)
    assert found.keys() == plain.keys()


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/html", ";;;", f"{OPEN.split(',')[0]}x", "\xe9"]
)
def test_whatever_is_accepted_there_is_an_answer(accept: str) -> None:
    text = text_of(moment_of(observed_of(["a"])), accept)
    assert value(text, "orchestrate_instance_up", instance="a") in (0.0, 1.0)


def test_names_are_inert_and_still_told_apart() -> None:
    text = text_of(moment_of(observed_of(HOSTILE)))
    found = samples(text)["orchestrate_instance_up"]
    assert len({labels["instance"] for labels, _ in found}) == len(HOSTILE)
    assert all(line.isprintable() for line in text.split("\n"))
    assert value(text, "orchestrate_converged") == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), unique=True, max_size=5))
def test_any_name_can_be_read_again(names: list[str]) -> None:
    found = samples(text_of(moment_of(observed_of(names))))
    assert len(found.get("orchestrate_instance_up", ())) == len(names)


def test_what_is_written_is_what_the_table_says() -> None:
    """Each sample has the labels of the table, and every metric of the table is written."""
    said = Relayed({"instance-1": True}, {}, [Loaded("instance-3", "m", 2, 1)])
    text = text_of(moment_of(observed_of(PLAIN_NAMES)), relayed=said)
    found = {n: rows for n, rows in samples(text).items() if n.startswith("orchestrate_")}
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in found} == set(TABLE)
    for name, rows in found.items():
        labels = TABLE[re.sub("_(bucket|count|sum)$", "", name)].labels
        for had, _ in rows:
            assert tuple(key for key in had if key != "le") == tuple(sorted(labels)), name


def test_what_the_gateway_told_is_written() -> None:
    text = text_of(moment_of(observed_of(["a", "other"])))
    requests = "orchestrate_gateway_requests_total"
    assert value(text, requests, instance="a", outcome="5xx") == 1.0
    assert value(text, requests, instance="a", outcome="lost") == 0.0
    assert value(text, "orchestrate_gateway_own_answers_total", code="418") == 1.0
    assert value(text, "orchestrate_gateway_own_answers_total", code="503") == 0.0
    first = "orchestrate_gateway_first_token_seconds"
    assert value(text, f"{first}_bucket", instance="a", le="1.0") == 4.0
    assert value(text, f"{first}_bucket", instance="a", le="+Inf") == 4.0
    assert value(text, f"{first}_sum", instance="a") == 1.25
    assert value(text, "orchestrate_gateway_fallbacks_total", model="other") == 2.0
    assert (
        value(text, "orchestrate_gateway_client_tokens_total", client="a", kind="generated") == 11
    )


def test_without_a_gateway_nothing_is_said_of_one() -> None:
    moment = moment_of(observed_of(["a"]))
    without = {**moment.document, "gateway": None}
    assert "orchestrate_gateway" not in text_of(replace(moment, document=without))
    # It is declared, but tells of nothing yet.
    text = text_of(replace(moment, figures=None))
    assert {name for name in samples(text) if "gateway" in name} == {"orchestrate_gateway_up"}


def test_names_follow_the_conventions() -> None:
    for name, meaning in TABLE.items():
        assert (name.endswith("_total")) == (meaning.kind == "counter"), name
        assert (name.endswith("_info")) == (meaning.kind == "info"), name
        if meaning.kind == "histogram":
            assert name.endswith("_seconds"), name


def test_the_phase_is_one_of_all() -> None:
    text = text_of(moment_of(observed_of(PLAIN_NAMES)))
    for name in PLAIN_NAMES:
        mine = [
            v for had, v in samples(text)["orchestrate_instance_phase"] if had["instance"] == name
        ]
        assert sorted(mine) == [0.0] * 7 + [1.0]
    assert value(text, "orchestrate_instance_phase", instance="instance-1", phase="ready") == 1.0
    assert value(text, "orchestrate_instance_up", instance="instance-1") == 1.0
    assert value(text, "orchestrate_instance_up", instance="instance-2") == 0.0


def test_what_is_down_takes_nothing_and_has_no_start() -> None:
    observed = observed_of(PLAIN_NAMES)
    down = {name for name, one in observed.items() if one.process is None}
    found = samples(text_of(moment_of(observed)))
    for metric in (
        "orchestrate_instance_resident_memory_bytes",
        "orchestrate_instance_cpu_seconds_total",
        "orchestrate_instance_start_time_seconds",
    ):
        there = {had["instance"] for had, _ in found[metric]}
        assert there == set(PLAIN_NAMES) - down, metric
    assert {had["instance"] for had, _ in found["orchestrate_instance_up"]} == set(PLAIN_NAMES)


def test_restarts_are_counted_from_nothing() -> None:
    """So that the first one is seen as a rise."""
    text = text_of(moment_of(observed_of(["a"])))
    name = "orchestrate_instance_restarts_total"
    assert value(text, name, instance="a", cause="crashed") == 1.0
    assert value(text, name, instance="a", cause="hung") == 0.0


def test_a_histogram_rises_to_its_count() -> None:
    text = text_of(moment_of(observed_of(["a"])))
    buckets = samples(text)["orchestrate_instance_ready_seconds_bucket"]
    counts = [v for _, v in buckets]
    assert counts == sorted(counts)
    assert buckets[-1] == ({"instance": "a", "le": "+Inf"}, 1.0)
    assert value(text, "orchestrate_instance_ready_seconds_sum", instance="a") == 0.031
    assert value(text, "orchestrate_convergence_seconds_sum") == 1.5


def test_no_step_of_a_scrape_takes_long() -> None:
    """Of a hundred instances: others have their turn every few milliseconds."""
    moment = moment_of(observed_of(f"instance-{number}" for number in range(100)))
    longest = min(slowest_step(moment) for _ in range(3))
    # A quarter of a millisecond on a quiet machine: a step of the whole would take a hundred.
    assert longest < 0.02


def slowest_step(moment: Moment) -> float:
    """Seconds of CPU in the longest stretch without a pause."""
    sheet = Sheet()
    took: list[float] = []

    def timed(steps: Iterable[object]) -> None:
        began = time.thread_time()
        for _ in steps:
            took.append(time.thread_time() - began)
            began = time.thread_time()

    timed(filled(sheet, moment))
    timed(written(sheet.metrics(), "")[0])
    return max(took)


# --- what engines add ----------------------------------------------------------------------------

heard = pytest.mark.usefixtures("patient")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers is heard on a busy machine, too."""
    monkeypatch.setattr(relay, "WITHIN", 3.0)


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GOOD = (
    "# HELP llamacpp:tokens_predicted_total Number of tokens\n"
    "# TYPE llamacpp:tokens_predicted_total counter\n"
    "llamacpp:tokens_predicted_total 12\n"
    "# HELP llamacpp:n_tokens_max Largest\n"
    "# TYPE llamacpp:n_tokens_max counter\n"
    "llamacpp:n_tokens_max 7\n"
    "# TYPE llamacpp:requests_processing gauge\n"
    'llamacpp:requests_processing{model="m"} 1 1700000000\n'
)


def says(body: str | bytes, *, status_line: str = "200 OK") -> Answer:
    """An engine that answers with this, over a connection that it closes."""
    content = body.encode() if isinstance(body, str) else body

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status_line}\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        writer.write_eof()
        await reader.read()

    return answer


async def mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def drips(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte now and then, without end."""
    while True:
        writer.write(b"H")
        await writer.drain()
        await asyncio.sleep(0.05)


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"llamacpp:x_total 1\n" * 5000)
        await writer.drain()


async def hangs_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """At once."""


@contextlib.asynccontextmanager
async def engine(answer: Answer) -> AsyncGenerator[Endpoint]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await answer(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


def llama(name: str, endpoint: Endpoint, **env: str) -> InstanceStatus:
    """A ready llama-server with its metrics enabled."""
    command = Command(("llama-server", "--metrics"), env, "/")
    return status(spec(name, command=command, endpoint=endpoint))


def asked(answers: dict[str, Answer], made: Callable[..., InstanceStatus] = llama) -> Relayed:
    """What is relayed of these."""

    async def story() -> Relayed:
        async with contextlib.AsyncExitStack() as stack:
            observed: Observed = {}
            for name, answer in answers.items():
                observed[name] = made(name, await stack.enter_async_context(engine(answer)))
            return await relayed(observed)

    return asyncio.run(story())


def shown(said: Relayed, accept: str = "") -> str:
    return text_of(moment_of({}), accept, said)


@needs_program("promtool")
@heard
def test_an_engines_own_metrics_are_those_of_its_instance() -> None:
    text = shown(asked({"a": says(GOOD), "b": says(GOOD)}))
    assert value(text, "llamacpp:tokens_predicted_total", instance="a") == 12.0
    assert value(text, "llamacpp:n_tokens_max", instance="b") == 7.0
    assert value(text, "llamacpp:requests_processing", instance="b", model="m") == 1.0
    assert value(text, "orchestrate_relay_up", instance="a") == 1.0
    # The names are llama-server's; but for these, there is nothing to say.
    complaints = [line for line in checked(text).splitlines() if "llamacpp" not in line]
    assert complaints == []
    assert "# TYPE llamacpp:n_tokens_max untyped" in text
    # In either format under the same names.
    names = {name for name in samples(text) if "llamacpp" in name}
    opened = shown(asked({"a": says(GOOD)}), OPEN)
    metrics = open_parser.text_string_to_metric_families(opened)
    assert names == {s.name for m in metrics for s in m.samples if "llamacpp" in s.name}


@pytest.mark.parametrize(
    "answer",
    [
        says("", status_line="503 Loading"),
        says(GOOD, status_line="401 Unauthorized"),
        says(""),
        says("\n\n"),
        says("# only words\n"),
        says(GOOD.removesuffix("\n")),
        says(GOOD + "llamacpp:x{ 1\n"),
        says(GOOD + "llamacpp:x 1_000\n"),
        says(GOOD + "llamacpp:x one\n"),
        says(GOOD + 'llamacpp:x{a="b} 1\n'),
        says(GOOD + 'llamacpp:x{a="b",,} 1\n'),
        says(GOOD + "x" * 5000 + "\n"),
        says(GOOD * 200),
        says("llamacpp:x 1\n" * 7000),
        says(b"\xff\xfe" + GOOD.encode()),
        says("<html>llamacpp</html>\n"),
        says(b"\0" * 100 + b"\n"),
        says("orchestrate_converged 1\n"),
        mute,
        drips,
        floods,
        hangs_up,
    ],
)
@heard
def test_a_broken_engine_breaks_nothing(answer: Answer) -> None:
    """Ours are whole, those of another are there, and it took no longer than it may."""
    began = time.monotonic()
    said = asked({"bad": answer, "good": says(GOOD)})
    assert time.monotonic() - began < relay.WITHIN + 5
    text = shown(said)
    assert said.answered == {"bad": False, "good": True}
    assert value(text, "orchestrate_relay_up", instance="bad") == 0.0
    assert value(text, "llamacpp:tokens_predicted_total") == 12.0
    assert not [
        had for had, _ in samples(text)["llamacpp:n_tokens_max"] if had["instance"] != "good"
    ]


@heard
def test_nobody_speaks_for_another() -> None:
    body = (
        'llamacpp:x_total{instance="good",__name__="up",model="a\\"} 1\\n# EOF\\nup 0"} 5\n'
        "orchestrate_converged 1\n"
        "up 0\n"
        'ALERTS{alertname="x"} 1\n'
        "process_cpu_seconds_total 9\n"
        "# HELP llamacpp:x_total evil\\n# TYPE up gauge\n"
    )
    said = asked({"bad": says(body), "good": says(GOOD)})
    for accept in ("", OPEN):
        text = shown(said, accept)
        assert not re.search("^(up|ALERTS)", text, re.MULTILINE)
    text = shown(said)
    (only,) = samples(text)["llamacpp:x_total"]
    assert only == ({"instance": "bad", "model": 'a"} 1\\n# EOF\\nup 0'}, 5.0)
    assert value(text, "orchestrate_converged") == 0.0


@heard
def test_engines_that_disagree_what_a_metric_is_are_both_heard() -> None:
    other = GOOD.replace("requests_processing gauge", "requests_processing counter")
    text = shown(asked({"a": says(GOOD), "b": says(other)}))
    assert len(samples(text)["llamacpp:requests_processing"]) == 2
    assert "# TYPE llamacpp:requests_processing untyped" in text


@heard
def test_what_is_said_twice_is_relayed_once() -> None:
    text = shown(asked({"a": says("llamacpp:x 1\nllamacpp:x 2\n")}))
    assert samples(text)["llamacpp:x"] == [({"instance": "a"}, 2.0)]


@heard
def test_a_counter_and_a_gauge_of_nearly_one_name_stay_apart() -> None:
    """OpenMetrics writes a counter under its name without `_total`."""
    body = (
        "# TYPE llamacpp:x_total counter\nllamacpp:x_total 1\n"
        "# TYPE llamacpp:x gauge\nllamacpp:x 2\n"
        "llamacpp:inf +Inf\nllamacpp:nan NaN\n"
    )
    text = shown(asked({"a": says(body)}), OPEN)
    found = {m.name: m for m in open_parser.text_string_to_metric_families(text)}
    assert found["llamacpp:x_total"].samples[0].value == 1.0
    assert found["llamacpp:x"].samples[0].value == 2.0
    assert math.isinf(found["llamacpp:inf"].samples[0].value)


@heard
def test_a_server_with_a_key_is_told_it() -> None:
    questions: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        questions.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD.encode())
        writer.write_eof()
        await reader.read()

    def protected(name: str, endpoint: Endpoint) -> InstanceStatus:
        return llama(name, endpoint, LLAMA_API_KEY="s3cret,other")

    said = asked({"a": answer}, protected)
    assert said.answered == {"a": True}
    assert b"Authorization: Bearer s3cret\r\n" in questions[0]
    assert "s3cret" not in shown(said)


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300), st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace"))
    )
)
def test_no_answer_whatever_raises(body: bytes) -> None:
    for tail in (b"", b"\n"):
        found = Relayed()
        with contextlib.suppress(relay.NotMetricsError):
            relay._add_metrics(found.metrics, "a", GOOD.encode() + body + tail)
        with contextlib.suppress(relay.NotMetricsError):
            found.loaded += relay._loaded("a", body)
        relay._settle(found.metrics)
        text = shown(found, OPEN)
        list(open_parser.text_string_to_metric_families(text))


LABEL_TEXT = st.text(alphabet='ab"\\n{},= \t', max_size=12)


@settings(max_examples=200)
@given(LABEL_TEXT)
def test_a_label_is_read_as_the_client_wrote_it(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    found = Relayed()
    relay._add_metrics(found.metrics, "a", f'llamacpp:x{{model="{escaped}"}} 1\n'.encode())
    assert found.metrics["llamacpp:x"].samples == [("a", {"model": text}, 1.0)]


def ollama(name: str, endpoint: Endpoint) -> InstanceStatus:
    return status(spec(name, engine="ollama", holds=ModelSet(), endpoint=endpoint))


@heard
def test_the_models_in_the_memory_of_an_ollama_are_told() -> None:
    body = '{"models":[{"name":"tiny:latest","size":100,"size_vram":40},{"model":"b","size":true}]}'
    said = asked({"o": says(body)}, ollama)
    text = shown(said)
    where = {"instance": "o", "model": "tiny:latest"}
    assert value(text, "orchestrate_ollama_model_memory_bytes", **where) == 100
    assert value(text, "orchestrate_ollama_model_gpu_memory_bytes", **where) == 40
    assert value(text, "orchestrate_ollama_model_memory_bytes", model="b") in (0, 1)


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", "{}", '{"models": 7}', "[" * 9000, '{"models": {"a": 1}}']
)
@heard
def test_an_ollama_that_talks_nonsense_is_no_ollama(body: str) -> None:
    assert asked({"o": says(body)}, ollama).answered == {"o": False}


def test_only_those_are_asked_that_have_something_to_say() -> None:
    here = Endpoint("127.0.0.1", 1)
    ready = llama("a", here)
    assert path_of(ready) == "/metrics"
    assert path_of(ollama("a", here)) == "/api/ps"
    assert path_of(status(spec("a"))) == ""
    off = Command(("llama-server",), {"LLAMA_ARG_ENDPOINT_METRICS": "0"}, "/")
    assert path_of(status(spec("a", command=off))) == ""
    on = replace(off, env={"LLAMA_ARG_ENDPOINT_METRICS": "1"})
    assert path_of(status(spec("a", command=on))) == "/metrics"
    for phase in set(Phase) - {Phase.READY}:
        assert path_of(replace(ready, phase=phase)) == ""
