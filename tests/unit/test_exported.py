"""What another world is told of profiles."""

from __future__ import annotations

import pytest

from orchestrator.core.exported import (
    DAEMON_MEMORY,
    ENDING,
    GATEWAY_MEMORY,
    Exported,
    exported,
    is_path,
    strays,
    written_secrets,
)
from orchestrator.core.parse import LoadedProfile, parse_profile


def loaded(text: str) -> LoadedProfile:
    env = {"HOST": "h", "KEY": "k"}
    parsed = parse_profile(text.encode(), file="/profiles/p.yaml", env=env)
    assert parsed.profile is not None, parsed.problems
    return parsed.profile


def of(text: str) -> Exported:
    return exported([loaded(text)])


def test_variables_are_those_that_values_refer_to() -> None:
    """Whoever runs it elsewhere has to give each of them: one in a comment nobody will."""
    found = of(
        "# api-key: ${env:OLD_KEY}\n"
        "vars: {it: '${env:KEY}'}\n"
        "defaults: {llama-server: {env: {PLAIN: '$${env:NEVER}', HI: '${env:WHO:-you}'}}}\n"
        "instances: {a: {model: tiny, args: ['--alias', '${env:HOST}-${it}']}}\n"
    )
    assert found.variables == (("HOST", False), ("KEY", False), ("WHO", True))


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("/far/away", True),
        ("~/models/tiny.gguf", True),
        ("../tiny.gguf", True),
        ("shelf/tiny.gguf", True),
        ("tiny.gguf", False),
        ("org/tiny:latest", False),
        ("hf:org/tiny/tiny.gguf", False),
    ],
)
def test_models_that_only_a_path_can_mean(ref: str, expected: bool) -> None:
    assert is_path(ref) is expected
    [*found] = strays(of(f"instances: {{a: {{model: '{ref}'}}}}"))
    assert len(found) == expected


def test_a_secret_is_named_with_its_place_and_not_shown() -> None:
    profile = loaded("instances: {a: {model: t, flags: {api-key: s3cret}, args: [--x, y]}}\n")
    [problem] = written_secrets(profile)
    assert problem.place.line == 1
    assert "s3cret" not in str(problem.as_json())


GATEWAY = """
gateway: {port: 8080}
instances:
  a: {model: tiny, resources: {memory: 1GiB}}
  b: {model: tiny, host: 127.0.0.1, port: 8081, resources: {memory: 2GiB}}
"""


def test_through_a_gateway_everybody_is_reached() -> None:
    found = of(GATEWAY)

    assert found.ports == (("gateway", 8080),)
    assert found.warnings == ()
    assert found.grace == 10 + 30 + ENDING
    assert found.reserved == DAEMON_MEMORY + GATEWAY_MEMORY + (3 << 30)


@pytest.mark.parametrize(
    ("said", "message", "key"),
    [
        ("{port: auto}", "the gateway has no port that is known beforehand", "port"),
        ("{port: 8080, host: 127.0.0.1}", "the gateway listens on 127.0.0.1", "host"),
    ],
)
def test_a_gateway_that_nobody_reaches(said: str, message: str, key: str) -> None:
    found = of(GATEWAY.replace("{port: 8080}", said))

    assert found.ports == ()
    first, *others = found.warnings
    assert first.message.startswith(message)
    assert (first.path, first.place.line) == (("gateway", key), 2)
    assert [one.path[1] for one in others] == ["a", "b"]


def test_of_those_that_run_on_demand_the_largest_has_room() -> None:
    text = """
gateway: {port: 8080}
defaults: {llama-server: {start: on-demand, limits: {memory: {max: 4GiB}}}}
instances:
  a: {model: tiny, resources: {memory: 1GiB}}
  b: {model: tiny, resources: {memory: 2GiB}}
  c: {model: tiny, start: always, resources: {memory: 4GiB}}
"""
    found = of(text)

    assert found.reserved == DAEMON_MEMORY + GATEWAY_MEMORY + (6 << 30)
    assert found.limit == DAEMON_MEMORY + GATEWAY_MEMORY + (12 << 30)
    assert of(text.replace(", resources: {memory: 1GiB}", "")).reserved is None


def test_each_of_its_replicas_takes_its_share() -> None:
    found = of(GATEWAY.replace("a: {", "a: {replicas: 3, "))

    assert found.reserved == DAEMON_MEMORY + GATEWAY_MEMORY + (5 << 30)
