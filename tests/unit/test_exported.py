"""What another world is told of profiles."""

from __future__ import annotations

import pytest

from orchestrator.core.exported import Exported, exported, is_path, strays, written_secrets
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
