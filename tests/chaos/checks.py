"""What must be true after each fault, looked at from outside: over HTTP, in /proc, in the files."""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from tests.chaos.declared import GATEWAY, Content, Server
from tests.chaos.world import ChaosWorld, Ref
from tests.look import status, zombies_of

TRANSIENT = 5.0
"""Seconds that what passes by itself may take: a descriptor in use, a child not yet waited for."""

SLACK = 2
"""Descriptors that are open for a moment now and then."""


def differences(world: ChaosWorld, anew: Mapping[str, Ref]) -> list[str]:
    """How what runs differs from what is declared. `anew` must run as other processes than those.

    The cheap look first: while something is amiss, this is asked again and again.
    """
    document = status(world.world)
    wrong = _shown(world, document)
    if wrong:
        return wrong
    marked = world.marked()
    wrong = _processes(world, marked, anew)
    if wrong:
        return wrong
    running = world.declared.running()
    ports = {name: row["port"] for name, row in rows_of(document).items()}
    for name, one in running.items():
        if one.port is not None and ports[name] != one.port:
            wrong.append(f"{name} is shown on port {ports[name]}, declared on {one.port}")
        wrong += [f"{name}: {what}" for what in _answers(one, ports[name], marked[name])]
    if GATEWAY in running and not wrong:
        wrong += [f"through the gateway: {what}" for what in _passes(running, ports[GATEWAY])]
    return wrong


def _passes(running: Content, port: int) -> list[str]:
    """Whether each is reached through the gateway, as itself and by its name."""
    wrong: list[str] = []
    for name, one in running.items():
        if one.engine != "llama-server":
            continue
        try:
            mark = ask(port, f"/instances/{name}/props").get("model_alias")
            by = served_by(port, one.mark)
        except (OSError, ValueError, http.client.HTTPException) as error:
            wrong.append(f"{name} does not answer: {error!r}")
            continue
        wrong += [f"{name} is {mark!r}, declared {one.mark!r}"] if mark != one.mark else []
        wrong += [f"{one.mark} is served by {by!r}, not {name}"] if by != name else []
    return wrong


def served_by(port: int, model: str) -> str | None:
    """Which instance a completion of one token comes from. Raises as `ask`."""
    body = json.dumps({"model": model, "prompt": "a", "max_tokens": 1})
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"a completion is answered by {answer.status}: {answer.read()!r}")
        json.loads(answer.read())
        return answer.getheader("x-orchestrate-instance")


def _shown(world: ChaosWorld, document: Mapping[str, Any]) -> list[str]:
    """What the status says, against what is declared."""
    if document["daemon"] is None:
        return ["no daemon answers"]
    declared = world.declared
    wanted, running = declared.wanted(), declared.running()
    rows = rows_of(document)
    wrong = [f"{name} is shown, and not declared" for name in rows if name not in wanted]
    for name in wanted:
        row = rows.get(name)
        if row is None:
            wrong.append(f"{name} is not shown")
        elif name in running and row["phase"] != "ready":
            wrong.append(f"{name} is {row['phase']}: {row['reason']} {row['message']}")
        elif name not in running and row["phase"] != "stopped":
            wrong.append(f"{name} is {row['phase']}, and was to stay down")
    whole = len(running) == len(wanted)
    if not wrong and document["converged"] != whole:
        wrong.append(f"converged is {document['converged']}, not {whole}")
    return wrong


def rows_of(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows by name, that of the gateway among them."""
    gateway = [document["gateway"]] if document["gateway"] else []
    return {row["name"]: row for row in (*document["instances"], *gateway)}


def _processes(
    world: ChaosWorld, marked: Mapping[str, list[Ref]], anew: Mapping[str, Ref]
) -> list[str]:
    running = world.declared.running()
    wrong = [f"{n}: still runs as {refs}" for n, refs in marked.items() if n not in running]
    for name, one in running.items():
        refs = marked.get(name, [])
        if not refs:
            wrong.append(f"{name} does not run")
        elif one.engine != "ollama" and len(refs) > 1:
            wrong.append(f"{name} runs more than once: {refs}")
        elif name in anew and anew[name] in refs:
            wrong.append(f"{name}: the process of before the fault still runs")
    return wrong


def _answers(one: Server, port: int, refs: list[Ref]) -> list[str]:
    """Whether it answers, as itself, with the settings that are declared."""
    try:
        if one.engine == "ollama":
            return _answers_as_ollama(one, port, refs)
        if one.engine == GATEWAY:
            ask(port, "/v1/models")
            return []
        props = ask(port, "/props")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return [f"no answer on port {port}: {error!r}"]
    seen = {
        "alias": (props.get("model_alias"), one.mark),
        "ctx-size": (props["default_generation_settings"]["n_ctx"], one.knob),
        "model": (props.get("model_path"), one.model),
    }
    return [
        f"{key} is {have!r}, declared {want!r}"
        for key, (have, want) in seen.items()
        if have != want
    ]


def _answers_as_ollama(one: Server, port: int, refs: list[Ref]) -> list[str]:
    ask(port, "/api/version")
    environ = _environment(refs[0].pid)
    wrong: list[str] = []
    if environ.get("OLLAMA_NUM_PARALLEL") != str(one.knob):
        wrong.append(f"num_parallel is {environ.get('OLLAMA_NUM_PARALLEL')}, declared {one.knob}")
    have = {model["name"].removesuffix(":latest") for model in ask(port, "/api/tags")["models"]}
    wrong += [f"model {name} is missing" for name in one.models if name not in have]
    loaded = ask(port, "/api/ps")["models"]
    if one.models and not loaded:
        wrong.append(f"model {one.models[0]} is not in memory")
    if one.models and len(refs) < 2:
        wrong.append("no runner")
    return wrong


def _environment(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", encoding="utf-8", errors="replace") as file:
            return dict(one.split("=", 1) for one in file.read().split("\0") if "=" in one)
    except OSError:
        return {}


def ask(port: int, path: str) -> Any:
    """A document over HTTP. Raises OSError, ValueError or HTTPException."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"{path} answers {answer.status}")
        return json.loads(answer.read())


class Invariants:
    """What holds whatever was done: nobody else pays, nothing is left behind."""

    def __init__(self, world: ChaosWorld) -> None:
        self._world = world
        self._daemon = 0
        self._descriptors = 0

    def wrong(self, untouched: Mapping[str, Ref]) -> list[str]:
        """Everything that is not as it must be. `untouched` are to run as they did."""
        world = self._world
        marked = world.marked()
        wrong = [
            f"{name} was untouched, and is pid {[r.pid for r in marked.get(name, [])]}, not"
            f" {ref.pid}"
            for name, ref in untouched.items()
            if marked.get(name, [None])[0] != ref
        ]
        wrong += world.bystanders.wrong()
        wrong += world.said
        world.said.clear()
        daemon = world.daemon()
        if daemon is None:
            return [*wrong, "no daemon has the state folder"]
        wrong += self._strangers(daemon)
        wrong += _settled(lambda: [f"zombie {pid}" for pid in zombies_of(daemon)])
        wrong += _settled(lambda: self._leaks(daemon))
        return wrong + self._readable()

    def _strangers(self, daemon: int) -> list[str]:
        """Whatever this run started is a bystander, the daemon, or carries our mark."""
        world = self._world

        def found() -> list[str]:
            known = {one.process.pid for one in world.bystanders.all} | {daemon}
            known |= {ref.pid for refs in world.marked().values() for ref in refs}
            left = [pid for pid in world.everything() if pid not in known]
            return [f"pid {pid} runs, and is nobody's: {_command(pid)}" for pid in left]

        return _settled(found)

    def _leaks(self, daemon: int) -> list[str]:
        """Descriptors beyond those of the daemon's first rest, one for each process that it has."""
        open_now = _descriptors(daemon)
        extra = len(open_now) - len(self._world.declared.running())
        if daemon != self._daemon:
            self._daemon, self._descriptors = daemon, extra
        if extra <= self._descriptors + SLACK:
            return []
        kinds = Counter(one.partition(":")[0] for one in open_now)
        return [f"{extra} descriptors are open, at first {self._descriptors}: {dict(kinds)}"]

    def _readable(self) -> list[str]:
        world = self._world
        path = world.world.state / "state.db"
        wrong: list[str] = []
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as db:
                said = db.execute("PRAGMA integrity_check").fetchone()[0]
            if said != "ok":
                wrong.append(f"the state store: {said}")
        except sqlite3.Error as error:
            wrong.append(f"the state store cannot be read: {error}")
        ran = world.cli("status", "--json")
        try:
            shown = set(rows_of(ran.json))
        except (ValueError, KeyError) as error:
            return [*wrong, f"`status --json` cannot be read: {error!r}: {ran.out[:500]}"]
        if shown != set(world.declared.wanted()):
            wrong.append(f"`status --json` shows {shown}")
        return wrong


def _descriptors(pid: int) -> list[str]:
    found: list[str] = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
        except OSError:
            continue
    return found


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode("utf-8", "replace")[:200]
    except OSError:
        return "(gone)"


def _settled(what: Callable[[], list[str]]) -> list[str]:
    """What is wrong, and stays so."""
    end = time.monotonic() + TRANSIENT
    while (wrong := what()) and time.monotonic() < end:
        time.sleep(0.02)
    return wrong
