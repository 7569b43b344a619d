"""The store: what it keeps, what it survives, and what it says when the disk does not take it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.core.cause import Mending, Seen
from orchestrator.core.event import Event, EventType
from orchestrator.core.resolved import ResolvedFile
from orchestrator.core.spec import (
    Built,
    Command,
    Copied,
    Demand,
    Endpoint,
    FileIdentity,
    Imported,
    Inference,
    InputFile,
    InstanceSpec,
    Liveness,
    ModelSet,
    ModelSpec,
    OnDemand,
    Pulled,
    Readiness,
    RestartPolicy,
    StopPolicy,
)
from orchestrator.core.status import (
    Alert,
    AttachedTo,
    Health,
    InstanceStatus,
    ModelState,
    ModelStatus,
    Observed,
    Phase,
    ProcessRef,
    Rejected,
)
from orchestrator.runtime import state
from orchestrator.runtime.state import Applied, AppliedSource, Store, StoreError
from tests.unit.test_plan import A, B, spec, status

FULL_SPEC = InstanceSpec(
    name="a",
    engine="llama-server",
    command=Command(("/b/llama-server", "--x", "\u00e4 '\"\n"), {"K": "v=1", "E": ""}, "/state"),
    endpoint=Endpoint("::1", 8001, "https", "/llm"),
    profiles=("one", "two"),
    model="tiny:Q4_K_M",
    description="f\u00fcr alle",
    auto_port=True,
    inputs=(
        InputFile("model", "/m.gguf", FileIdentity(2**40, 1_700_000_000_123_456_789, 7)),
        InputFile("binary", "/b/llama-server", None),
    ),
    needs=("b", "c"),
    readiness=Readiness(1.5, 2.5, "/ok"),
    liveness=Liveness(0.1, 0.2, 9, "inference", 1.5, 2.5),
    restart=RestartPolicy("always", 0.25, 1e9, 3, 1.0),
    stop=StopPolicy(0.0),
    attach="only",
    holds=ModelSet(
        (
            ModelSpec("a:latest", Pulled(insecure=True), True, -1.0),
            ModelSpec("b:latest", Built("/b.Modelfile", "FROM a\n")),
            ModelSpec("c:1", Imported((InputFile("model", "/c.gguf", None),)), keep_alive=1.5),
            ModelSpec("d:latest", Copied("a:latest")),
        ),
        store="/store",
        prune=True,
        verify=3600.0,
        limit=2,
    ),
    inference=Inference("/completion", "{}"),
    demand=Demand(2**40, {"/m.gguf": 2**41}, {0: 1, 1: 2**36}, 5, True, True),
    gpus=(0, 1),
    on_demand=OnDemand(1.5, pin=True, preload=True),
)
FULL_STATUS = InstanceStatus(
    name="a",
    phase=Phase.UNREADY,
    spec=FULL_SPEC,
    start_id="s1",
    process=ProcessRef(4_194_303, 2**50, "boot"),
    reason="unhealthy",
    message="health check: answers 500",
    since=1.7e9,
    started_at=0.125,
    ready_at=1 / 3,
    ready_after_s=0.031,
    exit_code=-1,
    restarts=3,
    failures=(1.5, 2.25),
    streak=2,
    retry_at=1e6 + 1 / 3,
    held=True,
    hurry=True,
    condemned="hung",
    rests=True,
    redo=True,
    guessed=True,
    attached=AttachedTo(12, "alice", "0.34.4", 2**50, "boot"),
    models=(
        ModelStatus("tiny:latest", ModelState.PULLING, True, 1, 2**40, "again", "1 of 2", True),
    ),
    redo_models=True,
    looking=True,
    health=Health("slow", 6.25),
    alerts=(Alert("memory", "takes 9GiB of memory, warn: 6GiB"),),
    fallback=A,
    rejected=Rejected(FULL_SPEC, "crashed", "did not come up (crashed)"),
    mending=Mending((Seen("/m", "ENOENT"),), 5, ("/sys/fs/cgroup/x",)),
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


@contextmanager
def opened(path: str) -> Generator[Store]:
    with closing(Store.open(path)) as store:
        yield store


def in_memory() -> Store:
    return Store(state._prepared(sqlite3.connect(":memory:")))


def event(number: int, kind: EventType = EventType.READY, instance: str = "a") -> Event:
    return Event(kind, instance, message=f"number {number}", id=number, time=1e9 + number)


# --- what it keeps --------------------------------------------------------------------------------


def test_every_field_of_a_status_comes_back(path: str) -> None:
    plain = InstanceStatus("a", Phase.STOPPED, spec())
    same = [
        f for f in InstanceStatus.__struct_fields__ if getattr(plain, f) == getattr(FULL_STATUS, f)
    ]
    assert same == ["name"], "the example differs from the defaults in every field"
    with opened(path) as store:
        store.save({"a": FULL_STATUS, "b": status(B)})
    with opened(path) as store:
        assert store.observed() == {"a": FULL_STATUS, "b": status(B)}
        assert store.set_aside is None


def test_what_was_applied_comes_back_in_its_order(path: str) -> None:
    applied = Applied(
        [
            AppliedSource("/p/z.yaml", False, {"HOME": "/h", "A": "ä"}, "/cwd"),
            AppliedSource("/p/folder", True, {}, "/"),
        ],
        [
            ResolvedFile("/p/z.yaml", "z", "sha256:1", {"b": B, "a": A}),
            ResolvedFile("/p/folder/a.yaml", "a", "sha256:2", {}),
        ],
    )
    with opened(path) as store:
        assert store.applied() is None
        store.save_applied(applied, {})
    with opened(path) as store:
        assert store.applied() == applied
        assert list(applied.files[0].specs) == ["b", "a"]
        store.save_applied(Applied([], []), {})
    with opened(path) as store:
        assert store.applied() == Applied([], []), "nothing is applied is not: nothing is known"


def test_ports_are_remembered_for_good(path: str) -> None:
    with opened(path) as store:
        store.save_applied(Applied([], []), {"a": 18001, "b": 18002})
        store.save_applied(Applied([], []), {"b": 18003})
        assert store.ports() == {"a": 18001, "b": 18003}
    with opened(path) as store:
        assert store.ports() == {"a": 18001, "b": 18003}


def rows_written(store: Store) -> int:
    return store._db.total_changes


def test_only_what_changed_is_written(path: str) -> None:
    many = {f"i{n}": status(spec(f"i{n}")) for n in range(100)}
    with opened(path) as store:
        store.save(many)
        before = rows_written(store)
        store.save(dict(many))
        assert rows_written(store) == before
        changed = {**many, "i7": replace(many["i7"], message="now")}
        store.save(changed)
        assert rows_written(store) == before + 1
        del changed["i8"]
        store.save(changed)
        assert rows_written(store) == before + 2
    with opened(path) as store:
        assert store.observed() == changed
        before = rows_written(store)
        store.save(store.observed())
        assert rows_written(store) == before, "what was read is known to be there"


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(list(Phase)))))
@settings(max_examples=50, deadline=None)
def test_after_any_saves_the_last_is_what_is_there(history: list[dict[str, Phase]]) -> None:
    store = in_memory()
    last: Observed = {}
    for phases in history:
        last = {name: InstanceStatus(name, phase, A) for name, phase in phases.items()}
        store.save(last)
    fresh = Store(store._db)
    assert fresh.observed() == last
    store.close()


# --- events ---------------------------------------------------------------------------------------


def test_events_come_back_in_order_whole_or_in_part(path: str) -> None:
    with opened(path) as store:
        assert (store.last_event_id(), store.events()) == (0, [])
        store.save({}, [event(1), event(2, instance="b"), event(3)])
        store.save({}, [event(4, EventType.PROGRESS), event(5, instance="")])
    with opened(path) as store:
        assert store.last_event_id() == 5
        assert store.events() == [
            event(1).as_json(),
            event(2, instance="b").as_json(),
            event(3).as_json(),
            event(5, instance="").as_json(),
        ]
        assert [e["id"] for e in store.events(after=2)] == [3, 5]
        assert [e["id"] for e in store.events(last=2)] == [3, 5]
        assert [e["id"] for e in store.events(instance="a")] == [1, 3]
        assert [e["id"] for e in store.events(instance="a", last=1, after=1)] == [3]
        assert store.events(after=5) == store.events(last=0) == []


def test_events_do_not_grow_for_ever_however_short_each_daemon_lives(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "KEEP_EVENTS", 100)
    for life in range(60):
        with opened(path) as store:
            first = store.last_event_id() + 1
            assert first == life * 5 + 1, "ids go on where the last daemon stopped"
            for number in range(first, first + 5):
                store.save({}, [event(number)])
    with opened(path) as store:
        kept = [e["id"] for e in store.events()]
        assert kept == list(range(300 - len(kept) + 1, 301))
        assert 100 <= len(kept) <= 110


def test_a_burst_of_events_is_one_commit_and_all_there(path: str) -> None:
    with opened(path) as store:
        store.save({}, [event(n) for n in range(1, 5001)])
        assert len(store.events()) == 5000


# --- what it survives -----------------------------------------------------------------------------


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def _text(path: Path) -> None:
    path.write_text("not a database\n")


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 4096 * 2 + 100])


def _overwritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:12000] = os.urandom(12000 - 4096)
    path.write_bytes(data)


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {state.SCHEMA + 1}")


def _table_missing(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE events")
        db.commit()


def _column_missing(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE instances DROP COLUMN data")
        db.commit()


def _of_another_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE treasure (gold)")
        db.commit()


def _kept_no_text(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE events SET data = CAST(x'ff00' AS TEXT)")
        db.execute("UPDATE instances SET data = CAST(x'ff' AS TEXT)")
        db.execute("UPDATE instances SET data = ? WHERE name < 'i2'", (b'{"name":"\xff"}',))
        db.commit()


def kept(path: str) -> None:
    with opened(path) as store:
        many = {f"i{n}": status(spec(f"i{n}")) for n in range(50)}
        store.save(many, [event(n) for n in range(1, 100)])
        store.save_applied(Applied([], []), {"a": 18001})


@pytest.mark.parametrize(
    "harm",
    [
        _garbage,
        _text,
        _torn,
        _overwritten,
        _newer,
        _table_missing,
        _column_missing,
        _of_another_program,
    ],
)
def test_what_cannot_be_read_is_set_aside_whole(path: str, harm: Callable[[Path], None]) -> None:
    kept(path)
    harm(Path(path))
    as_it_was = Path(path).read_bytes()
    with opened(path) as store:
        assert store.set_aside is not None
        assert store.set_aside.startswith(f"{path}.unreadable-")
        assert Path(store.set_aside).read_bytes()[100:] == as_it_was[100:]
        assert (store.observed(), store.applied(), store.ports()) == ({}, None, {})
        assert store.events() == []
        store.save({"a": FULL_STATUS})
    with opened(path) as store:
        assert store.set_aside is None
        assert store.observed() == {"a": FULL_STATUS}


def test_values_that_are_no_text_are_left_out(path: str) -> None:
    kept(path)
    _kept_no_text(Path(path))
    with opened(path) as store:
        assert store.set_aside is None
        assert (store.observed(), store.events()) == ({}, [])
        assert store.last_event_id() == 99


def test_two_that_cannot_be_read_are_both_kept(path: str) -> None:
    for content in (b"one" * 1000, b"two" * 1000, b"three" * 1000):
        Path(path).write_bytes(content)
        with opened(path) as store:
            assert store.set_aside is not None
    aside = Path(path).parent.glob("*unreadable*")
    assert sorted(one.read_bytes()[:3] for one in aside) == [b"one", b"thr", b"two"]


def test_an_empty_file_is_a_beginning(path: str) -> None:
    """What is left when the machine went down just as the store was made."""
    Path(path).touch()
    with opened(path) as store:
        assert store.set_aside is None
        assert store.observed() == {}


@pytest.mark.parametrize("left", [0, 10, 5000])
def test_a_torn_write_ahead_log_costs_what_was_not_written_and_no_more(
    path: str, tmp_path: Path, left: int
) -> None:
    kept(path)
    with opened(path) as store:
        store.save({"a": FULL_STATUS}, [event(200)])
        copy = tmp_path / "crashed"
        copy.mkdir()
        (copy / "state.db").write_bytes(Path(path).read_bytes())
        (copy / "state.db-wal").write_bytes(Path(f"{path}-wal").read_bytes()[:left])
    with opened(str(copy / "state.db")) as store:
        assert store.set_aside is None
        assert len(store.observed()) == 50


def test_a_killed_writer_leaves_all_that_it_committed(path: str) -> None:
    code = (
        "import os, sys\n"
        "from orchestrator.runtime.state import Store\n"
        "from tests.component.test_state import FULL_STATUS, event\n"
        "store = Store.open(sys.argv[1])\n"
        "store.save({'a': FULL_STATUS}, [event(n) for n in range(1, 10)])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False, cwd=Path.cwd())
    assert done.returncode == -9
    with opened(path) as store:
        assert store.set_aside is None
        assert store.observed() == {"a": FULL_STATUS}
        assert store.last_event_id() == 9


def test_unreadable_rows_are_left_out_and_replaced(path: str) -> None:
    with opened(path) as store:
        store.save({"a": FULL_STATUS, "b": status(B)})
        for name, data in (("b", '{"name": "b", "phase": "dancing"}'), ("c", "{"), ("d", "null")):
            store._db.execute("INSERT OR REPLACE INTO instances VALUES (?, ?)", (name, data))
        store._db.execute("INSERT INTO meta VALUES ('applied', '[1, 2]')")
        store._db.commit()
    with opened(path) as store:
        assert store.observed() == {"a": FULL_STATUS}
        assert store.applied() is None
        store.save({"a": FULL_STATUS, "b": status(B)})
    with opened(path) as store:
        assert store.observed() == {"a": FULL_STATUS, "b": status(B)}


# --- who may read it ------------------------------------------------------------------------------


def test_nobody_else_may_read_it_whatever_the_umask(path: str) -> None:
    old = os.umask(0)
    try:
        with opened(path) as store:
            store.save({"a": FULL_STATUS})
            modes = {p.name: p.stat().st_mode & 0o777 for p in Path(path).parent.iterdir()}
    finally:
        os.umask(old)
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


def test_a_reader_sees_what_was_committed_while_the_writer_goes_on(path: str) -> None:
    assert Store.open_to_read(path) is None
    with opened(path) as writer:
        writer.save({"a": FULL_STATUS})
        reader = Store.open_to_read(path)
        assert reader is not None
        with closing(reader):
            assert reader.observed() == {"a": FULL_STATUS}
            writer.save({"a": FULL_STATUS, "b": status(B)})
            assert reader.observed().keys() == {"a", "b"}
            with pytest.raises(StoreError, match="readonly"):
                reader.save({})
        assert writer.observed().keys() == {"a", "b"}


@pytest.mark.parametrize("harm", [_garbage, _text, _torn, _overwritten, _newer, _table_missing])
def test_a_reader_finds_nothing_in_what_cannot_be_read_and_leaves_it(
    path: str, harm: Callable[[Path], None]
) -> None:
    kept(path)
    harm(Path(path))
    as_it_was = Path(path).read_bytes()
    assert Store.open_to_read(path) is None
    assert Path(path).read_bytes() == as_it_was


@pytest.mark.parametrize("name", ["a b", "what?", "half#way", "100%41", "\u00e4"])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = str(folder / "state.db")
    with opened(path) as store:
        store.save({"a": FULL_STATUS})
    reader = Store.open_to_read(path)
    assert reader is not None
    with closing(reader):
        assert reader.observed() == {"a": FULL_STATUS}
    assert os.listdir(tmp_path) == [name]


# --- a disk that is full --------------------------------------------------------------------------


def test_a_full_disk_is_said_and_the_next_commit_brings_all(path: str) -> None:
    with opened(path) as store:
        store.save({"a": status(A)}, [event(1)])
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        large = replace(FULL_STATUS, message="x" * 100_000)
        for _ in range(3):
            with pytest.raises(StoreError, match="full"):
                store.save({"b": replace(large, name="b")}, [event(2)])
        with pytest.raises(StoreError, match="full"):
            store.save_applied(Applied([], [ResolvedFile("/f", "f", "x" * 100_000)]), {"a": 1})
        assert store.observed() == {"a": status(A)}, "nothing of it was taken"
        store._db.execute("PRAGMA max_page_count = 1000000")
        store.save({"b": replace(large, name="b")}, [event(2)])
    with opened(path) as store:
        assert store.observed() == {"b": replace(large, name="b")}
        assert store.applied() == Applied([], [ResolvedFile("/f", "f", "x" * 100_000)])
        assert store.ports() == {"a": 1}
        assert store.last_event_id() == 2


def test_a_disk_that_takes_nothing_has_a_stand_in_and_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with opened(str(folder / "state.db")) as store:
        applied = Applied([], [ResolvedFile("/p", "p", "1")])
        with pytest.raises(StoreError):
            store.save({"a": FULL_STATUS}, [event(1)])
        store.save_applied(applied, {"a": 18001})
        with pytest.raises(StoreError):
            store.save({"a": FULL_STATUS, "b": status(B)}, [event(2)])
        assert store.observed().keys() == {"a", "b"}
        folder.mkdir()
        store.save({"a": FULL_STATUS, "b": status(B)})
        store.save({"a": FULL_STATUS})
    with opened(str(folder / "state.db")) as store:
        assert store.observed() == {"a": FULL_STATUS}
        assert (store.applied(), store.ports()) == (applied, {"a": 18001})
        assert [e["id"] for e in store.events()] == [1, 2]


def test_the_stand_in_knows_what_can_be_read(path: str) -> None:
    """Somebody else keeps it locked: it can be read, and not be written."""
    kept(path)
    with closing(sqlite3.connect(path)) as another:
        another.execute("PRAGMA locking_mode = EXCLUSIVE")
        another.execute("PRAGMA journal_mode = DELETE")
        another.execute("BEGIN IMMEDIATE")
        with opened(path) as store:
            assert store.set_aside is None
            assert len(store.observed()) == 50
            assert store.last_event_id() == 99


def test_a_closed_store_is_an_error_of_the_store() -> None:
    store = in_memory()
    store.close()
    with pytest.raises(StoreError):
        store.save({"a": FULL_STATUS})


@given(st.binary(max_size=300), st.integers(0, 40_000))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_bytes_written_anywhere_never_keep_it_from_opening(
    tmp_path: Path, noise: bytes, at: int
) -> None:
    path = tmp_path / "state.db"
    for leftover in tmp_path.iterdir():
        leftover.unlink()
    kept(str(path))
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(noise)
    with opened(str(path)) as store:
        store.observed()
        store.applied()
        store.save({"a": FULL_STATUS}, [event(1000)])
        assert store.observed()["a"] == FULL_STATUS
