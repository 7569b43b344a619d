"""What a first profile says: which of the models found go into it, and its text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from orchestrator.cli.models import loaded_bytes
from orchestrator.core.catalog import Catalog, Found, Model, find
from orchestrator.core.fields import is_name
from orchestrator.core.memory import DEFAULT_CONTEXT, Load, estimate

SCHEMA = "profile.schema.json"
CONTEXTS = (32768, 16384, 8192, DEFAULT_CONTEXT)
SHARE = 0.8
"""Of the memory that is available, what the picks may take together."""
FEW = 12
"""Models of an Ollama that a first profile names: more would not be read."""

_PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z]([\w./:-]*\w)?", re.ASCII)
_WORDS = frozenset({"true", "false", "null"})


class Pick(Struct, frozen=True):
    """A model that goes into the profile, under which name, and the context it is given."""

    name: str
    model: Model
    context: int | None


class OllamaPick(Struct, frozen=True):
    """An Ollama instance that goes into the profile: its port, and the models it serves already."""

    port: int
    tags: tuple[str, ...]


def chosen(models: Iterable[Model], memory: int) -> list[Pick]:
    """A chat model and an embedding model, as far as there are any.

    Of the chat models the one with the most parameters that fits into `memory` beside the
    embedder; when none does, the smallest. Of the embedders the smallest.
    """
    # A name that cannot even be shown is not for a beginning.
    known = [one for one in models if one.path.isprintable() and not one.unfit]
    embedders = [one for one in known if one.metadata.purpose == "embedding"]
    chats = [one for one in known if one.metadata.purpose in ("generative", None)]
    embedder = min(embedders, key=lambda one: one.size_bytes, default=None)
    left = int(memory * SHARE) - (_bytes(embedder, None) if embedder else 0)
    # Those with a chat template first: the others only continue a text.
    templated = [one for one in chats if one.metadata.chat_template] or chats
    fitting = [one for one in templated if _bytes(one, DEFAULT_CONTEXT) <= left]
    chat = max(fitting, key=_rank, default=None) or min(templated, key=_rank, default=None)
    picks = [Pick("chat", chat, _context(chat, left))] if chat else []
    return [*picks, Pick("embed", embedder, None)] if embedder else picks


def named(models: Iterable[Model], memory: int) -> list[Pick]:
    """A pick for each; the first of a kind is called by what it does, others by what they are."""
    picks: list[Pick] = []
    left = int(memory * SHARE)
    for model in dict.fromkeys(models):
        taken = {pick.name for pick in picks}
        purpose = model.metadata.purpose
        word = {"embedding": "embed", "reranker": "rerank"}.get(purpose or "", "chat")
        name = word if word not in taken else _slug(model.ref)
        number = 2
        while name in taken:
            name, number = f"{_slug(model.ref)[:59]}-{number}", number + 1
        context = _context(model, left) if word == "chat" else None
        picks.append(Pick(name, model, context))
        left -= _bytes(model, context)
    return picks


def render(
    picks: Sequence[Pick],
    ports: Sequence[int],
    catalog: Catalog,
    folder: str,
    *,
    ollama: OllamaPick | None = None,
    gateway: int | None = None,
) -> str:
    """The profile's text, for a file in `folder`; a port for each pick, and for a gateway."""
    dirs = _dirs([pick.model for pick in picks], folder)
    head = [
        f"# yaml-language-server: $schema=./{SCHEMA}",
        "#",
        "# Which local LLM servers should run. Saving this file while it is applied changes what",
        "# runs: only the instances whose settings you changed are replaced.",
        "description: A first profile",
        "",
    ]
    if dirs:
        listed = ", ".join(_quoted(one) for one in dirs)
        head += ["catalog:", f"  dirs: [{listed}]  # relative to this file", ""]
    if gateway is not None:
        head += [
            "# All of them at one address, by the name of a model or an instance:",
            f"#     http://127.0.0.1:{gateway}/v1",
            "gateway:",
            f"  port: {gateway}",
            "",
        ]
    body = ["instances:"]
    for pick, port in zip(picks, ports, strict=True):
        body += _block(pick, port, _ref(pick.model, catalog, folder))
    body += _ollama_block(ollama) if ollama else []
    return "\n".join(head + body) + "\n"


def _block(pick: Pick, port: int, ref: str) -> list[str]:
    known = pick.model.metadata
    facts = [known.architecture, known.quantization]
    says = ", ".join(re.sub(r"[^ -~]", "?", fact) for fact in facts if fact)
    lines = [f"  {pick.name}:" + (f"  # {says}" if says else "")]
    lines += [f"    model: {_quoted(ref)}", f"    port: {port}"]
    if known.purpose == "embedding":
        return [*lines, "    flags: {embeddings: true}"]
    if known.purpose == "reranker":
        return [*lines, "    flags: {reranking: true}"]
    own = f", the model's own is {known.context_length}" if known.context_length else ""
    lines.append("    flags:  # any long flag of llama-server, without the dashes")
    return [*lines, f"      ctx-size: {pick.context}  # tokens{own}"]


def _ollama_block(pick: OllamaPick) -> list[str]:
    lines = [
        "  ollama:",
        "    engine: ollama",
        f"    port: {pick.port}",
        "    attach: auto  # a server that runs there already is used, and never stopped",
    ]
    if not pick.tags:
        return [*lines, "    models: []  # such as llama3.1:8b: pulled when it is missing"]
    lines.append("    models:  # what is missing is pulled; each is loaded when it is asked for")
    lines += [f"      - {_quoted(tag)}" for tag in pick.tags[:FEW]]
    if len(pick.tags) > FEW:
        lines.append(f"      # and {len(pick.tags) - FEW} more: see `orchestrate models`")
    return lines


def _ref(model: Model, catalog: Catalog, folder: str) -> str:
    """The shortest way to name it that names no other."""
    found = find(catalog, model.ref, folder=folder)
    clear = isinstance(found, Found) and found.model == model
    return model.ref if clear else model.path


def _dirs(models: Iterable[Model], folder: str) -> list[str]:
    """`./models` is looked into from where `apply` runs: say which one is meant."""
    here = os.path.join(os.getcwd(), "models")
    if not any(model.path.startswith(f"{here}/") for model in models):
        return []
    return [os.path.relpath(here, folder)]


def _quoted(text: str) -> str:
    """As YAML: plain where that is safe, else as a JSON string, which YAML reads too."""
    text = text.replace("${", "$${")
    if _PLAIN.fullmatch(text) and text.casefold() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)


def _slug(ref: str) -> str:
    slug = re.sub(r"[^a-z0-9._-]+", "-", ref.casefold()).strip("-._")[:63]
    return slug if is_name(slug) else "model"


def _rank(model: Model) -> tuple[int, int]:
    return model.metadata.parameters or 0, model.size_bytes


def _bytes(model: Model, context: int | None) -> int:
    own = model.metadata.context_length or DEFAULT_CONTEXT
    wanted = min(context or own, own)
    return estimate(model.metadata, size_bytes=loaded_bytes(model), load=Load(wanted)).total


def _context(model: Model, memory: int) -> int:
    """The largest of the usual contexts that the model has, and that fits."""
    own = model.metadata.context_length or DEFAULT_CONTEXT
    fitting = (one for one in CONTEXTS if one <= own and _bytes(model, one) <= memory)
    return next(fitting, min(own, DEFAULT_CONTEXT))
