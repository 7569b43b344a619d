"""Names of Ollama models: `host/namespace/name:tag`, of which only the name must be written."""

from __future__ import annotations

import re

from orchestrator.core.naming import DEFAULT_NAMESPACE, DEFAULT_REGISTRY, DEFAULT_TAG
from orchestrator.core.nodes import shown

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")


class BadTagError(ValueError):
    """What is no name of a model, and why."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def canonical(written: str) -> str:
    """As Ollama shows it: the tag written out, its own registry and `library` left out.

    Raises `BadTagError` for what Ollama would refuse.
    """
    if "://" in written:
        hint = "write it without; a registry without TLS is named by `insecure: true`"
        raise BadTagError(f"{shown(written)} begins with a scheme", hint)
    *places, last = written.split("/")
    name, colon, tag = last.partition(":")
    tag = tag if colon else DEFAULT_TAG
    right = len(places) <= 2 and bool(_NAME.fullmatch(name)) and bool(_NAME.fullmatch(tag))
    if places:
        right = right and bool(_NAMESPACE.fullmatch(places[-1]))
    if len(places) == 2:
        right = right and bool(_HOST.fullmatch(places[0]))
    if not right:
        hint = "as in llama3.1:8b, user/model:tag or host:port/library/model:tag"
        raise BadTagError(f"{shown(written)} cannot be the name of a model", hint)
    whole = "/".join([*places, f"{name}:{tag}"])
    return whole.removeprefix(DEFAULT_REGISTRY).removeprefix(DEFAULT_NAMESPACE)
