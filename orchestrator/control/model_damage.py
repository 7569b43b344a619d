"""What is wrong with a model on disk, and whether it still is: somebody may have mended it."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from orchestrator.core.provision import same_name
from orchestrator.core.spec import FileIdentity
from orchestrator.discovery.ollama_manifest import blob_path
from orchestrator.discovery.ollama_store import read_manifests
from orchestrator.discovery.verify import Check, Fault, Tally, confirm, glance
from orchestrator.runtime.files import identity_of
from orchestrator.runtime.whole import WholeRecord


class Damage(Struct, frozen=True):
    """What is wrong with a model, and the file that it is wrong with as that was then."""

    fault: Fault
    identity: FileIdentity | None


async def damage_of(fault: Fault) -> Damage:
    """With the file as it is now."""
    return Damage(fault, await asyncio.to_thread(identity_of, fault.path))


async def read_whole(check: Check) -> Fault | None:
    """Every byte of a blob, against its digest."""
    # A thread cannot be cancelled: it is told to stop, and looks after each chunk.
    tally = Tally()
    try:
        return await asyncio.to_thread(confirm, check, tally)
    finally:
        tally.stopped.set()


async def look_again(store: str, name: str, damage: Damage, whole: WholeRecord) -> Damage | None:
    """What is wrong with a model that was damaged, None where nothing is any more.

    Only where its file is another now is it read: the same file is wrong as it was.
    """
    if await asyncio.to_thread(identity_of, damage.fault.path) == damage.identity:
        return damage
    seen = await asyncio.to_thread(glance, store, name)
    if seen.fault is not None:
        return await damage_of(seen.fault)
    for check in seen.blobs:
        before = seen.seen[check.path]
        if whole.find(check.path) == before and check.path != damage.fault.path:
            continue
        fault = await read_whole(check)
        if fault is not None:
            return Damage(fault, before)
    whole.add(seen.seen)
    return None


def users_of(store: str, path: str) -> set[str]:
    """The models of a store that want that blob, by folded name, whoever made them."""
    manifests, _ = read_manifests(store)
    return {
        same_name(manifest.tag)
        for manifest in manifests
        if any(blob_path(store, layer) == path for layer in manifest.contents())
    }
