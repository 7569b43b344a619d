"""Which GPUs an engine sees, by asking it; nothing is asked where there is none to see."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping

from orchestrator.core.gpu import ORDER, Gpu, listed_gpus
from orchestrator.runtime.binaries import FoundBinary

_NODES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dri/renderD*", "/dev/dxg")
_ENGINES_OWN = ("LLAMA_", "MTMD_", "OLLAMA_")
PATIENCE = 20.0
"""Seconds for a program to list its devices: a driver may have to wake first."""


def gpu_nodes() -> tuple[str, ...]:
    """The device files that GPUs have. Empty where no engine can have one."""
    return tuple(sorted(path for pattern in _NODES for path in glob.glob(pattern)))


def list_gpus(found: FoundBinary, env: Mapping[str, str]) -> tuple[Gpu, ...]:
    """What the binary lists, in the order of `nvidia-smi`; nothing when it cannot say.

    Runs it: not for the event loop.
    """
    if found.embedded:
        return ()
    # Imported here: where there is no GPU nobody needs it.
    import subprocess

    whole = {**os.environ, **env, **ORDER}
    clean = {key: value for key, value in whole.items() if not key.startswith(_ENGINES_OWN)}
    try:
        done = subprocess.run(
            (*found.launcher, "--list-devices"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=clean,
            cwd="/",
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return listed_gpus(done.stdout.decode("utf-8", "replace"))
