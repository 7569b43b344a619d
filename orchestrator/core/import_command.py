"""A command line of another tool's configuration: which program it starts, with what."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence

from msgspec import Struct

_SERVER = re.compile(r"llama-server([-_.].*)?")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_CONTAINERS = frozenset({"docker", "podman", "nerdctl", "docker-compose", "apptainer"})
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash", "fish", "cmd", "cmd.exe", "powershell"})
_WRAPPERS = frozenset(
    {"chrt", "env", "exec", "ionice", "nice", "nohup", "numactl", "setsid", "stdbuf", "taskset"}
)
"""Programs that start another with what follows them."""


class Command(Struct, frozen=True):
    """What starts a llama-server: its program, its arguments, and what stands before it.

    `wrapper` are the words before the program that a profile has no place for.
    """

    program: str
    words: tuple[str, ...]
    env: dict[str, str]
    wrapper: tuple[str, ...] = ()


def without_comments(text: str) -> str:
    """A command over several lines without the lines that only say something."""
    return "\n".join(line for line in text.split("\n") if not line.strip().startswith("#"))


def words_of(text: str) -> list[str]:
    """The words of a command, quotes and line continuations read as a POSIX shell does, and
    nothing else of a shell. Raises ValueError when a quote is never closed."""
    lines = without_comments(text).split("\n")
    joined = "\n".join(
        f"{line.strip()[:-1]} " if line.strip().endswith("\\") else line for line in lines
    )
    return shlex.split(joined)


def is_server(word: str) -> bool:
    """Whether a word names a llama-server, of whatever build."""
    return _SERVER.fullmatch(posixpath.basename(word)) is not None


def read_command(words: Sequence[str]) -> Command | str:
    """The llama-server that a command starts; else why it is none, as a sentence's end."""
    if not words:
        return "the command is empty"
    if is_server(words[0]):
        return Command(words[0], tuple(words[1:]), {})
    name = posixpath.basename(words[0])
    if name in _CONTAINERS:
        return f"a container ({name}): only programs of this machine are run"
    if name in _SHELLS:
        return f"it runs through a shell ({name}): write the llama-server's own command"
    if name == "ollama":
        return "an Ollama: `orchestrate import ollama` makes an instance of it"
    at = next((at for at, word in enumerate(words) if is_server(word)), None)
    if name not in _WRAPPERS or at is None:
        return f"{name[:60]!r} is no llama-server: only llama-server and Ollama are run"
    env: dict[str, str] = {}
    wrapper: list[str] = []
    for word in words[:at]:
        match = _ASSIGNMENT.fullmatch(word)
        if match is not None:
            env[match[1]] = match[2]
        elif word not in ("env", "exec"):
            wrapper.append(word)
    return Command(words[at], tuple(words[at + 1 :]), env, tuple(wrapper))
