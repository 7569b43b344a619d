"""What every test stands on: its own folders, real engines, and proof that nothing is left behind.

Isolation is the environment: state, cache, home and profiles of a test lie in its own folder, so
its processes carry a mark of their own and can be told from all others.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from orchestrator.runtime.identity import all_pids, command_of, read_stat
from tests import engines
from tests import registry as registry_module
from tests.ollama_world import OllamaWorld
from tests.registry import Registry
from tests.world import World

settings.register_profile(
    "here", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("here")
"""How long an example takes is the machine's doing; a test has its own limit."""

MARK = "TEST_OF_ORCHESTRATE"
"""In the environment of every process that a test starts, however far removed: under a name that
instances inherit, as they do not those that begin with ORCHESTRATE_."""

DYING = 0.5
"""Seconds that a killed process may take to be gone."""

LLAMA_SERVER = engines.llama_server_path()
"""Looked up before any test changes HOME."""

OLLAMA = engines.ollama_path()

KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


TRIED_AGAIN = ("component", "functional")
"""Folders whose tests run real processes against real time: one that fails is tried once more,
and the summary names it as RERUN. Twice is a failure; a name that comes up there is a bug to find.
"""


ALONE = frozenset(
    {
        "test_chaos",
        "test_dashboard",
        "test_disks",
        "test_limits",
        "test_memory",
        "test_sidecar",
        "test_systemd",
    }
)
"""Files that take much of the machine, or measure how much of it is left: where tests run two at a
time (`-n 2 --dist loadgroup`), these run one after the other."""


def pytest_configure() -> None:
    # Who was started in the background ignores Ctrl-C, and so would all that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Before pytest-xdist looks for the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in TRIED_AGAIN:
            item.add_marker(pytest.mark.flaky(reruns=1))
        # Tests of one file share what is set up for the file, a daemon often: they stay together.
        together = (
            "alone" if item.path.stem in ALONE else f"{item.path.parent.name}/{item.path.stem}"
        )
        item.add_marker(pytest.mark.xdist_group(together))


def pytest_collection_finish(session: pytest.Session) -> None:
    """A version of pytest that pytest-xdist does not know yet would drop the groups in silence."""
    if getattr(session.config.option, "loadgroup", False):
        alone = [item.nodeid for item in session.items if "@" not in item.nodeid]
        if alone:
            raise pytest.UsageError(f"{len(alone)} tests are in no group, as {alone[0]}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why each that was tried again had failed: else nobody could look for the bug."""
    for report in terminalreporter.stats.get("rerun", ()):
        crash = getattr(report.longrepr, "reprcrash", None)
        where = f"{crash.path}:{crash.lineno}: " if crash is not None else ""
        why = crash.message if crash is not None else str(report.longrepr)
        terminalreporter.section(f"tried again: {report.nodeid} ({report.when})")
        # What was expected is at the beginning, what there was instead often at the end.
        short = why if len(why) <= 5000 else f"{why[:2000]}\n[...]\n{why[-3000:]}"
        terminalreporter.write_line(f"{where}{short}")


@pytest.fixture(autouse=True)
def nothing_left_behind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Each test runs in an environment of its own, and fails if a process or thread outlives it."""
    for name in list(os.environ):
        if name not in KEPT and not name.startswith(("PYTEST_", "HYPOTHESIS_", "COV_")):
            monkeypatch.delenv(name)
    mark = f"{os.getpid()}-{request.node.name}"
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = {thread.ident for thread in threading.enumerate()}
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    left = processes_that_stay(f"{MARK}={mark}")
    shown = {pid: " ".join(command_of(pid)) for pid in left}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"left behind: {shown}"
    threads = [t for t in threading.enumerate() if t.ident not in before and not t.daemon]
    assert not threads, f"left behind: {threads}"
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2, "file descriptors were left open"


@contextmanager
def world_of_a_file(folder: Path, model: Path, llama_server: str) -> Generator[World]:
    """A world that the tests of one file share; fails if a process outlives it, as a test would."""
    mark = f"{os.getpid()}-{folder.name}"
    env = {name: value for name, value in os.environ.items() if name in KEPT}
    made = World(folder, model, {**env, MARK: mark, "ORCHESTRATE_LLAMA_SERVER": llama_server})
    try:
        yield made
    finally:
        made.end()
        left = processes_that_stay(f"{MARK}={mark}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left


def processes_that_stay(mark: str) -> list[int]:
    """Marked processes, but for those that were killed and are just on their way out."""
    end = time.monotonic() + DYING
    while (left := processes_marked(mark)) and time.monotonic() < end:
        time.sleep(0.01)
    return left


def processes_marked(mark: str) -> list[int]:
    """Living processes that have exactly this variable, but for the tests' own."""
    found: list[int] = []
    wanted = mark.encode()
    for pid in all_pids():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        stat = read_stat(pid)
        if wanted in environ and pid != os.getpid() and stat is not None and stat.living:
            found.append(pid)
    return found


@pytest.fixture(scope="session")
def llama_server() -> str:
    """The real llama-server. Not having it is loud, and counts as skipped by name."""
    if LLAMA_SERVER is None:
        pytest.skip("LLAMA-SERVER IS NOT BUILT (make engines): nothing real was tested here")
    return LLAMA_SERVER


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that real engines load and run."""
    from models.make_tiny import write_tiny

    return write_tiny(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def world(tmp_path: Path, model: Path, llama_server: str) -> Iterator[World]:
    """A user's machine, with the real llama-server on it."""
    yield from _world(tmp_path, model, {"ORCHESTRATE_LLAMA_SERVER": llama_server})


@pytest.fixture(params=["real", "embedded"])
def any_world(tmp_path: Path, model: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """The same, once with the real llama-server and once with the embedded default."""
    if request.param == "embedded":
        # A PATH on which there is no llama-server: the embedded default stands behind it.
        yield from _world(tmp_path, model, {"PATH": "/usr/bin:/bin"})
    else:
        binary = request.getfixturevalue("llama_server")
        yield from _world(tmp_path, model, {"ORCHESTRATE_LLAMA_SERVER": binary})


def _world(tmp_path: Path, model: Path, env: dict[str, str]) -> Iterator[World]:
    made = World(tmp_path, model, {**os.environ, **env})
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def ollama() -> str:
    """The real Ollama. Not having it is loud, and counts as skipped by name."""
    if OLLAMA is None:
        pytest.skip("OLLAMA IS NOT BUILT (make engines): nothing of Ollama was tested here")
    return OLLAMA


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A real registry on loopback, to push models to and pull them from."""
    if registry_module.PROGRAM is None:
        pytest.skip("DOCKER-REGISTRY IS NOT INSTALLED (apt package): no real pull was tested here")
    with registry_module.running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def ollama_world(
    tmp_path: Path, model: Path, llama_server: str, ollama: str
) -> Iterator[OllamaWorld]:
    """A user's machine, with the real Ollama and the real llama-server on it."""
    env = {"ORCHESTRATE_LLAMA_SERVER": llama_server, "ORCHESTRATE_OLLAMA": ollama}
    made = OllamaWorld(tmp_path, model, {**os.environ, **env})
    try:
        yield made
    finally:
        made.end()
