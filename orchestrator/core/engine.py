"""What an engine is to the rest of the program: something that renders a launch.

An `Engine` is bound to one binary: its flags are those that this very binary names in its help.
`core` never imports one; `resolve` is handed those that the profiles need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct, field

from orchestrator.core.problem import Path
from orchestrator.core.spec import Command, Endpoint, Inference, InputFile

FlagValue = str | int | float | bool | list[Any] | None


class Layer(Struct, frozen=True):
    """Flags, or settings, as one place of a profile declares them; `path` finds it again."""

    flags: Mapping[str, FlagValue]
    path: Path


class LaunchRequest(Struct, frozen=True):
    """What one instance asks of its engine, before any of it is known to be right.

    `layers` are merged in order, the last wins. `folder` is what relative path flags are relative
    to. `cwd` is where the process will run. `args` are passed on raw, at `args_path`. `store` is
    the caller's folder of models, for an engine that keeps its own. `threads` is how many it is to
    have when nothing declared says it; None leaves that to the engine.
    """

    host: str
    port: int
    layers: tuple[Layer, ...]
    env: Mapping[str, str]
    args: tuple[str, ...]
    args_path: Path
    folder: str
    cwd: str
    model_path: str | None = None
    mmproj_path: str | None = None
    alias: str = ""
    store: str = ""
    threads: int | None = None


class Issue(Struct, frozen=True):
    """Something wrong, or (`warning`) doubtful, at a place of the profile."""

    path: Path
    message: str
    hint: str = ""
    warning: bool = False
    key: bool = True
    """True when the key at `path` is to be pointed at, False for its value."""


class Launch(Struct, frozen=True):
    """The rendered command and where it will listen; `None` when an issue forbids it.

    `inference` generates one token, where that does not depend on what is loaded. `store` is the
    folder in which the engine keeps its models, `limit` how many fit into its memory together.
    """

    command: Command | None
    endpoint: Endpoint | None
    issues: tuple[Issue, ...] = ()
    inputs: tuple[InputFile, ...] = field(default=())
    inference: Inference | None = None
    store: str = ""
    limit: int | None = None


class Engine(Protocol):
    """A kind of server program, bound to the binary that will run."""

    @property
    def name(self) -> str:
        """The word in a profile's `engine:`."""
        ...

    @property
    def binary(self) -> InputFile:
        """The executable and its identity."""
        ...

    def launch(self, request: LaunchRequest) -> Launch:
        """Check every setting and render the command. Pure; the same request, the same command."""
        ...
