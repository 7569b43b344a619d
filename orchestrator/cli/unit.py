"""What a systemd unit for some profiles has to say on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.cli.sources import applied_sources
from orchestrator.core.export_systemd import Unit
from orchestrator.core.secret import is_secret_name
from orchestrator.errors import InputError
from orchestrator.runtime import cgroups
from orchestrator.runtime.identity import environment_of
from orchestrator.runtime.state import AppliedSource
from orchestrator.settings import Settings

NAME = "orchestrate"

_CONFIGURES = frozenset(
    {
        "PATH",
        "XDG_CACHE_HOME",
        "XDG_STATE_HOME",
        "OLLAMA_MODELS",
        "LLAMA_CACHE",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
    }
)
"""What says where things are. `ORCHESTRATE_*` does, too; all else is somebody's value."""

_NOT_OURS = frozenset({"ORCHESTRATE_OWNER", "ORCHESTRATE_DEBUG"})


def unit_name(name: str) -> str:
    """The name without `.service`. Raises `InputError` for what is none."""
    bare = name.removesuffix(".service")
    if not re.fullmatch(r"[A-Za-z0-9:_.-]{1,200}", bare) or bare.startswith("."):
        raise InputError(
            f"{name!r} cannot be the name of a unit",
            hint="letters, digits and - _ . : may be in it",
        )
    return bare


def sources_here(files: Sequence[str], settings: Settings) -> list[AppliedSource]:
    """What the unit is to apply: FILEs, else what is applied now. Raises `InputError`."""
    if files:
        return applied_sources(files, settings, os.environ)
    from orchestrator.runtime.state import Store

    store = Store.open_to_read(settings.store_path)
    try:
        applied = store.applied() if store is not None else None
    finally:
        if store is not None:
            store.close()
    if applied is None or not applied.sources:
        raise InputError(
            "nothing is applied, and no profile is named",
            hint="name one: orchestrate install-service profiles/coding.yaml",
        )
    return applied.sources


def unit_here(
    sources: Sequence[AppliedSource], *, name: str, system: bool, run_as: str = ""
) -> tuple[Unit, dict[str, str]]:
    """The unit, and what belongs into its `env_file`, which only its user may read."""
    given = {key: value for source in sources for key, value in source.env.items()}
    env, private = _sorted_out({**_settings_of(os.environ), **given})
    unit = Unit(
        files=tuple(source.path for source in sources),
        command=(sys.executable, "-P", "-m", "orchestrator"),
        cwd=sources[0].cwd,
        env=env,
        env_file=env_file(name, system=system),
        system=system,
        run_as=run_as,
        systemd=_systemd(),
        modprobe=shutil.which("nvidia-modprobe", path="/usr/bin:/usr/sbin:/bin:/sbin") or "",
    )
    return unit, private


def _settings_of(env: Mapping[str, str]) -> dict[str, str]:
    """What the daemon itself goes by. The folders are absolute: it stands somewhere else."""
    found = {
        name: value
        for name, value in env.items()
        if value and (name in _CONFIGURES or name.startswith("ORCHESTRATE_"))
    }
    for name in ("ORCHESTRATE_STATE_DIR", "ORCHESTRATE_CACHE_DIR", "ORCHESTRATE_PROFILES"):
        if name in found:
            found[name] = os.path.abspath(os.path.expanduser(found[name]))
    return found


def _sorted_out(env: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What everybody may read, and what not: secrets, and all that a profile refers to."""
    kept = {name: value for name, value in env.items() if name not in (*_NOT_OURS, "HOME")}
    private = {name for name in kept if is_secret_name(name) or not _configures(name)}
    return (
        {name: value for name, value in kept.items() if name not in private},
        {name: kept[name] for name in sorted(private)},
    )


def _configures(name: str) -> bool:
    return name in _CONFIGURES or name.startswith("ORCHESTRATE_")


def config_home() -> str:
    """The user's folder for configuration."""
    return os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")


def env_file(name: str, *, system: bool) -> str:
    """Where the values lie that not everybody may read."""
    folder = "/etc/orchestrate" if system else os.path.join(config_home(), "orchestrate")
    return os.path.join(folder, f"{name}.env")


def _systemd() -> int:
    """The version of systemd on this machine; 0 where there is none."""
    try:
        done = subprocess.run(
            ["systemctl", "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found[1]) if found else 0


def service_of(pid: int) -> tuple[str, str] | None:
    """The unit that a daemon runs as, behind what `systemctl` is told before its name; None for one
    that systemd does not look after."""
    if "NOTIFY_SOCKET" not in environment_of(pid):
        return None
    try:
        said = cgroups.membership(pid)
    except OSError:
        return None
    named = re.findall(r"/([^/\n]+)\.service(?:/[^\n]*)?$", said, re.MULTILINE)
    system = any(f"/system.slice/{name}.service" in said for name in named)
    return ("" if system else "--user ", named[-1]) if named else None


def env_text(values: Mapping[str, str]) -> str:
    """The text of an environment file, as systemd reads it."""
    return "".join(f'{name}="{_escaped(values[name])}"\n' for name in sorted(values))


def _escaped(value: str) -> str:
    return re.sub(r'(["\\$`])', r"\\\1", value)


def names_in(text: str) -> Iterable[str]:
    """The variables that an environment file sets."""
    return re.findall(r"^\s*([A-Za-z_][A-Za-z0-9_]*)=", text, re.MULTILINE)
