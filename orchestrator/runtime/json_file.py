"""A small JSON document on disk that may be lost: written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from typing import Any, cast


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
    part = f"{path}.{os.getpid()}.{threading.get_ident()}"
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        try:
            with open(part, "w", encoding="utf-8", opener=_private) as file:
                file.write(json.dumps(document, separators=(",", ":")))
            os.replace(part, path)
        except OSError:
            os.unlink(part)
            raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
