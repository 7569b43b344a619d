"""The provisioner on a real Ollama: what is declared comes to be, or it is said why not."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from models.make_tiny import write_tiny
from orchestrator.control import model_upkeep, model_work
from orchestrator.core import residency
from orchestrator.core.event import EventType
from orchestrator.core.spec import (
    Copied,
    ModelSpec,
    Pulled,
)
from orchestrator.core.status import ModelState
from tests.functional.test_disks import small_disk
from tests.keeping import built, imported, keeping, play, port
from tests.ollama_world import Server, ask, ps, running_ollama, tags
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


# --- coming to be ------------------------------------------------------------------------------


def test_a_gguf_becomes_a_model_without_a_copy_of_it(
    server: Server, tmp_path: Path, model: Path
) -> None:
    async def scene() -> None:
        gguf = write_tiny(tmp_path / "mine.gguf")
        before = gguf.stat()
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("tiny:latest", gguf, preload=True))
            await kept.until_row("tiny:latest", state=ModelState.PRESENT, loaded=True)
            assert kept.told("tiny:latest") == ["made", "loaded"]
        assert gguf.stat().st_nlink == 2
        assert gguf.stat().st_mtime_ns == before.st_mtime_ns
        assert ps(server.port)["tiny:latest"]["expires_at"] > "2200"

    play(scene())


def test_a_gguf_that_changes_before_it_is_linked_is_read_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was hashed is not what became the blob: no model is made of that."""
    gguf = write_tiny(tmp_path / "mine.gguf")
    other = write_tiny(tmp_path / "other.gguf", seed=9).read_bytes()
    real = model_work.link_blob

    def late(store: str, path: str, digest: str) -> bool:
        if gguf.read_bytes() != other:
            gguf.write_bytes(other)
        return real(store, path, digest)

    monkeypatch.setattr(model_work, "link_blob", late)

    async def scene() -> None:
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("tiny:latest", gguf))
            await kept.until_row("tiny:latest", state=ModelState.PRESENT)
            said = [event.message for event in kept.events]
            assert any(f"{gguf} changed while" in message for message in said), said
            # The server shows the file that it runs, which is a blob by the digest of its content.
            modelfile = ask(server.port, "/api/show", {"model": "tiny:latest"})["modelfile"]
            assert sha256(other).hexdigest() in modelfile

    play(scene())


def test_a_model_is_pulled_and_its_progress_is_shown(
    server: Server, tmp_path: Path, model: Path, registry: Registry
) -> None:
    async def scene() -> None:
        name = registry.push("lib/big", padded(tmp_path / "big.gguf", model, 8_000_000))
        registry.rate = 8_000_000
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)))
            await kept.until_row(name, state=ModelState.PRESENT)
            shown = [
                event.message
                for event in kept.events
                if event.type is EventType.MODEL_PROGRESS and "MB/s" in event.message
            ]
            assert any(" of 8.0 MB, " in line for line in shown), shown
            assert kept.told(name) == ["pulled"]

    play(scene())


def test_a_modelfile_is_built_once_and_again_when_it_says_otherwise(
    server: Server, tmp_path: Path, model: Path
) -> None:
    async def scene() -> None:
        text = f"FROM {model}\nSYSTEM be brief"
        async with keeping(server, tmp_path) as kept:
            kept.declare(built("m:latest", tmp_path, text))
            await kept.until_row("m:latest", state=ModelState.PRESENT)
            assert kept.told("m:latest") == ["built"]
        first = tags(server.port)["m:latest"]["digest"]
        async with keeping(server, tmp_path) as kept:
            kept.declare(built("m:latest", tmp_path, text))
            await kept.until_row("m:latest", state=ModelState.PRESENT)
            assert kept.told("m:latest") == [], "another daemon builds nothing anew"
            kept.declare(built("m:latest", tmp_path, text + "er"))
            await kept.until(lambda: kept.told("m:latest") == ["built"])
        assert tags(server.port)["m:latest"]["digest"] != first

    play(scene())


def test_what_stands_on_another_waits_for_it_and_follows_it(
    server: Server, tmp_path: Path, model: Path
) -> None:
    async def scene() -> None:
        child = built("child:latest", tmp_path, "FROM base\nPARAMETER num_ctx 128")
        alias = ModelSpec("alias:latest", Copied("base:latest"))
        other = write_tiny(tmp_path / "other.gguf", seed=7)
        async with keeping(server, tmp_path) as kept:
            kept.declare(alias, child, imported("base:latest", model))
            for name in ("base:latest", "child:latest", "alias:latest"):
                await kept.until_row(name, state=ModelState.PRESENT)
            kept.declare(alias, child, imported("base:latest", other))
            await kept.until(lambda: kept.told("child:latest") == ["built", "built"])
            await kept.until(lambda: kept.told("alias:latest") == ["copied", "copied"])
        there = tags(server.port)
        assert there["alias:latest"]["digest"] == there["base:latest"]["digest"]

    play(scene())


def test_a_base_that_is_not_there_is_pulled_first(
    server: Server, tmp_path: Path, model: Path, registry: Registry
) -> None:
    async def scene() -> None:
        # Without TLS, for which a Modelfile has no word: as a declared model it has one.
        name = registry.push("lib/base", model)
        async with keeping(server, tmp_path) as kept:
            kept.declare(
                built("m:latest", tmp_path, f"FROM {name}\nSYSTEM x"),
                ModelSpec(name, Pulled(insecure=True)),
            )
            await kept.until_row("m:latest", state=ModelState.PRESENT)

    play(scene())


# --- what fails --------------------------------------------------------------------------------


def test_a_model_that_does_not_exist_fails_at_once_and_stays_so(
    server: Server, tmp_path: Path, registry: Registry, model: Path
) -> None:
    async def scene() -> None:
        name = f"{registry.host}/lib/nothing:latest"
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)))
            row = await kept.until_row(name, state=ModelState.FAILED)
            assert row.reason == "not-found"
            assert "file does not exist" in row.message
            registry.push("lib/nothing", model)
            kept.declare(ModelSpec(name, Pulled(insecure=True), keep_alive=60.0))
            await asyncio.sleep(0.5)
            kept.take_in()
            assert kept.row(name).state is ModelState.FAILED, "nobody asked for another try"
            kept.ask_again()
            await kept.until_row(name, state=ModelState.PRESENT)

    play(scene())


def test_a_registry_that_is_away_is_waited_for(
    server: Server, tmp_path: Path, registry: Registry, model: Path
) -> None:
    async def scene() -> None:
        name = registry.push("lib/late", model)
        registry.stop()
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)))
            await kept.until(lambda: "connection refused" in kept.row(name).message)
            assert kept.row(name).state is ModelState.PULLING
            registry.start()
            await kept.until_row(name, state=ModelState.PRESENT)

    play(scene())


def test_a_pull_goes_on_where_it_was_cut_off(
    server: Server, tmp_path: Path, registry: Registry, model: Path
) -> None:
    async def scene() -> None:
        name = registry.push("lib/big", padded(tmp_path / "big.gguf", model, 12_000_000))
        registry.rate = 6_000_000
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)))
            await kept.until(lambda: kept.row(name).bytes_done > 4_000_000)
        # The daemon has ended in the middle; the next one looks again.
        registry.rate = None
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)))
            await kept.until_row(name, state=ModelState.PRESENT)
        assert sum(registry.served.values()) < 14_000_000

    play(scene())


def test_a_modelfile_that_the_server_refuses_is_shown_in_its_words(
    server: Server, tmp_path: Path
) -> None:
    async def scene() -> None:
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(b"GGUF" + b"\0" * 4)
        async with keeping(server, tmp_path) as kept:
            kept.declare(built("m:latest", tmp_path, "FROM ./broken.gguf"))
            row = await kept.until_row("m:latest", state=ModelState.FAILED)
            assert row.reason == "build-failed"
            assert row.message
            write_tiny(broken)
            await kept.until_row("m:latest", state=ModelState.PRESENT)

    play(scene())


def test_a_model_that_cannot_be_loaded_says_what_the_engine_says(
    server: Server, tmp_path: Path, model: Path
) -> None:
    async def scene() -> None:
        short = tmp_path / "short.gguf"
        short.write_bytes(model.read_bytes()[:-100_000])
        async with keeping(server, tmp_path) as kept:
            kept.declare(imported("m:latest", short, preload=True))
            row = await kept.until_row("m:latest", state=ModelState.FAILED)
            assert row.reason in ("load-failed", "build-failed")
            assert row.message

    play(scene())


def test_a_full_disk_is_said_and_the_pull_goes_on_once_there_is_room(
    tmp_path: Path, ollama: str, registry: Registry, model: Path
) -> None:
    async def scene(server: Server, disk: Path) -> None:
        name = registry.push("lib/big", padded(tmp_path / "big.gguf", model, 8_000_000))
        async with keeping(server, tmp_path) as kept:
            kept.declare(ModelSpec(name, Pulled(insecure=True)))
            row = await kept.until_row(name, state=ModelState.FAILED)
            assert row.reason == "disk-full"
            assert "no space left on device" in row.message
            await asyncio.to_thread(
                subprocess.run, ["mount", "-o", "remount,size=64m", disk], check=True
            )
            kept.ask_again()
            await kept.until_row(name, state=ModelState.PRESENT)

    with (
        small_disk(tmp_path / "disk", "4m") as disk,
        running_ollama(tmp_path / "ollama", port(), binary=ollama, store=disk / "store") as server,
    ):
        play(scene(server, disk))
