"""What a llama-server's command says about memory: read back from what will be executed.

The command is the truth: defaults, flags and raw arguments of a profile have all come together in
it. A value that cannot be read counts as not given; the server itself will object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct, field

from orchestrator.core.memory import AUTO_PARALLEL, CACHE_TYPE_BYTES, MICRO_BATCH, Load

FIT_CONTEXT = 4096
"""The context that llama-server settles for, of its own accord, when memory is short."""

_VALUED = {
    **dict.fromkeys(("-c", "--ctx-size"), "context"),
    **dict.fromkeys(("-np", "--parallel"), "parallel"),
    **dict.fromkeys(("-ub", "--ubatch-size"), "ubatch"),
    **dict.fromkeys(("-b", "--batch-size"), "batch"),
    **dict.fromkeys(("-ctk", "--cache-type-k"), "keys"),
    **dict.fromkeys(("-ctv", "--cache-type-v"), "values"),
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers"), "layers"),
    **dict.fromkeys(("-dev", "--device"), "device"),
    **dict.fromkeys(("-fit", "--fit"), "fit"),
    **dict.fromkeys(("-fitc", "--fit-ctx"), "fit-context"),
    **dict.fromkeys(("-lm", "--load-mode"), "load-mode"),
    "--kv-unified-per-slot": "per-slot",
}
_SWITCHES = {
    **dict.fromkeys(("-kvu", "--kv-unified"), ("unified", "1")),
    **dict.fromkeys(("-no-kvu", "--no-kv-unified"), ("unified", "0")),
    "--swa-full": ("full-window", "1"),
    "--repack": ("repack", "1"),
    **dict.fromkeys(("-nr", "--no-repack"), ("repack", "0")),
    "--mmap": ("load-mode", "mmap"),
    "--no-mmap": ("load-mode", "none"),
    **dict.fromkeys(("-kvo", "--kv-offload"), ("cache-on-gpu", "1")),
    **dict.fromkeys(("-nkvo", "--no-kv-offload"), ("cache-on-gpu", "0")),
}
_VARIABLES = {
    "LLAMA_ARG_CTX_SIZE": "context",
    "LLAMA_ARG_N_PARALLEL": "parallel",
    "LLAMA_ARG_UBATCH": "ubatch",
    "LLAMA_ARG_BATCH": "batch",
    "LLAMA_ARG_CACHE_TYPE_K": "keys",
    "LLAMA_ARG_CACHE_TYPE_V": "values",
    "LLAMA_ARG_N_GPU_LAYERS": "layers",
    "LLAMA_ARG_DEVICE": "device",
    "LLAMA_ARG_FIT": "fit",
    "LLAMA_ARG_FIT_CTX": "fit-context",
    "LLAMA_ARG_LOAD_MODE": "load-mode",
    "LLAMA_ARG_KV_UNIFIED": "unified",
    "LLAMA_ARG_KV_UNIFIED_PER_SLOT": "per-slot",
    "LLAMA_ARG_SWA_FULL": "full-window",
    "LLAMA_ARG_REPACK": "repack",
    "LLAMA_ARG_KV_OFFLOAD": "cache-on-gpu",
}
_TRUE = {"1", "true", "on", "enabled"}
_READ_WHOLE = frozenset({"none", "dio"})
"""Ways of loading that copy the weights instead of mapping them."""


class Loading(Struct, frozen=True):
    """How a server loads its model. `gpu_layers`: -1 is all of them, None as many as there is room
    for. `shrinks_to`: the context that it settles for when memory is short, None if it does not.
    """

    load: Load = field(default_factory=Load)
    gpu_layers: int | None = None
    cache_on_gpu: bool = True
    fits_itself: bool = True
    """It chooses for itself what goes to the GPUs, by what is free (`--fit`)."""
    shrinks_to: int | None = None


def loading_of(argv: Sequence[str], env: Mapping[str, str]) -> Loading:
    """What a rendered command says. The command line goes before the environment."""
    said = {key: value for name, key in _VARIABLES.items() if (value := env.get(name)) is not None}
    said.update(_spoken(argv))
    context = _number(said.get("context")) or 0
    slots = _number(said.get("parallel")) or -1
    if context == 0 and slots > 0 and (each := _number(said.get("per-slot"))):
        context = slots * each
    fits = said.get("fit", "on") in _TRUE
    settles = fits and not context
    layers = _layers(said.get("layers"))
    if said.get("device") == "none":
        layers = 0
    return Loading(
        load=Load(
            context=context or None,
            parallel=AUTO_PARALLEL if slots < 1 else slots,
            unified=said.get("unified", "1" if slots < 1 else "0") in _TRUE,
            cache_type_k=_cache_type(said.get("keys")),
            cache_type_v=_cache_type(said.get("values")),
            micro_batch=_micro_batch(said),
            full_window=said.get("full-window") in _TRUE,
            repack=said.get("repack", "1") in _TRUE,
            mapped=said.get("load-mode") not in _READ_WHOLE,
        ),
        gpu_layers=layers,
        cache_on_gpu=said.get("cache-on-gpu", "1") in _TRUE,
        fits_itself=fits and layers is None,
        shrinks_to=_number(said.get("fit-context")) or FIT_CONTEXT if settles else None,
    )


def _spoken(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What the command line says, in its order: the last word counts."""
    for word, following in zip(argv, (*argv[1:], ""), strict=True):
        if word in _VALUED:
            yield _VALUED[word], following
        elif word in _SWITCHES:
            yield _SWITCHES[word]


def _number(text: str | None) -> int | None:
    """A count; None for anything else, negative numbers included."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _layers(text: str | None) -> int | None:
    if text in (None, "auto", "-1"):
        return None
    return -1 if text == "all" else _number(text)


def _cache_type(text: str | None) -> str:
    return text if text in CACHE_TYPE_BYTES else "f16"


def _micro_batch(said: Mapping[str, str]) -> int:
    micro = _number(said.get("ubatch")) or MICRO_BATCH
    return min(micro, _number(said.get("batch")) or micro)
