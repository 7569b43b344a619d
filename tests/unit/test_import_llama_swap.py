"""A configuration of llama-swap to a profile: what comes over, and what is said of the rest."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.import_draft import Imported, UnreadableError, spelled
from orchestrator.core.import_gateway import Listening
from orchestrator.core.import_instance import Here
from orchestrator.core.import_llama_swap import translate_llama_swap
from orchestrator.core.import_swap_config import read_llama_swap
from orchestrator.core.import_text import render
from orchestrator.core.parse import parse_profile
from orchestrator.core.reference import env_names
from tests.growth import assert_grows_with_its_length
from tests.unit.test_import_flags import TABLE

DATA = Path(__file__).parent.parent / "data" / "import"
HERE = Here(
    "/cwd", TABLE, "/usr/bin/llama-server", frozenset({"/opt/llama-server", "bin/llama-server"})
)


def imported(text: str, here: Here = HERE) -> Imported:
    return translate_llama_swap(read_llama_swap(text.encode(), "config.yaml"), here)


def instance(cmd: str, more: str = "", here: Here = HERE) -> dict[str, Any]:
    """The one instance of a configuration with this command."""
    text = f"models:\n  a:\n    cmd: |\n      {cmd}\n{more}"
    document = spelled(imported(text, here).document)
    return document["instances"]["a"]


def remarks(made: Imported, kind: str = "") -> dict[str, str]:
    return {one.path: one.message for one in made.remarks if kind in ("", one.kind)}


def refused(text: str | bytes) -> tuple[str, int]:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(UnreadableError) as caught:
        translate_llama_swap(read_llama_swap(data, "config.yaml"), HERE)
    problem = caught.value.problems[0]
    return problem.message, problem.place.line


@pytest.fixture(scope="module")
def whole() -> Imported:
    return imported((DATA / "llama-swap.yaml").read_text())


def test_what_comes_over(whole: Imported) -> None:
    document = spelled(whole.document)

    assert document == {
        "gateway": {
            "port": 8080,
            "tokens": {
                "key-1": {"token": "${env:GATEWAY_TOKEN_1}"},
                "key-2": {"token": "${env:TEAM_KEY}"},
            },
        },
        "defaults": {
            "llama-server": {
                "readiness": {"deadline": "300s"},
                "stop": {"grace": "20s"},
                "start": "on-demand",
                "idle": "10m",
            }
        },
        "instances": {
            "chat-tiny-q8": {
                "description": "Tiny: Says little: and quickly",
                "model": "/cwd/models/tiny.gguf",
                "idle": "1m30s",
                "flags": {
                    "metrics": True,
                    "ctx-size": 4096,
                    "parallel": 2,
                    "warmup": False,
                    "chat-template-kwargs": '{"enable_thinking": false}',
                    "alias": ["Chat/Tiny:Q8", "small", "Chat/Tiny:Q8-alias"],
                },
            },
            "secretive": {
                "model": "${env:MODEL_DIR}/tiny.gguf",
                "port": 9999,
                "preload": True,
                "idle": None,
                "flags": {
                    "ctx-size": 8192,
                    "parallel": 2,
                    "api-key": "${env:LLAMA_API_KEY}",
                    "hf-token": "${env:HF_TOKEN}",
                    "threads": 2,
                },
                "env": {"CUDA_VISIBLE_DEVICES": "0,1", "SOME_TOKEN": "${env:SOME_TOKEN}"},
            },
            "twice": {
                "model": "hf:some/repo",
                "flags": {"flash-attn": "on", "jinja": True},
                "env": {"LD_LIBRARY_PATH": "/opt/lib"},
            },
        },
    }


def test_what_does_not_is_said_with_its_line(whole: Imported) -> None:
    lost = remarks(whole, "lost")

    assert set(lost) == {
        "logLevel",
        "models.Chat/Tiny:Q8.filters",
        "models.boxed",
        "models.other",
        "models.secretive.unlisted",
        "models.twice.cmd",
    }
    assert "a container (docker)" in lost["models.boxed"]
    assert "'vllm' is no llama-server" in lost["models.other"]
    assert lost["models.twice.cmd"] == "it is started without 'nice'"
    lines = (DATA / "llama-swap.yaml").read_text().splitlines()
    for one in whole.remarks:
        if one.line:
            assert lines[one.line - 1].strip().startswith(one.key.split(" ")[0] or "cmd")


def test_what_is_not_quite_as_it_was_is_noted(whole: Imported) -> None:
    noted = remarks(whole, "changed")

    assert "set GATEWAY_TOKEN_1 in the shell" in noted["apiKeys"]
    assert "one at a time is not carried over" in noted["pair"]
    assert "set SOME_TOKEN in the shell" in noted["models.secretive.env SOME_TOKEN"]
    assert "port 9999 is that of 'secretive'" in str(noted)
    [first, last] = [one.message for one in whole.remarks if not one.path]
    assert "llama-swap listens on all addresses" in first
    assert "relative paths were taken from /cwd" in last


def test_its_text_is_that_profile_with_all_of_it_at_the_place(whole: Imported) -> None:
    text = render(whole, ["From a test."])

    assert yaml.safe_load(text) == spelled(whole.document)
    assert "hunter2" not in text
    assert "sk-everybody" not in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    key = next(at for at, line in enumerate(lines) if "GATEWAY_TOKEN_1}" in line)
    assert "the secret is not written here" in lines[key - 2]
    env = {"MODEL_DIR": "/m", "LLAMA_API_KEY": "k", "HF_TOKEN": "t", "SOME_TOKEN": "t"}
    env |= {"GATEWAY_TOKEN_1": "1", "TEAM_KEY": "2"}
    assert parse_profile(text.encode(), file="p.yaml", env=env).problems == ()


def test_a_program_that_is_there_is_named_and_another_left_out() -> None:
    assert instance("/opt/llama-server -m /x")["binary"] == "/opt/llama-server"
    assert instance("bin/llama-server -m /x")["binary"] == "/cwd/bin/llama-server"
    assert "binary" not in instance("/no/llama-server -m /x")
    assert "binary" not in instance("llama-server -m /x")


@pytest.mark.parametrize(
    ("words", "port"),
    [("--port ${PORT}", None), ("", 8999), ("--port 7000", 7000), ("--port x", None)],
)
def test_ports(words: str, port: int | None) -> None:
    made = instance(f"llama-server -m /x {words}", "    proxy: http://localhost:8999\n")

    assert made.get("port") == port


def test_a_port_from_the_environment_stays_one() -> None:
    made = instance("llama-server -m /x --port ${env.P}")

    assert made["port"] == "${env:P}"


def test_dollars_that_mean_nothing_to_it_stay_text() -> None:
    made = instance("llama-server -m '/x/$HOME/{a}' --alias '$5'")

    assert made == {"model": "/x/$HOME/{a}", "flags": {"alias": "$5"}}


def test_an_environment_macro_may_stand_where_yaml_has_braces() -> None:
    text = "apiKeys: [${env.A}, ${env.B}]\nmodels: {a: {cmd: 'llama-server -m ${env.C}'}}\n"

    document = spelled(imported(text).document)

    assert document["instances"] == {"a": {"model": "${env:C}"}}


def test_names_that_come_to_the_same() -> None:
    text = "models:\n" + "".join(
        f"  {name}: {{cmd: llama-server -m /x}}\n" for name in ("A b", "a-b", '"???"')
    )

    instances = spelled(imported(text).document)["instances"]

    # Who can be called exactly so is: no client's name leads to another's model.
    assert {name: one.get("flags", {}).get("alias") for name, one in instances.items()} == {
        "a-b-2": "A b",
        "a-b": None,
        "model": "???",
    }


def test_a_model_that_names_none_is_left_out() -> None:
    made = imported("models: {a: {cmd: llama-server --port 1}, b: {}}")

    assert made.instances == []
    assert remarks(made) == {
        "models.a.cmd": "it names no model",
        "models.b": "it has no `cmd:`",
    }


def test_an_unknown_macro_is_said() -> None:
    made = imported("models: {a: {cmd: 'llama-server ${nope}'}}")

    assert remarks(made) == {"models.a": "nothing declares the macro 'nope'"}


def llama(*names: str, more: str = "") -> str:
    """The `models:` of a configuration with these, all alike."""
    return "models:\n" + "".join(f"  {name}: {{cmd: llama-server -m /x{more}}}\n" for name in names)


def test_it_listens_where_llama_swap_did() -> None:
    read = read_llama_swap(llama("a", more=" --port 9000").encode(), "config.yaml")

    made = translate_llama_swap(read, HERE, Listening("0.0.0.0", 9000))

    assert made.document["gateway"] == {"port": 9000, "host": "0.0.0.0"}
    assert made.document["instances"] == {"a": {"model": "/x"}}
    assert remarks(made) == {
        "models.a.cmd": "port 9000 is that of 'gateway', which may run beside it: another is chosen"
    }


@pytest.mark.parametrize(
    ("keys", "gateway"),
    [
        ("[]", {}),
        ('[""]', {}),
        ("[sk-1]", {"token": "${env:GATEWAY_TOKEN}"}),
        ("[${env.OURS}]", {"token": "${env:OURS}"}),
        ("[sk-${env.OURS}]", {"token": "${env:GATEWAY_TOKEN}"}),
        ("[sk-1, sk-1]", {"token": "${env:GATEWAY_TOKEN}"}),
    ],
)
def test_keys_that_clients_send(keys: str, gateway: dict[str, str]) -> None:
    made = imported(f"apiKeys: {keys}\n{llama('a')}")

    assert spelled(made.document["gateway"]) == {"port": 8080, **gateway}
    assert "sk-1" not in render(made, ["From a test."])


def test_what_is_loaded_from_the_start_and_what_is_not_there() -> None:
    text = f"hooks: {{on_startup: {{preload: [b, other, none]}}}}\n{llama('a', 'b')}"
    made = imported(f"{text}  c: {{cmd: llama-server -m /y, aliases: [other]}}\n")

    instances = made.document["instances"]
    assert [name for name, one in instances.items() if one.get("preload")] == ["b", "c"]
    assert remarks(made, "lost") == {"hooks": "'none' is not there to be loaded"}


GROUPS = """
groups:
  swapped: {members: [a, b]}
  beside: {swap: false, exclusive: false, members: [c, d]}
  kept: {persistent: true, swap: false, exclusive: false, members: [e]}
"""


def test_which_stay_and_which_make_room() -> None:
    made = imported(llama(*"abcde") + GROUPS)
    below = "".join(f"      {line}\n" for line in GROUPS.splitlines())
    nested = imported(f"{llama(*'abcde')}routing:\n  router:\n    settings:\n{below}")

    instances = made.document["instances"]
    assert [name for name, one in instances.items() if one.get("pin")] == ["e"]
    assert set(remarks(made)) == {"swapped", ""}
    assert "one at a time is not carried over" in remarks(made)["swapped"]
    assert (nested.document, remarks(nested)) == (made.document, remarks(made))


def test_a_matrix_and_an_order_are_said() -> None:
    made = imported(
        llama("a", "b")
        + """
routing:
  router: {use: matrix, settings: {matrix: {sets: {x: "a & b"}}, groups: {g: {members: [a, b]}}}}
  scheduler: {settings: {fifo: {priority: {a: 10}}}}
"""
    )

    said = {path: text.split(":")[0] for path, text in remarks(made).items() if path}
    assert said == {
        "matrix": "which may be loaded together is not carried over",
        "routing.priority": "who is served first is not said by model",
    }


def test_one_of_them_needs_no_word_on_which_are_loaded() -> None:
    assert "memory" in str(remarks(imported(llama("a", "b"))))
    assert "memory" not in str(remarks(imported(llama("a"))))


PEERS = """
selectors:
  best: {strategy: warm, targets: [a, b, openrouter/big]}
  first: {strategy: pin, targets: [B, a]}
  away: {strategy: pin, targets: [openrouter/big]}
  part: {targets: [gone, a]}
peers:
  openrouter:
    proxy: https://openrouter.ai/api/
    apiKey: sk-hunter2
    models: [big, small]
    filters: {stripParams: "top_p"}
  Next Door: {proxy: "http://${env.NEXT}:8080", apiKey: "${env.DOOR}", models: [c]}
  nowhere: {proxy: "ftp://x"}
"""


def test_names_that_lead_to_several_and_servers_elsewhere() -> None:
    made = imported(llama("a") + "  b: {cmd: llama-server -m /y, aliases: [B]}\n" + PEERS)

    assert spelled(made.document["gateway"]) == {
        "port": 8080,
        "cloud": {
            "openrouter": {
                "url": "https://openrouter.ai/api/v1",
                "key": "${env:OPENROUTER_API_KEY}",
            },
            "openrouter-big": {
                "url": "https://openrouter.ai/api/v1",
                "key": "${env:OPENROUTER_API_KEY}",
                "model": "big",
            },
            "next-door": {"url": "http://${env:NEXT}:8080/v1", "key": "${env:DOOR}"},
        },
        "routes": {
            "best": {"to": ["a", "b"], "fallback": ["openrouter-big"]},
            "first": ["b"],
            "part": ["a"],
        },
    }
    assert remarks(made, "lost") == {
        "peers.nowhere": "this is no address: 'ftp://x'",
        "peers.openrouter.filters": "requests reach it as they were sent",
        "selectors.away": "none of what it leads to runs here",
        "selectors.part": "it led to 'gone' too, which was not carried over",
    }
    assert "hunter2" not in render(made, ["From a test."])


def test_every_name_that_clients_used_is_one_of_the_gateway() -> None:
    made = imported(
        """
models:
  Big: {cmd: llama-server -m /x --alias own, aliases: [own, other]}
  plain: {cmd: llama-server -m /x --alias own}
  "a,b": {cmd: llama-server -m /x, aliases: [c]}
  "c,d": {cmd: vllm}
  gateway: {cmd: llama-server -m /x}
"""
    )

    flags = {name: made.document["instances"][name].get("flags") for name in made.instances}
    assert flags == {
        "big": {"alias": ["own", "Big", "other"]},
        "plain": {"alias": "own"},
        "a-b": {"alias": "c"},
        "gateway-2": {"alias": "gateway"},
    }
    assert made.document["gateway"]["routes"] == {"a,b": ["a-b"]}


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("", "no models are declared here", 1),
        ("a: 1", "no models are declared here", 1),
        ("models: [a]", "expected a mapping of models", 1),
        ("models:\n  a: b", "expected the settings of a model", 2),
        ("models:\n  a: {}\n  a: {}", "duplicate key 'a'", 3),
        ("models:\n\ta: {}", "a tab cannot indent", 2),
        ("macros: [a]\nmodels: {}", "expected a mapping of macros", 1),
        ("macros:\n  a: []\nmodels: {}", "expected text, a number, true or false", 2),
        ("models: {a: !!python/object:os.system {}}", "the tag", 1),
        ("x: 1\n# \ue000\nmodels: {}", "the character U+E000 is not allowed", 2),
        (b"models: \xff", "not valid UTF-8", 1),
        (b"\0", "a NUL byte", 1),
        (b"#" * (1 << 20) + b"#", "the file is too large", 1),
        ("models: " + "[" * 50 + "]" * 50, "nested more than", 1),
    ],
)
def test_what_cannot_be_read_says_where(text: str | bytes, message: str, line: int) -> None:
    said, at = refused(text)

    assert message in said
    assert at == line


def test_aliases_that_grow_without_end_are_refused() -> None:
    text = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    for at in range(1, 12):
        text += f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]\n"
    begun = time.process_time()

    assert "its aliases expand to more" in refused(f"{text}models: {{}}")[0]
    assert time.process_time() - begun < 60


@pytest.mark.parametrize("field", ["cmd: '${m29}'", "cmd: llama-server, name: '${m29}'"])
def test_macros_that_grow_without_end_are_refused(field: str) -> None:
    text = "macros:\n  m0: aaaaaaaaaa\n"
    for at in range(1, 30):
        text += f"  m{at}: '${{m{at - 1}}}${{m{at - 1}}}'\n"
    begun = time.process_time()

    assert refused(f"{text}models: {{a: {{{field}}}}}") == ("its macros bring in too much", 1)
    assert time.process_time() - begun < 60


def test_macros_may_name_those_before_them_and_models_their_own() -> None:
    text = """
macros: {ctx: 1, args: "-c ${ctx} ${late}", late: "-t 9"}
models:
  a: {cmd: "llama-server -m /${MODEL_ID} -c ${ctx}"}
  b: {macros: {ctx: 2, more: "-t ${ctx}"}, cmd: "llama-server -m /x ${more}"}
  c: {macros: {late: "-t 3", args: "-c ${ctx}0"}, cmd: "llama-server -m /x ${args} ${late}"}
  d: {cmd: "llama-server -m /x ${args}"}
"""
    made = imported(text)

    flags = {name: one.get("flags") for name, one in spelled(made.document)["instances"].items()}
    assert flags == {
        "a": {"ctx-size": 1},
        "b": {"threads": 2},
        "c": {"ctx-size": 10, "threads": 3},
    }
    assert remarks(made)["models.d"] == "nothing declares the macro 'late'"


MODELS = 4000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (
            lambda n: (
                "models:\n"
                + many(n, lambda at: f"'{chr(0x4E00 + at)}': {{cmd: llama-server -hf a/b}}")
            ),
            MODELS,
        ),
        (lambda n: "models: {a: {cmd: llama-server -m /x " + "--lora a " * n + "}}", 20_000),
        (lambda n: "models: {a: {cmd: llama-server -m /x --frob " + "a " * n + "}}", 100_000),
        (
            lambda n: (
                "macros:\n"
                + many(n, lambda at: f"m{at}: x{at}")
                + "models:\n"
                + many(n, lambda at: f"a{at}: {{cmd: 'llama-server -m ${{m{at}}}'}}")
            ),
            MODELS,
        ),
        (
            lambda n: (
                "macros:\n  m0: a\n"
                + many(n - 1, lambda at: f"m{at + 1}: '${{m{at}}}'")
                + f"models: {{a: {{cmd: 'llama-server ${{m{n - 1}}}'}}}}"
            ),
            MODELS,
        ),
    ],
    ids=["models", "flags", "words", "macros", "deep"],
)
def test_very_many_of_anything_take_no_more_than_their_share(
    text: Callable[[int], str], size: int
) -> None:
    def read(size: int) -> None:
        with contextlib.suppress(UnreadableError):
            render(imported(text(size)), ["From a test."])

    assert_grows_with_its_length(read, size)


def many(count: int, line: Callable[[int], str]) -> str:
    return "".join(f"  {line(at)}\n" for at in range(count))


@given(st.text(st.characters(exclude_categories=("Cs", "Cc", "Co"))), st.text(max_size=20))
def test_whatever_a_command_holds_what_comes_out_is_a_profile(words: str, name: str) -> None:
    document = {"models": {name: {"cmd": f"llama-server -m /x {words}", "env": [words]}}}
    try:
        made = imported(json.dumps(document))
    except UnreadableError:
        return
    text = render(made, ["From a test."])

    assert yaml.safe_load(text) == spelled(made.document)
    env = dict.fromkeys(env_names(text), "1")
    assert parse_profile(text.encode(), file="p.yaml", env=env).problems == ()
