"""The part of `doctor` about programs: which engines there are, what they are, what they see."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.cli.finding import Finding, NoAnswerError, ask
from orchestrator.cli.tables import counted
from orchestrator.control.toolchain import Toolchain
from orchestrator.errors import InputError
from orchestrator.runtime.binaries import EMBEDDED, VARIABLE, FoundBinary, find_llama_server
from orchestrator.settings import Settings, inherited

PATIENCE = 5.0
"""Seconds for a program to say its version, or its devices."""

_DEVICE = re.compile(r"^\s+(\S+): (.*) \((\d+) MiB, (\d+) MiB free\)\s*$")
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd")
_EMBEDDED_DEVICES = """
import json, xllamacpp
print(json.dumps([
    [d["name"], d["description"], d["memory_total"], d["memory_free"], str(d["type"])]
    for d in xllamacpp.get_device_info()
]))
"""


def engines(settings: Settings) -> Iterator[Finding]:
    """The llama-server that will run, then the others in the order of the look-up."""
    try:
        chosen = find_llama_server(explicit=None, env=os.environ)
    except InputError as error:
        chosen = None
        yield Finding("engine", "fail", error.message, error.hint)
    others = [one for one in _candidates(os.environ) if chosen is None or one.path != chosen.path]
    everything = others if chosen is None else [chosen, *others]
    toolchain = Toolchain(settings.cache_dir)

    def described(one: FoundBinary) -> Finding:
        return _described(one, toolchain, chosen=one is chosen)

    with ThreadPoolExecutor(4) as threads:
        yield from threads.map(described, everything)
    if not any(one.embedded for one in everything):
        hint = "pip install xllamacpp brings it, for machines without a llama-server"
        yield Finding("engine", "ok", "the embedded engine is not installed", hint)


def _candidates(env: Mapping[str, str]) -> list[FoundBinary]:
    """What would be found at each step of the look-up, if it were the first."""
    home = {"HOME": env.get("HOME") or os.path.expanduser("~"), "PATH": ""}
    folders = env.get("PATH", "").split(os.pathsep)
    steps: list[tuple[str | None, Mapping[str, str]]] = [
        *(("llama-server", {**home, "PATH": folder}) for folder in folders),
        (None, home),
        (EMBEDDED, home),
    ]
    found: dict[str, FoundBinary] = {}
    for explicit, around in steps:
        try:
            one = find_llama_server(explicit=explicit, env=around)
        except InputError:
            continue
        found.setdefault(one.path, one)
    return list(found.values())


def _described(found: FoundBinary, toolchain: Toolchain, *, chosen: bool) -> Finding:
    what = "the embedded engine" if found.embedded else found.path
    why = found.why if chosen else "also here, not used"
    data: dict[str, Any] = {"path": found.path, "embedded": found.embedded, "chosen": chosen}
    fatal = "fail" if chosen else "warn"
    try:
        version = version_line(ask((*found.launcher, "--version"), _clean(), timeout=PATIENCE))
        table = toolchain.llama_server(EMBEDDED if found.embedded else found.path, os.environ).table
    except NoAnswerError as error:
        hint = "is it built for this machine? Run it by hand with --version"
        return Finding("engine", fatal, f"{what} cannot be run: {error}", hint, data)
    except InputError as error:
        return Finding("engine", fatal, error.message, error.hint, data)
    data |= {"version": version, "flags": len(table.flags), "trusted": table.trusted}
    message = f"{what}, {version}, {counted(len(table.flags), 'flag')} ({why})"
    if table.trusted:
        return Finding("engine", "ok", message, data=data)
    hint = "a wrapper script? Flags of profiles are not checked against so few: they only warn"
    return Finding("engine", "warn", f"{message}: its --help is not llama-server's", hint, data)


def version_line(said: str) -> str:
    """The line of an answer to `--version` that names it."""
    lines = said.splitlines() or ["no version"]
    named = next((line for line in lines if "version" in line), lines[0])
    return named.removeprefix("Warning: ").strip()[:100]


def gpus(_settings: Settings) -> Iterator[Finding]:
    """The devices that the engine which will run can use."""
    try:
        found = find_llama_server(explicit=None, env=os.environ)
    except InputError:
        return
    try:
        devices = _embedded_devices() if found.embedded else _devices(found)
    except NoAnswerError as error:
        yield Finding("gpu", "warn", f"the engine did not list its devices: {error}")
        return
    for one in devices:
        free, total = one["free_bytes"] >> 20, one["total_bytes"] >> 20
        message = f"{one['name']}: {one['description']}, {free} of {total} MiB free"
        yield Finding("gpu", "ok", message, data=one)
    if devices:
        return
    present = [path for path in _GPU_FILES if os.path.exists(path)]
    if present:
        hint = "install a llama-server that is built for it, and name it in " + VARIABLE
        message = f"{present[0]} is there, but the engine sees no GPU: models run on the CPU"
        yield Finding("gpu", "warn", message, hint, {"present": present})
    else:
        yield Finding("gpu", "ok", "none: models run on the CPU")


def _devices(found: FoundBinary) -> list[dict[str, Any]]:
    said = ask((*found.launcher, "--list-devices"), _clean(), timeout=PATIENCE)
    matches = (_DEVICE.match(line) for line in said.splitlines())
    return [
        _device(match[1], match[2], int(match[3]) << 20, int(match[4]) << 20)
        for match in matches
        if match
    ]


def _embedded_devices() -> list[dict[str, Any]]:
    """In a process of its own: a driver that crashes or hangs must not take us with it."""
    said = ask((sys.executable, "-P", "-c", _EMBEDDED_DEVICES), _clean(), timeout=2 * PATIENCE)
    try:
        rows = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise NoAnswerError("xllamacpp lists its devices otherwise") from error
    return [_device(*row[:4]) for row in rows if "GPU" in row[4]]


def _device(name: str, description: str, total: int, free: int) -> dict[str, Any]:
    return {"name": name, "description": description, "total_bytes": total, "free_bytes": free}


def _clean() -> dict[str, str]:
    """The environment that an instance would be started with."""
    return inherited(os.environ)
