"""Under systemd: what it is told, the unit that is written, and a real one that runs it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.init_system import needs_systemd, user_manager
from tests.look import pids, until_row
from tests.machine_has import needs_program
from tests.world import PATIENCE, World, alive

UNIT = ".config/systemd/user/orchestrate.service"
ENV = ".config/orchestrate/orchestrate.env"


class Listener:
    """The init system's end of the protocol."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address[0] == "@" else address)
        self._socket.settimeout(PATIENCE)

    def until(self, fits: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The first message from now on that fits."""
        end = time.monotonic() + PATIENCE
        seen: list[dict[str, str]] = []
        while time.monotonic() < end:
            lines = self._socket.recv(65536).decode().split("\n")
            seen.append(dict(line.split("=", 1) for line in lines))
            if fits(seen[-1]):
                return seen[-1]
        raise AssertionError(f"only came: {seen}")

    def says(self, name: str) -> dict[str, str]:
        return self.until(lambda message: name in message)

    def drain(self) -> list[bytes]:
        """All that has come."""
        self._socket.setblocking(False)
        found: list[bytes] = []
        try:
            while True:
                found.append(self._socket.recv(65536))
        except BlockingIOError:
            self._socket.settimeout(PATIENCE)
            return found

    def close(self) -> None:
        self._socket.close()


@contextmanager
def served(
    world: World, *words: object, address: str, watchdog: str = ""
) -> Generator[tuple[subprocess.Popen[str], Listener]]:
    """`orchestrate serve`, as an init system starts it."""
    listener = Listener(address)
    env = {"NOTIFY_SOCKET": address, **({"WATCHDOG_USEC": watchdog} if watchdog else {})}
    process = subprocess.Popen(
        world.command("serve", *words),
        cwd=world.folder,
        env={**world.env, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, listener
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=PATIENCE)
        listener.close()


def test_it_says_when_it_serves_what_is_ready_that_it_lives_and_its_end(world: World) -> None:
    profile = world.profile({"a": None, "b": {"needs": ["a"]}})
    address = str(world.folder / "notify.sock")
    with served(world, profile, address=address, watchdog="400000") as (process, systemd):
        assert "READY" in systemd.says("READY")
        # The one who asks at that moment is answered.
        assert world.run("status", "--json").json["daemon"]["pid"] == process.pid
        systemd.until(lambda message: message.get("STATUS") == "2 of 2 ready")
        systemd.says("WATCHDOG")
        systemd.says("WATCHDOG")

        process.send_signal(signal.SIGHUP)
        asked = systemd.says("RELOADING")
        assert int(asked["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert systemd.says("READY")["STATUS"] == "2 of 2 ready"

        world.run("stop", "b")
        systemd.until(lambda message: message.get("STATUS", "").startswith("1 of 2 ready: b: "))
        world.write("p.yaml", "instances: {a: {model: [}")
        systemd.until(lambda message: "p.yaml is invalid" in message.get("STATUS", ""))

        # Engines do not speak for the daemon.
        environment = Path(f"/proc/{pids(world)['a']}/environ").read_bytes()
        assert b"NOTIFY_SOCKET=" not in environment
        assert b"WATCHDOG_" not in environment

        process.terminate()
        assert systemd.says("STOPPING") == {"STOPPING": "1"}
        assert process.wait(PATIENCE) == 0


def test_what_is_refused_is_never_ready(world: World) -> None:
    broken = world.write("broken.yaml", "instances: {a: {model: nowhere.gguf}}")
    address = f"@{world.folder}"
    with served(world, "--leave-running", broken, address=address) as (process, systemd):
        assert process.wait(PATIENCE) == 2
        assert not any(b"READY" in message for message in systemd.drain())
        assert process.stderr is not None
        assert "nowhere.gguf" in process.stderr.read()


def test_a_daemon_that_hangs_shows_no_sign_of_life_and_where_it_hung(world: World) -> None:
    profile = world.profile({"a": None})
    address = f"@{world.folder}"
    with served(world, "--leave-running", profile, address=address, watchdog="300000") as (
        process,
        systemd,
    ):
        systemd.until(lambda message: message.get("STATUS") == "1 of 1 ready")
        before = pids(world)
        systemd.says("WATCHDOG")
        os.kill(process.pid, signal.SIGSTOP)
        world.until(lambda: _state(process.pid) == "T")
        systemd.drain()
        time.sleep(0.6)
        assert systemd.drain() == []
        # As systemd does then.
        os.kill(process.pid, signal.SIGABRT)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(PATIENCE) == -signal.SIGABRT
        assert process.stderr is not None
        assert "Fatal Python error: Aborted" in process.stderr.read()

    # And the next one finds all as it was.
    with served(world, "--leave-running", profile, address=address) as (_, systemd):
        assert systemd.says("READY")["STATUS"] == "1 of 1 ready"
        assert pids(world) == before


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_an_update_of_the_daemon_leaves_instances_holds_and_what_was_valid(world: World) -> None:
    profile = world.profile({"a": None, "b": None})
    address = f"@{world.folder}"
    with served(world, "--leave-running", profile, address=address) as (process, systemd):
        systemd.until(lambda message: message.get("STATUS") == "2 of 2 ready")
        before = pids(world)["a"]
        world.run("stop", "b")
        process.terminate()
        process.wait(PATIENCE)
    assert alive(before)
    # Broken while nobody looked: no reason not to come up, and to keep what runs.
    world.write("p.yaml", "instances: {a: {model: [}")

    with served(world, "--leave-running", profile, address=address) as (process, systemd):
        said = systemd.says("READY")["STATUS"]
        assert said.startswith("1 of 2 ready: b: "), said
        assert pids(world)["a"] == before
        assert until_row(world, "b", lambda row: row["reason"] == "held")["phase"] == "stopped"
        systemd.until(lambda message: "p.yaml is invalid" in message.get("STATUS", ""))


# --- the unit -------------------------------------------------------------------------------------


@pytest.fixture
def odd(world: World) -> Path:
    """A profile in a place whose name has all that a unit file could take amiss."""
    folder = world.folder / 'My 50% "Models" $HOME'
    folder.mkdir()
    (folder / "p.yaml").write_text(f"instances: {{a: {{model: {world.model}}}}}\n")
    return folder / "p.yaml"


def verified(unit: Path, folder: Path, *words: str) -> str:
    """What systemd has to say of a unit file."""
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "SYSTEMD_LOG_LEVEL": "info"}
    done = subprocess.run(
        ["systemd-analyze", *words, str(unit)], capture_output=True, text=True, env=env, timeout=60
    )
    assert done.returncode == 0, done.stderr + done.stdout
    # Elsewhere it is newer than here, and it complains of the machine's own units, too.
    return "\n".join(line for line in done.stderr.splitlines() if unit.name in line)


@needs_program("systemd-analyze")
def test_systemd_understands_the_units(world: World, odd: Path) -> None:
    strange = 'a"b\\c %n $HOME'
    user = world.write("user.service", world.run("export", "systemd", odd, HF_HOME=strange).out)
    assert verified(user, world.folder, "verify", "--user") == ""

    words = ("export", "systemd", "--system", "--run-as", "daemon", odd)
    system = world.write("system.service", world.run(*words, HF_HOME=strange).out)
    assert verified(system, world.folder, "verify") == ""
    # What engines do not notice is on: the figure of an unhardened unit is 9.6.
    verified(system, world.folder, "security", "--offline=true", "--threshold=55")


def test_a_unit_as_it_is_written_runs(world: World, odd: Path) -> None:
    """What systemd would do with it, step by step."""
    odd.write_text(_with_env(world))
    value = 'x "y" %n'
    world.run("install-service", odd, SAID=value)
    text = (world.folder / UNIT).read_text()
    (line,) = re.findall("^ExecStart=(.*)$", text, re.MULTILINE)
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]
    assert words[-1] == str(odd)
    (cwd,) = re.findall("^WorkingDirectory=-(.*)$", text, re.MULTILINE)
    env = {"HOME": str(world.folder), "TEST_OF_ORCHESTRATE": os.environ["TEST_OF_ORCHESTRATE"]}
    for setting in re.findall("^Environment=(.*)$", text, re.MULTILINE):
        (pair,) = shlex.split(setting)
        name, _, said = pair.replace("%%", "%").partition("=")
        env[name] = said
    for setting in (world.folder / ENV).read_text().splitlines():
        (pair,) = shlex.split(setting)
        name, _, said = pair.partition("=")
        env[name] = said
    address = f"@{world.folder}"
    listener = Listener(address)
    process = subprocess.Popen(
        words, cwd=cwd, env={**env, "NOTIFY_SOCKET": address}, start_new_session=True
    )
    try:
        listener.until(lambda message: message.get("STATUS") == "1 of 1 ready")
        assert f"SAID={value}".encode() in Path(f"/proc/{pids(world)['a']}/environ").read_bytes()
    finally:
        process.terminate()
        process.wait(PATIENCE)
        listener.close()


def _with_env(world: World) -> str:
    return f"instances:\n  a: {{model: {world.model}, env: {{SAID: '${{env:SAID}}'}}}}\n"


def test_secrets_are_for_its_user_alone(world: World) -> None:
    profile = world.write("p.yaml", _with_env(world))
    ran = world.run("install-service", profile, SAID="sesame", HF_TOKEN="hidden", HF_HOME="/hub")
    assert "for its user alone: HF_TOKEN, SAID" in ran.out
    assert "systemctl --user enable --now orchestrate" in ran.out
    unit, private = world.folder / UNIT, world.folder / ENV
    assert "sesame" not in unit.read_text()
    assert "hidden" not in unit.read_text()
    assert "Environment=HF_HOME=/hub\n" in unit.read_text()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text() == 'HF_TOKEN="hidden"\nSAID="sesame"\n'

    # What is there may be newer than this shell; and nothing is doubled.
    private.write_text('SAID="by hand"')
    again = world.run("install-service", profile, SAID="sesame", OTHER="x", HF_TOKEN="hidden")
    assert private.read_text() == 'SAID="by hand"\nHF_TOKEN="hidden"\n'
    assert f"kept {private}: SAID" in again.out
    shown = world.run("install-service", "--dry-run", profile, SAID="sesame")
    assert "sesame" not in shown.out + shown.err
    assert shown.out.startswith("# Made by `orchestrate install-service`")


def test_what_others_wrote_is_not_overwritten(world: World) -> None:
    profile = world.profile({"a": None})
    unit = world.folder / UNIT
    world.run("install-service", profile)
    assert "unchanged" in world.run("install-service", profile).out
    made = unit.read_text()
    unit.write_text(made.replace("RestartSec=2", "RestartSec=7"))

    edited = world.run("install-service", profile, ok=False)
    assert edited.code == 2
    assert edited.err == (
        f"error: {unit} was edited since it was made\n"
        "hint: --force overwrites it; `systemctl edit` keeps changes in a file of their own\n"
    )
    assert world.run("install-service", "--uninstall", ok=False).code == 2
    world.run("install-service", "--force", profile)
    assert unit.read_text() == made

    unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert "not made by orchestrate" in world.run("install-service", profile, ok=False).err
    unit.write_text(made)
    wanted = unit.parent / "default.target.wants/orchestrate.service"
    wanted.parent.mkdir()
    wanted.symlink_to(unit)
    gone = world.run("install-service", "--uninstall")
    assert not unit.exists()
    assert not os.path.lexists(wanted)
    assert "systemctl --user stop orchestrate" in gone.out
    assert world.run("install-service", "--uninstall", ok=False).code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing is applied, and no profile is named"),
        (("nowhere.yaml",), "nowhere.yaml does not exist"),
        (("--name", "a/b", "p.yaml"), "'a/b' cannot be the name of a unit"),
        (("--run-as", "root", "p.yaml"), "--run-as goes with --system"),
        (("--system", "--run-as", "no-one-here", "p.yaml"), "there is no account 'no-one-here'"),
        (("--uninstall", "p.yaml"), "--uninstall takes neither"),
        (("broken.yaml",), "nothing was changed"),
    ],
)
def test_what_cannot_be_installed(world: World, words: tuple[str, ...], said: str) -> None:
    world.profile({"a": None})
    world.write("broken.yaml", "instances: {a: {model: nowhere.gguf}}")
    ran = world.run("install-service", *words, ok=False)
    assert ran.code == 2
    assert said in ran.err
    assert not (world.folder / ".config").exists()


def test_without_a_profile_it_is_what_is_applied(world: World) -> None:
    profile = world.profile({"a": None})
    world.run("apply", profile)
    ran = world.run("install-service")
    assert f"serve --leave-running {profile}\n" in (world.folder / UNIT).read_text()
    # It has the state folder: the service would be refused.
    assert "orchestrate daemon stop" in ran.out


# --- a real systemd -------------------------------------------------------------------------------


@needs_systemd
@pytest.mark.timeout(180)
def test_a_real_systemd_starts_watches_reloads_and_updates_it(world: World, odd: Path) -> None:
    value = 'x " \\ $HOME `y` %n'
    odd.write_text(f"{_with_env(world)}  b: {{model: {world.model}}}\n")
    world.run("install-service", odd, SAID=value)
    with user_manager(world.folder, world.env) as systemd:
        systemd.systemctl("enable", "orchestrate")
        # Returns once it says that it is ready.
        systemd.systemctl("start", "orchestrate")
        assert systemd.shown("orchestrate", "ActiveState") == "active"
        systemd.until("orchestrate", "StatusText", "2 of 2 ready")
        daemon = int(systemd.shown("orchestrate", "MainPID"))
        assert world.daemon_pid() == daemon
        before = pids(world)
        environment = Path(f"/proc/{before['a']}/environ").read_bytes()
        assert f"SAID={value}".encode() in environment.split(b"\0")

        systemd.systemctl("reload", "orchestrate")
        assert int(systemd.shown("orchestrate", "MainPID")) == daemon
        assert systemd.shown("orchestrate", "SubState") == "running"

        refused = world.run("daemon", "restart", ok=False)
        assert refused.code == 2
        assert refused.err.endswith("hint: systemctl --user restart orchestrate\n")

        # An update: another daemon, the same instances.
        systemd.systemctl("restart", "orchestrate")
        assert int(systemd.shown("orchestrate", "MainPID")) != daemon
        assert pids(world) == before

        # One that is killed, and one that hangs, are followed by another.
        os.kill(int(systemd.shown("orchestrate", "MainPID")), signal.SIGKILL)
        systemd.until("orchestrate", "NRestarts", "1")
        systemd.until("orchestrate", "ActiveState", "active")
        assert pids(world) == before
        dropped = world.folder / f"{UNIT}.d"
        dropped.mkdir()
        (dropped / "quick.conf").write_text("[Service]\nWatchdogSec=1\nRestartSec=0\n")
        systemd.systemctl("daemon-reload")
        systemd.systemctl("restart", "orchestrate")
        os.kill(int(systemd.shown("orchestrate", "MainPID")), signal.SIGSTOP)
        systemd.until("orchestrate", "NRestarts", "1")
        systemd.until("orchestrate", "ActiveState", "active")
        assert pids(world) == before

        systemd.systemctl("stop", "orchestrate")
        assert all(alive(pid) for pid in before.values())
        # What is not valid does not come up, and systemd knows.
        world.write("other.yaml", "instances: {a: {model: nowhere.gguf}}")
        world.run("down")
