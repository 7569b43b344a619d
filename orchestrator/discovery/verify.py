"""Whether models on disk are what they should be: blobs against their digests, GGUF by structure.

`quick_check` and `glance` cost one stat for each blob. `verify` reads every byte of the blobs, as
many at a time as it is given threads: hashing lets go of the interpreter, so threads are all it
takes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from msgspec import Struct, field

from orchestrator.core.spec import FileIdentity
from orchestrator.discovery.gguf_header import HeaderError, read_header
from orchestrator.discovery.ollama_manifest import (
    Layer,
    Manifest,
    StoreError,
    blob_path,
    manifest_path,
    read_manifest,
)
from orchestrator.discovery.walk import identity_of

CHUNK = 1 << 20
"""Bytes read at once: system calls are cheap then, and a core's cache still holds them."""

Reason = Literal["vanished", "corrupt", "unreadable"]


class Fault(Struct, frozen=True):
    """What is wrong with one file, and which models (`refs`) suffer from it.

    `message` continues the path. `unreadable` says nothing of the content: who asks may not look.
    """

    reason: Reason
    path: str
    message: str
    refs: tuple[str, ...]
    source: Literal["ollama", "file"] = "ollama"


class Check(Struct, frozen=True):
    """One file to look at. With a `digest` (hex) all of it is read and hashed, else its structure.

    `size` is what it should have, None where nothing says it. `manifests` are the files that want
    this blob.
    """

    path: str
    refs: tuple[str, ...]
    size: int | None = None
    digest: str = ""
    manifests: tuple[str, ...] = ()


class Tally:
    """How far a verification is, for another thread to look at; and the way to end it early."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done = 0
        self.stopped = threading.Event()

    def add(self, count: int) -> None:
        """So many bytes more were read."""
        with self._lock:
            self.done += count


class Glance(Struct, frozen=True):
    """What is plainly wrong with a model (`fault`); its blobs, and which files they are (`seen`, by
    path). The blobs are all of them only where nothing is wrong."""

    fault: Fault | None = None
    blobs: tuple[Check, ...] = ()
    seen: Mapping[str, FileIdentity] = field(default_factory=dict[str, FileIdentity])


def glance(store: str, tag: str) -> Glance:
    """A look at names, sizes and identities: one stat for each blob."""
    manifest = _manifest(store, tag)
    if isinstance(manifest, Fault):
        return Glance(manifest)
    blobs: list[Check] = []
    seen: dict[str, FileIdentity] = {}
    for layer in manifest.contents():
        check = check_of(store, layer, (manifest,))
        fault = _present(check, seen)
        if fault is not None:
            return Glance(fault, tuple(blobs), seen)
        blobs.append(check)
    return Glance(None, tuple(blobs), seen)


def quick_check(store: str, tag: str) -> Fault | None:
    """What plainly keeps a model of the store from being whole: no manifest, no blob, or a blob of
    another size. None when there is nothing."""
    return glance(store, tag).fault


def confirm(check: Check, tally: Tally) -> Fault | None:
    """Whether one blob is what its digest says: every byte of it is read."""
    return _present(check) or _digest(check, tally)


def verify(checks: Sequence[Check], *, tally: Tally, workers: int) -> list[Fault]:
    """All that is wrong, in the order of `checks`. Setting `tally.stopped` ends it early."""
    # The largest first, so that no thread is left alone with it in the end.
    order = sorted(range(len(checks)), key=lambda number: -(checks[number].size or 0))
    found: dict[int, Fault] = {}

    def work(number: int) -> None:
        fault = None if tally.stopped.is_set() else _look(checks[number], tally)
        if fault is not None:
            found[number] = fault

    with ThreadPoolExecutor(max(workers, 1)) as threads:
        for future in [threads.submit(work, number) for number in order]:
            future.result()
    return [found[number] for number in sorted(found)]


def _look(check: Check, tally: Tally) -> Fault | None:
    if not check.digest:
        return _structure(check)
    fault = confirm(check, tally)
    if fault is not None and fault.reason == "vanished" and not _still_wanted(check):
        # The model was removed while others were read: nothing is missing.
        return None
    return fault


def _structure(check: Check) -> Fault | None:
    try:
        read_header(check.path)
    except HeaderError as error:
        return Fault("corrupt", check.path, str(error), check.refs, "file")
    except OSError as error:
        return _cannot_read(check, error, "file")
    return None


def _present(check: Check, seen: dict[str, FileIdentity] | None = None) -> Fault | None:
    """Whether the file is there, and as long as it should be; which it is goes into `seen`."""
    try:
        identity = identity_of(check.path)
    except OSError as error:
        return _cannot_read(check, error)
    if seen is not None:
        seen[check.path] = identity
    size = identity.size
    if check.size is not None and size != check.size:
        message = f"has {size} bytes where its manifest says {check.size}"
        return Fault("corrupt", check.path, message, check.refs)
    return None


def _digest(check: Check, tally: Tally) -> Fault | None:
    try:
        digest = _sha256(check.path, tally)
    except OSError as error:
        return _cannot_read(check, error)
    if digest is None or digest == check.digest:
        return None
    return Fault("corrupt", check.path, "is not what its digest says (damaged?)", check.refs)


def _sha256(path: str, tally: Tally) -> str | None:
    """The digest of a file, or None when the verification was ended meanwhile."""
    digest = hashlib.sha256(usedforsecurity=False)
    buffer = memoryview(bytearray(CHUNK))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := os.readv(descriptor, [buffer]):
            digest.update(buffer[:count])
            tally.add(count)
            if tally.stopped.is_set():
                return None
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _cannot_read(
    check: Check, error: OSError, source: Literal["ollama", "file"] = "ollama"
) -> Fault:
    if isinstance(error, FileNotFoundError):
        return Fault("vanished", check.path, "is missing", check.refs, source)
    message = f"cannot be read: {error.strerror}"
    return Fault("unreadable", check.path, message, check.refs, source)


def _still_wanted(check: Check) -> bool:
    for path in check.manifests:
        try:
            layers = read_manifest(path).contents()
        except (StoreError, OSError):
            continue
        if any(layer.digest == check.digest for layer in layers):
            return True
    return False


def _manifest(store: str, tag: str) -> Manifest | Fault:
    path = os.path.join(store, "manifests")
    try:
        path = manifest_path(store, tag)
        return read_manifest(path)
    except FileNotFoundError:
        return Fault("vanished", path, "is missing", (tag,))
    except StoreError as error:
        return Fault("corrupt", path, str(error), (tag,))
    except OSError as error:
        return Fault("unreadable", path, f"cannot be read: {error.strerror}", (tag,))


def check_of(store: str, layer: Layer, manifests: Sequence[Manifest]) -> Check:
    """One blob, for all that want it."""
    return Check(
        path=blob_path(store, layer),
        refs=tuple(manifest.tag for manifest in manifests),
        size=layer.size,
        digest=layer.digest,
        manifests=tuple(manifest.path for manifest in manifests),
    )
