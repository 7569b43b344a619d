"""Make before break: the next process is ready before the one that runs ends; nobody notices."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes import fake
from tests.look import kill_daemon, owned, rows, status, until_row
from tests.world import PATIENCE, World, alive, kill

FIRST = {"update": {"strategy": "start-first"}}

BROKEN = ["--cache-type-k", "nonsense"]
"""Nothing that the flag table can know of: `args` are passed on as they are."""


class Load:
    """Requests through the gateway, one after the other, each on a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._ask_and_ask)
        self.answered = 0
        self.failed: list[str] = []

    def _ask_and_ask(self) -> None:
        while not self._ends.is_set():
            said = asked(self._port)
            self.answered += 1
            if said != "200":
                self.failed.append(said)

    def some_more(self, count: int = 5) -> None:
        """Until so many more have been answered."""
        end, due = time.monotonic() + PATIENCE, self.answered + count
        while self.answered < due:
            assert time.monotonic() < end, f"{self.answered} of {due} were answered"
            time.sleep(0.01)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


def asked(port: int) -> str:
    """One completion of one token; the status, or what went wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        body = json.dumps({"model": "a", "prompt": "hot", "max_tokens": 1})
        head = {"content-type": "application/json"}
        connection.request("POST", "/v1/completions", body, head)
        answer = connection.getresponse()
        text = answer.read().decode()
        return str(answer.status) if answer.status == 200 else f"{answer.status} {text}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()


class Story:
    """A world with a gateway, and with `a`, which is replaced by start-first."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.gateway = world.port()

    def declare(self, **more: Any) -> Path:
        instance = {"model": str(self.world.model), **FIRST, **more}
        whole = {"gateway": {"port": self.gateway}, "instances": {"a": instance}}
        return self.world.write("p.yaml", yaml.safe_dump(whole))

    def apply(self, **more: Any) -> dict[str, Any]:
        self.world.run("apply", self.declare(**more))
        self.world.until(lambda: asked(self.gateway) == "200", "the gateway serves it")
        return rows(self.world)["a"]

    def until_it_runs(self, *words: str) -> dict[str, Any]:
        """Converged, on a process with these words."""

        def there() -> dict[str, Any] | None:
            document = status(self.world)
            [row] = document["instances"]
            runs = all(word in row["command"] for word in words)
            return row if document["converged"] and runs else None

        return self.world.until(there, f"converged, with {words}")

    def until_said(self, words: str) -> dict[str, Any]:
        return until_row(self.world, "a", lambda row: words in row["message"], words)

    def processes(self) -> list[int]:
        return [pid for name, found in owned(self.world).items() if name[0] == "a" for pid in found]


@pytest.fixture
def story(world: World) -> Story:
    return Story(world)


@pytest.fixture
def any_story(any_world: World) -> Story:
    return Story(any_world)


@contextmanager
def without_a_failed_request(story: Story) -> Generator[Load]:
    with Load(story.gateway) as load:
        load.some_more()
        yield load
        load.some_more()
    assert load.failed == []


def said(world: World, *words: str) -> dict[str, Any]:
    return json.loads(world.run(*words, "--json", ok=False).out)


# --- edits ----------------------------------------------------------------------------------------


def test_edits_under_load_fail_no_request(any_story: Story) -> None:
    story, world = any_story, any_story.world
    row = story.apply(flags={"ctx-size": 256})
    seen = [row]
    with without_a_failed_request(story) as load:
        for size in (512, 768, 1024, 1280):
            story.declare(flags={"ctx-size": size})
            load.some_more()
            seen.append(story.until_it_runs(str(size)))
            load.some_more()
    assert len({row["pid"] for row in seen}) == 5
    # Never on the port of the one before.
    assert all(one["port"] != next_["port"] for one, next_ in pairwise(seen))
    assert [alive(row["pid"]) for row in seen] == [False] * 4 + [True]
    assert world.props(seen[-1]["port"])["default_generation_settings"]["n_ctx"] == 1280
    # In the order in which it must be; and whoever asks for the instance sees all of it.
    kinds = [(e["instance"], e["type"]) for e in world.events("a")]
    for kind in ("ready", "promoted", "stopping", "exited", "forgotten"):
        assert sum(k == kind for _, k in kinds) == 5 - (kind != "ready"), (kind, kinds)
    assert kinds.index(("a~next", "ready")) < kinds.index(("a", "promoted"))
    assert kinds.index(("a", "promoted")) < kinds.index(("a~old", "stopping"))
    assert rows(world)["a"]["restarts"] == 0
    # Its log is that of the process that runs; the one before is the one before.
    logs = sorted(path.name for path in (world.state / "logs").glob("a*"))
    assert logs == ["a.log", "a.log.1", "a.log.2", "a.log.3", "a.log.4"]
    assert (world.state / "logs" / "a.log").samefile(f"/proc/{seen[-1]['pid']}/fd/1")
    # Another daemon takes it for what is declared, on whichever port it runs; so does a plan.
    world.run("daemon", "restart")
    assert story.until_it_runs("1280")["pid"] == seen[-1]["pid"]
    story.declare(flags={"ctx-size": 1536})
    story.until_it_runs("1536")
    world.run("daemon", "restart")
    row = story.until_it_runs("1536")
    assert "nothing to do" in world.run("plan", world.folder / "p.yaml").out
    # How it is replaced is no reason to replace it.
    story.declare(flags={"ctx-size": 1536}, update={"strategy": "stop-first"})
    world.run("apply", world.folder / "p.yaml")
    assert story.until_it_runs("1536")["pid"] == row["pid"]


def test_a_restart_by_hand(story: Story) -> None:
    before = story.apply()
    with without_a_failed_request(story):
        story.world.run("restart", "a")
    after = story.until_it_runs()
    assert after["pid"] != before["pid"]
    assert after["port"] != before["port"]


def test_what_is_on_its_way_is_said(story: Story, tmp_path: Path) -> None:
    world, go = story.world, tmp_path / "go"
    before = story.apply(**fake())
    profile = story.declare(**fake(f"loads={go}"))
    row = story.until_said("its successor is starting on port")
    assert (row["pid"], row["phase"]) == (before["pid"], "ready")
    document = status(world)
    assert [one["name"] for one in document["instances"]] == ["a"]
    assert (document["converged"], document["settled"]) == (False, False)
    assert document["missing"] == [f"a: ready, {row['message']}"]
    assert world.run("stop", "a~next", ok=False).code == 2
    # Nothing is planned any more: it is under way.
    assert said(world, "plan", str(profile))["actions"] == []
    go.touch()
    assert story.until_it_runs()["pid"] != before["pid"]


def test_a_plan_says_so(story: Story) -> None:
    story.apply(flags={"ctx-size": 256})
    other = story.world.write("q.yaml", story.declare(flags={"ctx-size": 256}).read_text())
    other.write_text(other.read_text().replace("256", "512"))
    story.world.run("daemon", "stop")
    [action] = [
        one for one in said(story.world, "plan", str(other))["actions"] if one["instance"] == "a"
    ]
    assert action["action"] == "replace"
    assert action["message"].startswith("start-first")
    assert action["reasons"][0]["field"] == "ctx-size"


# --- what does not come up ------------------------------------------------------------------------


def test_a_change_that_does_not_come_up_leaves_what_runs_alone(any_story: Story) -> None:
    story, world = any_story, any_story.world
    before = story.apply(flags={"ctx-size": 256})
    with without_a_failed_request(story):
        story.declare(flags={"ctx-size": 512}, args=BROKEN)
        row = until_row(world, "a", lambda row: row["reason"] == "rolled-back")
        assert row["pid"] == before["pid"]
        assert "ctx-size: 256 -> 512" in row["message"]
        assert "nonsense" in row["message"]
        document = status(world)
        assert (document["converged"], document["settled"]) == (False, True)
        assert story.processes() == [before["pid"]]
        # What it said is still there for whoever wants all of it.
        assert "nonsense" in world.run("logs", "a~next").out
        # Somebody's word is another try, with the same end.
        for verb in (("apply", world.folder / "p.yaml"), ("restart", "a")):
            ran = world.run(*verb, ok=False)
            assert ran.code == 1
            assert "nonsense" in ran.out + ran.err
        assert rows(world)["a"]["pid"] == before["pid"]
        story.declare(flags={"ctx-size": 512})
        story.until_it_runs("512")


def test_a_model_that_is_gone(story: Story) -> None:
    world = story.world
    before = story.apply()
    with without_a_failed_request(story):
        model = world.folder / "other.gguf"
        model.write_bytes(world.model.read_bytes()[:100_000])
        story.declare(model=str(model))
        world.until(lambda: not status(world)["converged"], "the edit was seen")
        world.until(lambda: status(world)["settled"], "it is settled")
        assert rows(world)["a"]["pid"] == before["pid"]


def test_kept_it_is_tried_beside_what_runs(story: Story, tmp_path: Path) -> None:
    world, mended = story.world, tmp_path / "mended"
    more = {
        "update": {"strategy": "start-first", "on_failure": "keep"},
        "restart": {"initial": "50ms"},
    }
    before = story.apply(**fake(), **more)
    with without_a_failed_request(story) as load:
        story.declare(**fake("exit=3", f"unless={mended}"), **more)
        world.until(
            lambda: sum(e["type"] == "exited" for e in world.events("a")) >= 3, "it is tried again"
        )
        load.some_more()
        assert rows(world)["a"]["pid"] == before["pid"]
        mended.touch()
        assert story.until_it_runs()["pid"] != before["pid"]


# --- other ends -----------------------------------------------------------------------------------


def test_another_edit_supersedes_it(story: Story, tmp_path: Path) -> None:
    before = story.apply(**fake())
    with without_a_failed_request(story) as load:
        story.declare(**fake(f"loads={tmp_path / 'never'}"))
        story.until_said("its successor is starting")
        [first] = [pid for pid in story.processes() if pid != before["pid"]]
        load.some_more()
        story.declare(**fake(), flags={"ctx-size": 512})
        row = story.until_it_runs("512")
    assert row["pid"] not in (first, before["pid"])
    assert story.processes() == [row["pid"]]


def test_an_edit_back_cancels_it(story: Story, tmp_path: Path) -> None:
    before = story.apply(**fake())
    with without_a_failed_request(story):
        story.declare(**fake(f"loads={tmp_path / 'never'}"))
        story.until_said("its successor is starting")
        story.declare(**fake())
        assert story.until_it_runs()["pid"] == before["pid"]
    assert story.processes() == [before["pid"]]


@pytest.mark.parametrize("verb", ["stop", "kill", "down"])
def test_who_ends_it_ends_its_successor(story: Story, tmp_path: Path, verb: str) -> None:
    story.apply(**fake())
    story.declare(**fake(f"loads={tmp_path / 'never'}"))
    story.until_said("its successor is starting")
    story.world.run(verb, *([] if verb == "down" else ["a"]))
    story.world.until(lambda: not story.processes(), "nothing of it runs")


def draining(story: Story, go: Path) -> threading.Thread:
    """It was followed, and the one before has a request to answer until `go` is there."""
    world = story.world
    world.run("apply", story.declare(**fake(f"hold={go}")))
    slow = threading.Thread(target=lambda: asked(story.gateway))
    slow.start()
    world.until(lambda: _under_way(world), "a request is under way")
    story.declare(**fake())
    story.until_said("the one before it")
    return slow


def test_what_is_asked_for_while_the_one_before_drains_has_time(
    story: Story, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    slow, world = draining(story, go), story.world
    before = rows(world)["a"]
    with ThreadPoolExecutor(1) as threads:
        restart = threads.submit(world.run, "restart", "a", ok=False)
        until_row(world, "a", lambda row: "held by the one before" in row["message"])
        go.touch()
        ended = restart.result()
    slow.join(PATIENCE)
    assert ended.code == 0, ended
    assert story.until_it_runs()["pid"] != before["pid"]


def test_stopped_it_is_once_all_of_it_is(story: Story, tmp_path: Path) -> None:
    go = tmp_path / "go"
    slow, world = draining(story, go), story.world
    pid = rows(world)["a"]["pid"]
    with ThreadPoolExecutor(1) as threads:
        stop = threads.submit(lambda: (world.run("stop", "a"), story.processes()))
        world.until(lambda: not alive(pid), "what took over has ended")
        until_row(world, "a", lambda row: row["phase"] == "stopping" and row["held"])
        go.touch()
        assert stop.result()[1] == []
    slow.join(PATIENCE)


def test_a_crash_meanwhile(story: Story, tmp_path: Path) -> None:
    world, go = story.world, tmp_path / "go"
    before = story.apply(**fake())
    with Load(story.gateway) as load:
        story.declare(**fake(f"loads={go}"))
        story.until_said("its successor is starting")
        kill(before["pid"])
        # It is started again as it was: nobody knows how long the other takes.
        row = until_row(
            world, "a", lambda row: row["phase"] == "ready" and row["pid"] != before["pid"]
        )
        load.some_more()
        assert len(story.processes()) == 2
        go.touch()
        after = story.until_it_runs()
    assert after["pid"] not in (row["pid"], before["pid"])
    assert story.processes() == [after["pid"]]


# --- a daemon that dies ---------------------------------------------------------------------------


def test_a_daemon_that_dies_while_it_loads(story: Story, tmp_path: Path) -> None:
    world, go = story.world, tmp_path / "go"
    before = story.apply(**fake())
    with without_a_failed_request(story) as load:
        story.declare(**fake(f"loads={go}"))
        story.until_said("its successor is starting")
        [coming] = [pid for pid in story.processes() if pid != before["pid"]]
        kill_daemon(world)
        load.some_more()
        world.run("daemon", "start")
        story.until_said("its successor is starting")
        assert sorted(story.processes()) == sorted([before["pid"], coming])
        go.touch()
        assert story.until_it_runs()["pid"] == coming
    # Its log has followed it.
    assert "fake engine begins" in world.run("logs", "a").out
    assert not (world.state / "logs" / "a~next.log").exists()


def test_without_its_store_both_are_known_by_their_marks(story: Story, tmp_path: Path) -> None:
    world, go = story.world, tmp_path / "go"
    story.apply(**fake())
    profile = story.declare(**fake(f"loads={go}"))
    story.until_said("its successor is starting")
    assert len(story.processes()) == 2
    kill_daemon(world)
    for path in world.state.glob("state.db*"):
        path.unlink()
    go.touch()
    world.run("apply", profile)
    # What ran cannot be told from what is declared but by its settings: one of them is left.
    row = story.until_it_runs()
    assert story.processes() == [row["pid"]]


def test_a_daemon_that_dies_while_the_one_before_drains(story: Story, tmp_path: Path) -> None:
    world, go = story.world, tmp_path / "go"
    world.run("apply", story.declare(**fake(f"hold={go}")))
    before = rows(world)["a"]
    answers: list[str] = []
    slow = threading.Thread(target=lambda: answers.append(asked(story.gateway)))
    slow.start()
    world.until(lambda: _under_way(world), "a request is under way")
    story.declare(**fake())
    story.until_said("the one before it")
    kill_daemon(world)
    world.run("daemon", "start")
    row = story.until_said("the one before it")
    assert row["pid"] != before["pid"]
    # New ones go to the next process, and the one under way has its time.
    assert asked(story.gateway) == "200"
    assert alive(before["pid"])
    assert answers == []
    go.touch()
    slow.join(PATIENCE)
    assert answers == ["200"]
    assert story.until_it_runs()["pid"] == row["pid"]
    assert story.processes() == [row["pid"]]


# Many lives of a daemon, one after the other.
@pytest.mark.timeout(240)
def test_a_daemon_that_dies_at_any_time(story: Story) -> None:
    world = story.world
    story.apply(flags={"ctx-size": 256})
    with without_a_failed_request(story) as load:
        for turn in range(10):
            before = _written(world)
            story.declare(flags={"ctx-size": 512 + 256 * (turn % 2)})
            world.until(lambda before=before: _written(world) != before, "the edit was seen")
            # Somewhere between the record of the start and the end of the one before.
            time.sleep(turn * 0.04)
            kill_daemon(world)
            load.some_more(2)
            world.run("daemon", "start")
            row = story.until_it_runs(str(512 + 256 * (turn % 2)))
            assert story.processes() == [row["pid"]], turn


def _under_way(world: World) -> int:
    return (rows(world)["a"]["requests"] or {}).get("in_flight", 0)


def _written(world: World) -> Mapping[str, int]:
    """What tells one state of the store from another."""
    return {path.name: path.stat().st_mtime_ns for path in world.state.glob("state.db*")}
