"""What is a secret, by its name, and that its value is never shown."""

from __future__ import annotations

import pytest

from orchestrator.core.secret import is_secret_name, masked_argv


@pytest.mark.parametrize(
    "name",
    [
        "LLAMA_API_KEY",
        "api-key",
        "API_KEYS",
        "HF_TOKEN",
        "hf-token",
        "hft",
        "token",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "passwd",
        "my-credentials",
        "SECRET_SAUCE",
    ],
)
def test_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "CUDA_VISIBLE_DEVICES",
        "api-key-file",
        "ssl-key-file",
        "max-tokens",
        "N_TOKENS",
        "special_tokens",
        "keyboard",
        "tokenizer",
        "cache-type-k",
        "",
    ],
)
def test_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ([], []),
        (["x", "--api-key", "hidden", "--port", "1"], ["x", "--api-key", "***", "--port", "1"]),
        (["x", "-hft", "hidden"], ["x", "-hft", "***"]),
        (["x", "--api-key=hidden", "y"], ["x", "--api-key=***", "y"]),
        (["x", "--api-key-file", "/f"], ["x", "--api-key-file", "/f"]),
        (["api-key", "y"], ["api-key", "y"]),
        (["x", "--token"], ["x", "--token"]),
        (["x", "--api-key", "--port"], ["x", "--api-key", "***"]),
        (["x", "--alias=my-token", "y"], ["x", "--alias=my-token", "y"]),
    ],
)
def test_values_of_secret_flags_are_hidden(argv: list[str], shown: list[str]) -> None:
    assert masked_argv(argv) == shown
