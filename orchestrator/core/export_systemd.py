"""A systemd unit that runs the daemon with some profiles. Pure.

The daemon, not bare engines: what makes a profile worth having (readiness, causes, roll-back,
edits that are taken up) is done by it, and systemd only has to keep one process alive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from msgspec import Struct, field

WATCHDOG = 30
"""Seconds without a sign of life from the loop after which systemd ends the daemon."""

SUBGROUP_SINCE = 254
"""The first systemd that can put a daemon beside the control groups of its children."""

LEAF = "orchestrate-daemon"
"""The control group of the daemon itself, below the one that is delegated to it."""


class Unit(Struct, frozen=True):
    """What a unit is made of. `system`: for the machine's init system, else for a user's.

    `command` begins the command line; `env` may be read by everybody, `env_file` not. `run_as` is
    the account, empty for that of the init system. `systemd` is its version, 0 where not known.
    `modprobe` is the program that makes the device files of NVIDIA's GPUs, where there is one.
    """

    files: tuple[str, ...]
    command: tuple[str, ...]
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    env_file: str = ""
    system: bool = False
    run_as: str = ""
    systemd: int = 0
    modprobe: str = ""


def render_unit(unit: Unit) -> str:
    """The text of the unit file. The same for the same unit, and sealed: see `is_sealed`."""
    text = "\n".join([*_head(unit), "", *_service(unit), "", *_install(unit), ""])
    return f"{_SEAL}{_digest(text)}\n{text}"


def is_ours(text: str) -> bool:
    """Whether a unit file was made here."""
    return text.startswith(_SEAL)


def is_sealed(text: str) -> bool:
    """Whether it was made here, and is as it was made."""
    first, _, rest = text.partition("\n")
    return first == f"{_SEAL}{_digest(rest)}"


_SEAL = "# Made by `orchestrate install-service`, which also removes it. Content: sha256:"


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _head(unit: Unit) -> list[str]:
    names = ", ".join(file.rpartition("/")[2] for file in unit.files)
    lines = ["[Unit]", f"Description=Local LLM servers as declared in {_plain(names)}"]
    if unit.system:
        lines.append("After=network.target nvidia-persistenced.service")
        lines += [f"RequiresMountsFor={_quoted(file)}" for file in unit.files]
    return lines


def _service(unit: Unit) -> list[str]:
    serve = _command([*unit.command, "serve", "--leave-running", *unit.files])
    lines = ["[Service]", "Type=notify", "NotifyAccess=main", f"ExecStart={serve}"]
    if unit.modprobe and unit.system:
        lines += [
            "# The device files of the GPUs, which an engine without privileges cannot make.",
            f"ExecStartPre=+-{_command([unit.modprobe, '-u', '-c=0'])}",
        ]
    lines.append("# Reads the profiles again; saving one is enough.")
    lines.append("ExecReload=/bin/kill -HUP $MAINPID")
    lines += [f"User={unit.run_as}"] if unit.system and unit.run_as else []
    lines += [f"WorkingDirectory=-{_specifiers(unit.cwd)}"]
    lines += [f"Environment={_quoted(f'{name}={unit.env[name]}')}" for name in sorted(unit.env)]
    lines += [f"EnvironmentFile=-{_specifiers(unit.env_file)}"] if unit.env_file else []
    return [*lines, *_LIFE, *_groups(unit), *_hardening(unit)]


_LIFE = (
    "# The instances outlive the daemon: the next one finds them again. `orchestrate down` ends",
    "# them.",
    "KillMode=process",
    "Restart=on-failure",
    "RestartSec=2",
    "TimeoutStartSec=300",
    f"WatchdogSec={WATCHDOG}",
    "# An engine that the kernel kills for memory is restarted by the daemon; the rest goes on.",
    "OOMPolicy=continue",
)


def _groups(unit: Unit) -> list[str]:
    if unit.systemd >= SUBGROUP_SINCE:
        told = "# `limits: {memory: {max: ...}}` become control groups below this one."
        return [told, "Delegate=yes", f"DelegateSubgroup={LEAF}"]
    return [f"# With systemd {SUBGROUP_SINCE} `limits:` would be control groups.", "Delegate=yes"]


_FILTERS = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
)

_MOUNTS = (
    "ProtectSystem=full",
    "# Where Ollama's own package keeps its models.",
    "ReadWritePaths=-/usr/share/ollama",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectHostname=yes",
)


def _hardening(unit: Unit) -> list[str]:
    """What engines do not notice: they need GPUs, models in home folders, memory that is written
    and run (CUDA compiles), and a priority of their own; we need /proc and the kernel's log."""
    if unit.system:
        may_all = unit.run_as in ("", "root")
        return [*_FILTERS, *_MOUNTS, *([] if may_all else ["CapabilityBoundingSet="])]
    if unit.modprobe:
        # Any of these forbids setuid programs, and without this one there is no GPU.
        return [f"# Not hardened: engines need {unit.modprobe}, which is setuid."]
    return list(_FILTERS)


def _install(unit: Unit) -> list[str]:
    target = "multi-user.target" if unit.system else "default.target"
    return ["[Install]", f"WantedBy={target}"]


_BARE = re.compile(r"[A-Za-z0-9_@+=:,./-]+")


def _command(words: Iterable[str]) -> str:
    # In a command line, and nowhere else, a dollar is a variable.
    return " ".join(_quoted(word.replace("$", "$$")) for word in words)


def _quoted(word: str) -> str:
    """As one word, whatever is in it."""
    if _BARE.fullmatch(word):
        return word
    return f'"{"".join(_escaped(word))}"'


def _escaped(word: str) -> Iterator[str]:
    for character in _specifiers(word):
        if character in '"\\':
            yield f"\\{character}"
        elif character < " " or character == "\x7f":
            yield f"\\x{ord(character):02x}"
        else:
            yield character


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _plain(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return _specifiers(printable)
