"""Digests of files, and what was made of what: remembered on disk, whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from orchestrator.runtime.digests import Digests, FileChangedError
from orchestrator.runtime.made import Made, MadeRecord
from orchestrator.runtime.store_files import TimesKept, link_blob


def digest_of(digests: Digests, path: Path) -> tuple[str, list[int]]:
    """The digest, and how often the file was read for it."""
    told: list[int] = []
    found = asyncio.run(digests.of(str(path), lambda done, total: told.append(done)))
    return found, told


def test_a_file_is_read_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    cache, path = str(tmp_path / "cache" / "digests.json"), tmp_path / "x"
    path.write_bytes(b"one")
    expected = hashlib.sha256(b"one").hexdigest()
    assert digest_of(Digests(cache), path) == (expected, [3])
    assert digest_of(Digests(cache), path) == (expected, [])
    path.write_bytes(b"other")
    assert digest_of(Digests(cache), path)[0] == hashlib.sha256(b"other").hexdigest()
    Path(cache).write_text("torn {")
    assert digest_of(Digests(cache), path)[1] == [5]


def test_a_file_that_is_being_written_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    digests = Digests(str(tmp_path / "digests.json"))

    async def scene() -> None:
        # It is told of what was read before it is looked at again.
        await digests.of(str(path), lambda done, total: os.utime(path, ns=(1, 1)))

    with pytest.raises(FileChangedError):
        asyncio.run(scene())


def test_asked_twice_at_once_it_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    told: list[int] = []

    async def scene() -> None:
        digests = Digests(str(tmp_path / "digests.json"))
        asked = [digests.of(str(path), lambda done, total: told.append(done)) for _ in range(3)]
        assert len(set(await asyncio.gather(*asked))) == 1

    asyncio.run(scene())
    assert told == [1]


def test_what_was_made_outlives_the_daemon(tmp_path: Path) -> None:
    path = str(tmp_path / "made.json")
    made = Made("d1", "r1", "b1")
    MadeRecord(path).add("/store", "M:latest", made)
    assert MadeRecord(path).find("/store", "m:latest") == made
    assert MadeRecord(path).find("/other", "m:latest") is None
    Path(path).write_text('{"/store m:latest": [1]}')
    assert MadeRecord(path).find("/store", "m:latest") is None


def test_a_file_becomes_a_blob_and_keeps_its_time(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"x")
    before = path.stat().st_mtime_ns
    assert link_blob(str(tmp_path / "store"), str(path), "ab")
    assert link_blob(str(tmp_path / "store"), str(path), "ab")
    blob = tmp_path / "store" / "blobs" / "sha256-ab"
    assert blob.samefile(path)
    with TimesKept().during([str(path)]):
        os.utime(blob)
        assert path.stat().st_mtime_ns != before
    assert path.stat().st_mtime_ns == before
    with TimesKept().during([str(path)]):
        path.write_bytes(b"other")
    assert path.stat().st_mtime_ns != before
    assert not link_blob("/proc/nowhere", str(path), "cd")


def test_times_are_those_of_before_the_first_of_several_builds(tmp_path: Path) -> None:
    path, other = tmp_path / "one", tmp_path / "two"
    for file in (path, other):
        file.write_bytes(b"x")
        os.utime(file, ns=(5, 5))
    times = TimesKept()
    with times.during([str(path)]):
        os.utime(path, ns=(9, 9))
        with times.during([str(path), str(other)]):
            os.utime(path, ns=(10, 10))
            os.utime(other, ns=(10, 10))
        assert path.stat().st_mtime_ns == 5
    assert (path.stat().st_mtime_ns, other.stat().st_mtime_ns) == (5, 5)
