"""`models show`: all that is known of one model, and the memory it would take."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import click
from msgspec.structs import asdict

from orchestrator.cli.models import (
    catalog_here,
    compact,
    find_model,
    holders,
    loaded_by,
    loaded_bytes,
)
from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json, size
from orchestrator.cli.tables import counted, fields
from orchestrator.core.catalog import Model, model_json
from orchestrator.core.memory import CACHE_TYPE_BYTES, Load, MemoryEstimate, estimate
from orchestrator.settings import Settings

CACHE_TYPES = click.Choice(list(CACHE_TYPE_BYTES))


@click.command("show", epilog="Example: orchestrate models show tiny --ctx-size 32768 --parallel 4")
@click.argument("ref")
@click.option(
    "--ctx-size",
    type=click.IntRange(1),
    help="Tokens to estimate memory for, all slots together. Default: the model's own.",
)
@click.option("--parallel", type=click.IntRange(1), default=1, show_default=True, help="Slots.")
@click.option("--cache-type-k", type=CACHE_TYPES, default="f16", show_default=True)
@click.option("--cache-type-v", type=CACHE_TYPES, default="f16", show_default=True)
@json_option
def show_command(
    ref: str,
    ctx_size: int | None,
    parallel: int,
    cache_type_k: str,
    cache_type_v: str,
    as_json: bool,
) -> None:
    """Show all that is known of a model, and the memory it would take.

    REF is what a profile may say: a path, a file name, name:quant, an Ollama tag or hf:org/name.
    """
    settings = Settings.from_env(os.environ)
    catalog = catalog_here(settings, os.environ)
    model = find_model(catalog, ref)
    loaded = loaded_by(model, holders(settings, catalog))
    needed = estimate(
        model.metadata,
        size_bytes=loaded_bytes(model),
        load=Load(
            context=ctx_size,
            parallel=parallel,
            cache_type_k=cache_type_k,
            cache_type_v=cache_type_v,
        ),
    )
    memory = {**asdict(needed), "total": needed.total, "parallel": parallel}
    memory |= {"cache_type_k": cache_type_k, "cache_type_v": cache_type_v}
    if as_json:
        print_json({**model_json(model, loaded), "memory": memory})
    else:
        how = f"{counted(parallel, 'slot')}, {cache_type_k}/{cache_type_v}"
        _print_model(model, needed, how, loaded)


def _print_model(model: Model, needed: MemoryEstimate, how: str, loaded_by: Sequence[str]) -> None:
    click.echo(click.style(inert(model.ref), bold=True))
    for line in fields(list(_facts(model, loaded_by))):
        click.echo(line)
    click.echo(click.style(f"memory for {counted(needed.context, 'token')}, {how}", bold=True))
    parts = [
        ("weights", size(needed.weights)),
        *([("repacked", size(needed.repacked))] if needed.repacked else []),
        ("KV cache", _known(needed.kv_cache)),
        ("compute", _known(needed.compute)),
        ("program", size(needed.program)),
        ("total", f"about {size(needed.total)}"),
    ]
    for line in fields(parts):
        click.echo(line)


def _known(count: int | None) -> str:
    return "unknown (the header does not say enough)" if count is None else size(count)


def _facts(model: Model, loaded_by: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What there is to say of it, in a fixed order; what the header does not say is left out."""
    yield "path", inert(model.path)
    if len(model.parts) > 1:
        yield "parts", str(len(model.parts))
    yield "source", model.source
    yield "size", size(model.size_bytes)
    if model.unfit:
        yield "engine", f"ollama only: it {inert(model.unfit)}"
    if loaded_by:
        yield "loaded by", ", ".join(loaded_by)
    for name in model.aliases:
        yield "also", inert(name)
    if model.mmproj:
        yield "mmproj", inert(model.mmproj)
    for key, value in asdict(model.metadata).items():
        if key == "complete" or value is None:
            continue
        shown = compact(value) if key == "parameters" else value
        if isinstance(shown, bool):
            shown = "yes" if shown else "no"
        yield key.replace("_", " "), inert(shown)
