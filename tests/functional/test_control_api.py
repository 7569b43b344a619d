"""The control API of a real daemon, on its socket and over TCP, as scripts and attackers use it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEPT
from tests.look import daemon_pid, descriptors, pids, until_phase
from tests.machine_has import needs_program
from tests.world import PATIENCE, World, kill

ROOT = Path(__file__).parent.parent.parent
TOKEN = "a-token-of-this-test-and-no-other"


@dataclass
class Served:
    """A daemon with a profile `coding` in which there is a `coder`, and how to ask it over TCP."""

    world: World
    port: int
    profile: Path

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = TOKEN,
    ) -> tuple[int, Any]:
        """The status, and the document where it is one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        said = {"Authorization": f"Bearer {token}"} if token is not None else {}
        with contextlib.closing(connection):
            payload = body if isinstance(body, bytes) or body is None else json.dumps(body)
            connection.request(method, path, payload, {**said, **(headers or {})})
            answer = connection.getresponse()
            raw = answer.read()
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status, json.loads(raw) if is_json else raw

    def rss(self) -> int:
        pid = daemon_pid(self.world)
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def _world(folder: Path, model: Path, llama_server: str) -> World:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    world = World(folder, model, {**kept, "ORCHESTRATE_LLAMA_SERVER": llama_server})
    # Where it is when nobody says otherwise: the examples of the documents name it.
    world.state = folder / ".local" / "state" / "orchestrate"
    world.env["ORCHESTRATE_STATE_DIR"] = str(world.state)
    world.env["ORCHESTRATE_TOKEN"] = TOKEN
    return world


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, model: Path, llama_server: str
) -> Iterator[Served]:
    """One daemon for the whole file: each test leaves it as it was."""
    world = _world(tmp_path_factory.mktemp("api"), model, llama_server)
    world.env["ORCHESTRATE_LISTEN"] = "127.0.0.1:0"
    profile = world.profile({"coder": None}, name="profiles/coding.yaml")
    try:
        world.run("apply", "coding")
        url = world.status()["daemon"]["listen"]
        yield Served(world, int(url.rpartition(":")[2]), profile)
    finally:
        world.end()


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    """The same, with what was there at first applied and ready."""
    before = shared.profile.read_bytes()
    yield shared
    shared.profile.write_bytes(before)
    shared.world.run("apply", "coding")


# --- generated requests ---------------------------------------------------------------------------

ENDS_THE_DAEMON = ("/v1/down", "/v1/daemon/stop")
LOCAL = (
    "/v1/dashboard",
    "/v1/gateway/table",
    "/v1/gateway/figures",
    "/v1/gateway/want",
)
"""Over the control socket only."""

JUDGED = """\
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "404", "409", "422", "429"]
"""
"""What is right by its form may still name what there is not, or a file that is wrong."""


@pytest.mark.timeout(300)
def test_what_is_told_of_is_what_is_served_whatever_is_asked(
    served: Served, tmp_path: Path
) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(JUDGED)
    tried = 0
    # As much as there is time for; on a machine that is busy with other things, a second run.
    for seconds in (12, 90):
        ran = generated(served, config, seconds)
        said = ran.stdout[-8000:] + ran.stderr[-2000:]
        found = re.search(r"(\d+) generated", ran.stdout)
        tried = int(found[1]) if found else 0
        assert ran.returncode == 0 or not tried, said
        if tried > 50:
            break
    assert tried > 50, said
    assert "Traceback" not in served.world.log()


def generated(served: Served, config: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    """What schemathesis finds in so many seconds."""
    left_out = [f"--exclude-path={path}" for path in (*ENDS_THE_DAEMON, *LOCAL)]
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run"),
            f"http://127.0.0.1:{served.port}/openapi.json",
            *("-H", f"Authorization: Bearer {TOKEN}", "--no-color", "--warnings=off"),
            # Who is let in is asked below; here, that would end in 429.
            # A stream that goes on says so more rarely than that.
            *("--phases=coverage,fuzzing", "--exclude-checks=ignored_auth"),
            *(f"--max-time={seconds}", "--rate-limit=150/s", "--request-timeout=12"),
            *left_out,
        ],
        cwd=config.parent,
        env={**served.world.env, "SCHEMATHESIS_HOOKS": "tests.api_hooks", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_every_route_answers_without_a_token_as_it_is_told(served: Served) -> None:
    _, told = served.ask("GET", "/openapi.json")
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            place = path.replace("{name}", "coder").replace("{verb}", "start")
            status, _ = served.ask(method.upper(), place, token=None)
            if path in LOCAL:
                assert status == 403
            elif operation.get("security") == []:
                assert status in (200, 400, 503), path
            else:
                assert status == 401, path


# --- the documents --------------------------------------------------------------------------------


def curls() -> list[str]:
    """The blocks of the page with requests in them, one script each."""
    text = (ROOT / "docs" / "api.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "curl" in block]


@needs_program("curl")
@pytest.mark.parametrize("block", curls(), ids=lambda block: block.splitlines()[-1][-40:])
def test_every_request_of_the_page_is_answered(served: Served, block: str) -> None:
    lines = [line.removeprefix("$ ") for line in block.splitlines()]
    token = served.world.state / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    answers = 0
    for line in lines:
        if not line.startswith("curl"):
            continue
        before = [one for one in lines if not one.startswith("curl")]
        asked = line.replace("curl ", "curl --fail-with-body --silent --show-error ", 1)
        script = "\n".join([*before, asked.replace(":7717", f":{served.port}")])
        ran = subprocess.run(
            ["bash", "-euc", script],
            cwd=served.world.folder,
            env=served.world.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
        assert ran.stdout
        answers += 1
    assert answers
    token.unlink()


# --- what it is for -------------------------------------------------------------------------------


def test_an_edit_through_the_api_is_taken_up(served: Served) -> None:
    _, read = served.ask("GET", "/v1/profiles/coding")
    assert read["text"] == served.profile.read_text()
    wanted = read["text"].replace("coder:", "coder:\n    flags: {ctx-size: 256}")
    body = {"profile": "coding", "text": wanted}
    status, plan = served.ask("POST", "/v1/plan", body)
    assert status == 200
    assert [reason["field"] for reason in plan["actions"][0]["reasons"]] == ["ctx-size"]
    assert served.ask("POST", "/v1/validate", body)[1]["ok"]
    served.profile.chmod(0o640)

    status, wrote = served.ask(
        "PUT", "/v1/profiles/coding", {"text": wanted, "revision": read["revision"]}
    )

    assert status == 200, wrote
    assert served.profile.read_text() == wanted
    assert served.profile.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(served.profile.parent)) == ["coding.yaml"]
    status, ready = served.ask("GET", "/readyz?wait=30")
    served.world.until(lambda: "256" in served.world.instance("coder")["command"], "the edit")
    status, ready = served.ask("GET", "/readyz?wait=30")
    assert (status, ready) == (200, {"converged": True, "missing": []})
    again = {"text": "instances: {}\n", "revision": read["revision"]}
    status, conflict = served.ask("PUT", "/v1/profiles/coding", again)
    assert (status, conflict["error"]["code"]) == (409, "conflict")
    assert conflict["revision"] == wrote["revision"]
    assert served.profile.read_text() == wanted


def test_a_text_that_is_wrong_is_refused_with_its_places_and_not_written(served: Served) -> None:
    _, read = served.ask("GET", "/v1/profiles/coding")
    wrong = read["text"] + "  other: {model: nope, prot: 1}\n"
    status, said = served.ask("POST", "/v1/validate", {"profile": "coding", "text": wrong})
    assert (status, said["ok"]) == (200, False)
    lines = wrong.splitlines()
    assert {error["line"] for error in said["errors"]} == {len(lines)}
    assert all("source" not in error for error in said["errors"])
    for method, path, more in (
        ("PUT", "/v1/profiles/coding", {"revision": read["revision"]}),
        ("POST", "/v1/plan", {"profile": "coding"}),
    ):
        status, said = served.ask(method, path, {"text": wrong, **more})
        assert status == 422
        assert len(said["errors"]) == 2
    assert served.profile.read_text() == read["text"]


def test_another_profile_is_planned_and_switched_to_and_back(served: Served) -> None:
    other = served.world.profile({"writer": None}, name="profiles/writing.yaml")
    _, listed = served.ask("GET", "/v1/profiles")
    active = {row["name"]: row["active"] for row in listed["profiles"]}
    assert active == {"coding": True, "writing": False}
    draft = {"profile": "writing", "text": other.read_text()}
    _, plan = served.ask("POST", "/v1/plan", draft)
    acts = {one["instance"]: one["action"] for one in plan["actions"]}
    assert acts == {"coder": "stop", "writer": "start"}
    _, plan = served.ask("POST", "/v1/plan", {**draft, "add": True})
    assert {one["instance"] for one in plan["actions"]} == {"writer"}

    status, _ = served.ask("POST", "/v1/profiles/writing/apply", {})

    assert status == 200
    assert served.ask("GET", "/readyz?wait=30")[0] == 200
    assert set(pids(served.world)) == {"writer"}
    path = str(served.profile).replace("/", "%2F")
    assert served.ask("POST", f"/v1/profiles/{path}/apply", {"add": True})[0] == 200
    served.world.until_converged()
    assert set(pids(served.world)) == {"coder", "writer"}
    other.unlink()


def test_readiness_is_told_when_it_comes(served: Served) -> None:
    served.ask("POST", "/v1/instances/coder/stop")
    status, said = served.ask("GET", "/readyz", token=None)
    assert status == 503
    assert "coder" in said["missing"][0]
    status, said = served.ask("GET", "/readyz?wait=1")
    assert status == 503
    answers: list[tuple[int, Any]] = []
    waiting = threading.Thread(target=lambda: answers.append(served.ask("GET", "/readyz?wait=30")))
    waiting.start()
    served.ask("POST", "/v1/instances/coder/start")
    waiting.join(PATIENCE)
    assert answers == [(200, {"converged": True, "missing": []})]


def test_events_come_and_are_resumed_over_tcp(served: Served) -> None:
    with Stream(served, "/v1/events?recent=1") as stream:
        first = stream.next()
        kill(pids(served.world)["coder"])
        seen = [stream.next() for _ in range(3)]
        assert "exited" in [event["type"] for event in seen]
    with Stream(served, "/v1/events", {"Last-Event-ID": str(first["id"])}) as stream:
        again = [stream.next() for _ in range(3)]
    kept = [event["id"] for event in seen if event["type"] != "progress"]
    assert kept[0] in [event["id"] for event in again]
    until_phase(served.world, "coder", "ready")
    with Stream(served, "/v1/status?follow=1", {"Accept": "text/event-stream"}) as stream:
        assert stream.next()["status"]["instances"][0]["name"] == "coder"


class Stream:
    """Server-sent events, one document after the other."""

    def __init__(self, served: Served, path: str, headers: Mapping[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
        said = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
        self._connection.request("GET", path, headers=said)
        self._answer = self._connection.getresponse()
        assert self._answer.headers["content-type"].startswith("text/event-stream")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()

    def next(self) -> dict[str, Any]:
        while line := self._answer.readline():
            if line.startswith(b"data: "):
                return json.loads(line[6:])
        raise AssertionError("the stream has ended")


def test_what_the_machine_has_and_what_was_taken(served: Served) -> None:
    _, machine = served.ask("GET", "/v1/machine")
    memory = machine["memory"]
    assert memory["total"] >= memory["budget"] > memory["instances"]["coder"] > 1 << 20
    assert memory["available"] <= memory["total"]
    _, history = served.ask("GET", "/v1/history")
    assert len(history["at"]) >= 1
    row = history["instances"]["coder"]
    assert len(row["memory_bytes"]) == len(row["cpu_percent"]) == len(history["at"])
    _, models = served.ask("GET", "/v1/models")
    listed = served.world.run("models", "--json").json
    assert [one["ref"] for one in models["models"]] == [one["ref"] for one in listed["models"]]
    _, profiles = served.ask("GET", "/v1/profiles")
    assert profiles == served.world.run("profiles", "--json").json
    _, status = served.ask("GET", "/v1/status")
    assert status["daemon"]["listen"] == f"http://127.0.0.1:{served.port}"
    shown = served.world.run("daemon", "status").out
    assert f"listens on http://127.0.0.1:{served.port}" in shown


# --- attacks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("../coding", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "....//coding", "coding%00"),
        *("coding.yaml", "profiles/coding", "%2e%2e", "coding\\..\\..", "%c0%ae%c0%ae", "~"),
    ],
)
def test_no_name_leads_out_of_the_folders(served: Served, name: str) -> None:
    quoted = name.replace("\\", "%5C")
    for method, path, body in (
        ("GET", f"/v1/profiles/{quoted}", None),
        ("PUT", f"/v1/profiles/{quoted}", {"text": "instances: {}\n", "revision": ""}),
        ("POST", f"/v1/profiles/{quoted}/apply", {}),
        ("GET", f"/v1/instances/{quoted}/logs", None),
        ("POST", f"/v1/instances/{quoted}/stop", {}),
    ):
        status, said = served.ask(method, path, body)
        assert status in (404, 405), (method, path, said)
        assert "root:" not in json.dumps(said)


def test_no_link_leads_out_of_the_folders(served: Served, tmp_path: Path) -> None:
    outside = tmp_path / "outside.yaml"
    outside.write_text("instances: {}\n# mine\n")
    link = served.profile.with_name("linked.yaml")
    link.symlink_to(outside)
    try:
        status, said = served.ask("GET", "/v1/profiles/linked")
        assert (status, said["error"]["code"]) == (403, "outside")
        edit = {"text": "instances: {}\n", "revision": ""}
        status, said = served.ask("PUT", "/v1/profiles/linked", edit)
        assert (status, said["error"]["code"]) == (403, "outside")
        assert outside.read_text().endswith("# mine\n")
        # It is listed, for it is there; but nothing of what it holds is read.
        _, listed = served.ask("GET", "/v1/profiles")
        row = next(one for one in listed["profiles"] if one["file"] == str(link))
        assert (row["ok"], row["instances"]) == (False, [])
        assert "leads out" in row["errors"][0]["message"]
        assert link.is_symlink()
        for nothing in ("new", "sub%2Fnew", "new.yaml"):
            assert served.ask("PUT", f"/v1/profiles/{nothing}", edit)[0] == 404
    finally:
        link.unlink()
    # A link within them is what a ConfigMap consists of: it is written where it leads to.
    hidden = served.profile.parent / ".data.yaml"
    hidden.write_text("instances: {}\n")
    link.symlink_to(hidden.name)
    try:
        _, read = served.ask("GET", "/v1/profiles/linked")
        edit = {"text": "instances: {}\n# theirs\n", "revision": read["revision"]}
        assert served.ask("PUT", "/v1/profiles/linked", edit)[0] == 200
        assert hidden.read_text() == edit["text"]
        assert link.is_symlink()
    finally:
        link.unlink()
        hidden.unlink()


def test_a_hundred_megabytes_are_refused_and_never_held(served: Served) -> None:
    before = served.rss()
    huge = b" " * (100 << 20)
    for path in ("/v1/apply", "/v1/validate"):
        status, said = served.ask("POST", path, huge)
        assert (status, said["error"]["code"]) == (413, "too-large")
    for token in (None, "wrong"):
        with contextlib.suppress(ConnectionError):
            # Not even read: the client may find the door closed while it still sends.
            assert served.ask("POST", "/v1/apply", huge, token=token)[0] == 401
    assert served.rss() < before + (24 << 20)
    assert served.ask("GET", "/v1/status")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"sources": {}}', b'{"sources": [7]}'),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"sources": ' + b"9" * 10_000 + b"}"),
        b'{"profile": 7, "text": ""}',
        b'{"profile": "coding", "text": null}',
        b'{"sources": [{"path": "p", "is_folder": false, "env": {}, "cwd": "/"}]}',
        b'{"sources": [{"path": "/p", "is_folder": false, "env": {}, "cwd": ""}]}',
        b'{"sources": [{"path": "/\\u0000", "is_folder": false, "env": {}, "cwd": "/"}]}',
        b'{"sources": [{"path": "/\\ud800", "is_folder": false, "env": {}, "cwd": "/"}]}',
        b'{"sources": [{"is_folder": false, "env": {"A": "\\ud800"}, "path": "/p", "cwd": "/"}]}',
        b'{"sources": [{"\\ud800": 1, "path": "/p", "is_folder": false, "env": {}, "cwd": "/"}]}',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_request_is_refused_by_every_route(served: Served, body: bytes) -> None:
    for method, path in (
        ("POST", "/v1/apply"),
        ("POST", "/v1/plan"),
        ("POST", "/v1/validate"),
        ("PUT", "/v1/profiles/coding"),
    ):
        status, said = served.ask(method, path, body)
        assert (status, said["error"]["code"]) == (400, "bad-input"), path
        assert said["error"]["message"]
    assert set(pids(served.world)) == {"coder"}


def test_a_thousand_half_open_connections_hold_nobody_up(served: Served) -> None:
    pid = daemon_pid(served.world)
    assert pid is not None
    before = descriptors(pid)
    sockets: list[socket.socket] = []
    try:
        for _ in range(1000):
            one = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
            sockets.append(one)
            with contextlib.suppress(ConnectionError):
                one.sendall(b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert served.ask("GET", "/v1/status")[0] == 200
        assert descriptors(pid) < before + 600
        killed = pids(served.world)["coder"]
        kill(killed)
        served.world.until(lambda: pids(served.world)["coder"] not in (killed, None), "a new one")
        until_phase(served.world, "coder", "ready")
        assert served.ask("GET", "/readyz?wait=30")[0] == 200
    finally:
        for one in sockets:
            one.close()
    served.world.until(lambda: descriptors(pid) < before + 20, "they are gone")


def test_names_are_inert_and_secrets_are_not_told(served: Served) -> None:
    evil = "<script>alert(1)</script>\x1b[2J"
    status, said = served.ask("POST", "/v1/remove", {"profiles": [evil]})
    assert status == 404
    assert evil in said["error"]["message"]
    for path in (f"/v1/profiles/{'%3Cscript%3E%1B'}", "/v1/instances/%3Cimg%3E%1B/logs"):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            raw = answer.read()
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert b"\x1b" not in raw
    assert TOKEN not in served.world.log()


def test_a_state_folder_that_is_a_link_is_refused(tmp_path: Path, world: World) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    link = tmp_path / "linked"
    link.symlink_to(real)
    profile = world.profile({"a": None})
    for words in (("apply", profile), ("daemon", "start"), ("serve", profile)):
        ran = world.run(*words, ok=False, ORCHESTRATE_STATE_DIR=str(link))
        assert ran.code == 2
        assert "is a symbolic link" in ran.err
        assert str(real) in ran.err
    assert os.listdir(real) == []


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of others")


@needs_root
def test_a_socket_of_somebody_else_is_not_touched(world: World) -> None:
    world.state.mkdir(mode=0o700)
    path = world.state / "control.sock"
    path.touch()
    os.chown(path, 12345, 12345)
    for words in (("apply", world.profile({"a": None})), ("daemon", "start")):
        ran = world.run(*words, ok=False)
        assert ran.code == 2
        assert f"{path} belongs to uid 12345" in ran.err
    assert path.stat().st_uid == 12345
    path.unlink()


STRANGER = """\
import os, socket, sys
heard = open(sys.argv[2], "ab", buffering=0)
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
os.setuid(12345)
listening.listen()
print(flush=True)
while True:
    connection, _ = listening.accept()
    heard.write(connection.recv(65536))
    connection.close()
"""


@needs_root
def test_a_daemon_of_somebody_else_is_told_nothing(world: World) -> None:
    """Its socket is where ours would be: what profiles may know of the shell is not for it."""
    world.state.mkdir(mode=0o700)
    path, heard = world.state / "control.sock", world.folder / "heard"
    profile = world.profile({"a": None})
    with subprocess.Popen(
        [sys.executable, "-c", STRANGER, str(path), str(heard)], stdout=subprocess.PIPE
    ) as stranger:
        try:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == b"\n"
            for words in (("apply", profile), ("status",), ("stop", "a"), ("down",)):
                ran = world.run(*words, ok=False)
                assert ran.code == 3, ran
                assert "is served by uid 12345" in ran.err or words == ("status",), ran
        finally:
            stranger.kill()
    assert heard.read_bytes() == b""
    path.unlink()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("nonsense", "expected HOST:PORT"),
        ("127.0.0.1:70000", "expected HOST:PORT"),
        ("::1:80", "stands in brackets"),
        ("no.such.host.invalid:80", "no such address"),
        ("203.0.113.1:80", "cannot listen on 203.0.113.1:80"),
    ],
)
def test_an_address_that_cannot_be_is_said_before_anything_is_started(
    world: World, said: str, why: str
) -> None:
    ran = world.run("apply", "--listen", said, world.profile({"a": None}), ok=False)
    assert ran.code == 2
    assert why in ran.err
    assert "hint: " in ran.err
    assert daemon_pid(world) is None


def test_who_has_the_address_already_is_no_surprise(world: World) -> None:
    profile = world.profile({"a": None})
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = world.run("apply", profile, ok=False, ORCHESTRATE_LISTEN=str(port))
        assert ran.code == 2
        assert "address already in use" in ran.err
    world.run("apply", "--listen", f"[::1]:{port}" if socket.has_ipv6 else str(port), profile)
    ran = world.run("apply", "--listen", "1", profile, ok=False)
    assert ran.code == 2
    assert f"daemon restart --listen {1}" in ran.err
    # The next one listens where this one did.
    listens = world.status()["daemon"]["listen"]
    world.run("daemon", "restart")
    assert world.status()["daemon"]["listen"] == listens
    token = world.state / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text().strip()) >= 32
    token.chmod(0o644)
    ran = world.run("daemon", "restart", ok=False)
    assert ran.code == 2
    assert "others may know the token" in ran.err


def test_a_daemon_in_the_foreground_listens_too(world: World) -> None:
    port = world.port()
    running = world.begin("serve", "--listen", str(port), world.profile({"a": None}))
    try:
        world.until(lambda: world.answers(port, "/readyz") == 200, "it listens")
        assert world.answers(port, "/v1/status") == 401
    finally:
        running.terminate()
        running.communicate(timeout=PATIENCE)


def test_time_is_not_lost(served: Served) -> None:
    """Answers are sent at once: not when the last one was acknowledged (40 ms)."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
    took: list[float] = []
    with contextlib.closing(connection):
        for _ in range(40):
            began = time.perf_counter()
            connection.request("GET", "/v1/history", headers={"Authorization": f"Bearer {TOKEN}"})
            connection.getresponse().read()
            took.append(time.perf_counter() - began)
    assert min(took) < 0.03, took


def test_every_command_of_the_page_can_be_taken_apart() -> None:
    for block in curls():
        for line in block.splitlines():
            assert shlex.split(line.removeprefix("$ "))
