"""What memory this machine has, and what each instance takes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.core.admission import HOST, Budget, Room
from orchestrator.core.gpu import Gpu
from orchestrator.core.report import Usage
from orchestrator.core.status import ALIVE, Observed


def machine_document(
    *,
    total: int,
    budget: Budget | None,
    gpus: Iterable[Gpu],
    usage: Mapping[str, Usage],
    observed: Observed,
) -> dict[str, Any]:
    """In bytes. `budget` is what instances may take of the `total`, and None where that cannot be
    read; of GPUs it knows what is free now, where a driver says so."""
    rooms: Mapping[int, Room] = budget.rooms if budget is not None else {}
    host = rooms.get(HOST)
    return {
        "memory": {
            "total": total,
            "available": host.free if host is not None else None,
            "budget": host.total if host is not None else None,
            "instances": {name: took.memory_bytes for name, took in usage.items()},
        },
        "gpus": [
            {
                "index": gpu.index,
                "name": gpu.description or gpu.name,
                "total": gpu.total,
                "free": rooms[gpu.index].free if gpu.index in rooms else gpu.free,
                "instances": _on_gpu(gpu.index, observed),
            }
            for gpu in gpus
        ],
    }


def _on_gpu(index: int, observed: Observed) -> dict[str, int]:
    """What instances were promised of it: what they have taken is not to be seen."""
    return {
        name: int(status.spec.demand.gpus[index])
        for name, status in observed.items()
        if status.phase in ALIVE
        and status.spec.demand is not None
        and index in status.spec.demand.gpus
    }
