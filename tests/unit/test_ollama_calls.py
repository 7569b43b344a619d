"""What the command line reads of Ollama's ways: its address, and the instants that Go writes."""

from __future__ import annotations

import pytest

from orchestrator.runtime.ollama_calls import host_url, nanoseconds


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("example.com", "http://example.com:11434"),
        (":8000", "http://127.0.0.1:8000"),
        ("[::]:8000", "http://[::1]:8000"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com/ollama/", "https://example.com:443/ollama"),
        ("'10.0.0.1:9'", "http://10.0.0.1:9"),
        ("10.0.0.1:many", "http://10.0.0.1:11434"),
    ],
)
def test_the_address_is_read_as_ollama_reads_it(given: str, url: str) -> None:
    assert host_url({"OLLAMA_HOST": given}) == url


@pytest.mark.parametrize(
    ("written", "ns"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:01.123456789Z", 1_123_456_789),
        ("1970-01-01T02:00:01.5+02:00", 1_500_000_000),
        ("", 0),
        ("never", 0),
    ],
)
def test_instants_keep_their_nanoseconds(written: str, ns: int) -> None:
    assert nanoseconds(written) == ns
