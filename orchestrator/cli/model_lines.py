"""The models of an Ollama instance, as people read them: a cell, a remark, a line, a list.

Everything here is made of one row of the status document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.cli.cells import cut
from orchestrator.cli.render import duration, inert, size

MOVING = frozenset({"pulling", "building"})
"""States in which bytes may move."""

_BAR = 16
"""Characters of a whole bar."""


def cell(one: Mapping[str, Any]) -> str:
    """For a column: the model's name, or how many there are, and how many are in memory."""
    models = one["models"]
    if len(models) < 2:
        return inert(models[0]["name"]) if models else "-"
    loaded = sum(model["loaded"] for model in models)
    return f"{len(models)} models" + (f", {loaded} loaded" if loaded else "")


def unfinished(one: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The models that are not as declared, and those that something is done about."""
    lacks = {lack.rpartition(" ")[2] for lack in one["lacking"]}
    return [m for m in one["models"] if m["name"] in lacks or m["state"] in MOVING]


def failed(one: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The models that were given up."""
    return [model for model in one["models"] if model["state"] == "failed"]


def doing(model: Mapping[str, Any]) -> str:
    """In a word, what an unfinished model is at: one that is present has yet to be in memory."""
    if model["state"] != "present":
        return model["state"]
    return "evicted" if model["reason"] == "evicted" else "loading"


def remark(one: Mapping[str, Any]) -> str:
    """What is to be said in the line of its instance: what went wrong, then what is under way."""
    bad = [f"{inert(m['name'])} failed: {_why(m)}" for m in failed(one)]
    rest = [
        f"{doing(model)} {inert(model['name'])}{_percent(model)}"
        for model in unfinished(one)
        if model["state"] != "failed"
    ]
    return "; ".join([*bad, *rest])


def line(
    model: Mapping[str, Any],
    *,
    rate: float | None,
    width: int = 0,
    limit: int = 0,
    word: str | None = None,
) -> str:
    """One model while one waits: what it is at, or `word`; a bar, bytes and their speed.

    `rate`, in bytes a second, tells how long it will take. `width` is that of the names.
    """
    word = word or doing(model)
    parts = [f"{inert(model['name']):<{width}}", f"{word:<9}"]
    done, total = model["bytes_done"], model["bytes_total"]
    if word in MOVING and total:
        # A narrow screen has no room for what the number says, too.
        parts += [_bar(done / total)] if not limit or limit >= 76 else []
        parts.append(f"{_percent(model).strip():>5}")
    parts.append(_why(model))
    if word in MOVING and rate and done < total:
        parts.append(f"({duration((total - done) / rate)} left)")
    text = " ".join(parts).rstrip()
    return cut(text, limit) if limit else text


def table(one: Mapping[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Head and rows of the list that follows one instance."""
    rows = [
        [
            inert(model["name"]),
            model["state"] + _percent(model),
            "yes" if model["loaded"] else "-",
            _why(model),
        ]
        for model in one["models"]
    ]
    return ("MODEL", "STATE", "LOADED", "MESSAGE"), rows


def _why(model: Mapping[str, Any]) -> str:
    """Reason and message, as far as they say more than the state; else the bytes."""
    words = model["reason"] if model["reason"] != model["state"] else ""
    said = ": ".join(part for part in (words, inert(model["message"])) if part)
    done, total = model["bytes_done"], model["bytes_total"]
    return said or (f"{size(done)} of {size(total)}" if total else "")


def _percent(model: Mapping[str, Any]) -> str:
    done, total = model["bytes_done"], model["bytes_total"]
    known = model["state"] in MOVING and total
    return f" {min(100 * done // total, 100)} %" if known else ""


def _bar(share: float) -> str:
    full = round(min(max(share, 0.0), 1.0) * _BAR)
    return "█" * full + "░" * (_BAR - full)
