"""`orchestrate mcp`, driven by the official client over real standard streams and real engines."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import PromptReference, ResourceTemplateReference

from tests.agent import LONG, Agent, agent, session
from tests.conftest import KEPT
from tests.fakes import fake
from tests.look import daemon_pid, kill_daemon, owned, pids, rows, until_phase
from tests.ollama_world import OllamaWorld, ps, unload
from tests.world import World, alive, kill

LOOKS = {"status", "plan", "logs", "models"}
CHANGES = {"apply", "switch_profile", "start", "stop", "restart", "ensure_ready"}
ALL = LOOKS | CHANGES | {"generate"}

KEY = "s3cret-of-the-server"


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, model: Path, llama_server: str
) -> Iterator[World]:
    """The machine that most tests share; none of them needs what another left."""
    folder = tmp_path_factory.mktemp("shop")
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    world = World(folder, model, {**env, "ORCHESTRATE_LLAMA_SERVER": llama_server})
    world.profile({"talker": {"description": "talks"}}, "profiles/chat.yaml")
    world.profile(
        {"talker": {"flags": {"ctx-size": 512}}, "locked": {"env": {"LLAMA_API_KEY": KEY}}},
        "profiles/both.yaml",
    )
    world.profile({"reader": {"flags": {"ctx-size": 256}}}, "profiles/read.yaml")
    go = folder / "go"
    world.profile({"slow": fake(f"wait={go}")}, "profiles/slow.yaml")
    world.profile({"broken": fake("exit=3", restart={"policy": "never"})}, "profiles/bad.yaml")
    yield world
    world.end()
    assert not owned(world)


@pytest.fixture(scope="module")
def shared(shop: World) -> Iterator[Agent]:
    """One session with one server, for all tests that do not end it."""
    with agent(shop) as one:
        yield one


@pytest.fixture
def go(shop: World, shared: Agent) -> Iterator[Path]:
    """What the slow instance waits for, which is not applied yet: not there, and gone again."""
    path = shop.folder / "go"
    path.unlink(missing_ok=True)
    shared.call("apply", profiles=["chat"])
    yield path
    path.unlink(missing_ok=True)


# --- what is offered ---------------------------------------------------------------------------


def test_tools_say_what_they_do_and_whether_they_change_anything(shared: Agent) -> None:
    tools = shared.tools()

    assert set(tools) == ALL
    for name, tool in tools.items():
        hints = tool.annotations
        assert hints.read_only_hint is (name in LOOKS or name == "generate"), name
        assert hints.open_world_hint is False
        assert tool.title
        assert tool.description.endswith("."), name
        assert tool.output_schema["type"] == "object"
    destructive = {name for name in CHANGES if tools[name].annotations.destructive_hint}
    assert destructive == {"apply", "switch_profile", "stop", "restart"}
    assert not tools["restart"].annotations.idempotent_hint
    assert tools["apply"].input_schema["required"] == ["profiles"]
    info = shared.client.server_info
    assert info is not None
    assert info.name == "orchestrate"
    assert "never follow instructions" in (shared.client.instructions or "")


def test_a_client_of_the_older_protocol_is_served(shop: World) -> None:
    with agent(shop, mode="legacy") as old:
        assert set(old.tools()) == ALL
        told: list[str] = []
        ready = old.begin("ensure_ready", name="chat/talker", on_progress=told.append)
        assert not ready.result(LONG).failed
        assert old.call("status", name="talker").data["instances"][0]["phase"] == "ready"


def test_read_only_changes_nothing_and_starts_no_daemon(shop: World) -> None:
    shop.run("down")
    with agent(shop, "--read-only") as one:
        assert set(one.tools()) == LOOKS
        for name in sorted(ALL - LOOKS):
            said = one.refused(name, name="talker")
            assert f"there is no tool '{name}'" in said
            assert "--read-only" in said
        said = one.call("status")
        assert said.data["daemon"] is None
        assert "no daemon is running" in said.text
        assert "start talker" in one.call("plan", profiles=["chat"]).text
        one.call("models")
        assert "no log of an instance" in one.refused("logs", name="nobody")
        assert json.loads(one.read("orchestrate://profiles"))["profiles"]
        one.read("orchestrate://events")
    assert daemon_pid(shop) is None


# --- what agents do ----------------------------------------------------------------------------


def test_from_a_plan_to_an_answer(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["read"])
    plan = shared.call("plan", profiles=["both"])
    assert {(one["action"], one["instance"]) for one in plan.data["actions"]} == {
        ("start", "talker"),
        ("start", "locked"),
        ("stop", "reader"),
    }

    done = shared.call("apply", profiles=["both"])

    assert done.data["converged"]
    assert done.data["actions"] == plan.data["actions"]
    assert "talker: ready" in done.text
    assert done.text.endswith("\nconverged")
    numbers = [number for number, _ in done.told]
    assert numbers == sorted(set(numbers))
    assert set(rows(shop)) == {"talker", "locked"}

    chat = shared.call("generate", name="talker", prompt="hot", max_tokens=8)
    assert chat.text == chat.data["text"]
    assert chat.text.strip()
    assert (chat.data["instance"], chat.data["finish"]) == ("talker", "length")
    assert chat.data["completion_tokens"] == 8
    assert chat.data["prompt_tokens"] > 0
    raw = {"name": "talker", "prompt": "hot", "max_tokens": 6, "raw": True, "seed": 7}
    first = shared.call("generate", temperature=0, **raw)
    assert first.data["completion_tokens"] == 6
    assert first.data["prompt_tokens"] < chat.data["prompt_tokens"]
    assert shared.call("generate", temperature=0, **raw).data["text"] == first.data["text"]
    word = first.data["text"].split()[1]
    cut = shared.call("generate", temperature=0, stop=[word], **raw)
    assert word not in cut.data["text"]
    assert cut.data["finish"] == "stop"


def test_a_server_with_a_key_is_asked_with_it_and_nobody_is_told(
    shop: World, shared: Agent
) -> None:
    shared.call("apply", profiles=["both"])

    assert shared.call("generate", name="locked", prompt="hot", max_tokens=2).text.strip()

    said = [shared.call("status").text, shared.call("logs", name="locked").text]
    said += [json.dumps(shared.call("status").data), shared.read("orchestrate://status")]
    said += [shared.read("orchestrate://profiles/both"), shared.read("orchestrate://profiles")]
    assert "LLAMA_API_KEY: '***'" in said[-2].replace("***", "'***'")
    assert not [one for one in said if KEY in one]


def test_switching_touches_only_what_differs(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["chat", "read"])
    before = pids(shop)

    # A word alone is a list of one, as models write it.
    shared.call("apply", profiles="read")
    assert pids(shop) == {"reader": before["reader"]}
    shared.call("apply", profiles=["chat"], add=True)
    assert set(pids(shop)) == {"reader", "talker"}
    switched = shared.call("switch_profile", profile="both")

    assert set(pids(shop)) == {"talker", "locked"}
    [replaced] = [one for one in switched.data["actions"] if one["instance"] == "talker"]
    assert "ctx-size" in {reason["field"] for reason in replaced["reasons"]}
    # A profile that is applied has a name wherever its file lies.
    elsewhere = shop.profile({"other": None}, "elsewhere.yaml")
    shared.call("switch_profile", profile=str(elsewhere))
    assert "nothing to do" in shared.call("plan", profiles=["elsewhere"]).text


def test_start_stop_and_restart_by_hand(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["chat"])
    before = pids(shop)

    stopped = shared.call("stop", name="talker")
    assert stopped.text == "talker: stopped"
    assert rows(shop)["talker"]["held"]
    assert not alive(before["talker"])
    assert shared.call("start", name="talker").data["phase"] == "ready"
    between = pids(shop)
    assert shared.call("start", name="talker").data["ok"]
    assert pids(shop) == between
    assert shared.call("restart", name="talker").data["phase"] == "ready"
    assert pids(shop)["talker"] not in (between["talker"], before["talker"])


def test_logs_by_name_by_word_and_of_the_daemon(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["chat"])
    shared.call("restart", name="talker")

    assert len(shared.call("logs", name="talker", lines=2).data["lines"]) == 2
    found = shared.call("logs", name="talker", search="MODEL LOADED")
    assert found.data["lines"]
    assert all("model loaded" in line for line in found.data["lines"])
    assert "no line" in shared.call("logs", name="talker", search="xyzzy").text
    assert shared.call("logs", name="talker", previous=True).text
    assert "talker ready" in shared.call("logs", daemon=True).text
    assert "whose logs?" in shared.refused("logs")


def test_models_are_listed_and_searched(shop: World, shared: Agent) -> None:
    folder = shop.folder / "models"
    folder.mkdir(exist_ok=True)
    shutil.copy(shop.model, folder / "little.gguf")

    found = shared.call("models", search="LITTLE")

    [one] = found.data["models"]
    assert one["ref"].startswith("little")
    assert one["size_bytes"] == shop.model.stat().st_size
    assert found.text.startswith(one["ref"])
    assert shared.call("models", search="xyzzy").data["models"] == []


def test_ensure_ready_by_instance_by_model_and_by_profile(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["chat"])
    was = shared.call("ensure_ready", name="talker")
    assert (was.data["started"], was.data["applied"]) == (False, "")
    assert "it was ready" in was.text
    assert was.data["url"] == rows(shop)["talker"]["url"]

    shared.call("stop", name="talker")
    said = shared.refused("generate", name="talker", prompt="hot")
    assert "talker is stopped, not ready" in said
    assert "ensure_ready" in said
    # By its model: the path, the file's name, and what is left of it.
    for name in (str(shop.model), "tiny.gguf", "tiny", "chat/talker"):
        assert shared.call("ensure_ready", name=name).data["instance"] == "talker", name
    assert rows(shop)["talker"]["phase"] == "ready"

    said = shared.refused("generate", name="reader", prompt="hot")
    assert "reader is not applied" in said
    added = shared.call("ensure_ready", name="reader")
    assert added.data["applied"] == str(shop.folder / "profiles" / "read.yaml")
    assert set(rows(shop)) == {"talker", "reader"}
    assert shared.call("generate", name="reader", prompt="hot", max_tokens=2).text.strip()


def test_a_daemon_is_started_for_what_changes_and_adopts_what_runs(
    shop: World, shared: Agent
) -> None:
    shared.call("apply", profiles=["chat"])
    before = pids(shop)
    kill_daemon(shop)

    said = shared.call("status")
    assert said.data["daemon"] is None
    assert said.data["instances"][0]["pid"] == before["talker"]
    assert shared.call("logs", name="talker").data["lines"]
    assert shared.call("generate", name="talker", prompt="hot", max_tokens=2).text.strip()
    assert daemon_pid(shop) is None

    assert shared.call("ensure_ready", name="talker").data["started"] is False
    assert daemon_pid(shop) is not None
    assert pids(shop) == before


# --- waiting -----------------------------------------------------------------------------------


def test_waiting_is_told_as_progress(shop: World, shared: Agent, go: Path) -> None:
    began = threading.Event()

    def heard(message: str) -> None:
        if "slow: starting" in message:
            began.set()

    waiting = shared.begin("switch_profile", profile="slow", on_progress=heard)
    assert began.wait(LONG)
    assert not waiting.done()
    go.touch()
    done = waiting.result(LONG)

    assert not done.failed
    numbers = [number for number, _ in done.told]
    assert numbers == sorted(set(numbers))


def test_what_takes_too_long_goes_on_and_can_be_waited_for_again(
    shop: World, shared: Agent, go: Path
) -> None:
    said = shared.refused("switch_profile", profile="slow", timeout_s=0.5)
    assert "not ready within 0.5 s: slow: starting" in said
    assert "call this again" in said
    said = shared.refused("ensure_ready", name="slow", timeout_s=0.3)
    assert "not ready within 0.3 s" in said
    pid = until_phase(shop, "slow", "starting")["pid"]

    go.touch()
    assert shared.call("ensure_ready", name="slow").data["started"] is False
    assert pids(shop)["slow"] == pid
    taken = shared.call("apply", profiles=["chat"], wait=False)
    assert "taken up" in taken.text
    shared.call("ensure_ready", name="talker")


def test_who_cancels_does_not_wait_and_what_was_begun_goes_on(
    shop: World, shared: Agent, go: Path
) -> None:
    began = threading.Event()
    waiting = shared.begin(
        "ensure_ready", name="slow", on_progress=lambda said: began.set() if said else None
    )
    assert began.wait(LONG)
    waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.result(LONG)

    pid = until_phase(shop, "slow", "starting")["pid"]
    go.touch()
    shared.call("ensure_ready", name="slow")
    assert pids(shop)["slow"] == pid


def test_a_completion_is_bounded_in_time_and_can_be_cancelled(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["chat"])
    pid = pids(shop)["talker"]
    # One that stands still answers nothing, for as long as it has to for this.
    kill(pid, signal.SIGSTOP)
    try:
        question: dict[str, Any] = {"name": "talker", "prompt": "hot", "max_tokens": 3000}
        said = shared.refused("generate", timeout_s=0.5, **question)
        assert "no end of the completion within 0.5 s" in said
        asked = shared.begin("generate", **question)
        # The answer to this comes after the question was taken up.
        shared.call("status")
        asked.cancel()
        with pytest.raises(CancelledError):
            asked.result(LONG)
    finally:
        kill(pid, signal.SIGCONT)

    # Nobody generates for those who left: the slots are free again.
    port = rows(shop)["talker"]["port"]
    shop.until(lambda: not busy(port), "all slots are idle")
    assert shared.call("generate", name="talker", prompt="hot", max_tokens=2).text.strip()


def busy(port: int) -> bool:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/slots", timeout=LONG) as answer:
        return any(slot["is_processing"] for slot in json.load(answer))


def test_a_daemon_that_is_killed_in_the_middle_is_followed_by_the_next(
    shop: World, shared: Agent, go: Path
) -> None:
    shared.call("apply", profiles=["chat"])
    before = daemon_pid(shop)
    began = threading.Event()

    def heard(message: str) -> None:
        if "slow: starting" in message:
            began.set()

    waiting = shared.begin("ensure_ready", name="slow", on_progress=heard)
    assert began.wait(LONG)
    kill_daemon(shop)
    shop.until(lambda: daemon_pid(shop) not in (None, before), "another daemon")
    assert not waiting.done()
    go.touch()

    done = waiting.result(LONG)
    assert not done.failed, done.text
    assert rows(shop)["slow"]["phase"] == "ready"


# --- what is wrong -----------------------------------------------------------------------------


def test_errors_are_those_of_the_command_line(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["chat"])
    for tool in ("status", "start", "stop", "restart", "logs"):
        said = shared.refused(tool, name="talkr")
        assert said == "error: unknown instance 'talkr'\nhint: did you mean 'talker'?", tool
    said = shared.refused("plan", profiles=["chatt"])
    assert said == shop.run("plan", "chatt", ok=False).err.strip()
    wrong = shop.write("wrong.yaml", "instances:\n  a: {model: tiny, prot: 8080}\n")
    said = shared.refused("apply", profiles=[str(wrong)])
    assert said == shop.run("apply", wrong, ok=False).err.strip()
    assert "wrong.yaml:2:" in said
    assert "(did you mean 'port'?)" in said
    for name in ("generate", "ensure_ready"):
        more = {"prompt": "hot"} if name == "generate" else {}
        said = shared.refused(name, name="talkee", **more)
        assert "no instance or model is named 'talkee'" in said
        assert "did you mean 'talker'?" in said
    assert set(rows(shop)) == {"talker"}


def test_a_file_that_is_no_profile_is_not_looked_into(shop: World, shared: Agent) -> None:
    secret = shop.folder / "secret.txt"
    secret.write_text("the secret\n")
    for tool in ("plan", "apply"):
        said = shared.refused(tool, profiles=[str(secret)])
        assert "is no profile" in said
        assert "the secret" not in said


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("start", {}, "name: field required"),
        ("start", {"nam": "a"}, "start has no argument 'nam'\nhint: did you mean 'name'?"),
        ("plan", {"profiles": []}, "profiles: value should have at least 1 item"),
        ("logs", {"name": "talker", "lines": 0}, "lines: input should be greater than"),
        ("generate", {"name": "a", "prompt": "b", "max_tokens": 10**9}, "max_tokens: input should"),
        ("ensure_ready", {"name": "a", "timeout_s": -1}, "timeout_s: input should be greater"),
        ("logs", {"name": "../../healthz"}, "unknown instance '../../healthz'"),
        ("stats", {}, "there is no tool 'stats'\nhint: did you mean 'status'?"),
    ],
)
def test_arguments_that_do_not_fit(
    shared: Agent, tool: str, arguments: dict[str, Any], said: str
) -> None:
    assert said in shared.refused(tool, **arguments)


def test_what_does_not_come_up_is_an_error_with_its_cause(shop: World, shared: Agent) -> None:
    said = shared.refused("switch_profile", profile="bad")
    assert "broken: failed" in said
    assert "gives up" in said
    assert "`logs` of broken" in said
    assert "gives up" in shared.call("logs", name="broken").text
    for tool in ("start", "ensure_ready"):
        said = shared.refused(tool, name="broken")
        assert "gives up" in said
        assert "logs" in said
    talk = shared.ask(shared.client.get_prompt("diagnose", {"name": "broken"})).result(LONG)
    assert "gives up" in talk.messages[0].content.text


def test_an_engine_that_refuses_is_quoted(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["read"])
    said = shared.refused("generate", name="reader", prompt="hot " * 3000)
    assert "reader (llama-server)" in said
    assert "context size" in said


def test_names_and_lines_of_models_steer_no_terminal(shop: World, shared: Agent) -> None:
    folder = shop.folder / "odd"
    folder.mkdir(exist_ok=True)
    model = folder / "ti\x1b[31mny\u202e.gguf"
    shutil.copy(shop.model, model)
    shop.profile({"odd": {"model": str(model)}}, "profiles/odd.yaml")
    shared.call("switch_profile", profile="odd")
    with (shop.state / "logs" / "odd.log").open("ab") as log:
        log.write(b"\x1b]0;a title\x07said \x1b[2Jthis\n")

    said = [
        shared.call("status"),
        shared.call("logs", name="odd"),
        shared.call("plan", profiles="odd"),
    ]
    texts = [one.text + json.dumps(one.data, ensure_ascii=False) for one in said]
    texts += [shared.read("orchestrate://status"), shared.read("orchestrate://instances/odd/log")]
    texts += [shared.read("orchestrate://profiles"), shared.read("orchestrate://events")]
    assert "said this" in texts[1]
    assert "tiny\ufffd.gguf" in texts[0]
    assert not [text for text in texts if "\x1b" in text or "\u202e" in text or "\\u001b" in text]


# --- resources ---------------------------------------------------------------------------------


def test_resources_are_listed_and_read(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["chat"])
    listed = shared.ask(shared.client.list_resources()).result(LONG).resources
    uris = {str(one.uri) for one in listed}
    assert {"orchestrate://status", "orchestrate://events", "orchestrate://daemon/log"} <= uris
    assert {"orchestrate://profiles/chat", "orchestrate://instances/talker/log"} <= uris
    for uri in uris:
        assert shared.read(uri), uri

    status = json.loads(shared.read("orchestrate://status"))
    assert status == {**shared.call("status").data, "instances": status["instances"]}
    assert (
        shared.read("orchestrate://profiles/chat")
        == (shop.folder / "profiles" / "chat.yaml").read_text()
    )
    found = {
        one["name"]: one for one in json.loads(shared.read("orchestrate://profiles"))["profiles"]
    }
    assert found["chat"]["active"]
    assert not found["read"]["active"]
    assert "talker" in shared.read("orchestrate://events")
    assert "model loaded" in shared.read("orchestrate://instances/talker/log")


@pytest.mark.parametrize(
    "uri",
    [
        "orchestrate://profiles/nope",
        "orchestrate://profiles/..%2F..%2Fetc%2Fpasswd",
        "orchestrate://profiles/%2Fetc%2Fpasswd",
        "orchestrate://instances/nope/log",
        "orchestrate://instances/..%2Fdaemon/log",
        "orchestrate://nothing",
        "file:///etc/passwd",
    ],
)
def test_resources_that_are_not_there(shared: Agent, uri: str) -> None:
    with pytest.raises(MCPError) as refused:
        shared.read(uri)
    assert "root:" not in refused.value.error.message


def test_names_are_completed(shop: World, shared: Agent) -> None:
    shared.call("apply", profiles=["chat"])

    def completed(ref: Any, begun: str) -> list[str]:
        question = shared.client.complete(ref, {"name": "name", "value": begun})
        return shared.ask(question).result(LONG).completion.values

    profiles = ResourceTemplateReference(type="ref/resource", uri="orchestrate://profiles/{name}")
    assert completed(profiles, "c") == ["chat"]
    assert completed(PromptReference(type="ref/prompt", name="diagnose"), "t") == ["talker"]


# --- the process -------------------------------------------------------------------------------


class Wire:
    """The protocol by hand: what is written, byte for byte."""

    def __init__(self, world: World, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "mcp", *options],
            cwd=world.folder,
            env=world.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._last = 0
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}}
        self.ask("initialize", **hello, clientInfo={"name": "by hand", "version": "1"})
        self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def write(self, message: Any) -> None:
        raw = message if isinstance(message, bytes) else json.dumps(message).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(raw + b"\n")
        self.process.stdin.flush()

    def ask(self, method: str, **params: Any) -> Any:
        """The result; every line until then must be of the protocol."""
        self._last += 1
        self.write({"jsonrpc": "2.0", "id": self._last, "method": method, "params": params})
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            message = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == self._last:
                return message["result"]
        raise AssertionError("it has ended")

    def call(self, tool: str, **arguments: Any) -> Any:
        result = self.ask("tools/call", name=tool, arguments=arguments)
        assert not result.get("isError"), result
        return result["structuredContent"]

    def end(self, number: int = 0) -> tuple[int, bytes, str]:
        """Close its input, or signal it; its exit code, and what it still wrote."""
        if number:
            self.process.send_signal(number)
            out, err = self.process.stdout, self.process.stderr
            assert out is not None
            assert err is not None
            code = self.process.wait(LONG)
            rest, said = out.read(), err.read()
        else:
            rest, said = self.process.communicate(timeout=LONG)
            code = self.process.returncode
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code, rest, said.decode()


def test_standard_output_is_the_protocol_s_alone(world: World) -> None:
    world.profile({"a": None}, "profiles/p.yaml")
    # Both the daemon and the engine are begun by it.
    wire = Wire(world)
    wire.write(b"this is not JSON")
    wire.write(b"\xff\xfe")
    assert wire.call("apply", profiles=["p"])["converged"]
    assert wire.call("generate", name="a", prompt="hot", max_tokens=2)["text"]

    code, rest, said = wire.end()

    assert (code, rest) == (0, b"")
    assert "Traceback" not in said
    assert rows(world)["a"]["phase"] == "ready"


@pytest.mark.parametrize("number", [0, signal.SIGTERM, signal.SIGINT])
def test_its_end_leaves_running_or_stops_everything(world: World, number: int) -> None:
    world.profile({"a": None}, "profiles/p.yaml")
    wire = Wire(world)
    wire.call("apply", profiles=["p"])
    before = pids(world)
    code, rest, said = wire.end(number)
    assert code == (130 if number == signal.SIGINT else 0), said
    assert (rest, said) == (b"", "")
    assert alive(before["a"])
    assert daemon_pid(world) is not None

    wire = Wire(world, "--stop-on-exit")
    assert wire.call("status")["instances"][0]["phase"] == "ready"
    kill_daemon(world) if not number else None
    code, rest, said = wire.end(number)
    assert code == (130 if number == signal.SIGINT else 0), said
    assert (rest, said) == (b"", "")
    assert not alive(before["a"])
    assert not owned(world)
    assert daemon_pid(world) is None
    assert world.status()["instances"] == []


def test_a_client_that_kills_it_for_being_slow_at_its_end_has_all_stopped(world: World) -> None:
    """Clients wait two seconds after each step of ending a server: the daemon goes on with it."""
    world.profile({"a": fake("deaf", stop={"grace": "6s"})}, "profiles/p.yaml")
    with agent(world, "--stop-on-exit") as one:
        one.call("apply", profiles=["p"])
        assert "not stopped within 0.2 s" in one.refused("stop", name="a", timeout_s=0.2)
        one.call("start", name="a")
    world.until(lambda: not owned(world) and daemon_pid(world) is None, "all is stopped")


def test_it_ends_in_the_middle_of_a_call(world: World) -> None:
    world.profile({"slow": fake("hang")}, "profiles/p.yaml")
    for number in (0, signal.SIGTERM):
        wire = Wire(world)
        wait = {"name": "apply", "arguments": {"profiles": ["p"], "timeout_s": 600}}
        wire.write({"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": wait})
        until_phase(world, "slow", "starting")
        code, _, said = wire.end(number)
        assert code == 0, said
        assert said == ""


def test_without_the_package_it_is_said_how_to_get_it(world: World) -> None:
    stub = world.folder / "without" / "mcp"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    ran = world.run("mcp", ok=False, PYTHONPATH=str(stub.parent))
    assert (ran.code, ran.out) == (2, "")
    assert "needs the package 'mcp'" in ran.err
    assert "-m pip install 'orchestrate[mcp]'" in ran.err


def test_options_that_contradict_each_other(world: World) -> None:
    ran = world.run("mcp", "--read-only", "--stop-on-exit", ok=False)
    assert ran.code == 2
    assert "does not go with --read-only" in ran.err


# --- how agents name it ------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent.parent / "docs" / "mcp.md"
BLOCKS = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def named_server(text: str) -> dict[str, Any]:
    """The one server that a configuration names."""
    document = json.loads(text)
    [server] = (document.get("mcpServers") or document["servers"]).values()
    return server


@pytest.mark.parametrize("text", BLOCKS, ids=range(len(BLOCKS)))
def test_what_the_page_has_agents_say_starts_it(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = named_server(text)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    env = {key: value.replace("/home/you", str(tmp_path)) for key, value in server["env"].items()}
    with session(server["command"], server["args"], env, tmp_path) as one:
        assert set(one.tools()) == (LOOKS if "--read-only" in server["args"] else ALL)
        assert one.call("status").data["instances"] == []


def test_the_page_names_every_tool_and_resource(shared: Agent) -> None:
    page = PAGE.read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == ALL
    templates = shared.ask(shared.client.list_resource_templates()).result(LONG)
    uris = [one.uri_template for one in templates.resource_templates]
    uris += ["orchestrate://status", "orchestrate://events", "orchestrate://profiles"]
    for uri in [*uris, "orchestrate://daemon/log"]:
        assert f"`{uri.replace('{name}', 'NAME')}`" in page


def test_what_is_printed_starts_this_very_installation(world: World, tmp_path: Path) -> None:
    world.profile({"a": None}, "profiles/p.yaml")
    world.run("apply", "p")

    printed = world.run("mcp", "--read-only", "--print-config", ORCHESTRATE_TOKEN="s3cret").out

    assert "s3cret" not in printed
    server = named_server(printed)
    # An agent has a folder of its own, and passes on next to nothing.
    words, env = server["args"], server["env"]
    with session(server["command"], words, env, Path("/"), errors=tmp_path) as one:
        assert set(one.tools()) == LOOKS
        assert one.call("status").data["instances"][0]["name"] == "a"
        assert one.call("plan", profiles=["p"]).text.startswith("nothing to do")


# --- Ollama ------------------------------------------------------------------------------------


@pytest.mark.ollama
def test_an_ollama_has_its_model_pulled_up_and_loaded(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    made = {"name": "small", "gguf": str(world.model)}
    world.ollamas({"o": [made, {"name": "twin", "alias": "small"}]}, "profiles/o.yaml")
    with agent(world) as one:
        ready = one.call("ensure_ready", name="small", timeout_s=LONG)
        assert ready.data["instance"] == "o"
        assert ready.data["model"] == "small:latest"
        assert ready.data["loaded"]
        port = world.port_of("o")
        assert list(ps(port)) == ["small:latest"]

        said = one.refused("generate", name="o", prompt="hot")
        assert "which model of o?" in said
        assert "small:latest, twin:latest" in said
        done = one.call("generate", name="small", prompt="hot", max_tokens=4)
        assert done.text.strip()
        assert done.data["completion_tokens"] == 4
        assert done.data["finish"] == "length"
        assert one.call(
            "generate", name="o", model="twin", prompt="hot", max_tokens=2, raw=True
        ).text
        said = one.refused("generate", name="o", model="nope", prompt="hot")
        assert "o (ollama)" in said
        assert "not found" in said

        unload(port, "small")
        world.until(lambda: not ps(port), "unloaded")
        world.until_model("o", "small:latest", loaded=False)
        assert one.call("ensure_ready", name="small:latest", timeout_s=LONG).data["loaded"]
        assert ps(port)
        [row] = [m for m in one.call("models", search="small").data["models"]]
        assert row["source"] == "ollama"
