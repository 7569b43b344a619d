"""A small JSON document on disk that may be lost: written whole or not at all."""

from __future__ import annotations

import contextlib
import json
from typing import Any, cast

from orchestrator.runtime.rewrite import write_whole


def read_document(path: str) -> dict[str, Any]:
    """The document; an empty one when there is none, or it is torn or of another shape."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


def write_document(path: str, document: dict[str, Any]) -> None:
    """Replace it whole, 0600. A disk that is full or cannot be written is no error."""
    with contextlib.suppress(OSError):
        write_whole(path, json.dumps(document, separators=(",", ":")).encode(), mode=0o600)
