"""A real systemd, as a user's own manager: beside whatever init system the machine has.

It runs in a mount namespace that has the one hierarchy of control groups it insists on. That takes
root, and a kernel that lets root mount.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.machine_has import is_here
from tests.world import PATIENCE

PROGRAM = "/lib/systemd/systemd"

_PREPARE = """
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run/systemd
mkdir -p /run/systemd/system "/sys/fs/cgroup/$GROUP"
echo $$ >"/sys/fs/cgroup/$GROUP/cgroup.procs"
"""

_BEGIN = f"{_PREPARE}\nexec {PROGRAM} --user --unit=basic.target"


def can_run() -> bool:
    """Whether this machine lets a test start one."""
    if os.getuid() != 0 or not is_here("systemd-analyze") or not os.path.exists(PROGRAM):
        return False
    words = ["unshare", "-m", "-C", "bash", "-c", f"{_PREPARE}\ncd /; echo it works"]
    group = f"try-{os.getpid()}"
    env = {**os.environ, "GROUP": group}
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=30, check=False)
    _remove(group)
    return "it works" in done.stdout


@dataclass(frozen=True)
class UserManager:
    """A running `systemd --user`. `config` is the folder that its units lie below."""

    pid: int
    env: Mapping[str, str]

    def run(self, *words: str, ok: bool = True) -> str:
        """A command that talks to it: what it says."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-C", "--", *words]
        done = subprocess.run(
            inside, capture_output=True, text=True, env={**self.env}, timeout=60, check=False
        )
        assert done.returncode == 0 or not ok, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def systemctl(self, *words: str, ok: bool = True) -> str:
        return self.run("systemctl", "--user", *words, ok=ok)

    def shown(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", unit, "--property", name, "--value").strip()

    def until(self, unit: str, name: str, value: str) -> None:
        end = time.monotonic() + PATIENCE
        while (seen := self.shown(unit, name)) != value:
            assert time.monotonic() < end, f"{name} is {seen}, not {value}"
            time.sleep(0.05)


@contextmanager
def user_manager(folder: Path, env: Mapping[str, str]) -> Generator[UserManager]:
    """Started, and ended with all that it runs."""
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    group = f"test-{os.getpid()}-{time.monotonic_ns()}"
    environment = {**env, "XDG_RUNTIME_DIR": str(runtime), "GROUP": group}
    log = (folder / "systemd.log").open("wb")
    process = subprocess.Popen(
        ["unshare", "-m", "-C", "bash", "-c", _BEGIN],
        env={**environment, "SYSTEMD_LOG_TARGET": "console"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    manager = UserManager(process.pid, environment)
    try:
        end = time.monotonic() + PATIENCE
        while not (runtime / "systemd/private").exists():
            assert process.poll() is None, (folder / "systemd.log").read_text()
            assert time.monotonic() < end, "systemd does not come up"
            time.sleep(0.02)
        yield manager
    finally:
        # As a manager, it ends its units, and then itself.
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            log.close()
            _remove(group)


def _remove(group: str) -> None:
    """The control groups, which are empty by now: below our own, wherever that is."""
    memberships = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line[3:] for line in memberships if line.startswith("0::")), "/").rstrip("/")
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        for folder, *_ in sorted(os.walk(f"{root}{own}/{group}"), reverse=True):
            os.rmdir(folder)


needs_systemd = pytest.mark.skipif(
    not can_run(), reason="not on this machine: a systemd that a test may start (needs root)"
)
