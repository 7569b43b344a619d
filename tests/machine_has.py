"""Programs of the system that some tests need: what is missing is skipped, and said at the end.

`python -m tests.machine_has` says what goes untested on this machine.
"""

from __future__ import annotations

import os
import shutil

import pytest

PROGRAMS = {
    "docker-registry": "pulls from a real registry",
    "chromium": "the dashboard, in a real browser",
    "chromedriver": "the dashboard, in a real browser",
    "dockerd": "the sidecar, in a real Docker",
    "docker-compose": "the sidecar, in a real Docker",
    "debootstrap": "the sidecar, in a real Docker",
    "prometheus": "rules and queries in a real Prometheus",
    "promtool": "rules and queries in a real Prometheus",
    "tmux": "`status --watch` in a real terminal",
    "curl": "the requests of docs/api.md",
    "systemd-analyze": "units, as systemd reads them",
}
"""What of the system the tests use, and what goes untested without."""

_SEARCHED = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
_SKIPS = "not on this machine: "


def needs_program(*names: str) -> pytest.MarkDecorator:
    """Skips where one of these programs is missing, by a reason that `make test` repeats aloud."""
    missing = [name for name in names if not is_here(name)]
    return pytest.mark.skipif(bool(missing), reason=_SKIPS + ", ".join(missing))


def is_here(name: str) -> bool:
    """Whether a program of `PROGRAMS` is installed."""
    assert name in PROGRAMS, f"say in PROGRAMS what {name} is for"
    return shutil.which(name, path=_SEARCHED) is not None


def untested() -> list[str]:
    """One line for each thing that goes untested here, with the programs that it lacks."""
    lacking: dict[str, list[str]] = {}
    for name, what in PROGRAMS.items():
        if not is_here(name):
            lacking.setdefault(what, []).append(name)
    lines = [f"{what} (missing: {', '.join(names)})" for what, names in lacking.items()]
    from tests.docker_daemon import obstacle
    from tests.init_system import can_run

    if PROGRAMS["dockerd"] not in lacking and (why := obstacle()):
        lines.append(f"{PROGRAMS['dockerd']} ({why})")
    return lines if can_run() else [*lines, "the service, under a real systemd (needs root)"]


if __name__ == "__main__":
    for line in untested():
        print(f"!!! {line}: SKIPPED")
