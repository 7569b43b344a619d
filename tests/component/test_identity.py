"""Which process is it: the process table read right, whatever processes are called."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from msgspec.structs import replace

from orchestrator.core.status import ProcessRef
from orchestrator.runtime.identity import (
    OWNER_VARIABLE,
    Owned,
    boot_clock,
    boot_id,
    command_of,
    environment_of,
    find_owned,
    group_members,
    open_verified,
    read_stat,
    ref_of,
    state_id,
)

NOBODY = 2**22 + 1
"""Above any pid that there can be."""


@contextmanager
def running(
    code: str, env: Mapping[str, str] | None = None, *, session: bool = False
) -> Generator[tuple[subprocess.Popen[str], IO[str]]]:
    """A Python process that runs `code`, then waits for its end. It is past `code` already."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"{code}\nprint('up', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        start_new_session=session,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            while line != "up\n":
                assert line, "it ended before it was up"
                line = process.stdout.readline()
            yield process, process.stdout
        finally:
            process.kill()


def ref_to(pid: int) -> ProcessRef:
    ref = ref_of(pid)
    assert ref is not None
    return ref


@pytest.mark.parametrize(
    "name", ["plain", "two words", "a) R 1 2 (b", ")", "(", "line\nbreak", "h\u00e4", ""]
)
def test_a_process_may_be_called_anything(name: str) -> None:
    code = f"open('/proc/self/comm', 'wb').write({name.encode() + bytes(1)!r})"
    with running(code, session=True) as (process, _):
        stat = read_stat(process.pid)
        assert stat is not None
        assert stat.comm == name
        assert stat.living
        assert (stat.pid, stat.group, stat.session) == (process.pid,) * 3
        ours = read_stat(os.getpid())
        assert ours is not None
        assert ours.start_ticks < stat.start_ticks <= boot_clock() * os.sysconf("SC_CLK_TCK") + 1
        assert 0 < stat.rss_pages * os.sysconf("SC_PAGE_SIZE") < 2**30


def test_what_is_not_there_is_none_or_empty() -> None:
    assert read_stat(NOBODY) is None
    assert ref_of(NOBODY) is None
    assert open_verified(ProcessRef(NOBODY, 1, boot_id())) is None
    assert command_of(NOBODY) == []
    assert environment_of(NOBODY) == {}


def test_argv_and_environment_come_back_as_they_were_given() -> None:
    awkward = {"EMPTY": "", "EQUALS": "a=b=c", "LINES": "a\nb", "WORD": "h\u00e4"}
    with running("pass", awkward) as (process, _):
        assert command_of(process.pid) == process.args
        env = environment_of(process.pid)
        assert {name: env[name] for name in awkward} == awkward


def test_only_exactly_that_process_is_opened() -> None:
    with running("pass") as (process, _):
        ref = ref_to(process.pid)
        pidfd = open_verified(ref)
        assert pidfd is not None
        os.close(pidfd)
        before = len(os.listdir("/proc/self/fd"))
        assert open_verified(replace(ref, start_ticks=ref.start_ticks + 1)) is None
        assert open_verified(replace(ref, boot_id="another")) is None
        assert len(os.listdir("/proc/self/fd")) == before


# --- the mark -------------------------------------------------------------------------------------


def found(owner: str) -> set[tuple[str, str, int, bool]]:
    return {(one.instance, one.start_id, one.ref.pid, one.leads) for one in find_owned(owner)}


def test_what_carries_the_mark_is_found_leaders_and_others() -> None:
    with (
        running("pass", {OWNER_VARIABLE: "me/coder/s1"}, session=True) as (leader, _),
        running("pass", {OWNER_VARIABLE: "me/em.bed-1/s2"}) as (child, _),
    ):
        assert found("me") == {
            ("coder", "s1", leader.pid, True),
            ("em.bed-1", "s2", child.pid, False),
        }
        groups = {one.ref.pid: one.group for one in find_owned("me")}
        assert groups == {leader.pid: leader.pid, child.pid: os.getpgrp()}


@pytest.mark.parametrize(
    "env",
    [
        {OWNER_VARIABLE: "met/coder/s1"},
        {OWNER_VARIABLE: "you/me/s1"},
        {OWNER_VARIABLE: "me"},
        {f"X{OWNER_VARIABLE}": "me/coder/s1"},
        {f"{OWNER_VARIABLE}X": "me/coder/s1"},
        {"OTHER": f"{OWNER_VARIABLE}=me/coder/s1"},
        {"OTHER": f"\n{OWNER_VARIABLE}=me/coder/s1"},
    ],
)
def test_what_merely_looks_like_the_mark_is_not(env: dict[str, str]) -> None:
    with running("pass", env, session=True):
        assert find_owned("me") == []


def test_the_mark_is_found_behind_what_looks_like_it() -> None:
    env = {"A": f"{OWNER_VARIABLE}=me/wrong/s0", OWNER_VARIABLE: "me/right/s1"}
    with running("pass", env, session=True) as (process, _):
        assert find_owned("me") == [
            Owned("right", "s1", ref_to(process.pid), True, process.pid),
        ]


def test_the_dead_carry_no_mark() -> None:
    with running("pass", {OWNER_VARIABLE: "me/coder/s1"}, session=True) as (process, _):
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        stat = read_stat(process.pid)
        assert stat is not None
        assert not stat.living
        assert find_owned("me") == []


def test_a_state_folder_has_one_name_by_whatever_path(tmp_path: Path) -> None:
    real, other, link = tmp_path / "state", tmp_path / "other", tmp_path / "link"
    real.mkdir()
    other.mkdir()
    link.symlink_to(real)
    name = state_id(str(real))
    assert len(name) == 16
    assert name == state_id(f"{real}/") == state_id(str(link))
    assert name != state_id(str(other))
    real.rmdir()
    assert name == state_id(str(real)), "it does not depend on what is in it, or that it is there"


# --- groups ---------------------------------------------------------------------------------------

FAMILY = """
import os, subprocess, sys
stays = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]
child = subprocess.Popen(stays)
leaves = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
alone = subprocess.Popen(leaves, stdin=subprocess.PIPE, start_new_session=True)
dead = subprocess.Popen(["/bin/true"])
os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
print(child.pid, dead.pid, flush=True)
"""


def test_a_group_is_its_living_members() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"{FAMILY}\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as leader:
        assert leader.stdout is not None
        child, dead = map(int, leader.stdout.readline().split())
        ref = ref_to(leader.pid)
        zombie = read_stat(dead)
        assert zombie is not None
        assert (zombie.group, zombie.living) == (leader.pid, False)

        assert {one.pid for one in group_members(ref)} == {leader.pid, child}
        assert group_members(replace(ref, boot_id="another")) == []
        later = replace(ref, start_ticks=ref.start_ticks + 10**6)
        assert group_members(later) == [], "all of it is older than the leader that is meant"
        earlier = replace(ref, start_ticks=ref.start_ticks - 1)
        assert group_members(earlier) == [], "its number has been given to another leader since"

        leader.kill()
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
        assert {one.pid for one in group_members(ref)} == {child}
        os.kill(child, 9)
        assert leader.stdout.read() == "", "nobody is left who could say anything"
