"""What a flag of the embedded engine does: it sets fields of xllamacpp's `CommonParams`.

Each function here is, or makes, the one that a row of `embedded_flags` applies. xllamacpp is
imported only where one of its enumerations is needed: `--help` must stay quick.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, cast

Apply = Callable[[Any, str], None]
"""Sets fields of a `CommonParams`; a switch is given "1" or "0". Raises ValueError, OSError."""


def library() -> Any:
    """The xllamacpp module, which has no type information. Raises ImportError."""
    return importlib.import_module("xllamacpp")


def _put(params: Any, field: str, value: object) -> None:
    *parents, name = field.split(".")
    for parent in parents:
        params = getattr(params, parent)
    setattr(params, name, value)


def sampled(bit: str) -> Apply:
    """Mark a sampling setting as the user's, or the model's own defaults would replace it."""

    def apply(params: Any, _: str) -> None:
        wanted = library().common_params_sampling_config[f"COMMON_PARAMS_SAMPLING_CONFIG_{bit}"]
        params.sampling.user_sampling_config |= int(wanted)

    return apply


def both(first: Apply, second: Apply) -> Apply:
    def apply(params: Any, value: str) -> None:
        first(params, value)
        second(params, value)

    return apply


def whole(*fields: str) -> Apply:
    def apply(params: Any, value: str) -> None:
        for field in fields:
            _put(params, field, int(value))

    return apply


def real(field: str) -> Apply:
    return lambda params, value: _put(params, field, float(value))


def text(field: str) -> Apply:
    return lambda params, value: _put(params, field, value)


def words(field: str, make: Callable[[list[str]], object] = list[str]) -> Apply:
    return lambda params, value: _put(params, field, make(value.split(",")))


def switch(*fields: str) -> Apply:
    """Fields that are true when the flag is on; a leading `!` turns a field's sense around."""

    def apply(params: Any, value: str) -> None:
        for field in fields:
            _put(params, field.removeprefix("!"), (value == "1") != field.startswith("!"))

    return apply


def enum(field: str, kind: str, members: Mapping[str, str]) -> Apply:
    """A word that stands for a member of xllamacpp's enumeration `kind`."""

    def apply(params: Any, value: str) -> None:
        if value not in members:
            raise ValueError(f"{value!r} is not one of {', '.join(members)}")
        _put(params, field, getattr(library(), kind)[members[value]])

    return apply


def verbose(params: Any, _: str) -> None:
    params.verbosity = 2**31 - 1


def seed(params: Any, value: str) -> None:
    """-1 stands for the largest unsigned number, which stands for a random seed."""
    params.sampling.seed = int(value) % 2**32


def gpu_layers(params: Any, value: str) -> None:
    params.n_gpu_layers = {"auto": -1, "all": -2}[value] if value in ("auto", "all") else int(value)


def rope_scale(params: Any, value: str) -> None:
    params.rope_freq_scale = 1.0 / float(value)


def tensor_split(params: Any, value: str) -> None:
    shares = [float(share) for share in value.split(",")]
    params.tensor_split = shares + [0.0] * (len(params.tensor_split) - len(shares))


def on_off(field: str) -> Apply:
    def apply(params: Any, value: str) -> None:
        if value not in ("on", "off"):
            raise ValueError(f"{value!r} is not one of on, off")
        _put(params, field, value == "on")

    return apply


def lora(params: Any, value: str) -> None:
    adapter = library().CommonAdapterLoraInfo
    params.lora_adapters = [adapter(path, 1.0) for path in value.split(",")]


def rerank(params: Any, _: str) -> None:
    params.embedding = True
    params.pooling_type = library().llama_pooling_type.LLAMA_POOLING_TYPE_RANK


def key_file(params: Any, value: str) -> None:
    with open(value, encoding="utf-8") as file:
        keys = [line.strip() for line in file]
    params.api_keys = [*params.api_keys, *(key for key in keys if key and not key.startswith("#"))]


def template_file(params: Any, value: str) -> None:
    with open(value, encoding="utf-8") as file:
        params.chat_template = file.read()


def template_arguments(params: Any, value: str) -> None:
    values = json.loads(value)
    if not isinstance(values, dict):
        raise ValueError("a JSON object is needed")
    items = cast(dict[str, Any], values).items()
    params.default_template_kwargs = {key: json.dumps(item) for key, item in items}


def folder(field: str) -> Apply:
    """A folder, with the slash at its end that the server itself does not add."""

    def apply(params: Any, value: str) -> None:
        if not os.path.isdir(value):
            raise ValueError(f"{value!r} is no folder")
        _put(params, field, os.path.join(value, ""))

    return apply


def nothing(_params: Any, _value: str) -> None:
    """Do nothing, for the flags that the program itself sees to."""
