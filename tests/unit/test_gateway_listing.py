"""What clients are told that there is."""

from __future__ import annotations

from typing import Any

from orchestrator.gateway import listing
from orchestrator.gateway.table import Table

FACTS = {"family": "qwen2", "parameters": 7_615_616_512, "quantization": "Q4_K_M", "size": 4 << 30}


def table(**changes: Any) -> Table:
    base = {"host": "127.0.0.1", "port": 1, "phase": "ready"}
    llama = {"name": "coder", "engine": "llama-server", "facts": {"": FACTS}, **base, **changes}
    held = {"small:latest": {"size": 5, "digest": "d" * 64, "parameter_size": "494M"}}
    held["big:latest"] = {"loaded": True}
    ollama = {"name": "o", "engine": "ollama", "facts": held, **base}
    names = [
        {"name": "coder", "aims": [{"target": "coder"}]},
        {"name": "small", "aims": [{"target": "o", "model": "small:latest"}]},
        {"name": "big", "aims": [{"target": "o", "model": "big:latest"}]},
        {"name": "gone", "aims": [{"target": "nobody"}]},
    ]
    return Table.of_json({"targets": [llama, ollama], "names": names})


def test_tags_tell_what_is_known_and_have_a_digest_for_each() -> None:
    rows = {row["name"]: row for row in listing.tags(table())["models"]}
    assert list(rows) == ["coder", "small", "big", "gone"]
    assert rows["coder"]["details"]["parameter_size"] == "7.62B"
    assert rows["coder"]["size"] == 4 << 30
    assert rows["small"]["details"]["parameter_size"] == "494M"
    assert rows["small"]["digest"] == "d" * 64
    assert {len(row["digest"]) for row in rows.values()} == {64}
    other = listing.tags(table(facts={"": {**FACTS, "modified": "2026-01-01T00:00:00Z"}}))
    assert other["models"][0]["digest"] != rows["coder"]["digest"]


def test_running_is_what_is_in_memory() -> None:
    assert [row["name"] for row in listing.running(table())["models"]] == ["coder", "big"]
    assert [row["name"] for row in listing.running(table(phase="failed"))["models"]] == ["big"]


def test_every_protocol_lists_every_name() -> None:
    names = ["coder", "small", "big", "gone"]
    said = listing.openai(table())["data"]
    assert [row["id"] for row in said] == names
    assert [row["ready"] for row in said] == [True, True, True, False]
    theirs = listing.anthropic(table())
    assert [row["id"] for row in theirs["data"]] == names
    assert (theirs["first_id"], theirs["last_id"]) == ("coder", "gone")
    assert listing.anthropic(Table())["first_id"] is None
