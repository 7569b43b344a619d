"""Modelfiles: the text that says how Ollama is to build a model, read as Ollama itself reads it.

Its server takes no such text, only what it comes to: a base or files, and the settings that are
laid over them. So the text is read here, where what is wrong with it is found before anything is
touched.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from orchestrator.core.modelfile_text import Instruction, ModelfileError, read_instructions
from orchestrator.core.problem import did_you_mean
from orchestrator.core.tag import BadTagError, canonical
from orchestrator.errors import InputError

_DEPRECATED = (
    *("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),
    *("mirostat", "mirostat_tau", "mirostat_eta"),
)
"""Parameters that Ollama passes over."""


class Modelfile(Struct, frozen=True):
    """A Modelfile that was understood. Paths in it are relative to the folder that it lies in.

    `settings` is what goes into the request beside the files: template, system, parameters...
    """

    instructions: tuple[Instruction, ...]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def bases(self) -> tuple[str, ...]:
        """What it is built from, as written: a tag, or paths of files."""
        return tuple(one.value for one in self.lines_from)

    @property
    def lines_from(self) -> tuple[Instruction, ...]:
        """The lines that name a base."""
        return tuple(one for one in self.instructions if one.name == "from")


class ModelfileOnDisk(Struct, frozen=True):
    """A Modelfile at its absolute path: its text, or why it cannot be read.

    `present` are those of its bases, as it says them, that are files.
    """

    path: str
    text: str | InputError
    present: frozenset[str] = frozenset()


def absolute(path: str, folder: str) -> str:
    """A path of a Modelfile in `folder`; one below somebody's home stays so."""
    if path.startswith("~"):
        return path
    return posixpath.normpath(posixpath.join(folder, path))


def looks_like_a_path(base: str) -> bool:
    """True for a base that can be no tag, even where there is no such file."""
    return base.startswith((".", "/", "~")) or base.lower().endswith(".gguf")


def parse_modelfile(text: str) -> Modelfile:
    """Raises `ModelfileError` where Ollama would refuse it, too."""
    instructions = read_instructions(text)
    for one in instructions:
        refused = None if one.parameter else _REFUSED.get(one.name)
        if refused:
            raise ModelfileError(refused, one.line)
        if one.name == "from" and not one.value:
            raise ModelfileError("FROM names nothing", one.line)
    settings = _settings(instructions)
    if not any(one.name == "from" for one in instructions):
        raise ModelfileError("there is no FROM line")
    return Modelfile(tuple(instructions), settings)


_REFUSED = {
    "adapter": "Ollama takes no adapters (ADAPTER) any more: merge it into its base first",
    "draft": "a draft model (DRAFT) is not supported",
}


def bases_of(modelfile: Modelfile, file: ModelfileOnDisk) -> list[str]:
    """What it is built from: absolute paths, or a tag. Raises `ModelfileError`.

    Of several, the first stands for the weights: Ollama lays the others beside them.
    """
    folder = posixpath.dirname(file.path)
    found: list[str] = []
    for one in modelfile.lines_from:
        if one.value in file.present:
            found.append(absolute(one.value, folder))
        elif looks_like_a_path(one.value):
            message = f"there is no {absolute(one.value, folder)}, or no GGUF file in it"
            raise ModelfileError(message, one.line)
        elif len(modelfile.lines_from) > 1:
            raise ModelfileError(f"{one.value!r} is not the only base (FROM)", one.line)
        else:
            try:
                found.append(canonical(one.value))
            except BadTagError as error:
                raise ModelfileError(f"{error}, and there is no such file", one.line) from None
    return found


def _settings(instructions: list[Instruction]) -> dict[str, Any]:
    """As the request to build wants them; what is said twice, the last word counts."""
    made: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    for one in instructions:
        if one.parameter:
            _set_parameter(parameters, one)
        elif one.name in ("template", "system", "renderer", "parser"):
            made[one.name] = one.value
        elif one.name == "requires":
            made[one.name] = _version(one)
        elif one.name == "license":
            made.setdefault("license", []).append(one.value)
        elif one.name == "message":
            role, _, content = one.value.partition(": ")
            made.setdefault("messages", []).append({"role": role, "content": content})
    return {**made, "parameters": parameters} if parameters else made


def _set_parameter(parameters: dict[str, Any], one: Instruction) -> None:
    if one.name in _DEPRECATED:
        return
    kind = _PARAMETERS.get(one.name)
    if kind is None:
        near = did_you_mean(one.name, _PARAMETERS)
        hint = f" ({near})" if near else ""
        raise ModelfileError(f"unknown parameter {one.name!r}{hint}", one.line)
    if kind is list:
        parameters.setdefault(one.name, []).append(one.value)
        return
    try:
        parameters[one.name] = _READERS[kind](one.value)
    except ValueError:
        what = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        message = f"parameter {one.name!r} takes {what}, not {one.value!r}"
        raise ModelfileError(message, one.line) from None


def _version(one: Instruction) -> str:
    version = one.value.removeprefix("v")
    if not _VERSION.fullmatch(version):
        raise ModelfileError(f"expected a version such as 0.14.0, not {one.value!r}", one.line)
    return version


def _whole(text: str) -> int:
    """Stricter than `int`, as Ollama is: no blanks, no `1_000`."""
    if not _WHOLE_NUMBER.fullmatch(text) or not -(2**63) <= int(text) < 2**63:
        raise ValueError(text)
    return int(text)


def _fraction(text: str) -> float:
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _switch(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(text)


_VERSION = re.compile(r"\d+(\.\d+){0,2}([-+][0-9A-Za-z.+-]+)?", re.ASCII)
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_READERS: dict[type, Callable[[str], Any]] = {int: _whole, float: _fraction, bool: _switch}

_WHOLE = (
    *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch"),
    *("num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
)
_FRACTIONS = (
    *("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty"),
    "frequency_penalty",
)
_PARAMETERS: dict[str, type] = {
    **dict.fromkeys(_WHOLE, int),
    **dict.fromkeys(_FRACTIONS, float),
    "use_mmap": bool,
    "stop": list,
}
"""Those of Ollama, and what kind of value each takes."""
