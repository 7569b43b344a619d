"""The part of `doctor` about what is ours: the state and cache folders, the store, the daemon."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator import __version__
from orchestrator.cli.finding import Finding, Mark
from orchestrator.cli.render import since, size
from orchestrator.settings import Settings

LITTLE_DISK = 256 << 20


def folders(settings: Settings) -> Iterator[Finding]:
    """Whether the state folder, and the cache, can be used."""
    yield _folder("state folder", settings.state_dir, "ORCHESTRATE_STATE_DIR", "fail")
    yield _folder("cache folder", settings.cache_dir, "ORCHESTRATE_CACHE_DIR", "warn")


def _folder(what: str, path: str, variable: str, unusable: Mark) -> Finding:
    above = _nearest(path)
    exists = above == path
    seen = os.stat(above)
    free = shutil.disk_usage(above).free
    data: dict[str, Any] = {"path": path, "exists": exists, "free_bytes": free}
    hint = f"name another with {variable}"
    if not stat.S_ISDIR(seen.st_mode):
        return Finding("state", unusable, f"{what} {path}: {above} is not a folder", hint, data)
    if exists:
        data |= {"mode": f"{stat.S_IMODE(seen.st_mode):04o}", "uid": seen.st_uid}
        if seen.st_uid != os.getuid():
            message = f"{what} {path} belongs to uid {seen.st_uid}"
            return Finding("state", unusable, message, hint, data)
    if not os.access(above, os.W_OK | os.X_OK):
        return Finding("state", unusable, f"{what} {path} cannot be written", hint, data)
    state = f"mode {data['mode']}" if exists else "made when it is needed"
    message = f"{what} {path} ({state}), {size(free)} free"
    if free < LITTLE_DISK:
        return Finding("state", "warn", message, f"free some disk space, or {hint}", data)
    if exists and unusable == "fail" and seen.st_mode & 0o077:
        return Finding("state", "warn", f"{message}: others may look in", f"chmod 700 {path}", data)
    return Finding("state", "ok", message, data=data)


def _nearest(path: str) -> str:
    """The innermost part of `path` that exists."""
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def store(settings: Settings) -> Iterator[Finding]:
    """Whether what was remembered can be read."""
    from orchestrator.runtime.state import Store

    data: dict[str, Any] = {"path": settings.store_path}
    if not os.path.exists(settings.store_path):
        yield Finding("state", "ok", "no store yet: nothing was applied so far", data=data)
        return
    opened = Store.open_to_read(settings.store_path)
    if opened is None:
        hint = "the next daemon sets it aside and begins another; running instances are adopted"
        yield Finding("state", "warn", f"{settings.store_path} cannot be read", hint, data)
        return
    applied = opened.applied()
    files = [one.file for one in applied.files] if applied is not None else []
    opened.close()
    data["applied"] = files
    yield Finding(
        "state", "ok", f"store readable, applied: {', '.join(files) or 'none'}", data=data
    )


def daemon(settings: Settings) -> Iterator[Finding]:
    """Whether one runs, answers, and is of this version."""
    from orchestrator.cli.client import Client
    from orchestrator.errors import NoDaemonError
    from orchestrator.runtime import lock

    pid = lock.holder(settings.lock_path)
    try:
        status = Client(settings).get("/v1/status")
    except (NoDaemonError, TimeoutError):
        if pid is None:
            yield Finding("daemon", "ok", "not running; `apply` starts one", data={"pid": None})
            return
        hint = f"`orchestrate logs --daemon` shows why; kill {pid} if it stays so"
        message = f"pid {pid} holds the state folder, but does not answer"
        yield Finding("daemon", "fail", message, hint, {"pid": pid})
        return
    running = status["daemon"]
    version, count = status["version"], len(status["instances"])
    data = {"pid": running["pid"], "version": version, "instances": count}
    message = f"pid {running['pid']}, version {version}, up {since(running['since'])}"
    if version != __version__:
        yield Finding("daemon", "warn", message, "orchestrate daemon restart", data)
    else:
        yield Finding("daemon", "ok", message, data=data)
    yield from _gateway(status.get("gateway"))


def _gateway(row: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Whether the one that is applied answers, and where."""
    if row is None:
        return
    data = {"url": row["url"], "phase": row["phase"]}
    if row["phase"] == "ready":
        message = f"ready at {row['url']}: one address for all instances"
        yield Finding("gateway", "ok", message, data=data)
        return
    said = ": ".join(word for word in (row["phase"], row["reason"], row["message"]) if word)
    hint = "`orchestrate logs gateway` shows what it said"
    yield Finding("gateway", "warn", f"{said} ({row['url']})", hint, data)
