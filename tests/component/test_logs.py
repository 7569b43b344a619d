"""Log files: kept apart by run, rotated while written, read from their end, harmless to show."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.logs import KEEP, Logs, last_lines, printable, tail


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(str(tmp_path / "logs"))


def write_run(logs: Logs, text: str, name: str = "a") -> None:
    fd = logs.begin(name)
    os.write(fd, text.encode())
    os.close(fd)


def content(logs: Logs, back: int = 0, name: str = "a") -> str:
    return Path(logs.path(name, back)).read_text()


# --- runs -----------------------------------------------------------------------------------------


def test_each_run_has_a_file_of_its_own_and_the_oldest_go(logs: Logs) -> None:
    for run in range(KEEP + 3):
        write_run(logs, f"run {run}\n")
    last = KEEP + 2
    assert [content(logs, back) for back in range(KEEP + 1)] == [
        f"run {last - back}\n" for back in range(KEEP + 1)
    ]
    assert len(os.listdir(logs.folder)) == KEEP + 1


def test_a_run_that_said_nothing_takes_no_place(logs: Logs) -> None:
    write_run(logs, "said\n")
    for _ in range(3):
        write_run(logs, "")
    assert (content(logs), content(logs, 1)) == ("", "said\n")
    assert not os.path.exists(logs.path("a", 2))


def test_instances_do_not_mix(logs: Logs) -> None:
    for name in ("a", "a.log", "a.b-c_1"):
        write_run(logs, name, name)
        write_run(logs, f"{name} again", name)
    for name in ("a", "a.log", "a.b-c_1"):
        assert (content(logs, 1, name), content(logs, 0, name)) == (name, f"{name} again")


def test_only_we_may_read_them(logs: Logs) -> None:
    old = os.umask(0)
    try:
        write_run(logs, "x" * 10)
        assert logs.rotate_large("a", limit=1)
    finally:
        os.umask(old)
    assert os.stat(logs.folder).st_mode & 0o777 == 0o700
    for back in (0, 1):
        assert os.stat(logs.path("a", back)).st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_made_is_the_callers_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Logs(str(tmp_path / "file" / "logs")).begin("a")


# --- rotation while it is written -----------------------------------------------------------------

WRITER = """
import sys
number = 0
for line in sys.stdin:
    for number in range(number + 1, number + 1 + int(line)):
        print(number, "x" * 80, file=sys.stderr, flush=True)
    print("wrote", flush=True)
"""


@contextmanager
def writing(logs: Logs) -> Generator[subprocess.Popen[str]]:
    """A process that writes numbered lines to the log `a`, as many as it is told to."""
    fd = logs.begin("a")
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WRITER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=fd,
        text=True,
    ) as process:
        os.close(fd)
        try:
            yield process
        finally:
            process.kill()


def let_write(process: subprocess.Popen[str], lines: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{lines}\n")
    process.stdin.flush()


def has_written(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "wrote\n"


def numbers(text: str) -> list[int]:
    """Of the whole lines."""
    assert "\0" not in text, "a hole"
    return [int(line.split()[0]) for line in text.splitlines() if line.endswith(" " + "x" * 80)]


def test_rotation_between_two_lines_loses_none(logs: Logs) -> None:
    with writing(logs) as process:
        for _ in range(3):
            let_write(process, 100)
            has_written(process)
            assert logs.rotate_large("a", limit=1000)
            assert os.path.getsize(logs.path("a")) == 0
        let_write(process, 50)
        has_written(process)
    read = [number for back in (3, 2, 1, 0) for number in numbers(content(logs, back))]
    assert read == list(range(1, 351))


def test_rotation_in_the_midst_of_writing_repeats_nothing_and_keeps_the_order(logs: Logs) -> None:
    """What falls between the last look and the cut is lost; nothing else happens to it."""
    seen: list[int] = []
    with writing(logs) as process:
        let_write(process, 20_000)
        while len(seen) < 5_000:
            if logs.rotate_large("a", limit=50_000):
                seen += numbers(content(logs, 1))
        has_written(process)
    seen += numbers(content(logs))
    assert seen == sorted(set(seen))
    assert len(os.listdir(logs.folder)) <= KEEP + 1


def test_a_disk_that_takes_no_copy_costs_no_older_log(logs: Logs) -> None:
    for run in range(3):
        write_run(logs, f"run {run}\n")
    before = {back: content(logs, back) for back in range(3)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            logs.rotate_large("a", limit=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {back: content(logs, back) for back in range(3)} == before
    assert len(os.listdir(logs.folder)) == 3


def test_a_log_that_is_small_or_not_there_is_left_alone(logs: Logs) -> None:
    write_run(logs, "x" * 100)
    assert not logs.rotate_large("a", limit=100)
    assert not logs.rotate_large("b", limit=100)
    assert os.listdir(logs.folder) == ["a.log"]


# --- reading --------------------------------------------------------------------------------------


def last(path: Path, data: bytes, lines: int, limit: int = 1 << 20) -> bytes:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        return tail(fd, lines, limit=limit)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("data", "lines", "expected"),
    [
        (b"", 3, b""),
        (b"\n", 3, b"\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 9, b"a\nb\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\n\n\n", 2, b"\n\n"),
        (b"a\nb\n", 0, b""),
        (b"1%\r50%\r100%\ndone\n", 2, b"1%\r50%\r100%\ndone\n"),
        (b"a\r\nb\r\n", 1, b"b\r\n"),
        (b"a\x0bb\x0cc\x85\n\xff\n", 2, b"a\x0bb\x0cc\x85\n\xff\n"),
    ],
)
def test_the_last_lines_exactly(tmp_path: Path, data: bytes, lines: int, expected: bytes) -> None:
    assert last(tmp_path / "log", data, lines) == expected


def test_lines_longer_than_what_is_read_at_once_come_whole(tmp_path: Path) -> None:
    long = [bytes([65 + number]) * 100_000 + b"\n" for number in range(5)]
    assert last(tmp_path / "log", b"".join(long), 3) == b"".join(long[2:])


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    data = b"x" * 300_000 + b"\nend\n"
    assert last(tmp_path / "log", data, 2, limit=1000) == data[-1000:]
    assert last(tmp_path / "log", data, 1, limit=1000) == b"end\n"


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\r", b"\n")), st.integers(0, 20))
def test_the_last_lines_of_anything(data: bytes, lines: int) -> None:
    fd = os.memfd_create("log")
    try:
        os.write(fd, data)
        whole = [line + b"\n" for line in data.split(b"\n")]
        whole[-1] = whole[-1][:-1]
        kept = [line for line in whole if line]
        assert tail(fd, lines) == b"".join(kept[-lines:] if lines else [])
    finally:
        os.close(fd)


def test_a_log_that_was_deleted_is_read_through_its_process(logs: Logs) -> None:
    with writing(logs) as process:
        let_write(process, 3)
        has_written(process)
        os.unlink(logs.path("a"))
        assert logs.open_for_reading("a") is None
        assert last_lines(logs, "a", 3) == []
        # Its standard output is what an instance writes its log to; here that is stderr's place.
        stand_in = subprocess.Popen(
            ["/bin/sh", "-c", "echo kept; kill -STOP $$"], stdout=_unlinked(logs)
        )
        with stand_in:
            os.waitid(os.P_PID, stand_in.pid, os.WSTOPPED)
            fd = logs.open_for_reading("a", pid=stand_in.pid)
            assert fd is not None
            assert tail(fd, 9) == b"kept\n"
            os.close(fd)
            assert logs.open_for_reading("a", back=1, pid=stand_in.pid) is None
            stand_in.kill()


def _unlinked(logs: Logs) -> int:
    fd = logs.begin("b")
    os.unlink(logs.path("b"))
    return fd


def test_the_last_words_are_those_that_say_something(logs: Logs) -> None:
    write_run(logs, "one\n\n  \ntwo \x1b[31mred\x1b[0m\n\n\xff\n")
    assert last_lines(logs, "a", 3) == ["one", "two red", "\xff"]
    assert last_lines(logs, "nobody", 3) == []


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain \u00e4 \u6f22", "plain \u00e4 \u6f22"),
        ("a\tb", "a\tb"),
        ("  around \r", "around"),
        ("\x1b[1;31mred\x1b[0m and \x1b[2Kclear", "red and clear"),
        ("\x1b]0;title\x07shown", "shown"),
        ("bell\x07", "bell\N{REPLACEMENT CHARACTER}"),
        ("over\rwritten", "over\N{REPLACEMENT CHARACTER}written"),
        ("\u202eright to left", "\N{REPLACEMENT CHARACTER}right to left"),
        ("x" * 1000, "x" * 500),
    ],
)
def test_what_is_shown_does_no_harm_to_a_terminal(line: str, shown: str) -> None:
    assert printable(line) == shown


@given(st.text())
def test_whatever_is_shown_is_printable(line: str) -> None:
    assert all(c.isprintable() or c == "\t" for c in printable(line))
