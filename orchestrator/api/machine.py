"""Routes about the machine: its memory and GPUs, what instances took of it, its models."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.answers import Document
from orchestrator.api.operation import Operation, known_by, says
from orchestrator.api.reach import Control
from orchestrator.control.catalog_here import models_document
from orchestrator.control.machine_view import machine_document
from orchestrator.runtime.memory_budget import machine_room


class Machine:
    """Measures when somebody asks."""

    def __init__(self, control: Control) -> None:
        self._c = control
        self._scanning = asyncio.Lock()

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET",
                "/v1/machine",
                self.memory,
                "The memory that there is, and what each instance takes of it.",
                {200: says("In bytes.", known_by("Machine"))},
                about="machine",
            ),
            Operation(
                "GET",
                "/v1/history",
                self.history,
                "Memory and CPU of each instance over the last ten minutes.",
                {200: says("Lists of the same length; null where unknown.", known_by("History"))},
                about="machine",
            ),
            Operation(
                "GET",
                "/v1/models",
                self.models,
                "The models on this machine.",
                {200: says("As `orchestrate models --json`.", known_by("Models"))},
                about="models",
            ),
        ]

    async def memory(self, _request: Request) -> Response:
        observed = self._c.reconciler.observed
        budget = self._c.budget(observed)
        document = machine_document(
            total=machine_room().total,
            budget=budget,
            gpus=self._c.toolchain.known_gpus(),
            usage=self._c.overview.usage(),
            observed=observed,
        )
        return Document(document)

    async def history(self, _request: Request) -> Response:
        return Document(self._c.history.document())

    async def models(self, _request: Request) -> Response:
        # One at a time: it reads folders and headers, in threads that edits need, too.
        async with self._scanning:
            desired, observed = self._c.reconciler.desired or {}, self._c.reconciler.observed
            found = await asyncio.to_thread(self._c.profiles.found)
            document = await asyncio.to_thread(
                models_document,
                found,
                desired=desired,
                observed=observed,
                cache_dir=self._c.cache_dir,
            )
        return Document(document)
