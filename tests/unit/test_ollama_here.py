"""Where an Ollama is looked for: OLLAMA_HOST, read as Ollama itself reads it."""

from __future__ import annotations

import pytest

from orchestrator.cli.ollama_here import address


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("", ("127.0.0.1", 11434)),
        ("127.0.0.1", ("127.0.0.1", 11434)),
        ("127.0.0.1:1234", ("127.0.0.1", 1234)),
        (":1234", ("127.0.0.1", 1234)),
        ("localhost:1234", ("localhost", 1234)),
        ("http://localhost:1234/path", ("localhost", 1234)),
        ("http://localhost", ("localhost", 80)),
        ("https://localhost", ("localhost", 443)),
        ('"0.0.0.0:1234"', ("127.0.0.1", 1234)),
        ("0.0.0.0", ("127.0.0.1", 11434)),
        ("[::1]:1234", ("::1", 1234)),
        ("[::]:1234", ("::1", 1234)),
        ("[", ("127.0.0.1", 11434)),
        ("localhost:99999", ("localhost", 11434)),
        ("localhost:x", ("localhost", 11434)),
        # Another machine's is nothing that could be run or attached to from here.
        ("gpu.example:1234", ("127.0.0.1", 11434)),
        ("10.0.0.7:1234", ("127.0.0.1", 11434)),
    ],
)
def test_the_address_is_that_of_this_machine(named: str, found: tuple[str, int]) -> None:
    assert address({"OLLAMA_HOST": named}) == found
