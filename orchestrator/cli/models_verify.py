"""`models verify`: every byte of Ollama's blobs, and the structure of GGUF files."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import click

from orchestrator.cli.client import Client
from orchestrator.cli.meter import STEP, meter, spent
from orchestrator.cli.model_stores import store_of, stores_here, whole_catalog
from orchestrator.cli.models import find_model
from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json, size
from orchestrator.cli.tables import counted
from orchestrator.core.catalog import Catalog
from orchestrator.discovery.verify import Fault, Tally, verify
from orchestrator.discovery.verify_plan import Plan, plan_file, plan_store
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.settings import Settings


@click.command(
    "verify", epilog="Examples: orchestrate models verify | orchestrate models verify llama3.1:8b"
)
@click.argument("refs", nargs=-1, metavar="[REF...]")
@json_option
def verify_command(refs: tuple[str, ...], as_json: bool) -> None:
    """Check that models are whole: those that are named, or all that are found.

    Of an Ollama model every byte is read and compared with its digest; a blob that several models
    share is read once. A GGUF file has no digest: its header and its table of tensors must fit
    its size, in all parts. Exits 1 when something is wrong.
    """
    settings = Settings.from_env(os.environ)
    stores = stores_here(settings, os.environ)
    catalog = whole_catalog(settings, os.environ, stores)
    plan = _of_refs(catalog, dict.fromkeys(refs)) if refs else _of_all(catalog, stores)
    began = time.monotonic()
    tally = Tally()
    faults = [*plan.faults, *_verified(plan, tally, as_json=as_json)]
    seconds = time.monotonic() - began
    told = _tell_of(faults, settings)
    if as_json:
        document = {"ok": not faults, "files": len(plan.checks), "bytes_read": tally.done}
        shown = [_as_json(fault) for fault in faults]
        more = {"seconds": round(seconds, 3), "faults": shown, "instances": told}
        print_json({**document, **more})
    else:
        _report(plan, faults, tally.done, seconds)
        if told:
            click.echo(f"looked into, and mended where that can be, by: {', '.join(told)}")
    if faults:
        raise click.exceptions.Exit(OrchestrateError.exit_code)


def _tell_of(faults: Sequence[Fault], settings: Settings) -> list[str]:
    """The running instances that have been told of what is wrong with their files."""
    paths = [fault.path for fault in faults if fault.source != "file"]
    client = Client(settings)
    if not paths or not client.answers():
        return []
    try:
        return list(client.post("/v1/models/suspect", {"paths": paths})["instances"])
    except OrchestrateError:
        # What was found is to be shown, whatever becomes of the daemon.
        return []


def _of_all(catalog: Catalog, stores: Sequence[str]) -> Plan:
    plan = Plan()
    for store in stores:
        plan.extend(plan_store(store))
    for model in catalog.models:
        if model.source != "ollama":
            plan.extend(plan_file(model.ref, model.parts))
    # What is wrong within a store was found there, and with all that suffer from it.
    for error in catalog.errors:
        if not any(error.path.startswith(f"{store}/") for store in stores):
            plan.faults.append(Fault("corrupt", error.path, error.message, (), "file"))
    return plan


def _of_refs(catalog: Catalog, refs: dict[str, None]) -> Plan:
    plan = Plan()
    tags: dict[str, list[str]] = {}
    for ref in refs:
        broken = _broken(catalog, ref)
        if broken is not None:
            plan.faults.append(broken)
            continue
        model = find_model(catalog, ref)
        if model.source == "ollama":
            tags.setdefault(store_of(model), []).append(model.ref)
        else:
            plan.extend(plan_file(model.ref, model.parts))
    for store, wanted in tags.items():
        plan.extend(plan_store(store, wanted))
    return plan


def _broken(catalog: Catalog, ref: str) -> Fault | None:
    """A file that cannot be read is no model that could be found; but it was named."""
    path = os.path.abspath(os.path.expanduser(ref))
    names = {os.path.basename(ref), f"{os.path.basename(ref)}.gguf"}
    for error in catalog.errors:
        if error.path == path or ("/" not in ref and os.path.basename(error.path) in names):
            return Fault("corrupt", error.path, error.message, (ref,), "file")
    if not os.path.isfile(path):
        return None
    try:
        find_model(catalog, ref)
    except InputError as error:
        return Fault(
            "corrupt", path, error.message.removeprefix(f"model file {path} "), (ref,), "file"
        )
    return None


def _verified(plan: Plan, tally: Tally, *, as_json: bool) -> list[Fault]:
    """In threads, while this one shows how far they are."""
    shown, total = meter(as_json=as_json), plan.total
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(verify, plan.checks, tally=tally, workers=workers)
        try:
            while not reading.done():
                shown.show("verifying", tally.done, total)
                wait([reading], STEP)
        finally:
            # Also when it was interrupted: no thread reads on.
            tally.stopped.set()
            shown.close()
    return reading.result()


def _report(plan: Plan, faults: Sequence[Fault], count: int, seconds: float) -> None:
    for fault in faults:
        refs = f"{', '.join(map(inert, fault.refs))}: " if fault.refs else ""
        click.echo(f"{refs}{inert(fault.path)} {inert(fault.message)}")
        click.echo(f"  {click.style('hint:', fg='cyan')} {inert(_hint(fault))}")
    speed = f", {size(count / seconds)}/s" if count and seconds else ""
    what = f"{counted(len(plan.checks), 'file')}, {size(count)} read in {spent(seconds)}{speed}"
    if faults:
        click.echo(click.style(f"{counted(len(faults), 'fault')} in {what}", fg="red"))
    else:
        click.echo(click.style(f"all whole: {what}", fg="green"))


def _hint(fault: Fault) -> str:
    if fault.reason == "unreadable":
        return "who may read it can verify it: nothing is known to be wrong"
    if fault.source == "file":
        return "download or copy it again"
    if not fault.refs:
        return "pull that model again: orchestrate models pull NAME:TAG"
    pull = f"orchestrate models pull {fault.refs[0]}"
    if fault.reason == "vanished":
        return f"{pull}, or make it again as it was made"
    # Ollama takes what is there for whole: it goes first, with all that share it.
    remove = f"orchestrate models rm {' '.join(fault.refs)} --force --yes"
    return f"{remove}, then {pull} if it was pulled, or make it again as it was made"


def _as_json(fault: Fault) -> dict[str, Any]:
    return {
        "refs": list(fault.refs),
        "path": fault.path,
        "reason": fault.reason,
        "message": fault.message,
        "hint": _hint(fault),
    }
