"""Presets of llama-server's router to a profile, read as llama-server reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.catalog import Catalog, Model
from orchestrator.core.import_draft import Imported, UnreadableError, spelled
from orchestrator.core.import_gateway import Listening
from orchestrator.core.import_ini import read_ini
from orchestrator.core.import_instance import Here
from orchestrator.core.import_router import translate_router
from orchestrator.core.import_text import render
from orchestrator.core.parse import parse_profile
from orchestrator.core.spec import FileIdentity
from tests.unit.test_import_flags import TABLE

DATA = Path(__file__).parent.parent / "data" / "import"
HERE = Here("/cwd", TABLE)


def imported(text: str, here: Here = HERE) -> Imported:
    return translate_router(read_ini(text.encode(), "preset.ini"), here)


def lines(text: str) -> dict[str, dict[str, str]]:
    sections = read_ini(text.encode(), "preset.ini")
    return {one.name: {line.key: line.value for line in one.lines} for one in sections}


def test_what_comes_over() -> None:
    made = imported((DATA / "router.ini").read_text())

    assert spelled(made.document) == {
        "gateway": {"port": 8080},
        "defaults": {
            "llama-server": {
                "start": "on-demand",
                "flags": {"ctx-size": 2048, "warmup": False, "parallel": 2},
            }
        },
        "instances": {
            "tiny": {
                "model": "/cwd/models/tiny.gguf",
                "preload": True,
                "flags": {"metrics": True, "jinja": False},
                "stop": {"grace": "25s"},
            },
            "some-org-some-model-gguf-q8_0": {
                "model": "hf:some-org/Some-Model-GGUF:Q8_0",
                "flags": {
                    "ctx-size": 4096,
                    "temperature": "0.50",
                    "tags": "code,local",
                    "alias": "some-org/Some-Model-GGUF:Q8_0",
                },
            },
        },
    }
    said = {one.path: (one.kind, one.line, one.message) for one in made.remarks if one.line}
    assert said["[*] port"][:2] == ("lost", 8)
    assert said["[nameless]"][:2] == ("lost", 22)
    assert said["[nameless] frobnicate"][:2] == ("changed", 23)
    assert said["[nameless] LLAMA_ARG_FROB"][:2] == ("lost", 24)
    assert "not in the local Hugging Face cache" in said["[some-org/Some-Model-GGUF:Q8_0]"][2]
    text = render(made, ["From a test."])
    assert yaml.safe_load(text) == spelled(made.document)
    assert parse_profile(text.encode(), file="p.yaml", env={}).problems == ()


def test_a_section_may_be_called_by_a_model_that_is_found() -> None:
    tiny = Model(
        "tiny-q8", "folder", "/m/tiny-q8.gguf", 1, ("/m/tiny-q8.gguf",), FileIdentity(1, 1, 1)
    )
    here = Here("/cwd", TABLE, catalog=Catalog((tiny,)))

    assert spelled(imported("[tiny-q8]\nc = 1\n", here).document["instances"]) == {
        "tiny-q8": {"model": "tiny-q8", "flags": {"ctx-size": 1}}
    }


def test_what_all_have_is_what_one_has_that_says_nothing() -> None:
    made = imported("[*]\nhf = a/b:Q8_0\nmmproj = /p\nodd = 1\n[x]\n[y]\nmodel = /y\nnew = 2\n")

    assert spelled(made.document) == {
        "gateway": {"port": 8080},
        "defaults": {"llama-server": {"start": "on-demand", "args": ["--odd"]}},
        "instances": {
            "x": {"model": "hf:a/b:Q8_0", "mmproj": "/p"},
            "y": {"model": "/y", "mmproj": "/p", "args": ["--odd", "--new", "2"]},
        },
    }


def test_it_listens_where_the_router_did() -> None:
    text = "[x]\nmodel = /x\n"
    address, anywhere = Listening("0.0.0.0", 9000), Listening(port=0)

    made = translate_router(read_ini(text.encode(), "preset.ini"), HERE, address)
    free = translate_router(read_ini(text.encode(), "preset.ini"), HERE, anywhere)

    assert made.document["gateway"] == {"port": 9000, "host": "0.0.0.0"}
    assert free.document["gateway"] == {"port": "auto"}


def test_what_is_loaded_on_startup_is_loaded_when_it_is_applied() -> None:
    made = imported(
        "[*]\nload-on-startup = 1\n[x]\nmodel = /x\n[y]\nmodel = /y\nload-on-startup = false\n"
        "[z]\nmodel = /z\nload-on-startup = true\n"
    )

    document = spelled(made.document)
    assert document["defaults"]["llama-server"] == {"start": "on-demand", "preload": True}
    assert document["instances"] == {
        "x": {"model": "/x"},
        "y": {"model": "/y", "preload": False},
        "z": {"model": "/z"},
    }


def test_what_only_the_router_has_is_not_given_to_servers() -> None:
    made = imported("[x]\nmodel = /x\nmodels-max = 2\nLLAMA_ARG_MODELS_MAX = 3\n")

    assert made.document["instances"] == {"x": {"model": "/x"}}
    assert [one.path for one in made.remarks] == ["[x] models-max", "[x] LLAMA_ARG_MODELS_MAX"]


def test_every_name_that_the_router_had_is_one_of_the_gateway() -> None:
    made = imported(
        "[A/B]\nmodel = /x\nalias = own\n[gateway]\nmodel = /y\n[c]\nmodel = /z\nalias = d\n"
    )

    assert {name: one["flags"]["alias"] for name, one in made.document["instances"].items()} == {
        "a-b": ["own", "A/B"],
        "gateway-2": "gateway",
        "c": "d",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a = 1", {"default": {"a": "1"}}),
        ("[ x ] ; c\na=1\r\nb =  two words  # c\n", {"x": {"a": "1", "b": "two words"}}),
        ("[x]\na =\n", {"x": {"a": ""}}),
        ("[x]\na = {b;c}\n", {"x": {"a": "{b"}}),
        ("[x]\na = 1\na = 2\n", {"x": {"a": "2"}}),
        ("[x]\na = 1\n[y]\n[x]\nb = 1\n", {"y": {}, "x": {"b": "1"}}),
        ("; only\n\n   \n# this\n", {}),
    ],
)
def test_lines(text: str, found: dict[str, dict[str, str]]) -> None:
    assert lines(text) == {"default": {}, **found}


def test_a_comment_within_a_value_and_a_section_that_comes_twice_are_said() -> None:
    made = imported("[x]\nc = 1\n[x]\nmodel = /a#b\n")

    assert spelled(made.document["instances"]) == {"x": {"model": "/a"}}
    assert {one.path for one in made.remarks} == {"[x]", "[x] model"}


def test_every_bad_line_is_named() -> None:
    with pytest.raises(UnreadableError) as caught:
        imported("[x]\n[y\nfoo\n  = 1\nc = 1\n1a = 2\n")

    places = [(one.place.line, one.place.column, one.message) for one in caught.value.problems]
    assert places == [
        (2, 1, "this is no setting"),
        (3, 1, "this is no setting"),
        (4, 3, "this is no setting"),
        (6, 1, "this is no setting"),
    ]


def test_a_bad_line_with_a_secret_is_not_shown() -> None:
    with pytest.raises(UnreadableError) as caught:
        imported("[x]\napi-key hunter2\nmodel /x\n")

    assert [one.place.source for one in caught.value.problems] == ["", "model /x"]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20),
        st.dictionaries(st.from_regex(r"[a-z-]{1,12}", fullmatch=True), st.text(max_size=30)),
        max_size=4,
    )
)
def test_whatever_it_holds_what_comes_out_is_a_profile(given: dict[str, dict[str, str]]) -> None:
    text = "".join(
        f"[{name}]\nmodel = /x\n" + "".join(f"{key} = {value}\n" for key, value in pairs.items())
        for name, pairs in given.items()
    )
    try:
        made = imported(text.encode(errors="replace").decode())
    except UnreadableError:
        return
    out = render(made, ["From a test."])

    assert yaml.safe_load(out) == spelled(made.document)
    env = {"LLAMA_API_KEY": "x", "HF_TOKEN": "x", "HOME": "/x"}
    assert parse_profile(out.encode(), file="p.yaml", env=env).problems == ()
