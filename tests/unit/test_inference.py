"""What an inference probe means, and how long a model that is asked stays in memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.core.hold import Hold, Terms, held, terms
from orchestrator.core.liveness import Outcome, judge
from orchestrator.core.residency import FOREVER, Loaded
from orchestrator.core.spec import Endpoint, Inference
from tests.unit.test_llama_server import launch

# --- judging --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "kind", "counts"),
    [
        (Outcome(0.01, 200), "healthy", False),
        (Outcome(4.99, 200), "healthy", False),
        (Outcome(5.0, 200), "slow", False),
        (Outcome(15.0, None), "down", True),
        (Outcome(0.001, None), "down", True),
        (Outcome(15.0, None, busy="every slot is generating"), "slow", False),
        (Outcome(0.1, 500), "down", True),
        (Outcome(0.1, 502), "down", True),
        # It loads, or is full: no use to anybody, but it does not hang.
        (Outcome(0.1, 503), "down", False),
        (Outcome(0.1, 503, busy="its queue is full"), "slow", False),
        # A key that is not known here, a model that does no such thing.
        (Outcome(0.1, 401), "healthy", False),
        (Outcome(0.1, 400), "healthy", False),
        (Outcome(0.1, 501), "healthy", False),
        (Outcome(6.0, 404), "slow", False),
    ],
)
def test_a_probe_is_judged(outcome: Outcome, kind: str, counts: bool) -> None:
    verdict = judge(outcome, slow=5.0)
    assert (verdict.kind, verdict.counts) == (kind, counts)


def test_what_a_server_says_of_itself_is_told() -> None:
    assert judge(Outcome(0.0312, 200), slow=5).message == "a token after 0.031 s"
    refused = judge(Outcome(0.1, 401, said="Invalid API Key"), slow=5)
    assert refused.message == "refuses the probe: answers 401: Invalid API Key"
    assert judge(Outcome(15.0, None), slow=5).message == "no answer after 15 s, asked for a token"
    busy = judge(Outcome(15.0, None, busy="every slot is generating"), slow=5)
    assert busy.message == "busy: no answer after 15 s, every slot is generating"


# --- what a llama-server is asked -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ({}, "/completion"),
        ({"embeddings": False}, "/completion"),
        ({"embeddings": True}, "/embedding"),
        ({"embedding": True}, "/embedding"),
        ({"reranking": True}, "/v1/rerank"),
        ({"rerank": True, "embeddings": True}, "/v1/rerank"),
    ],
)
def test_a_llama_server_is_asked_for_what_it_does(flags: dict[str, bool], path: str) -> None:
    asked = launch(dict(flags)).inference
    assert asked is not None
    assert asked.path == path


def test_what_it_does_may_be_said_in_other_places() -> None:
    by_args = launch(args=("--embedding",)).inference
    by_env = launch(env={"LLAMA_ARG_RERANKING": "1"}).inference
    by_neither = launch(env={"LLAMA_ARG_RERANKING": "0"}).inference
    assert by_args is not None
    assert by_args.path == "/embedding"
    assert by_env is not None
    assert by_env.path == "/v1/rerank"
    assert by_neither == Inference(
        "/completion", '{"prompt": [0], "n_predict": 1, "cache_prompt": false}'
    )


def test_one_that_is_to_fall_asleep_is_asked_for_nothing() -> None:
    assert launch({"sleep-idle-seconds": 300}).inference is None


def test_the_prefix_is_the_endpoint_s_own() -> None:
    done = launch({"api-prefix": "/llm"})
    assert done.endpoint == Endpoint("127.0.0.1", 8081, prefix="/llm")
    assert done.inference is not None
    assert done.inference.path == "/completion"


# --- how long a model of an Ollama stays ----------------------------------------------------------


class Server:
    """Ollama's clockwork for one model: what a request says of its stay holds for the next."""

    def __init__(self, keep_alive: float) -> None:
        self.now, self.keep_alive, self.expires_at = 1000.0, keep_alive, 1000.0
        self.request(keep_alive)

    def request(self, keep_alive: float | None = None) -> None:
        if keep_alive is not None:
            self.keep_alive = math.inf if keep_alive < 0 else keep_alive
        self.expires_at = self.now + self.keep_alive

    @property
    def there(self) -> bool:
        return self.expires_at > self.now

    @property
    def shown(self) -> Loaded:
        return Loaded("m:latest", "", self.expires_at)


class Prober:
    """What is done with a model, probe after probe."""

    def __init__(self, server: Server, interval: float) -> None:
        self.server, self.interval = server, interval
        self.hold: Hold | None = None

    def probe(self, takes: float = 0.001) -> Terms | None:
        """After `takes` seconds it is over."""
        server = self.server
        if not server.there:
            self.hold = None
            return None
        before = server.shown
        asked = terms(before, self.hold, now=server.now, interval=self.interval)
        if asked is not None:
            server.now += takes
            server.request(asked.keep_alive)
            self.hold = held(asked, self.hold, before=before, after=server.shown, now=server.now)
        return asked


def test_a_pinned_model_stays_pinned() -> None:
    pinned = Loaded("m:latest", "", FOREVER)
    assert terms(pinned, None, now=1000.0, interval=30.0) == Terms(-1)


def test_a_model_that_is_used_past_its_time_is_asked_without_a_word_on_its_stay() -> None:
    known = Hold(990.0, 990.0, told=100.0, full=300.0)
    overdue = Loaded("m:latest", "", 990.0)
    asked = terms(overdue, known, now=1000.0, interval=30.0)
    assert asked is not None
    assert asked == Terms()
    # What was said to it before is still to be put right.
    after = held(asked, known, before=overdue, after=replace(overdue, expires_at=1100.0), now=1000)
    assert after == Hold(1100.0, 1100.0, told=100.0, full=300.0)


@given(
    keep=st.floats(10.0, 4000.0),
    interval=st.floats(1.0, 60.0),
    uses=st.lists(st.floats(1.0, 5000.0), max_size=6),
)
def test_a_model_leaves_when_it_would_or_an_interval_later(
    keep: float, interval: float, uses: list[float]
) -> None:
    server = Server(keep)
    prober = Prober(server, interval)
    due = server.now + interval
    for idle in uses:
        server.request()
        used = server.now
        # The probes go on at their own pace, whenever it is used.
        while due < used + idle:
            server.now = due
            prober.probe()
            due += interval
        server.now = used + idle
        leaves = server.expires_at - used
        assert leaves <= keep + interval + 0.1
        assert server.there or leaves >= keep - 0.1
        if not server.there:
            server.request(keep)


def test_probes_that_take_their_time_do_not_add_up() -> None:
    server = Server(300.0)
    prober = Prober(server, 30.0)
    prober.probe()
    leaves = server.expires_at
    for _ in range(7):
        server.now += 30.0
        assert prober.probe(takes=4.0) is not None
        assert server.expires_at == pytest.approx(leaves + 4.0)


def test_a_use_between_two_probes_is_held_as_long_as_ever() -> None:
    server = Server(300.0)
    prober = Prober(server, 30.0)
    prober.probe()
    for _ in range(5):
        server.now += 30.0
        prober.probe()
    assert server.expires_at == pytest.approx(1300.0, abs=0.1)
    server.now += 10.0
    server.request()
    assert server.expires_at < server.now + 200.0
    server.now += 20.0
    asked = prober.probe()
    assert asked is not None
    assert (asked.keep_alive, asked.restores) == (pytest.approx(300.0), True)
    assert server.expires_at == pytest.approx(server.now + 300.0)


def test_another_word_of_somebody_is_taken_up() -> None:
    server = Server(300.0)
    prober = Prober(server, 30.0)
    prober.probe()
    server.now += 30.0
    prober.probe()
    server.request(3600.0)
    server.now += 30.0
    assert prober.probe() == Terms()
    assert server.expires_at == pytest.approx(server.now + 3600.0)


def test_a_model_that_is_about_to_leave_is_left_alone() -> None:
    server = Server(70.0)
    prober = Prober(server, 30.0)
    assert prober.probe() == Terms()
    server.now += 30.0
    assert prober.probe() is None
    server.now += 30.0
    assert prober.probe() is None
    server.now += 30.0
    assert not server.there
