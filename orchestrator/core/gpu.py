"""GPUs as an engine lists them, and how an instance is told which of them it may see. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from orchestrator.core.problem import listing
from orchestrator.core.status import Observed

_DEVICE = re.compile(r"\s*([A-Za-z]+)(\d+): (.*) \((\d+) MiB, (\d+) MiB free\)\s*")

_VISIBLE = {"CUDA": ("CUDA_VISIBLE_DEVICES",), "ROCm": ("HIP_VISIBLE_DEVICES",)}
"""The variables that hide the GPUs of a kind which are not in them."""

OLLAMA_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
"""What Ollama reads: it lists no devices, so which of them counts is its to know."""

ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""The order in which `nvidia-smi` counts; without it CUDA puts the fastest first."""


class Gpu(Struct, frozen=True):
    """One GPU: its `kind` and `index` as in `CUDA0`, and bytes of its memory."""

    kind: str
    index: int
    description: str
    total: int
    free: int

    @property
    def name(self) -> str:
        return f"{self.kind}{self.index}"


class Visible(Struct, frozen=True):
    """What tells a process which GPUs it may see: variables, or a value of `--device`."""

    env: Mapping[str, str]
    device: str = ""


def listed_gpus(said: str) -> tuple[Gpu, ...]:
    """What `llama-server --list-devices` printed. Of several kinds only the first counts: the
    others are the same hardware, seen another way."""
    matches = [match for line in said.splitlines() if (match := _DEVICE.fullmatch(line))]
    return tuple(
        Gpu(match[1], int(match[2]), match[3], int(match[4]) << 20, int(match[5]) << 20)
        for match in matches
        if match[1] == matches[0][1]
    )


def visible(chosen: Sequence[int], gpus: Sequence[Gpu]) -> Visible:
    """How a llama-server is told to use those GPUs, and no others. Raises `ValueError` for one that
    it does not list."""
    known = {gpu.index: gpu for gpu in gpus}
    for index in chosen:
        if index not in known:
            names = listing([f"{gpu.index} ({gpu.description})" for gpu in gpus]) or "none"
            raise ValueError(f"there is no GPU {index}: the engine lists {names}")
    if not gpus:
        return Visible({})
    kind = gpus[0].kind
    if kind in _VISIBLE:
        order = ORDER if kind == "CUDA" and chosen else {}
        return Visible({**order, **dict.fromkeys(_VISIBLE[kind], _joined(chosen))})
    return Visible({}, ",".join(known[index].name for index in chosen) or "none")


def visible_to_ollama(chosen: Sequence[int]) -> Visible:
    """The same for an Ollama, which lists none. Without any, no index is valid: `-1`."""
    words = _joined(chosen) or "-1"
    return Visible({**(ORDER if chosen else {}), **dict.fromkeys(OLLAMA_VISIBLE, words)})


def roomiest(needed: int, gpus: Sequence[Gpu], promised: Mapping[int, int]) -> tuple[int, ...]:
    """The GPUs to use for `needed` bytes: the one with most room, more where one is too small.

    `promised` are bytes of each that other instances will take.
    """

    def room(gpu: Gpu) -> int:
        return min(gpu.free, gpu.total - promised.get(gpu.index, 0))

    chosen: list[int] = []
    for gpu in sorted(gpus, key=lambda gpu: (-room(gpu), gpu.index)):
        if chosen and needed <= 0:
            break
        chosen.append(gpu.index)
        needed -= max(room(gpu), 0)
    return tuple(sorted(chosen))


def _joined(chosen: Sequence[int]) -> str:
    return ",".join(map(str, chosen))


def held_gpus(observed: Observed) -> dict[str, tuple[int, ...]]:
    """The GPUs that instances have, by name."""
    return {
        name: status.spec.gpus for name, status in observed.items() if status.spec.gpus is not None
    }


class GpuChooser(Struct):
    """Chooses for `gpus: auto`. Sticky: those that an instance has are kept while they are there.

    `held` are the GPUs that instances have, by name; `promised` bytes of each, which grow as
    instances are resolved.
    """

    held: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    promised: dict[int, int] = field(default_factory=dict[int, int])

    def choose(self, name: str, needed: int, gpus: Sequence[Gpu]) -> tuple[int, ...]:
        known = {gpu.index for gpu in gpus}
        kept = self.held.get(name, ())
        return kept if kept and known.issuperset(kept) else roomiest(needed, gpus, self.promised)

    def promise(self, shares: Mapping[int, int]) -> None:
        """These bytes are somebody's now."""
        for index, count in shares.items():
            self.promised[index] = self.promised.get(index, 0) + count
