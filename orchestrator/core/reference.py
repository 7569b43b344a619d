"""What `${...}` in a profile may look like, and which environment variables a text refers to.

Nothing heavy is imported: the command line asks `env_names` what to hand to the daemon, and
must stay quick.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, cast

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

TOKEN = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
"""`$${`, a reference (its inside is group 1), or a `${` that is never closed."""

_ENV_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"env:({_ENV_NAME})(?::-(.*))?|({VARIABLE_NAME.pattern})", re.DOTALL)


class Reference(NamedTuple):
    """One `${...}`: of a variable, or of the environment, there perhaps with a default."""

    name: str
    env: bool = False
    default: str | None = None


def env_names(text: str) -> frozenset[str]:
    """The environment variables that `text`, a whole profile, may refer to.

    By pattern alone, so names in comments count too: one variable too many harms nobody.
    """
    return frozenset(reference.name for reference in references(text) if reference.env)


def references(value: object) -> list[Reference]:
    """The well-formed references in `value`, if it is text."""
    if not isinstance(value, str) or "${" not in value:
        return []
    inner = (match[1] for match in TOKEN.finditer(value) if match[1] is not None)
    return [found for found in map(read_reference, inner) if found is not None]


def is_written(value: object, known: Mapping[str, object]) -> bool:
    """Whether a secret stands here, and not only the name of an environment variable that has it.
    `known` are the profile's own variables, as they are written."""
    if value is None or isinstance(value, dict):
        return False
    if isinstance(value, list):
        return any(is_written(one, known) for one in cast("list[object]", value))
    named = references(value)
    return not named or any(
        bool(one.default) if one.env else is_written(known.get(one.name), known) for one in named
    )


def read_reference(inner: str) -> Reference | None:
    """What stands between `${` and `}`; None when it is neither kind of reference."""
    match = _REFERENCE.fullmatch(inner)
    if match is None:
        return None
    if match[3]:
        return Reference(match[3])
    return Reference(match[1], env=True, default=match[2])
