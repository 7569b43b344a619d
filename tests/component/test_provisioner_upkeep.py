"""The provisioner on a real Ollama: what is as declared stays so, whatever others do."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.make_tiny import write_tiny
from orchestrator.control import model_dropping, model_upkeep
from orchestrator.control.workshop import Workshop
from orchestrator.core import residency
from orchestrator.core.provision import lacking
from orchestrator.core.refusal import backoff
from orchestrator.core.spec import (
    Command,
    Copied,
    Endpoint,
    InstanceSpec,
    ModelSet,
    ModelSpec,
    Pulled,
)
from orchestrator.core.status import ModelState
from orchestrator.runtime.ollama_server import OllamaError, OllamaServer, OllamaUnreachableError
from tests.keeping import built, imported, keeping, play, port, runners
from tests.ollama_world import Server, ask, generate, ps, remove, running_ollama, tags, unload
from tests.registry import Registry, padded

pytestmark = pytest.mark.ollama


@pytest.fixture
def server(tmp_path: Path, ollama: str) -> Iterator[Server]:
    with running_ollama(tmp_path / "ollama", port(), binary=ollama) as running:
        yield running


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at every few seconds, is looked at several times in one."""
    monkeypatch.setattr(model_upkeep, "MEMORY_EVERY", 0.1)
    monkeypatch.setattr(model_upkeep, "TAGS_EVERY", 0.3)
    monkeypatch.setattr(residency, "SETTLE", 2.5)


# --- what others do to it ----------------------------------------------------------------------


def test_what_somebody_removes_comes_back(server: Server, tmp_path: Path, model: Path) -> None:
    async def scene() -> None:
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("tiny:latest", model, preload=True))
            await kept.until_row("tiny:latest", loaded=True)
            remove(server.port, "tiny:latest")
            await kept.until(lambda: kept.told("tiny:latest")[2:4] == ["vanished", "made"])
            await kept.until_row("tiny:latest", state=ModelState.PRESENT, loaded=True)

    play(scene())


def test_what_somebody_unloads_is_loaded_again(server: Server, tmp_path: Path, model: Path) -> None:
    async def scene() -> None:
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("tiny:latest", model, preload=True))
            await kept.until_row("tiny:latest", loaded=True)
            unload(server.port, "tiny:latest")
            await kept.until(lambda: kept.told("tiny:latest")[2:] == ["unloaded", "loaded"])

    play(scene())


def test_a_runner_that_is_killed_is_replaced(server: Server, tmp_path: Path, model: Path) -> None:
    async def scene() -> None:
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("tiny:latest", model, preload=True))
            await kept.until_row("tiny:latest", loaded=True)
            [before] = runners(server)
            os.kill(before, signal.SIGKILL)
            await kept.until(lambda: kept.told("tiny:latest")[2:] == ["killed", "loaded"])
            [after] = runners(server)
            assert after != before

    play(scene())


def test_a_shorter_stay_is_set_right_without_loading_anew(
    server: Server, tmp_path: Path, model: Path
) -> None:
    async def scene() -> None:
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("tiny:latest", model, preload=True))
            await kept.until_row("tiny:latest", loaded=True)
            await asyncio.to_thread(generate, server.port, "tiny:latest", keep_alive="2m")
            await kept.until(lambda: "kept" in kept.told("tiny:latest"))
            await kept.until(lambda: ps(server.port)["tiny:latest"]["expires_at"] > "2200")
            options = {"num_ctx": 256}
            await asyncio.to_thread(generate, server.port, "tiny:latest", options=options)
            other = runners(server)
            await kept.until(lambda: kept.told("tiny:latest").count("kept") == 2)
            await kept.until(lambda: ps(server.port)["tiny:latest"]["expires_at"] > "2200")
            assert runners(server) == other, "what runs with other options runs on"

    play(scene())


def test_what_leaves_memory_by_its_own_time_is_not_brought_back(
    server: Server, tmp_path: Path, model: Path
) -> None:
    async def scene() -> None:
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("tiny:latest", model, preload=True, keep_alive=1.0))
            await kept.until_row("tiny:latest", loaded=True)
            await kept.until_row("tiny:latest", loaded=False, rested=True)
            await asyncio.sleep(0.5)
            kept.take_in()
            assert kept.told("tiny:latest") == ["made", "loaded", "rested"]

    play(scene())


def test_an_eviction_is_an_event_and_no_fight(tmp_path: Path, ollama: str, model: Path) -> None:
    other = write_tiny(tmp_path / "other.gguf", seed=3)

    async def scene(server: Server) -> None:
        async with keeping(server, tmp_path) as kept:
            kept.declare(
                imported("ours:latest", model, preload=True),
                imported("theirs:latest", other),
                limit=1,
            )
            await kept.until_row("ours:latest", loaded=True)
            await kept.until_row("theirs:latest", state=ModelState.PRESENT)
            await asyncio.to_thread(generate, server.port, "theirs:latest")
            row = await kept.until_row("ours:latest", loaded=False, reason="evicted")
            assert row.state is ModelState.PRESENT
            await asyncio.sleep(0.5)
            assert list(ps(server.port)) == ["theirs:latest"]
            unload(server.port, "theirs:latest")
            kept.provisioner.wake()
            await kept.until_row("ours:latest", loaded=True, reason="")

    with running_ollama(
        tmp_path / "ollama", port(), binary=ollama, OLLAMA_MAX_LOADED_MODELS="1"
    ) as server:
        play(scene(server))


def test_where_nothing_says_how_many_fit_what_does_not_settles_as_evicted(
    tmp_path: Path, ollama: str, model: Path
) -> None:
    """What the server keeps in memory is not ours to guess, and nobody waits for it for ever."""
    paths = [write_tiny(tmp_path / f"{seed}.gguf", seed=seed) for seed in (3, 4)]
    names = ["a:latest", "b:latest"]

    async def scene(server: Server) -> None:
        async with keeping(server, tmp_path) as kept:
            ours = [imported(n, p, preload=True) for n, p in zip(names, paths, strict=True)]
            kept.declare(*ours, imported("theirs:latest", model), limit=None)

            def settled() -> bool:
                return not any(lack.moving for lack in lacking(kept.spec.holds, kept.rows()))

            await kept.until(settled)
            assert sorted((kept.row(n).loaded, kept.row(n).reason) for n in names) == [
                (False, "evicted"),
                (True, ""),
            ]
            await asyncio.to_thread(generate, server.port, "theirs:latest")
            await kept.until(lambda: [kept.row(n).reason for n in names] == ["evicted"] * 2)
            assert settled()
            await asyncio.sleep(0.5)
            assert list(ps(server.port)) == ["theirs:latest"]
            unload(server.port, "theirs:latest")
            kept.provisioner.wake()
            await kept.until(lambda: any(kept.row(n).loaded for n in names))
            await kept.until(settled)

    with running_ollama(
        tmp_path / "ollama", port(), binary=ollama, OLLAMA_MAX_LOADED_MODELS="1"
    ) as server:
        play(scene(server))


def test_two_names_of_one_model_are_loaded_once(
    server: Server, tmp_path: Path, model: Path
) -> None:
    async def scene() -> None:
        async with keeping(server, tmp_path) as kept:
            kept.declare(
                imported("a:latest", model, preload=True),
                ModelSpec("b:latest", Copied("a:latest"), preload=True),
            )
            await kept.until_row("a:latest", loaded=True)
            await kept.until_row("b:latest", loaded=True)
            assert len(runners(server)) == 1

    play(scene())


# --- what is not declared any more -------------------------------------------------------------


def test_a_dropped_model_leaves_memory_and_the_store_only_by_word(
    server: Server, tmp_path: Path, model: Path
) -> None:
    async def scene() -> None:
        one, two = imported("one:latest", model, preload=True), imported("two:latest", model)
        async with keeping(server, tmp_path) as kept:
            kept.declare(one, two)
            await kept.until_row("one:latest", loaded=True)
            await kept.until_row("two:latest", state=ModelState.PRESENT)
            kept.declare()
            await kept.until(lambda: not kept.observed["o"].models)
            await kept.until(lambda: not ps(server.port))
            assert set(tags(server.port)) == {"one:latest", "two:latest"}
            kept.declare(one, two, prune=True)
            await kept.until_row("one:latest", loaded=True)
            kept.declare(two, prune=True)
            await kept.until(lambda: "gone" in kept.told("one:latest")[-1:])
            assert set(tags(server.port)) == {"two:latest"}

    play(scene())


def test_what_another_instance_with_the_store_declares_is_not_deleted(
    server: Server, tmp_path: Path, model: Path
) -> None:
    async def scene() -> None:
        one = imported("one:latest", model)
        holds = ModelSet((one,), store=str(server.store))
        command = Command((), {}, "/")
        other = InstanceSpec("p", "ollama", command, Endpoint("127.0.0.1", 1), holds=holds)
        workshop = Workshop(str(tmp_path / "cache"), lambda: {"p": other})
        async with keeping(server, tmp_path, workshop=workshop) as kept:
            kept.declare(one, prune=True)
            await kept.until_row("one:latest", state=ModelState.PRESENT)
            kept.declare(prune=True)
            await kept.until(lambda: "gone" in kept.told("one:latest"))
        assert set(tags(server.port)) == {"one:latest"}

    play(scene())


def test_a_prune_that_is_taken_back_meanwhile_deletes_nothing(
    server: Server, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, unloads, go = OllamaServer.unload, asyncio.Event(), asyncio.Event()

    async def slow(self: OllamaServer, name: str) -> None:
        unloads.set()
        await go.wait()
        await real(self, name)

    monkeypatch.setattr(OllamaServer, "unload", slow)

    async def scene() -> None:
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("one:latest", model), prune=True)
            await kept.until_row("one:latest", state=ModelState.PRESENT)
            kept.declare(prune=True)
            await kept.until(unloads.is_set)
            kept.declare(prune=False)
            go.set()
            await kept.until(lambda: "gone" in kept.told("one:latest"))
        assert set(tags(server.port)) == {"one:latest"}

    play(scene())


def test_a_server_that_does_not_delete_is_asked_less_and_less_and_it_is_said_once(
    server: Server, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, pauses, refuses = OllamaServer.delete, list[float](), True

    async def delete(self: OllamaServer, name: str) -> None:
        if refuses:
            raise OllamaError("permission denied")
        await real(self, name)

    def quick(failures: int) -> float:
        pauses.append(backoff(failures))
        return 0.01

    monkeypatch.setattr(OllamaServer, "delete", delete)
    monkeypatch.setattr(model_dropping, "backoff", quick)

    async def scene() -> None:
        nonlocal refuses
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("one:latest", model), prune=True)
            await kept.until_row("one:latest", state=ModelState.PRESENT)
            kept.declare(prune=True)
            await kept.until(lambda: len(pauses) >= 4)
            assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
            row = await kept.until_row("one:latest", state=ModelState.FAILED)
            assert "permission denied" in row.message
            refuses = False
            await kept.until(lambda: kept.told("one:latest") == ["made", "failed", "gone"])
        assert set(tags(server.port)) == set()

    play(scene())


# --- damage ------------------------------------------------------------------------------------


def test_a_damaged_model_is_mended(
    server: Server, tmp_path: Path, model: Path, registry: Registry
) -> None:
    async def scene() -> None:
        name = registry.push("lib/m", model)
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)), verify=0.2)
            await kept.until_row(name, state=ModelState.PRESENT)
            [blob] = [
                path
                for path in (server.store / "blobs").iterdir()
                if path.stat().st_size == model.stat().st_size
            ]
            os.truncate(blob, 1000)
            await kept.until(lambda: kept.told(name) == ["pulled", "corrupt", "pulled"])
            assert blob.stat().st_size == model.stat().st_size
            blob.unlink()
            await kept.until(lambda: kept.told(name)[3:] == ["corrupt", "pulled"])
            assert blob.stat().st_size == model.stat().st_size

    play(scene())


def weights(server: Server, model: Path) -> Path:
    """The blob of the tiny model."""
    [blob] = [
        path
        for path in (server.store / "blobs").iterdir()
        if path.stat().st_size == model.stat().st_size
    ]
    return blob


def damage(blob: Path) -> None:
    """Another content, of the same size."""
    with blob.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(range(100)))


def test_a_content_that_changes_in_place_is_seen_and_a_mere_touch_is_no_alarm(
    server: Server, tmp_path: Path, model: Path, registry: Registry
) -> None:
    async def scene() -> None:
        name = registry.push("lib/m", model)
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)), verify=0.2)
            await kept.until_row(name, state=ModelState.PRESENT)
            blob, known = weights(server, model), kept.workshop.whole
            await kept.until(lambda: known.find(str(blob)))
            before = known.find(str(blob))
            os.utime(blob, (1, 1))
            await kept.until(lambda: known.find(str(blob)) != before)
            assert kept.told(name) == ["pulled"]
            damage(blob)
            await kept.until(lambda: kept.told(name) == ["pulled", "corrupt", "pulled"])
            assert blob.read_bytes() == model.read_bytes()
            assert "is not what its digest says" in kept.words(name, "corrupt")

    play(scene())


@pytest.mark.parametrize("how", ["in place", "cut"])
def test_damage_is_found_by_the_first_look_of_the_next_daemon(
    server: Server, tmp_path: Path, model: Path, registry: Registry, how: str
) -> None:
    async def scene() -> None:
        name = registry.push("lib/m", model)
        declared = ModelSpec(name, Pulled(insecure=True))
        async with keeping(server, tmp_path) as kept:
            kept.declare(declared, verify=3600.0)
            await kept.until(lambda: (server.store / "blobs").exists() and kept.told(name))
            blob = weights(server, model)
            await kept.until(lambda: kept.workshop.whole.find(str(blob)))
        if how == "cut":
            os.truncate(blob, 1000)
        else:
            damage(blob)
        async with keeping(server, tmp_path) as kept:
            kept.declare(declared, verify=3600.0)
            await kept.until(lambda: kept.told(name) == ["corrupt", "pulled"])
            assert blob.read_bytes() == model.read_bytes()

    play(scene())


def test_what_could_not_be_removed_is_tried_again(
    server: Server,
    tmp_path: Path,
    model: Path,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, asked = OllamaServer.delete, list[str]()

    async def fails_at_first(self: OllamaServer, name: str) -> None:
        asked.append(name)
        if len(asked) < 3:
            raise OllamaUnreachableError("it does not answer")
        await real(self, name)

    monkeypatch.setattr(OllamaServer, "delete", fails_at_first)

    async def scene() -> None:
        name = registry.push("lib/m", model)
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)), verify=0.2)
            await kept.until_row(name, state=ModelState.PRESENT)
            blob = weights(server, model)
            os.truncate(blob, 1000)
            await kept.until(lambda: kept.told(name) == ["pulled", "corrupt", "pulled"])
            assert blob.read_bytes() == model.read_bytes()
            assert len(asked) == 3

    play(scene())


def test_damage_of_a_blob_that_declared_models_share_is_mended_in_all_of_them(
    server: Server, tmp_path: Path, model: Path, registry: Registry
) -> None:
    async def scene() -> None:
        name = registry.push("lib/m", model)
        models = (
            ModelSpec(name, Pulled(insecure=True)),
            ModelSpec("copy:latest", Copied(name)),
            built("spoken:latest", tmp_path, f"FROM {name}\nSYSTEM speak\n"),
        )
        async with keeping(server, tmp_path) as kept:
            kept.declare(*models, verify=0.2)
            for one in models:
                await kept.until_row(one.name, state=ModelState.PRESENT)
            blob = weights(server, model)
            await kept.until(lambda: kept.workshop.whole.find(str(blob)))
            damage(blob)
            for one in models:
                await kept.until(lambda one=one: "corrupt" in kept.told(one.name))
                await kept.until_row(one.name, state=ModelState.PRESENT)
            assert blob.read_bytes() == model.read_bytes()

    play(scene())


def test_a_damaged_blob_that_others_use_costs_no_model_and_who_mends_it_is_believed(
    server: Server, tmp_path: Path, model: Path, registry: Registry
) -> None:
    async def scene() -> None:
        name = registry.push("lib/m", model)
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)), verify=0.2)
            await kept.until_row(name, state=ModelState.PRESENT)
            blob = weights(server, model)
            await kept.until(lambda: kept.workshop.whole.find(str(blob)))
            ask(server.port, "/api/copy", {"source": name, "destination": "mine:latest"})
            damage(blob)
            row = await kept.until_row(name, state=ModelState.FAILED)
            assert "is used by mine:latest" in row.message
            assert set(tags(server.port)) == {name, "mine:latest"}

            mended = tmp_path / "mended"
            shutil.copyfile(model, mended)
            mended.rename(blob)
            await kept.until_row(name, state=ModelState.PRESENT)
            assert kept.told(name) == ["pulled", "corrupt", "failed"]
        assert set(tags(server.port)) == {name, "mine:latest"}

    play(scene())


def test_what_was_mended_before_its_turn_is_not_deleted(
    server: Server, tmp_path: Path, model: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: OllamaServer, name: str) -> None:
        del self
        raise AssertionError(f"{name} is deleted")

    monkeypatch.setattr(OllamaServer, "delete", never)

    async def scene() -> None:
        name = registry.push("lib/m", model)
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)), verify=0.2)
            await kept.until_row(name, state=ModelState.PRESENT)
            blob = weights(server, model)
            await kept.until(lambda: kept.workshop.whole.find(str(blob)))
            async with kept.workshop.turn(str(server.store), name):
                damage(blob)
                await kept.until(lambda: "corrupt" in kept.told(name))
                mended = tmp_path / "mended"
                shutil.copyfile(model, mended)
                mended.rename(blob)
            await kept.until_row(name, state=ModelState.PRESENT)
            assert kept.told(name) == ["pulled", "corrupt"]

    play(scene())


# --- others' servers, shared stores ------------------------------------------------------------


def test_to_a_server_of_others_files_are_sent_and_nothing_is_deleted_there(
    server: Server, tmp_path: Path
) -> None:
    async def scene() -> None:
        gguf = write_tiny(tmp_path / "mine.gguf")
        async with keeping(server, tmp_path, managed=False) as kept:
            kept.declare(imported("tiny:latest", gguf), prune=True)
            await kept.until_row("tiny:latest", state=ModelState.PRESENT)
            kept.declare(prune=True)
            await kept.until(lambda: not kept.observed["o"].models)
        assert gguf.stat().st_nlink == 1
        assert set(tags(server.port)) == {"tiny:latest"}

    play(scene())


def test_two_instances_with_one_store_pull_a_model_once(
    server: Server, tmp_path: Path, ollama: str, registry: Registry, model: Path
) -> None:
    async def scene(other: Server) -> None:
        name = registry.push("lib/big", padded(tmp_path / "big.gguf", model, 4_000_000))
        registry.rate = 8_000_000
        workshop = Workshop(str(tmp_path / "cache"), lambda: {})
        async with (
            keeping(server, tmp_path, workshop=workshop) as one,
            keeping(other, tmp_path, workshop=workshop) as two,
        ):
            for kept in (one, two):
                kept.declare(ModelSpec(name, Pulled(insecure=True)))
            await asyncio.gather(
                *(kept.until_row(name, state=ModelState.PRESENT) for kept in (one, two))
            )
        assert max(registry.downloads.values()) == 1
        assert sum(registry.served.values()) < 4_100_000

    with running_ollama(tmp_path / "other", port(), binary=ollama, store=server.store) as other:
        play(scene(other))
