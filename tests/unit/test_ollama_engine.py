"""Ollama's settings: what a profile may say, what comes of it, and what is refused before a start.

The variables are those that the help of a real Ollama lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.engine import Launch, LaunchRequest, Layer
from orchestrator.core.spec import Command, Endpoint, FileIdentity, InputFile
from orchestrator.engines.ollama import Ollama
from orchestrator.engines.ollama_settings import (
    Variables,
    parse_serve_help,
    variables_from_json,
)

HELP = Path(__file__).parent.parent / "data" / "ollama-0.34.4-serve-help.txt"
LISTED = parse_serve_help(HELP.read_text())
BINARY = InputFile("binary", "/bin/ollama", FileIdentity(1, 2, 3))
DEFAULTS, OWN = ("defaults", "ollama", "settings"), ("instances", "o", "settings")


def launch(
    settings: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    variables: Variables = LISTED,
) -> Launch:
    engine = Ollama(BINARY, ("/bin/ollama",), variables, home="/home/me")
    return engine.launch(
        LaunchRequest(
            host=host,
            port=11434,
            layers=(Layer(defaults or {}, DEFAULTS), Layer(settings or {}, OWN)),
            env=env or {},
            args=(),
            args_path=("instances", "o", "args"),
            folder="/profiles",
            cwd="/run",
            store="/home/me/.ollama/models",
        )
    )


def environment(settings: Mapping[str, Any], **more: Any) -> dict[str, str]:
    """What `ollama serve` gets of these settings, beside what it always gets."""
    made = launch(settings, **more)
    assert made.issues == ()
    assert made.command is not None
    always = ("OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_NOPRUNE")
    return {name: value for name, value in made.command.env.items() if name not in always}


def wrong(settings: Mapping[str, Any], **more: Any) -> tuple[str, str]:
    """The one thing that is wrong, and what to do."""
    made = launch(settings, **more)
    (issue,) = made.issues
    assert (made.command, made.endpoint, issue.warning) == (None, None, False)
    return issue.message, issue.hint


def test_the_help_of_a_real_ollama() -> None:
    assert LISTED.trusted
    assert len(LISTED.about) == 19
    assert LISTED.about["num_parallel"] == "Maximum number of parallel requests"
    assert variables_from_json(LISTED.as_json()) == LISTED


@pytest.mark.parametrize("data", [None, [], {}, {"variables": 1}, {"format": 1, "flags": []}])
def test_what_a_cache_may_hold_instead(data: object) -> None:
    assert variables_from_json(data) is None


def test_address_and_store_are_always_declared() -> None:
    """Neither is ever inherited: what the shell says must not move a server."""
    made = launch()
    env = {
        "OLLAMA_HOST": "127.0.0.1:11434",
        "OLLAMA_MODELS": "/home/me/.ollama/models",
        "OLLAMA_NOPRUNE": "true",
    }
    assert made.command == Command(("/bin/ollama", "serve"), env, "/run")
    assert made.endpoint == Endpoint("127.0.0.1", 11434)
    assert (made.store, made.limit, made.inputs) == ("/home/me/.ollama/models", None, (BINARY,))


@pytest.mark.parametrize(
    ("host", "address"),
    [("::1", "[::1]:11434"), ("0.0.0.0", "0.0.0.0:11434"), ("localhost", "localhost:11434")],
)
def test_addresses(host: str, address: str) -> None:
    made = launch(host=host)
    assert made.command is not None
    assert made.command.env["OLLAMA_HOST"] == address


@pytest.mark.parametrize("host", ["127.0.0.1,::1", "/run/o.sock"])
def test_it_listens_on_one_address(host: str) -> None:
    (issue,) = launch(host=host).issues
    assert issue.message == f"Ollama listens on one address, not on {host!r}"
    assert issue.path == ("instances", "o", "host")


@pytest.mark.parametrize(
    ("models", "store"),
    [
        ("own", "/profiles/own"),
        ("../shared/", "/shared"),
        ("/srv/models", "/srv/models"),
        ("~/models", "/home/me/models"),
    ],
)
def test_a_folder_of_its_own(models: str, store: str) -> None:
    made = launch({"models": models})
    assert made.command is not None
    assert (made.command.env["OLLAMA_MODELS"], made.store) == (store, store)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("num_parallel", 4, "4"),
        ("context_length", 0, "0"),
        ("flash_attention", True, "true"),
        ("sched_spread", False, "false"),
        ("debug", True, "1"),
        ("debug", 2, "2"),
        ("keep_alive", "1h", "3600s"),
        ("keep_alive", 3600, "3600s"),
        ("keep_alive", 0, "0s"),
        ("keep_alive", -1, "-1"),
        ("load_timeout", "1.5s", "1500ms"),
        ("gpu_overhead", "1GiB", "1073741824"),
        ("gpu_overhead", 1024, "1024"),
        ("kv_cache_type", "q8_0", "q8_0"),
        ("origins", "http://a", "http://a"),
        ("origins", ["http://a", "https://*.b"], "http://a,https://*.b"),
        ("origins", "http://a, *", "http://a,*"),
        ("llm_library", "cpu_avx2", "cpu_avx2"),
    ],
)
def test_one_spelling_for_each_meaning(name: str, value: object, word: str) -> None:
    """The same settings are the same command, however they are written."""
    assert environment({name: value}) == {f"OLLAMA_{name.upper()}": word}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_parallel", "4", "a whole number from 0"),
        ("num_parallel", 4.5, "a whole number from 0"),
        ("num_parallel", -1, "a whole number from 0"),
        ("num_parallel", True, "a whole number from 0"),
        ("num_parallel", 10**12, "a whole number from 0 to 2147483647"),
        ("max_queue", [1], "a whole number from 0"),
        ("flash_attention", "on", "true or false"),
        ("noprune", 1, "true or false"),
        ("debug", "yes", "a whole number from 0"),
        ("keep_alive", "soon", "a duration such as 10m, or -1 for ever"),
        ("keep_alive", -2, "a duration such as 10m, or -1 for ever"),
        ("load_timeout", -1, "a duration"),
        ("gpu_overhead", "1 potato", "a size"),
        ("gpu_overhead", 2**70, "a size of at most"),
        ("kv_cache_type", "q8", "(did you mean 'q8_0'?)"),
        ("kv_cache_type", True, "f16"),
        ("origins", [], "an origin or a list of origins"),
        ("origins", "example.com", "an origin such as http://name or *, got 'example.com'"),
        ("origins", ["http://*.a.*"], "an origin such as http://name or *"),
        ("origins", ["http://a,http://b"], "an origin such as http://name or *"),
        ("models", "", "the path of a folder"),
        ("models", 3, "the path of a folder"),
        ("models", "a\0b", "a plain value"),
        ("llm_library", ["a"], "a plain value"),
    ],
)
def test_values_are_typed_here_for_ollama_only_warns(
    name: str, value: object, expected: str
) -> None:
    made = launch({name: value})
    (issue,) = made.issues
    assert made.command is None
    assert issue.message.startswith(f"setting {name!r}: expected ")
    assert expected in issue.message
    assert (issue.path, issue.key) == ((*OWN, name), False)


def test_the_last_layer_wins_and_null_takes_back() -> None:
    defaults = {"num_parallel": 2, "max_queue": 9, "debug": True}
    made = environment({"num_parallel": 4, "debug": None}, defaults=defaults)
    assert made == {"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_MAX_QUEUE": "9"}


def test_a_wrong_default_is_an_error_where_it_stands() -> None:
    (issue,) = launch(defaults={"num_parallel": "x"}).issues
    assert issue.path == (*DEFAULTS, "num_parallel")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("num_paralel", "did you mean 'num_parallel'?"),
        ("NUM_PARALLEL", "write it as 'num_parallel'"),
        ("num-parallel", "write it as 'num_parallel'"),
        ("OLLAMA_NUM_PARALLEL", "write it as 'num_parallel'"),
        ("llama_arg_fit", "write LLAMA_ARG_FIT in `env:`"),
    ],
)
def test_unknown_settings(name: str, hint: str) -> None:
    assert wrong({name: 1}) == (f"setting {name!r} is not one that /bin/ollama takes", hint)


def test_what_is_like_nothing_gets_the_list() -> None:
    _, hint = wrong({"zzz": 1})
    assert hint.startswith("known: context_length, debug, ")
    assert "host" not in hint


def test_the_address_has_keys_of_its_own() -> None:
    message, hint = wrong({"host": "0.0.0.0"})
    assert message == "setting 'host' is set elsewhere"
    assert hint == "the address is set by `host:` and `port:`, beside `settings:`"


def test_other_variables_are_passed_on() -> None:
    env = {"CUDA_VISIBLE_DEVICES": "0", "OLLAMA_NEW_THING": "1", "LLAMA_ARG_FIT": "off"}
    assert environment({}, env=env) == env


@pytest.mark.parametrize("name", ["OLLAMA_NUM_PARALLEL", "OLLAMA_MODELS"])
def test_a_setting_is_not_set_behind_its_back(name: str) -> None:
    (issue,) = launch(env={name: "x"}).issues
    key = name.removeprefix("OLLAMA_").lower()
    assert issue.message == f"{name} is a setting"
    assert issue.hint == f"write {key!r} in `settings:`, where it is checked"
    assert issue.path == ("instances", "o", "env", name)


def test_nor_is_the_address() -> None:
    (issue,) = launch(env={"OLLAMA_HOST": "x"}).issues
    assert issue.message == "OLLAMA_HOST is set elsewhere"


def test_how_many_models_fit() -> None:
    assert launch({"max_loaded_models": 2}).limit == 2
    # 0 leaves it to Ollama.
    assert launch({"max_loaded_models": 0}).limit is None


def test_all_that_is_wrong_comes_at_once() -> None:
    made = launch({"num_parallel": "x", "hosts": 1}, env={"OLLAMA_HOST": "y"}, host="a,b")
    assert len(made.issues) == 4


# --- a wrapper, whose help says little ------------------------------------------------------------

WRAPPER = parse_serve_help("Usage: my-ollama [-h]\n\nRuns it in a container.\n")


def test_where_the_help_says_little_checks_are_warnings() -> None:
    made = launch({"num_parallel": 4, "brand_new": [1, "x"]}, variables=WRAPPER)
    assert made.command is not None
    assert made.command.env["OLLAMA_NUM_PARALLEL"] == "4"
    assert made.command.env["OLLAMA_BRAND_NEW"] == "1,x"
    assert {issue.warning for issue in made.issues} == {True}
    assert made.issues[0].message == "setting 'num_parallel' cannot be checked"


def test_and_so_are_values_but_for_those_that_are_read_here() -> None:
    made = launch({"kv_cache_type": "q9"}, variables=WRAPPER)
    assert made.command is not None
    assert made.command.env["OLLAMA_KV_CACHE_TYPE"] == "q9"
    failed = launch({"max_loaded_models": "many"}, variables=WRAPPER)
    assert failed.command is None


def test_a_server_leaves_its_store_alone_at_its_start_unless_told_otherwise() -> None:
    """Others may share it, and a pull that was broken off is to go on."""
    for settings, value in (({}, "true"), ({"noprune": False}, "false")):
        command = launch(settings).command
        assert command is not None
        assert command.env["OLLAMA_NOPRUNE"] == value
