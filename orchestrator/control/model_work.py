"""Brings one model onto one server: by a pull, from GGUF files, by a Modelfile, as a copy.

Each returns when the model is there, or raises `WorkError`. Being cancelled ends what is under way
on the server too; whatever came so far is taken up by the next try.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from orchestrator.control.model_board import Board, Meter, size
from orchestrator.control.model_recipe import Recipe, digest_in_name
from orchestrator.control.workshop import Workshop
from orchestrator.core.provision import same_name
from orchestrator.core.refusal import Refusal, build_refusal, refusal
from orchestrator.core.spec import InputFile, ModelSpec, Pulled
from orchestrator.runtime.digests import FileChangedError
from orchestrator.runtime.ollama_server import (
    Lines,
    OllamaError,
    OllamaServer,
    OllamaUnreachableError,
)
from orchestrator.runtime.store_files import link_blob

MANIFEST_PATIENCE = 60.0
"""Seconds that a registry may take to say what a model consists of."""


class WorkError(Exception):
    """It did not come about; `meaning` says whether another try is worth it."""

    def __init__(self, message: str, meaning: Refusal) -> None:
        super().__init__(message)
        self.meaning = meaning


class Bench(Struct, frozen=True):
    """Where the work is done. `key` names the server's store to all that share it; `store` is its
    folder, where that is ours to write to."""

    server: OllamaServer
    workshop: Workshop
    board: Board
    key: str
    store: str | None


async def pull(bench: Bench, name: str, *, insecure: bool, meter: Meter, verb: str = "") -> None:
    """From its registry. Interrupted pulls are resumed by the server itself."""
    if bench.workshop.pulls.locked():
        meter.words(f"{verb}waits for other pulls")
    async with bench.workshop.pulls:
        meter.words(f"{verb}asks the registry")
        try:
            async with bench.server.pull(name, insecure=insecure) as lines:
                await _follow_pull(lines, meter, verb)
        except OllamaError as error:
            raise WorkError(_plain(error), refusal(str(error))) from error
        except OllamaUnreachableError as error:
            raise WorkError(str(error), refusal(str(error))) from error


async def _follow_pull(lines: Lines, meter: Meter, verb: str) -> None:
    layers: dict[str, tuple[int, int]] = {}
    patience: float | None = MANIFEST_PATIENCE
    while True:
        try:
            async with asyncio.timeout(patience):
                line = await lines.next()
        except TimeoutError:
            message = f"the registry has said nothing for {MANIFEST_PATIENCE:.0f} s"
            raise WorkError(message, Refusal("pull-failed", "soon")) from None
        if line is None:
            return
        # Hashing what came may take minutes, and says nothing meanwhile.
        patience = MANIFEST_PATIENCE if line.status == "pulling manifest" else None
        if line.digest:
            layers[line.digest] = (line.done, line.total)
            done = sum(done for done, _ in layers.values())
            meter.at(done, sum(total for _, total in layers.values()), verb)
        elif line.status != "pulling manifest":
            meter.words(f"{verb}{line.status}")


async def make(bench: Bench, model: ModelSpec, files: Sequence[InputFile], *, meter: Meter) -> str:
    """From GGUF files: they become blobs of the store, by a link where that will do.

    What was done, for people.
    """
    digests = await digests_of(bench, [file.path for file in files], meter)
    how = [await bring(bench, path, digest, meter) for path, digest in digests.items()]
    names = file_names(digests)
    request = {
        "model": model.name,
        "files": {names[path]: f"sha256:{digest}" for path, digest in digests.items()},
    }
    await create(bench, request, list(digests), meter)
    return f"made of {', '.join(os.path.basename(file.path) for file in files)} ({how[0]})"


async def build(bench: Bench, name: str, recipe: Recipe, *, meter: Meter) -> None:
    """By a Modelfile: its files become blobs of the store, then the server puts it together."""
    digests = await digests_of(bench, recipe.files, meter)
    for path, digest in digests.items():
        await bring(bench, path, digest, meter)
    request: dict[str, Any] = {"model": name, **recipe.request}
    if digests:
        names = file_names(digests)
        request["files"] = {names[path]: f"sha256:{digest}" for path, digest in digests.items()}
    await create(bench, request, list(digests), meter)


async def create(bench: Bench, request: Mapping[str, Any], files: list[str], meter: Meter) -> None:
    """Have the server build it. Its own words when it will not."""
    # It sets the time of every blob that it uses; of one that is a link, that is also the user's
    # file, whose time is how others tell whether it has changed.
    workshop = bench.workshop
    with workshop.times.during([*files, *workshop.imported_files()]):
        try:
            async with bench.server.create(request) as lines:
                while (line := await lines.next()) is not None:
                    meter.words(line.status)
        except OllamaError as error:
            raise WorkError(str(error), build_refusal(str(error))) from error
        except OllamaUnreachableError as error:
            raise WorkError(str(error), Refusal("build-failed", "soon")) from error


async def digests_of(bench: Bench, paths: Sequence[str], meter: Meter) -> dict[str, str]:
    """Hex digits by path, read only where they are not known."""
    found: dict[str, str] = {}
    for path in paths:
        if digest := digest_in_name(path):
            found[path] = digest
            continue
        try:
            tell = meter.from_thread("reading: ")
            found[path] = await bench.workshop.digests.of(path, tell)
        except FileChangedError as error:
            raise WorkError(str(error), Refusal("build-failed", "soon")) from error
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror}"
            raise WorkError(message, Refusal("build-failed", "later")) from error
    return found


async def bring(bench: Bench, path: str, digest: str, meter: Meter) -> str:
    """Make a file a blob of the server's store; how that was done, for people."""
    try:
        if await bench.server.has_blob(digest):
            return "its blob was there"
        if bench.store is not None and await asyncio.to_thread(
            link_blob, bench.store, path, digest
        ):
            await _is_still(bench, path, digest)
            return "linked into the store"
        total = await asyncio.to_thread(os.path.getsize, path)
        await bench.server.upload(digest, path, lambda sent: meter.at(sent, total, "uploading: "))
        return f"{size(total)} uploaded"
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise WorkError(message, Refusal("build-failed", "later")) from error
    except OllamaError as error:
        raise WorkError(str(error), build_refusal(str(error))) from error
    except OllamaUnreachableError as error:
        raise WorkError(str(error), Refusal("build-failed", "soon")) from error


async def _is_still(bench: Bench, path: str, digest: str) -> None:
    """The blob is the file itself: what was written to it since it was read is in the blob, too.

    Raises `WorkError`. Nothing is made of that blob, and the next try reads the file anew.
    """
    if digest_in_name(path) == digest:
        return
    if await asyncio.to_thread(bench.workshop.digests.known, path) != digest:
        message = f"{path} changed while it became a blob of the store"
        raise WorkError(message, Refusal("build-failed", "soon"))


def file_names(paths: Sequence[str] | dict[str, str]) -> dict[str, str]:
    """A name within the request for each path: the server wants them relative and plain."""
    names: dict[str, str] = {}
    for path in paths:
        name = os.path.basename(path).replace(":", "-").replace("\\", "-")
        names[path] = f"{len(names)}/{name}" if name in names.values() else name
    return names


async def copy(bench: Bench, source: str, name: str) -> None:
    """Another name of the same model."""
    try:
        await bench.server.copy(source, name)
    except OllamaError as error:
        raise WorkError(str(error), Refusal("copy-failed", "soon")) from error
    except OllamaUnreachableError as error:
        raise WorkError(str(error), Refusal("copy-failed", "soon")) from error


def is_insecure(models: Sequence[ModelSpec], name: str) -> bool:
    """Whether the declared model of that name is pulled without TLS."""
    return any(
        isinstance(model.origin, Pulled) and model.origin.insecure
        for model in models
        if same_name(model.name) == same_name(name)
    )


def _plain(error: OllamaError) -> str:
    """The registry's own words, without Ollama's first ones."""
    return str(error).removeprefix("pull model manifest: ")
