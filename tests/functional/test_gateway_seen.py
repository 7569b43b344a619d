"""What goes through a gateway, as `status`, its watch, its log and the engine itself say it."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_client import ask, asked, stream
from tests.look import status
from tests.machine_has import needs_program
from tests.tmux import Tmux
from tests.world import World, kill

TOKEN = "sk-nobody-may-read-this"

LONG: Any = {"stream": True, "max_tokens": 60000, "ignore_eos": True}
"""A stream that ends when its reader leaves, and not before."""


class Served:
    """A machine with a gateway, and one instance behind it that counts its own tokens."""

    def __init__(self, world: World) -> None:
        self.world, self.port, self.engine = world, world.port(), world.port()

    def apply(self, *words: str, **gateway: Any) -> None:
        flags = {"metrics": True, "ctx-size": 65536, "parallel": 1}
        instances = {"a": {"port": self.engine, "flags": flags, "stop": {"drain": "1s"}}}
        shape = {"port": self.port, **gateway}
        self.world.run("apply", *words, self.world.profile(instances, gateway=shape))

    def requests(self, name: str = "a") -> Any:
        """What is told of an instance, or of the gateway itself."""
        document = status(self.world)
        rows = [*document["instances"], document["gateway"]]
        return next(row["requests"] for row in rows if row["name"] == name)

    def until(self, what: Any, why: str) -> dict[str, Any]:
        """Look until the figures are so; the figures."""

        def there() -> Any:
            figures = self.requests()
            return figures if figures is not None and what(figures) else None

        return self.world.until(there, why)

    def log(self) -> list[dict[str, Any]]:
        """The lines of the gateway's log."""
        said = self.world.run("logs", "gateway").out
        return [json.loads(line) for line in said.splitlines()]

    def line(self, mark: str) -> dict[str, Any]:
        """The line of the request with this id, once it is there."""
        return self.world.until(
            lambda: next((row for row in self.log() if row["id"] == mark), None),
            f"{mark} is logged",
        )

    def counted(self) -> tuple[int, int]:
        """Tokens of prompts that were read anew, and generated ones, as the engine counts."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.engine}/metrics") as answer:
            text = answer.read().decode()
        names = ("prompt_tokens_total", "tokens_predicted_total")
        prompt, generated = (re.search(rf"^llamacpp:{name} (\d+)", text, re.M) for name in names)
        assert prompt is not None
        assert generated is not None
        return int(prompt[1]), int(generated[1])


@pytest.fixture
def served(world: World) -> Served:
    made = Served(world)
    made.apply()
    return made


def test_tokens_are_those_that_the_engine_counts(served: Served) -> None:
    """Streamed or not, in whichever protocol: nobody asked for them."""
    port = served.port
    assert stream(port, "a", max_tokens=17)[-2] == b"data: [DONE]"
    assert ask(port, "a", max_tokens=5)["usage"]["completion_tokens"] == 5
    said = stream(port, "a", "/v1/messages", max_tokens=6)
    assert any(line.startswith(b"event: message_stop") for line in said)
    assert ask(port, "a", "/v1/messages", max_tokens=4)["usage"]["output_tokens"] == 4
    assert stream(port, "a", "/v1/completions", prompt="hi", max_tokens=9)
    assert stream(port, "a", "/v1/responses", input="hi", max_output_tokens=7)
    # Ollama's words, for which llama-server is asked in its own.
    assert json.loads(stream(port, "a", "/api/chat", options={"num_predict": 3})[-1])["done"]
    assert stream(port, "a", "/instances/a/completion", prompt="hi", n_predict=8)
    figures = served.until(lambda one: one["requests"] == 8, "all are over")
    assert figures["outcomes"] == {"2xx": 8}
    assert figures["generated_tokens"] == served.counted()[1] == 17 + 5 + 6 + 4 + 9 + 7 + 3 + 8
    assert figures["prompt_tokens"] >= served.counted()[0] > 0
    assert 0 < figures["first_token_s"] <= figures["request_p95_s"]
    assert figures["tokens_s"] > 0
    row = next(one for one in status(served.world)["gateway"]["names"] if one["name"] == "a")
    assert (row["requests"], row["generated_tokens"]) == (8, figures["generated_tokens"])
    assert row["ready"] == ["a"]


def test_what_is_under_way_is_seen_and_who_leaves_is_counted(served: Served) -> None:
    with asked(served.port, "a", **LONG) as answer:
        waits = threading.Thread(target=ask, args=(served.port, "a"))
        waits.start()
        served.until(lambda one: (one["in_flight"], one["waiting"]) == (1, 1), "both are seen")
        figures = served.until(lambda one: one["tokens_s"] > 0, "it generates")
        assert figures["requests"] == 0
        screen = served.world.run("status").out
        assert re.search(r"REQS +TOK/S +FIRST", screen)
        assert re.search(r"^a .* 1\+1 +[\d.]+ ", screen, re.M)
        assert re.search(r"^gateway: ready at \S+, 1 in flight, 1 waiting, ", screen, re.M)
        assert answer.read(10)
    waits.join(60)
    figures = served.until(lambda one: one["requests"] == 2, "both are over")
    assert figures["outcomes"] == {"2xx": 1, "gone": 1}
    assert figures["failures"] == 0
    # It was not heard to its end: what came by is counted.
    assert figures["generated_tokens"] > 8
    names = served.world.run("status", "gateway").out
    assert re.search(r"NAME +SERVED BY +REQUESTS +FAILED +FELL BACK +TOKENS", names)
    assert re.search(r"^a +a +2 +0 +0 +\d+$", names, re.M)


def test_an_instance_that_breaks_off_is_a_failure_of_its_own(served: Served) -> None:
    pid = served.world.pids()["a"]
    with asked(served.port, "a", headers={"x-request-id": "broken-off"}, **LONG) as answer:
        assert answer.readline()
        kill(pid)
        assert b'"error"' in answer.read()
    row = served.line("broken-off")
    assert (row["status"], row["lost"], row["instance"]) == (200, True, "a")
    figures = served.until(lambda one: one["requests"] == 1, "it is over")
    assert figures["outcomes"] == {"lost": 1}
    assert figures["failures"] == 1
    assert served.requests("gateway")["lately"]["failures"] == 1


def test_a_request_can_be_followed_and_says_nothing_of_what_was_said(served: Served) -> None:
    secret = "the launch code is 0000"
    said: Any = {"messages": [{"role": "user", "content": secret}]}
    headers = {"x-request-id": "mine-1", "authorization": f"Bearer {TOKEN}", "x-client-id": "ci"}
    with asked(served.port, "a", headers=headers, **said) as answer:
        assert answer.headers["x-request-id"] == "mine-1"
        answer.read()
    row = served.line("mine-1")
    assert (row["client"], row["model"], row["instance"], row["status"]) == ("ci", "a", "a", 200)
    assert (row["generated_tokens"], row["retries"], row["fallbacks"]) == (8, 0, 0)
    assert row["first_byte_ms"] <= row["ms"]
    assert row["bytes"] > 0
    for odd in ("x" * 200, "a b", "caf\xe9", ""):
        with asked(served.port, "nobody", headers={"x-request-id": odd}) as answer:
            assert answer.status == 404
            mark = answer.headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{16}", mark)
        assert served.line(mark)["instance"] == ""
    assert "launch code" not in str(served.log())
    for file in (served.world.state / "logs").rglob("*"):
        assert not file.is_file() or TOKEN not in file.read_text("utf-8", "replace")


def test_the_profile_says_what_is_logged_and_an_edit_is_taken_up_at_once(served: Served) -> None:
    pid = status(served.world)["gateway"]["pid"]
    served.apply(log={"content": True})
    ask(
        served.port,
        "a",
        headers={"x-request-id": "with-content"},
        messages=[{"role": "user", "content": "hello there"}],
    )
    assert "hello there" in served.line("with-content")["content"]
    served.apply(log="errors")
    ask(served.port, "a", headers={"x-request-id": "well"})
    ask(served.port, "nobody", headers={"x-request-id": "unknown"})
    assert served.line("unknown")["status"] == 404
    served.apply(log="off")
    ask(served.port, "nobody", headers={"x-request-id": "silent"})
    served.apply(log="all")
    ask(served.port, "a", headers={"x-request-id": "again"})
    assert "content" not in served.line("again")
    assert not {"well", "silent"} & {row["id"] for row in served.log()}
    assert status(served.world)["gateway"]["pid"] == pid


def test_a_log_that_is_wrong_is_refused_before_anything_is_touched(world: World) -> None:
    made = Served(world)
    for wrong, hint in (("some", "errors"), ({"prompts": True}, "content"), (True, "log")):
        shape = {"port": made.port, "log": wrong}
        path = world.profile({"a": None}, gateway=shape)
        ran = world.run("apply", path, ok=False)
        assert ran.code == 2
        assert f"{path}:" in ran.err
        assert hint in ran.err
    assert world.run("status", ok=False).code == 3


def test_what_was_counted_outlives_the_daemon_and_not_the_gateway(served: Served) -> None:
    ask(served.port, "a")
    served.until(lambda one: one["requests"] == 1, "it is counted")
    served.world.run("daemon", "restart")
    assert served.until(lambda one: one["requests"] == 1, "the next one is told")
    kill(status(served.world)["gateway"]["pid"])
    served.until(lambda one: one["requests"] == 0, "it begins anew")


@needs_program("tmux")
def test_the_watch_shows_it_live(served: Served, tmp_path: Path) -> None:
    with Tmux(tmp_path, served.world.env, columns=130) as tmux:
        tmux.start(served.world.command("status", "--watch"))
        tmux.until_shown("converged: 1 of 1 ready", "gateway: ready at", "0 in flight")
        with asked(served.port, "a", **LONG):
            tmux.until_shown("1 in flight", "REQS")
            tmux.until(lambda screen: re.search(r"tokens/s", screen), "what it generates")
        screen = tmux.until_shown("requests 1  now 0", "0 in flight")
        assert "tokens " in screen
        tmux.press("q")
        tmux.until(lambda _: not tmux.on_other_screen(), "the shell's screen")
