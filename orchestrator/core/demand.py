"""From an estimate to a demand: which bytes of an instance end up where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.core.catalog import Metadata
from orchestrator.core.loading import Loading, loading_of
from orchestrator.core.memory import MemoryEstimate, estimate
from orchestrator.core.spec import Command, Demand

EMBEDDED = "orchestrator.engines.embedded"
"""The word in the command of an embedded engine, which is a Python program besides."""
_EMBEDDED_BYTES = 12 << 20

GPU_MARGIN = 1 << 30
"""What llama-server leaves free on a GPU by itself (`--fit-target`)."""


class Weights(Struct, frozen=True):
    """What a llama-server loads: the bytes of each file, and what the model's header says."""

    files: Mapping[str, int]
    metadata: Metadata

    @property
    def size(self) -> int:
        return sum(self.files.values())


def llama_server_demand(
    command: Command, weights: Weights, gpus: Mapping[int, int]
) -> Demand | None:
    """What a llama-server will take. `gpus` are the bytes of each GPU that it may use.

    None where the header does not say enough.
    """
    loading = loading_of(command.argv, command.env)
    beside = _EMBEDDED_BYTES if EMBEDDED in command.argv else 0
    whole = _estimated(weights, loading)
    if not whole.whole:
        return None
    share = _offloaded(loading, weights.metadata, whole, gpus)
    demand = _on_host(loading, weights, whole, share)
    demand = replace(demand, host=demand.host + beside)
    if loading.shrinks_to is not None and loading.shrinks_to < whole.context:
        small = replace(loading, load=replace(loading.load, context=loading.shrinks_to))
        least = _on_host(small, weights, _estimated(weights, small), share)
        demand = replace(demand, least=beside + least.host + sum(least.mapped.values()))
    if not share:
        return demand
    return replace(
        demand,
        gpus=spread(_on_gpus(loading, whole, share), gpus),
        fits_itself=loading.fits_itself,
    )


def declared_demand(memory: int, estimated: Demand | None, gpus: Sequence[int]) -> Demand:
    """What a profile declares: on the GPUs where it runs on some, else in the machine's memory."""
    places = estimated.gpus if estimated is not None and estimated.gpus else dict.fromkeys(gpus, 1)
    if not places:
        return Demand(host=memory, declared=True)
    host = estimated.host if estimated is not None else 0
    return Demand(host=host, gpus=spread(memory, places), declared=True)


def spread(total: int, weights: Mapping[int, int]) -> dict[int, int]:
    """`total` bytes divided among places, in proportion to their weights."""
    whole = sum(weights.values()) or 1
    return {place: total * weight // whole for place, weight in weights.items()}


def _estimated(weights: Weights, loading: Loading) -> MemoryEstimate:
    return estimate(weights.metadata, size_bytes=weights.size, load=loading.load)


def _offloaded(
    loading: Loading, metadata: Metadata, whole: MemoryEstimate, gpus: Mapping[int, int]
) -> float:
    """The share of the layers that goes to the GPUs."""
    if not gpus or loading.gpu_layers == 0:
        return 0.0
    if loading.gpu_layers is None:
        room = sum(max(total - GPU_MARGIN, 0) for total in gpus.values())
        return min(1.0, room / max(_on_gpus(loading, whole, 1.0), 1))
    # The output counts as one more layer.
    layers = (metadata.layers or 0) + 1
    return 1.0 if loading.gpu_layers < 0 else min(1.0, loading.gpu_layers / layers)


def _on_gpus(loading: Loading, whole: MemoryEstimate, share: float) -> int:
    cache = (whole.kv_cache or 0) if loading.cache_on_gpu else 0
    return int(share * (whole.weights + cache)) + (whole.reserved or 0)


def _on_host(loading: Loading, weights: Weights, whole: MemoryEstimate, share: float) -> Demand:
    """What stays in the machine's memory. Of what was repacked the file is not read again."""
    rest = 1.0 - share
    cache = (whole.kv_cache or 0) * (rest if loading.cache_on_gpu else 1.0)
    own = int(cache + whole.repacked * rest) + (whole.compute or 0) + whole.program
    if not loading.load.mapped:
        return Demand(host=own + int(whole.weights * rest))
    read = (whole.weights - whole.repacked) * rest / max(whole.weights, 1)
    return Demand(host=own, mapped={file: int(size * read) for file, size in weights.files.items()})
