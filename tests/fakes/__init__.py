"""Engines that misbehave on cue: only for what a healthy engine will not do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

BINARY = Path(__file__).with_name("llama-server")


def fake(*words: str, **more: Any) -> dict[str, Any]:
    """An instance that runs the fake llama-server, misbehaving as its words say."""
    env = {"FAKE": ",".join(words), "FAKE_PYTHON": sys.executable}
    return {"binary": str(BINARY), "env": env, **more}
