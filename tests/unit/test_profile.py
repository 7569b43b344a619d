"""The models, what defaults and instance come to together, and the rules across fields."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.address import hosts_overlap
from orchestrator.core.check import check
from orchestrator.core.profile import (
    LlamaServerConfig,
    LlamaServerDefaults,
    OllamaConfig,
    OllamaDefaults,
    Profile,
    given,
)
from orchestrator.core.spec import Liveness, Readiness, RestartPolicy, StopPolicy
from orchestrator.core.suggestion import MAX_ISSUES


def profile(**blocks: Any) -> Profile:
    made, issues = check(blocks)
    assert issues == []
    assert made is not None
    return made


def llama(made: Profile, name: str) -> LlamaServerConfig:
    config = made.instances[name]
    assert isinstance(config, LlamaServerConfig)
    return config


def messages(**blocks: Any) -> list[str]:
    return [issue.message for issue in check(blocks)[1]]


def test_what_is_left_out_has_the_defaults_of_the_design() -> None:
    made = profile(instances={"a": {"model": "m"}})
    config = made.instances["a"]
    assert (config.engine, config.port, config.needs) == ("llama-server", "auto", [])
    effective = made.effective(config)
    assert effective.readiness == Readiness(timeout=120, deadline=1800)
    assert effective.liveness == Liveness(interval=10, timeout=5, failures=3)
    assert effective.restart == RestartPolicy("on-failure", 1, 60, 5, 600)
    assert effective.stop == StopPolicy(grace=10)
    assert (effective.host, effective.binary, effective.env) == (None, None, {})


def test_defaults_are_merged_under_an_instance() -> None:
    made = profile(
        defaults={
            "llama-server": {
                "host": "0.0.0.0",
                "binary": "/opt/llama-server",
                "env": {"A": "1", "B": "2"},
                "args": ["--verbose"],
                "flags": {"n-gpu-layers": 99},
                "liveness": {"interval": "1m", "failures": 9},
                "restart": {"policy": "always", "max": "2m", "limit": "1 in 1h"},
                "stop": {"grace": 1},
            }
        },
        instances={
            "a": {
                "model": "m",
                "host": "::1",
                "env": {"B": "3"},
                "flags": {"ctx-size": 1},
                "liveness": {"interval": "2s"},
                "restart": {"limit": "7 in 1m", "initial": 0},
            },
            "b": {"model": "m", "args": [], "readiness": {"deadline": "1h"}},
        },
    )
    defaults = made.defaults.llama_server
    a = made.effective(made.instances["a"])
    assert (a.host, a.binary) == ("::1", "/opt/llama-server")
    assert a.env == {"A": "1", "B": "3"}
    assert a.liveness == Liveness(interval=2, timeout=5, failures=9)
    assert a.restart == RestartPolicy("always", 0, 120, 7, 60)
    assert a.stop == StopPolicy(1)
    b = made.effective(made.instances["b"])
    assert b.host == "0.0.0.0"
    assert b.readiness == Readiness(deadline=3600)
    assert b.restart == RestartPolicy("always", 1, 120, 1, 3600)
    one, two = llama(made, "a"), llama(made, "b")
    assert given("args", one, defaults) == ["--verbose"]
    assert given("args", two, defaults) == []
    # Flags stay two layers: only the engine knows which spellings mean the same one.
    assert one.flags == {"ctx-size": 1}
    assert defaults.flags == {"n-gpu-layers": 99}


def test_a_profile_cannot_be_changed() -> None:
    made = profile(instances={"a": {"model": "m"}})
    with pytest.raises(ValueError, match="frozen"):
        made.name = "x"


def test_flags_take_any_plain_value() -> None:
    flags = {"a": 1, "b": 1.5, "c": True, "d": None, "e": "x", "f": ["x", 1]}
    assert llama(profile(instances={"a": {"model": "m", "flags": flags}}), "a").flags == flags


@pytest.mark.parametrize("port", [1, 65535, "auto"])
def test_ports(port: object) -> None:
    assert profile(instances={"a": {"model": "m", "port": port}}).instances["a"].port == port


@pytest.mark.parametrize("port", [0, 65536, -1, "8081", "AUTO", 80.0, True, None, [1]])
def test_what_is_no_port(port: object) -> None:
    (message,) = messages(instances={"a": {"model": "m", "port": port}})
    assert message.startswith("port of instance 'a': expected a port from 1 to 65535 or 'auto'")


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "x" * 63])
def test_names(name: str) -> None:
    assert profile(name=name, instances={name: {"model": "m"}}).name == name


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "a/b", "é", "x" * 64, "a\n"])
def test_what_is_no_name(name: str) -> None:
    assert len(messages(instances={name: {"model": "m"}})) == 1
    assert len(messages(name=name, instances={})) == 1


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (None, None, True),
        (None, "127.0.0.1", True),
        (None, "10.0.0.1", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("::", "127.0.0.1", True),
        ("::", "::1", True),
        ("0.0.0.0", "::1", False),
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST", "::1", True),
        ("127.0.0.1", "::1", False),
        ("10.0.0.1,127.0.0.1", "localhost", True),
        ("[::1]", "::1", True),
        ("/run/x.sock", "/run/x.sock", False),
    ],
)
def test_overlap_of_addresses(one: str | None, other: str | None, overlap: bool) -> None:
    assert hosts_overlap(one, other) is overlap
    assert hosts_overlap(other, one) is overlap


def test_an_unknown_engine_hides_what_follows_from_it() -> None:
    found = messages(instances={"a": {"engine": "vllm", "gpu": 1, "port": "x"}, "b": {}})
    assert found == ["engine of instance 'a': unknown engine 'vllm'", "instance 'b' has no 'model'"]


def test_needs() -> None:
    def with_needs(**needs: list[str]) -> list[str]:
        return messages(instances={n: {"model": "m", "needs": list(v)} for n, v in needs.items()})

    assert with_needs(a=["b"], b=["c"], c=[]) == []
    assert with_needs(a=["a"]) == ["instance 'a' needs itself"]
    assert with_needs(a=["b"], b=["a"]) == [
        "instances need each other in a circle: 'a' -> 'b' -> 'a'"
    ]
    assert with_needs(a=["z"]) == ["instance 'a' needs unknown instance 'z'"]


def test_the_number_of_issues_is_bounded() -> None:
    instances = {f"i{n}": {"model": "m", "prot": 1} for n in range(MAX_ISSUES * 3)}
    assert len(messages(instances=instances)) == MAX_ISSUES + 1


@pytest.mark.parametrize("values", [None, "x", 3, []])
def test_what_is_no_mapping(values: Any) -> None:
    made, (issue,) = check(values)
    assert made is None
    assert issue.path == ()


def test_no_message_is_in_the_words_of_the_library() -> None:
    """Every field, given every wrong kind of value, answers in our words."""
    wrong: list[Any] = [None, True, 3, 2.5, "", "x y!", [], [[]], {}, {"a": {}}]
    for field in (*LlamaServerDefaults.model_fields, "engine", "model", "port", "needs"):
        for value in wrong:
            for message in messages(instances={"a": {"model": "m", field: value}}):
                assert "nput" not in message
                assert "alid " not in message
                assert "'a'" in message


def test_an_ollama_instance_has_models_and_settings() -> None:
    made = profile(
        defaults={"ollama": {"attach": "never", "settings": {"num_parallel": 2}}},
        instances={
            "a": {
                "engine": "ollama",
                "port": 11434,
                "models": ["llama3.1:8b", {"name": "t", "gguf": "t.gguf", "keep_alive": -1}],
                "liveness": {"mode": "inference", "slow": "1s"},
            }
        },
    )
    config = made.instances["a"]
    assert isinstance(config, OllamaConfig)
    assert (config.port, config.engine) == (11434, "ollama")
    tag, imported = config.models
    assert (tag.name, tag.gguf, tag.keep_alive) == ("llama3.1:8b", None, None)
    assert (imported.name, imported.gguf, imported.keep_alive) == ("t", "t.gguf", -1.0)
    assert given("attach", config, made.defaults.ollama) == "never"
    # What generates something is asked for more rarely, unless somebody says how often.
    assert made.effective(config).liveness == Liveness(30, 5, 3, "inference", 1, 15)


def test_what_a_probe_asks_for_has_two_names() -> None:
    def liveness(mode: str) -> Liveness:
        made = profile(instances={"a": {"model": "m.gguf", "liveness": {"mode": mode}}})
        return made.effective(made.instances["a"]).liveness

    assert liveness("http") == Liveness()
    assert liveness("inference").mode == "inference"


@pytest.mark.parametrize(
    ("blocks", "message", "hint"),
    [
        (
            {"a": {"engine": "ollama", "flags": {}}},
            "unknown key 'flags' in instance 'a'",
            "'flags' goes with 'engine: llama-server'",
        ),
        (
            {"a": {"model": "m", "models": []}},
            "unknown key 'models' in instance 'a'",
            "'models' goes with 'engine: ollama'",
        ),
        (
            {"a": {"engine": "ollama", "models": [{"name": "x", "guf": "y"}]}},
            "unknown key 'guf' in models[0] of instance 'a'",
            "did you mean 'gguf'?",
        ),
        (
            {"a": {"engine": "ollama", "models": [{"name": "x", "keep_alive": "-1"}]}},
            "models[0].keep_alive of instance 'a': expected a duration such as 10m, "
            "or -1 for ever, got '-1'",
            "remove the quotes",
        ),
        (
            {"a": {"engine": "olama"}},
            "engine of instance 'a': unknown engine 'olama'",
            "did you mean 'ollama'?",
        ),
    ],
)
def test_what_is_wrong_with_an_instance_of_either_engine(
    blocks: dict[str, Any], message: str, hint: str
) -> None:
    found = [(issue.message, issue.hint) for issue in check({"instances": blocks})[1]]
    assert found == [(message, hint)]


def test_no_message_about_ollama_is_in_the_words_of_the_library() -> None:
    wrong: list[Any] = [None, True, 3, 2.5, "", "x y!", [], [[]], {}, {"a": {}}]
    for field in (*OllamaDefaults.model_fields, "port", "needs", "models"):
        for value in wrong:
            for message in messages(instances={"a": {"engine": "ollama", field: value}}):
                assert "nput" not in message
                assert "alid " not in message
                assert "'a'" in message
