"""What goes through the gateway, in words and columns: for `status` and the watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from orchestrator.cli.render import inert
from orchestrator.cli.tables import table

HEAD = ["REQS", "TOK/S", "FIRST"]
"""Beside the other columns of an instance, where there is a gateway."""

Requests = Mapping[str, Any] | None
"""`requests` of a row; None while no gateway tells of any."""


def cells(requests: Requests) -> list[str]:
    """What stands below `HEAD`: requests in flight, and how many wait; tokens that it generates a
    second; time to the first token."""
    if requests is None:
        return ["-", "-", "-"]
    waiting = f"+{requests['waiting']}" if requests["waiting"] else ""
    return [f"{requests['in_flight']}{waiting}", *_speeds(requests)]


def _speeds(requests: Mapping[str, Any]) -> list[str]:
    first = requests["first_token_s"]
    return [
        number(requests["tokens_s"]) if requests["tokens_s"] else "-",
        lasting(first) if first is not None else "-",
    ]


def number(value: float) -> str:
    """A rate: `0.4`, `12`."""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def lasting(seconds: float) -> str:
    """A short time: `11 ms`, `1.2 s`, `75 s`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{number(seconds)} s"


def words(requests: Requests) -> list[str]:
    """All that goes through the gateway, shortly."""
    if requests is None:
        return []
    said = [f"{requests['in_flight']} in flight"]
    if requests["waiting"]:
        said.append(f"{requests['waiting']} waiting")
    if requests["requests_s"]:
        said.append(f"{number(requests['requests_s'])} requests/s")
    if requests["tokens_s"]:
        said.append(f"{number(requests['tokens_s'])} tokens/s")
    lately = requests["lately"]
    for key, what in (("fallbacks", "fell back"), ("failures", "failed")):
        if lately[key]:
            said.append(f"{lately[key]} of {lately['requests']} {what} within 5 min")
    return said


def line(row: Mapping[str, Any], message: str, *, colour: str | None = None) -> str:
    """Where the gateway is, and what goes through it. `colour` is for its phase."""
    phase = click.style(row["phase"], fg=colour) if colour else row["phase"]
    said = [f"gateway: {phase} at {row['url']}", *words(row["requests"])]
    return ", ".join([*said, message] if message else said)


def details(requests: Requests) -> list[str]:
    """What went to one instance since the gateway began."""
    if requests is None or (not requests["requests"] and not requests["in_flight"]):
        return []
    in_flight, tokens_s, first = cells(requests)
    said = [f"requests {requests['requests']}", f"now {in_flight}"]
    said += [f"{what} {requests[what]}" for what in ("failures", "retries") if requests[what]]
    if requests["generated_tokens"]:
        prompt, generated = requests["prompt_tokens"], requests["generated_tokens"]
        said.append(f"tokens {prompt} in, {generated} out ({tokens_s}/s)")
    if requests["first_token_s"] is not None:
        said.append(f"first token {first}, p95 {lasting(requests['first_token_p95_s'])}")
    if requests["request_s"] is not None:
        took, slow = lasting(requests["request_s"]), lasting(requests["request_p95_s"])
        said.append(f"whole {took}, p95 {slow}")
    return ["  ".join(said)]


def names_table(names: Sequence[Mapping[str, Any]], *, width: int | None = None) -> list[str]:
    """The names that clients may ask for, with who serves each: those that do so now as they are,
    the others in brackets."""
    head = ["NAME", "SERVED BY", "REQUESTS", "FAILED", "FELL BACK", "TOKENS"]
    rows = [[inert(one["name"]), _served(one), *map(str, _counts(one))] for one in names]
    return table(head, rows, width=width)


def _served(one: Mapping[str, Any]) -> str:
    names = [name if name in one["ready"] else f"({name})" for name in one["instances"]]
    behind = [f"else {inert(name)}" for name in one["fallback"]]
    return ", ".join([*names, *behind]) or "-"


def _counts(one: Mapping[str, Any]) -> list[int]:
    return [one[key] for key in ("requests", "failures", "fallbacks", "generated_tokens")]
