"""What a provisioner has to know of the server whose models it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct, field

from orchestrator.core.spec import InstanceSpec
from orchestrator.core.status import ModelStatus


def _no_rows() -> tuple[ModelStatus, ...]:
    return ()


def _nobody() -> None:
    return None


class Served(Struct, frozen=True):
    """A run of an instance whose models are to be kept. `spec` is asked anew each time.

    `rows` is what the status has of its models. `ready` is set once its server answers and is
    known to be the right one. `managed` is False for a server that was attached to: nothing is
    ever deleted there. `pid` is the server's now, where it is known.
    """

    name: str
    start_id: str
    spec: Callable[[], InstanceSpec]
    managed: bool = True
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    rows: Callable[[], tuple[ModelStatus, ...]] = _no_rows
    pid: Callable[[], int | None] = _nobody
