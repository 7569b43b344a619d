"""Servers that somebody else runs: found, used, watched, let go of, and never signalled.

The loop, the executor and the store are real, and so are the Ollamas.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.control import attachment, model_upkeep
from orchestrator.control.adoption import take_over
from orchestrator.control.bus import Bus, NewDesired
from orchestrator.control.executor import Executor
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.workshop import Workshop
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import (
    Command,
    Endpoint,
    InstanceSpec,
    Liveness,
    ModelSet,
    Readiness,
    RestartPolicy,
)
from orchestrator.core.status import InstanceStatus, Phase
from orchestrator.runtime import process
from orchestrator.runtime.identity import OWNER_VARIABLE
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.state import Store
from tests.keeping import imported
from tests.ollama_world import Server, ask, remove, running_ollama, tags, until_up
from tests.world import PATIENCE, World, alive

pytestmark = pytest.mark.ollama

OWNER = "0123456789abcdef"


class Daemon:
    """What a daemon is without its API: events are folded, plans made and carried out."""

    def __init__(self, folder: Path) -> None:
        state = folder / "state"
        state.mkdir(exist_ok=True)
        self.store = Store.open(str(state / "state.db"))
        self.bus = Bus(last_id=self.store.last_event_id())
        self.reconciler = Reconciler(bus=self.bus, store=self.store, observed=self.store.observed())
        self.executor = Executor(
            bus=self.bus,
            logs=Logs(str(state)),
            inherited=dict(os.environ),
            owner=OWNER,
            spec_of=self.reconciler.spec_in_force,
            rows_of=self.reconciler.models_of,
            workshop=Workshop(str(folder / "cache"), lambda: self.reconciler.desired),
        )
        self.reconciler.attach(self.executor)

    def take_over(self) -> None:
        """What a daemon that begins does with what it finds on record."""
        observed = self.reconciler.observed
        desired = {name: status.spec for name, status in observed.items()}
        strays = take_over(
            observed, owner=OWNER, bus=self.bus, executor=self.executor, desired=desired
        )
        assert strays == []
        self.bus.post(NewDesired(desired, renew=False))

    def want(self, *specs: InstanceSpec) -> None:
        self.bus.post(NewDesired({spec.name: spec for spec in specs}, renew=False))

    def post(self, kind: EventType, **more: Any) -> None:
        self.bus.post(Event(kind, "o", **more))

    @property
    def o(self) -> InstanceStatus | None:
        return self.reconciler.observed.get("o")

    def told(self) -> list[tuple[str, str]]:
        """The timeline: kinds of events, and their reasons."""
        found = [(event["type"], event["reason"]) for event in self.store.events()]
        assert "bug" not in dict(found), found
        return found

    async def until(self, what: Callable[[InstanceStatus], Any]) -> InstanceStatus:
        """Look after every pass."""
        subscription = self.bus.subscribe()
        try:
            async with asyncio.timeout(PATIENCE):
                while self.o is None or not what(self.o):
                    await subscription.next()
        except TimeoutError:
            raise AssertionError(f"never came: {self.o}\n{self.told()}") from None
        finally:
            self.bus.unsubscribe(subscription)
        assert self.o is not None
        return self.o

    async def until_phase(self, phase: Phase) -> InstanceStatus:
        return await self.until(lambda o: o.phase is phase)

    async def until_nothing(self) -> None:
        subscription = self.bus.subscribe()
        while self.o is not None:
            await subscription.next()
        self.bus.unsubscribe(subscription)


@contextlib.asynccontextmanager
async def daemon(folder: Path, *, ends: bool = True) -> AsyncGenerator[Daemon]:
    """With `ends`, what it started is stopped at its end; else it dies with all going on."""
    made = Daemon(folder)
    loop = asyncio.create_task(made.reconciler.run())
    try:
        yield made
        if ends:
            made.want()
            await asyncio.wait_for(made.until_nothing(), PATIENCE)
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await made.executor.let_go()
        made.store.close()
        # All of its own have names.
        left = [task for task in asyncio.all_tasks() if not task.get_name().startswith("Task-")]
        assert not left, left


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


@pytest.fixture
def machine(tmp_path: Path) -> World:
    return World(tmp_path, tmp_path, {})


@pytest.fixture
def port(machine: World) -> int:
    return machine.port()


@pytest.fixture
def theirs(tmp_path: Path, ollama: str, port: int) -> Iterator[Server]:
    """Somebody else's server, which runs when the test begins."""
    with running_ollama(tmp_path / "theirs", port, binary=ollama) as server:
        yield server


@pytest.fixture
def our(tmp_path: Path, ollama: str, port: int) -> InstanceSpec:
    """An instance that would run an Ollama of its own on that port."""
    return declared(tmp_path, (ollama, "serve"), port)


def declared(folder: Path, argv: tuple[str, ...], port: int, **settings: str) -> InstanceSpec:
    store = str(folder / "store")
    env = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": store}
    env |= {f"OLLAMA_{name.upper()}": value for name, value in settings.items()}
    return InstanceSpec(
        "o",
        "ollama",
        Command(argv, env, str(folder)),
        Endpoint("127.0.0.1", port),
        readiness=Readiness(path="/api/version"),
        attach="auto",
        holds=ModelSet(store=store),
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become tenths."""
    monkeypatch.setattr(attachment, "RETURNS_WITHIN", 0.5)
    monkeypatch.setattr(attachment, "LOOK_AGAIN", 0.05)


class Stranger:
    """An HTTP server in this very process that gives one answer to everything, or none."""

    def __init__(self, body: str, *, status: int = 200, hangs: bool = False) -> None:
        self.body, self.status, self.hangs = body, status, hangs
        self._talks: set[asyncio.Task[None]] = set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self.hangs:
                await asyncio.Event().wait()
            head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(self.body)}\r\n\r\n"
            writer.write((head + self.body).encode())
            await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def on(self, port: int) -> AsyncGenerator[Stranger]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", port)
        try:
            yield self
        finally:
            server.close()
            for talk in list(self._talks):
                talk.cancel()
            await asyncio.gather(*self._talks, return_exceptions=True)
            await server.wait_closed()


def of_version(version: str) -> Stranger:
    return Stranger(f'{{"version": "{version}"}}')


# --- found ----------------------------------------------------------------------------------------


def test_a_server_that_is_there_is_used_and_goes_on(
    tmp_path: Path, theirs: Server, our: InstanceSpec
) -> None:
    async def scene() -> None:
        version = ask(theirs.port, "/api/version")["version"]
        async with daemon(tmp_path) as made:
            made.want(our)
            ready = await made.until_phase(Phase.READY)
            assert ready.attached is not None
            assert (ready.attached.pid, ready.attached.owner) == (theirs.pid, getpass.getuser())
            assert ready.attached.version == version
            assert ready.process is None
            assert ready.ready_after_s is not None
            who = f"pid {theirs.pid} of {getpass.getuser()}"
            assert ready.message == f"attached to {who} (Ollama {version})"

            made.post(EventType.HELD, data={"hurry": True})
            held = await made.until_phase(Phase.STOPPED)
            assert (held.reason, held.attached) == ("held", None)
            assert held.message == f"detached: {who} goes on"
            assert alive(theirs.pid)

            made.post(EventType.REDO)
            again = await made.until_phase(Phase.READY)
            assert (again.attached, again.restarts) == (ready.attached, 0)
        assert ask(theirs.port, "/api/version"), "what was let go of is untouched"

    play(scene())


def test_settings_that_its_server_does_not_heed_are_named(
    tmp_path: Path, theirs: Server, our: InstanceSpec
) -> None:
    async def scene() -> None:
        argv, interval = our.command.argv, Liveness(interval=0.05)
        spec = replace(
            declared(tmp_path, argv, theirs.port, num_parallel="2", keep_alive="5m"),
            liveness=interval,
        )
        async with daemon(tmp_path) as made:
            made.want(spec)
            ready = await made.until_phase(Phase.READY)
            words = "; its settings are its own: num_parallel, keep_alive are ignored"
            assert ready.message.endswith(words)

            # An edit of them is taken up without a look at who runs there.
            fewer = declared(tmp_path, argv, theirs.port, keep_alive="5m")
            made.want(replace(fewer, liveness=interval))
            after = await made.until(lambda o: o.message.endswith("keep_alive is ignored"))
            assert (after.start_id, after.attached) == (ready.start_id, ready.attached)
            assert ("detached", "") not in made.told()

    play(scene())


def test_another_port_means_another_server(
    tmp_path: Path, theirs: Server, our: InstanceSpec, machine: World
) -> None:
    async def scene() -> None:
        async with daemon(tmp_path) as made:
            made.want(our)
            await made.until_phase(Phase.READY)
            made.want(declared(tmp_path, our.command.argv, machine.port()))
            ready = await made.until(lambda o: o.phase is Phase.READY and o.managed)
            assert ready.process is not None
            assert ask(ready.spec.endpoint.port, "/api/version")
        assert alive(theirs.pid)

    play(scene())


def test_never_names_who_is_there(tmp_path: Path, theirs: Server, our: InstanceSpec) -> None:
    async def scene() -> None:
        async with daemon(tmp_path) as made:
            made.want(replace(our, attach="never"))
            waiting = await made.until_phase(Phase.BACKOFF)
            assert waiting.reason == "port-taken"
            assert f"pid {theirs.pid} " in waiting.message

            # It is enough to say that it may be used.
            made.want(our)
            assert (await made.until_phase(Phase.READY)).attached is not None

    play(scene())


def test_only_waits_for_as_long_as_it_takes(
    tmp_path: Path, our: InstanceSpec, ollama: str, port: int
) -> None:
    async def scene() -> None:
        async with daemon(tmp_path) as made:
            made.want(replace(our, attach="only"))
            waiting = await made.until_phase(Phase.BACKOFF)
            assert waiting.reason == "nothing-to-attach"
            assert f"no Ollama answers at 127.0.0.1:{port}" in waiting.message
            assert made.reconciler.state.settled
            with running_ollama(tmp_path / "theirs", port, binary=ollama) as server:
                ready = await made.until_phase(Phase.READY)
                assert ready.attached is not None
                assert ready.attached.pid == server.pid
                made.want()
                await made.until_nothing()

    play(scene())


def test_without_a_binary_there_is_nothing_to_start_and_a_server_is_waited_for(
    tmp_path: Path, ollama: str, port: int
) -> None:
    spec = replace(declared(tmp_path, (), port), restart=RestartPolicy(limit=1))

    async def scene() -> None:
        async with daemon(tmp_path) as made:
            made.want(spec)
            waiting = await made.until_phase(Phase.BACKOFF)
            assert waiting.reason == "binary-missing"
            assert "ORCHESTRATE_OLLAMA" in waiting.message
            # More tries than the policy has restarts.
            waiting = await made.until(lambda o: o.phase is not Phase.STARTING and o.streak > 2)
            assert (waiting.phase, waiting.failures) == (Phase.BACKOFF, ())
            assert made.told().count(("start-failed", "binary-missing")) == 1
            with running_ollama(tmp_path / "theirs", port, binary=ollama) as server:
                ready = await made.until_phase(Phase.READY)
                assert ready.attached is not None
                assert ready.attached.pid == server.pid
                made.want()
                await made.until_nothing()

    play(scene())


@pytest.mark.parametrize(
    "stranger",
    [
        Stranger("{}"),
        Stranger("[]"),
        Stranger('{"version": 7}'),
        Stranger('{"version": ""}'),
        Stranger("[" * 100_000),
        Stranger("<html>"),
        Stranger('{"version": "1"}', status=503),
        Stranger("", hangs=True),
    ],
    ids=lambda one: "hangs" if one.hangs else f"{one.status} {one.body[:15]}",
)
@pytest.mark.parametrize("mode", ["auto", "only"])
def test_what_is_no_healthy_ollama_only_takes_the_port(
    tmp_path: Path,
    our: InstanceSpec,
    stranger: Stranger,
    mode: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attachment, "FIRST_ANSWER", 0.2)

    async def scene() -> None:
        port = our.endpoint.port
        async with stranger.on(port), daemon(tmp_path) as made:
            made.want(replace(our, attach=mode))
            waiting = await made.until_phase(Phase.BACKOFF)
            assert waiting.reason == "port-taken"
            assert f"port {port} is taken by pid {os.getpid()} " in waiting.message

    play(scene())


def test_what_a_stranger_says_does_no_harm_to_a_terminal(port: int) -> None:
    async def scene() -> None:
        async with Stranger('{"version": "\\u001b[2J9.9\\n' + "x" * 500 + '"}').on(port):
            found = await attachment.find(Endpoint("127.0.0.1", port), within=5)
        assert found is not None
        assert found.version.isprintable()
        assert found.version.startswith("9.9")
        assert len(found.version) <= 40

    play(scene())


def test_a_server_that_we_started_ourselves_is_not_somebody_elses(
    tmp_path: Path, our: InstanceSpec, port: int
) -> None:
    async def scene() -> None:
        log = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
        stray = process.spawn(
            our.command,
            inherited=os.environ,
            owner=(OWNER_VARIABLE, f"{OWNER}/o/earlier"),
            log=log,
        )
        os.close(log)
        try:
            until_up(port)
            async with daemon(tmp_path) as made:
                made.want(our)
                waiting = await made.until_phase(Phase.BACKOFF)
                assert waiting.reason == "port-taken"
                assert f"pid {stray.ref.pid} " in waiting.message
        finally:
            await process.stop(stray, grace=5)

    play(scene())


def test_one_that_was_quicker_than_ours_is_used(
    tmp_path: Path, our: InstanceSpec, ollama: str, port: int
) -> None:
    """Our own start finds the port free, and loses it before it listens."""
    go = tmp_path / "go"
    os.mkfifo(go)
    argv = ("/bin/sh", "-c", f'read x < "{go}"; exec "{ollama}" serve')

    async def scene() -> None:
        async with daemon(tmp_path) as made:
            made.want(replace(our, command=replace(our.command, argv=argv)))
            await made.until(lambda o: o.process)
            with running_ollama(tmp_path / "theirs", port, binary=ollama) as server:
                go.write_text("go\n")
                waiting = await made.until_phase(Phase.BACKOFF)
                assert waiting.reason == "port-taken"
                ready = await made.until_phase(Phase.READY)
                assert ready.attached is not None
                assert ready.attached.pid == server.pid
                made.want()
                await made.until_nothing()

    play(scene())


# --- watched --------------------------------------------------------------------------------------


def test_its_end_is_noticed_at_once_and_so_is_its_return(
    tmp_path: Path, our: InstanceSpec, ollama: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment, "LOOK_AGAIN", 0.05)
    patient = replace(our, liveness=Liveness(interval=3600.0))

    async def scene() -> None:
        async with daemon(tmp_path) as made:
            with running_ollama(tmp_path / "theirs", port, binary=ollama) as server:
                made.want(patient)
                first = await made.until_phase(Phase.READY)
                server.end()
            gone = await made.until_phase(Phase.UNREADY)
            assert gone.reason == "gone"
            assert f"pid {server.pid} " in gone.message
            assert gone.attached is not None
            assert gone.attached.pid is None, "that number may soon be somebody else's"
            with running_ollama(tmp_path / "theirs", port, binary=ollama) as server:
                back = await made.until_phase(Phase.READY)
                assert back.attached is not None
                assert back.attached.pid == server.pid
                assert (back.start_id, back.restarts) == (first.start_id, 0)
                assert ("attached", "back") in made.told()
                made.want()
                await made.until_nothing()

    play(scene())


def test_one_that_does_not_return_is_replaced_by_our_own(
    tmp_path: Path, theirs: Server, our: InstanceSpec, impatient: None
) -> None:
    async def scene() -> None:
        async with daemon(tmp_path) as made:
            made.want(our)
            await made.until_phase(Phase.READY)
            theirs.end()
            ready = await made.until(lambda o: o.phase is Phase.READY and o.managed)
            assert ready.process is not None
            assert (ready.restarts, ready.failures) == (0, ())
            await made.until(lambda _: "ready" in dict(made.told()))
            told = [kind for kind, _ in made.told() if kind != "converged"]
            away = ["starting", "attached", "unready", "detached"]
            assert told == [*away, "starting", "spawned", "ready"]

    play(scene())


@pytest.mark.parametrize("attach", ["only", "auto without a binary"])
def test_where_ours_cannot_take_its_place_it_is_waited_for(
    tmp_path: Path, our: InstanceSpec, ollama: str, port: int, attach: str, impatient: None
) -> None:
    spec = declared(tmp_path, (), port)
    if attach == "only":
        spec = replace(our, attach="only")

    async def scene() -> None:
        async with daemon(tmp_path) as made:
            with running_ollama(tmp_path / "theirs", port, binary=ollama) as server:
                made.want(spec)
                first = await made.until_phase(Phase.READY)
                server.end()
                gone = await made.until_phase(Phase.UNREADY)
                assert "waiting for it to return" in gone.message
            with running_ollama(tmp_path / "theirs", port, binary=ollama):
                # Away for longer than `auto` would have waited.
                back = await made.until_phase(Phase.READY)
                assert back.start_id == first.start_id
                made.want()
                await made.until_nothing()

    play(scene())


def test_another_version_behind_the_same_address_is_told(
    tmp_path: Path, our: InstanceSpec, port: int
) -> None:
    async def scene() -> None:
        async with daemon(tmp_path) as made, of_version("1.0").on(port) as stranger:
            made.want(replace(our, liveness=Liveness(interval=0.05)))
            first = await made.until_phase(Phase.READY)
            stranger.body = '{"version": "2.0"}'
            other = await made.until(lambda o: o.attached and o.attached.version == "2.0")
            assert other.message.endswith("(Ollama 2.0); it was Ollama 1.0 before")
            assert (other.phase, other.start_id) == (Phase.READY, first.start_id)
            assert ("attached", "version") in made.told()
            made.want()
            await made.until_nothing()

    play(scene())


def test_one_that_hangs_is_unready_and_kept_until_it_is_gone(
    tmp_path: Path, our: InstanceSpec, port: int, impatient: None
) -> None:
    async def scene() -> None:
        quick = replace(our, attach="only", liveness=Liveness(interval=0.05, timeout=0.1))
        async with daemon(tmp_path) as made:
            async with of_version("1.0").on(port) as stranger:
                made.want(quick)
                first = await made.until_phase(Phase.READY)
                stranger.hangs = True
                hung = await made.until_phase(Phase.UNREADY)
                assert (hung.reason, hung.condemned) == ("unhealthy", "")
                assert made.reconciler.plan.actions == ()
                stranger.hangs = False
                await made.until_phase(Phase.READY)
                stranger.hangs = True
                await made.until_phase(Phase.UNREADY)
            gone = await made.until(lambda o: o.reason == "gone")
            assert gone.start_id == first.start_id

    play(scene())


# --- what is said by `apply` ----------------------------------------------------------------------


def test_apply_never_takes_a_model_for_there_that_somebody_has_removed(
    tmp_path: Path, theirs: Server, our: InstanceSpec, model: Path
) -> None:
    async def scene() -> None:
        spec = with_a_model(our, model)
        async with daemon(tmp_path) as made:
            made.want(spec)
            await made.until(lambda _: made.reconciler.state.converged)
            remove(theirs.port, "tiny:latest")
            made.bus.post(NewDesired({"o": spec}, renew=True, number=2))
            # Its rows, which still say that it is there, are in doubt from that very pass on.
            await made.until(lambda _: made.reconciler.number == 2)
            assert not made.reconciler.state.converged
            assert not made.reconciler.state.settled
            await made.until(lambda _: made.reconciler.state.converged)
            assert "tiny:latest" in tags(theirs.port)
            assert ("model", "vanished") in made.told()

            before = [what for what in made.told() if what[0] == "model"]
            made.bus.post(NewDesired({"o": spec}, renew=True, number=3))
            await made.until(lambda _: made.reconciler.number == 3)
            await made.until(lambda _: made.reconciler.state.converged)
            assert [what for what in made.told() if what[0] == "model"] == before

    play(scene())


# --- and the daemon -------------------------------------------------------------------------------


def with_a_model(spec: InstanceSpec, model: Path) -> InstanceSpec:
    """It is to have a model, which stays in memory for a moment only."""
    assert spec.holds is not None
    tiny = imported("tiny:latest", model, preload=True, keep_alive=0.5)
    return replace(spec, holds=replace(spec.holds, models=(tiny,)))


def rested(o: InstanceStatus) -> bool:
    return any(model.rested for model in o.models)


def test_another_daemon_knows_it_again_and_all_that_was_known_of_it(
    tmp_path: Path,
    theirs: Server,
    our: InstanceSpec,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_upkeep, "MEMORY_EVERY", 0.1)

    async def scene() -> None:
        async with daemon(tmp_path, ends=False) as made:
            made.want(with_a_model(our, model))
            first = await made.until(rested)
        async with daemon(tmp_path) as made:
            made.take_over()
            await made.until(lambda _: made.told().count(("attached", "")) == 2)
            assert made.o == first
            assert made.reconciler.state.converged
            # Its server is looked at, and found to be as it was.
            await asyncio.sleep(0.5)
            assert made.o == first
            assert made.told().count(("model", "loaded")) == 1
            assert made.told().count(("starting", "")) == 1
        assert alive(theirs.pid)

    play(scene())


def test_another_server_in_its_place_is_none_that_anything_is_known_of(
    tmp_path: Path, theirs: Server, our: InstanceSpec, ollama: str, port: int, model: Path
) -> None:
    async def scene() -> None:
        async with daemon(tmp_path, ends=False) as made:
            made.want(with_a_model(our, model))
            first = await made.until(rested)
        theirs.end()
        with running_ollama(tmp_path / "others", port, binary=ollama) as server:
            async with daemon(tmp_path) as made:
                made.take_over()
                again = await made.until(
                    lambda o: o.phase is Phase.READY and o.start_id != first.start_id
                )
                assert again.attached is not None
                assert (again.attached.pid, again.restarts) == (server.pid, 0)
                assert "exited" not in dict(made.told())
                await made.until(lambda o: [m.name for m in o.models if m.loaded])
                assert made.told().count(("model", "made")) == 2
                made.want()
                await made.until_nothing()

    play(scene())


def test_a_stop_that_comes_while_it_is_looked_for_again(
    tmp_path: Path, our: InstanceSpec, port: int
) -> None:
    async def scene() -> None:
        async with of_version("1.0").on(port) as stranger:
            async with daemon(tmp_path, ends=False) as made:
                made.want(our)
                await made.until_phase(Phase.READY)
            stranger.hangs = True
            async with daemon(tmp_path) as made:
                made.take_over()
                made.post(EventType.HELD)
                held = await made.until_phase(Phase.STOPPED)
                assert (held.reason, held.attached, held.failures) == ("held", None, ())

    play(scene())


@pytest.mark.usefixtures("impatient")
def test_another_daemon_starts_ours_where_it_is_gone_for_good(
    tmp_path: Path, theirs: Server, our: InstanceSpec
) -> None:
    async def scene() -> None:
        async with daemon(tmp_path, ends=False) as made:
            made.want(our)
            await made.until_phase(Phase.READY)
        theirs.end()
        async with daemon(tmp_path) as made:
            made.take_over()
            gone = await made.until_phase(Phase.UNREADY)
            assert gone.reason == "gone"
            ready = await made.until(lambda o: o.phase is Phase.READY and o.managed)
            assert (ready.restarts, ready.failures) == (0, ())
            assert made.told().count(("unready", "gone")) == 1

    play(scene())


def test_a_service_that_restarts_while_the_daemon_does_is_waited_for(
    tmp_path: Path,
    theirs: Server,
    our: InstanceSpec,
    ollama: str,
    port: int,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attachment, "RETURNS_WITHIN", 600.0)
    monkeypatch.setattr(attachment, "LOOK_AGAIN", 0.05)

    async def scene() -> None:
        async with daemon(tmp_path, ends=False) as made:
            made.want(with_a_model(our, model))
            first = await made.until(rested)
        theirs.end()
        async with daemon(tmp_path) as made:
            made.take_over()
            await made.until_phase(Phase.UNREADY)
            with running_ollama(tmp_path / "theirs", port, binary=ollama) as server:
                back = await made.until_phase(Phase.READY)
                assert back.attached is not None
                assert (back.attached.pid, back.start_id) == (server.pid, first.start_id)
                assert ("attached", "back") in made.told()
                assert "detached" not in dict(made.told())
                await made.until(lambda _: made.reconciler.state.converged)
                made.want()
                await made.until_nothing()

    play(scene())


@pytest.mark.parametrize("answers", [True, False])
def test_another_kind_of_server_in_its_place_is_not_waited_for_and_a_silent_one_is(
    tmp_path: Path, our: InstanceSpec, port: int, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment, "FIRST_ANSWER", 0.5)

    async def scene() -> None:
        async with of_version("1.0").on(port) as stranger:
            async with daemon(tmp_path, ends=False) as made:
                made.want(our)
                await made.until_phase(Phase.READY)
            stranger.body, stranger.hangs = "<html>", not answers
            async with daemon(tmp_path) as made:
                made.take_over()
                now = await made.until(lambda o: o.phase in (Phase.BACKOFF, Phase.UNREADY))
                assert now.reason == ("port-taken" if answers else "unhealthy")
                stranger.body, stranger.hangs = '{"version": "1.0"}', False
                await made.until_phase(Phase.READY)

    play(scene())


def test_a_stop_that_comes_while_it_is_looked_for(
    tmp_path: Path, our: InstanceSpec, port: int
) -> None:
    async def scene() -> None:
        async with Stranger("", hangs=True).on(port), daemon(tmp_path) as made:
            made.want(our)
            await made.until_phase(Phase.STARTING)
            made.post(EventType.HELD)
            held = await made.until_phase(Phase.STOPPED)
            assert (held.reason, held.failures) == ("held", ())

    play(scene())
