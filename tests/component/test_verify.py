"""Whether models on disk are whole: what a glance tells, and what only every byte does."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from orchestrator.discovery.verify import (
    CHUNK,
    Check,
    Fault,
    Tally,
    confirm,
    glance,
    quick_check,
    verify,
)
from orchestrator.discovery.verify_plan import plan_file, plan_store
from tests import generated_models as make
from tests.component.test_ollama_store import LIBRARY, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def blob_of(store: Store, content: bytes) -> Path:
    return store.root / "blobs" / store.blob(content).replace(":", "-")


def verified(store: Store, *tags: str, workers: int = 2) -> list[Fault]:
    plan = plan_store(str(store.root), tags or None)
    return [*plan.faults, *verify(plan.checks, tally=Tally(), workers=workers)]


def test_a_whole_model_has_no_faults(store: Store) -> None:
    store.tag(f"{LIBRARY}/tiny/latest", model=b"weights", template=b"t", config={"a": 1})
    assert quick_check(str(store.root), "tiny:latest") is None
    assert verified(store) == []


def test_a_glance_sees_what_is_missing_or_cut(store: Store) -> None:
    store.tag(f"{LIBRARY}/tiny/latest", model=b"weights", template=b"t", config={"a": 1})
    root = str(store.root)
    gone = quick_check(root, "other:latest")
    assert gone is not None
    assert (gone.reason, gone.path) == (
        "vanished",
        str(store.root / "manifests" / LIBRARY / "other/latest"),
    )

    blob_of(store, b"weights").write_bytes(b"weigh")
    cut = quick_check(root, "tiny:latest")
    assert cut is not None
    assert (cut.reason, cut.message) == ("corrupt", "has 5 bytes where its manifest says 7")

    blob_of(store, b"t").unlink()
    blob_of(store, b"weights").write_bytes(b"weights")
    lost = quick_check(root, "tiny:latest")
    assert lost is not None
    assert (lost.reason, lost.path) == ("vanished", f"{root}/blobs/{lost.path[-71:]}")

    store.manifest(f"{LIBRARY}/tiny/latest", b"{torn")
    torn = quick_check(root, "tiny:latest")
    assert torn is not None
    assert torn.reason == "corrupt"


def test_only_every_byte_tells_of_a_changed_one(store: Store) -> None:
    content = bytes(3 * CHUNK + 5)
    store.tag(f"{LIBRARY}/tiny/latest", model=content)
    path = blob_of(store, content)
    with path.open("r+b") as file:
        file.seek(2 * CHUNK)
        file.write(b"x")
    assert quick_check(str(store.root), "tiny:latest") is None
    assert verified(store, "tiny:latest") == [
        Fault("corrupt", str(path), "is not what its digest says (damaged?)", ("tiny:latest",))
    ]


def test_a_glance_tells_which_files_it_saw(store: Store) -> None:
    content = bytes(10)
    store.tag(f"{LIBRARY}/tiny/latest", model=content)
    path = blob_of(store, content)
    before = glance(str(store.root), "tiny:latest")
    path.write_bytes(bytes(9) + b"x")
    after = glance(str(store.root), "tiny:latest")

    assert before.fault is after.fault is None
    assert [str(path)] == [check.path for check in before.blobs] == list(before.seen)
    assert before.seen != after.seen
    [check] = after.blobs
    fault = confirm(check, Tally())
    assert fault is not None
    assert (fault.reason, fault.refs) == ("corrupt", ("tiny:latest",))


def test_a_shared_blob_is_read_once_and_all_that_suffer_are_named(store: Store) -> None:
    for name in ("a", "b"):
        store.tag(f"{LIBRARY}/{name}/latest", model=b"shared", template=name.encode())
    store.tag(f"{LIBRARY}/c/latest", model=b"another")
    blob_of(store, b"shared").write_bytes(b"shareD")
    plan = plan_store(str(store.root), ["a:latest"])
    tally = Tally()
    (fault,) = verify(plan.checks, tally=tally, workers=2)
    assert fault.refs == ("a:latest", "b:latest")
    assert tally.done == plan.total == len(b"shared" + b"a")


def test_every_blob_of_a_store_and_every_torn_manifest(store: Store) -> None:
    for number in range(20):
        store.tag(f"{LIBRARY}/m{number:02}/latest", model=b"%d" % number)
    for number in (3, 11):
        blob_of(store, b"%d" % number).unlink()
    store.manifest(f"{LIBRARY}/torn/latest", b"{")
    faults = verified(store, workers=8)
    assert [(fault.reason, fault.refs) for fault in faults] == [
        ("corrupt", ()),
        ("vanished", ("m03:latest",)),
        ("vanished", ("m11:latest",)),
    ]


def test_a_model_that_is_removed_meanwhile_is_no_fault(store: Store) -> None:
    manifest = store.tag(f"{LIBRARY}/tiny/latest", model=b"weights")
    plan = plan_store(str(store.root))
    manifest.unlink()
    blob_of(store, b"weights").unlink()
    assert verify(plan.checks, tally=Tally(), workers=1) == []


def test_it_can_be_ended_in_the_middle_of_a_file(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    tally = Tally()
    found: list[list[Fault]] = []
    check = Check(str(huge), ("huge",), size=1 << 40, digest="0" * 64)
    thread = threading.Thread(target=lambda: found.append(verify([check], tally=tally, workers=1)))
    thread.start()
    tally.stopped.set()
    thread.join(10)
    assert found == [[]]


def test_the_structure_of_plain_files(tmp_path: Path) -> None:
    whole = make.write_small(tmp_path / "whole.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:-100])
    plan = plan_file("whole", [str(whole)])
    plan.extend(plan_file("cut", [str(cut), str(tmp_path / "none.gguf")]))
    faults = verify(plan.checks, tally=Tally(), workers=2)
    assert plan.total == 0
    assert [(fault.reason, fault.path, fault.refs) for fault in faults] == [
        ("corrupt", str(cut), ("cut",)),
        ("vanished", str(tmp_path / "none.gguf"), ("cut",)),
    ]
    assert "is cut short" in faults[0].message
