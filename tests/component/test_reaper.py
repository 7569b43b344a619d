"""The first process of a container: orphans are reaped, and our own are left to who began them.

A process may ask for the orphans below it (`PR_SET_CHILD_SUBREAPER`): so no container is needed.
"""

from __future__ import annotations

import subprocess
import sys

LIFE = """
import asyncio, ctypes, os, subprocess, sys, time
from orchestrator.core.spec import Command
from orchestrator.runtime import reaper
from orchestrator.runtime.identity import all_stats
from orchestrator.runtime.process import spawn

PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
reaper.PATIENCE = float(sys.argv[1])

def zombies():
    return [one.pid for one in all_stats() if one.parent == os.getpid() and not one.living]

async def gone(many):
    async with asyncio.timeout(30):
        while zombies() or len([o for o in all_stats() if o.parent == os.getpid()]) > many:
            await asyncio.sleep(0.01)

async def main():
    task = asyncio.create_task(reaper.reap())
    await asyncio.sleep(0)
    # An engine of ours, which leaves a child behind, and ends with a code of its own.
    ours = spawn(Command(("/bin/sh", "-c", "SCRIPT"), {}, "/"), inherited=os.environ,
                 owner=("MARK", "1"), log=2)
    print("ours:", await ours.ended())
    await gone(0)
    print("orphans: none")
    # A program that is run for a moment, in a thread; it ends long before somebody asks.
    slow = subprocess.Popen(["/bin/sh", "-c", "exit 7"])
    await asyncio.sleep(0.3)
    print("left alone:", zombies() == [slow.pid])
    print("its code:", await asyncio.to_thread(slow.wait))
    task.cancel()

asyncio.run(main())
"""


def life(script: str, *, patience: float) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LIFE.replace("SCRIPT", script), str(patience)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_orphans_are_reaped_and_exit_codes_are_not_taken() -> None:
    # What it leaves behind is in a session that it does not lead: it was never a child of ours.
    said = life("sleep 60 & sleep 60 & exit 3", patience=3600)

    assert said == [
        "ours: exited with code 3",
        "orphans: none",
        "left alone: True",
        "its code: 7",
    ]


def test_one_that_leads_its_session_is_waited_for_a_little() -> None:
    # It looks like one of our own instances; nobody waits for it.
    said = life("setsid sh -c 'exit 0' & exit 3", patience=0.5)

    assert said[:2] == ["ours: exited with code 3", "orphans: none"]


def test_only_the_first_process_is_given_orphans() -> None:
    from orchestrator.runtime.reaper import is_first

    assert not is_first()
