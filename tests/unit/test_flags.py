"""The table of flags as read from a recorded help of llama-server b11434."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engines.embedded_flags import ROWS, help_text
from orchestrator.engines.flags import Flag, FlagTable, table_from_json
from orchestrator.engines.help_parser import parse_help

HELP = Path(__file__).parent.parent / "data" / "llama-server-b11434-help.txt"


@cache
def table() -> FlagTable:
    return parse_help(HELP.read_text())


def row(key: str) -> Flag:
    found = table().find(key)
    assert found is not None, key
    return found[0]


def test_whole_help_is_read() -> None:
    kinds = Counter(flag.kind for flag in table().flags)
    assert len(table().flags) == 256
    assert len(table().by_spelling) == 413
    assert (kinds["value"] + kinds["two"], kinds["pair"], kinds["bare"]) == (194, 27, 35)
    assert sum(bool(flag.env) for flag in table().flags) == 149
    assert sum(bool(flag.removed) for flag in table().flags) == 5
    assert table().trusted


def test_keys_are_unique() -> None:
    keys = [flag.key for flag in table().flags]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("written", "key", "negative"),
    [
        ("c", "ctx-size", False),
        ("ctx_size", "ctx-size", False),
        ("--ctx-size", "ctx-size", False),
        ("ngl", "n-gpu-layers", False),
        ("gpu-layers", "n-gpu-layers", False),
        ("no-kv-offload", "kv-offload", True),
        ("nkvo", "kv-offload", True),
        ("nr", "repack", True),
        ("no-kvu", "kv-unified", True),
        ("kvu", "kv-unified", False),
        ("no-ui", "webui", True),
        ("no_webui", "webui", True),
        ("no-mmproj", "mmproj-auto", True),
        ("no-mmproj-auto", "mmproj-auto", True),
        ("no-host", "no-host", False),
        ("embedding", "embeddings", False),
    ],
)
def test_spellings(written: str, key: str, negative: bool) -> None:
    found = table().find(written)
    assert found is not None
    assert (found[0].key, found[1]) == (key, negative)


def test_case_matters() -> None:
    assert row("c").key == "ctx-size"
    assert row("C").key == "cpu-mask"
    assert table().find("CTX-SIZE") is None


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("flash-attn", ("on", "off", "auto")),
        ("fit", ("on", "off")),
        ("cpu-strict", ("0", "1")),
        ("rope-scaling", ("none", "linear", "yarn")),
        ("split-mode", ("none", "layer", "row", "tensor")),
        (
            "cache-type-k",
            ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"),
        ),
        # Bullets and prose are hints, and a placeholder in brackets is no list of words.
        ("load-mode", ()),
        ("numa", ()),
        ("reasoning-format", ()),
        ("hf-repo", ()),
        ("docker-repo", ()),
        ("device", ()),
        ("spec-type", ()),
    ],
)
def test_closed_enumerations(key: str, choices: tuple[str, ...]) -> None:
    assert row(key).choices == choices


def test_hints() -> None:
    assert row("load-mode").words == ("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")
    assert row("n-gpu-layers").words == ("auto", "all")
    assert "ngram-mod" in row("spec-type").words
    assert row("ctx-size").words == ()


def test_ranges_and_numbers() -> None:
    assert row("poll").range == (0, 100)
    assert row("ctx-size").range is None
    numbers = {key: row(key).number for key in ("ctx-size", "temp", "rope-scale", "seed", "port")}
    assert numbers == {
        "ctx-size": "integer",
        "temp": "number",
        "rope-scale": "number",
        "seed": "integer",
        "port": "integer",
    }
    assert row("cpu-mask").number == ""


def test_paths_and_lists() -> None:
    paths = {key: row(key).path for key in ("lora", "lora-scaled", "log-file", "hf-file", "alias")}
    assert paths == {
        "lora": "path",
        "lora-scaled": "scaled",
        "log-file": "path",
        "hf-file": "",
        "alias": "",
    }
    commas = [key for key in ("tensor-split", "device", "lora", "api-key") if not row(key).comma]
    assert commas == []
    assert not row("logit-bias").comma
    assert not row("split-mode").comma


def test_removed_and_environment() -> None:
    assert row("draft").removed == "use --spec-draft-n-max or --spec-ngram-mod-n-max"
    assert row("ctx-size").env == "LLAMA_ARG_CTX_SIZE"
    assert row("api-key").env == "LLAMA_API_KEY"
    assert table().by_env["HF_TOKEN"].key == "hf-token"


def test_flags_that_end_or_replace_the_server() -> None:
    ending = {flag.key for flag in table().flags if flag.exits}
    assert ending == {"usage", "version", "cache-list", "completion-bash", "list-devices"}
    assert sum(flag.downloads for flag in table().flags) == 11
    assert row("fim-qwen-7b-spec").downloads


def test_two_values() -> None:
    assert [flag.key for flag in table().flags if flag.kind == "two"] == [
        "control-vector-layer-range"
    ]


def test_through_json() -> None:
    assert table_from_json(json.loads(json.dumps(table().as_json()))) == table()


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"format": 0, "flags": []},
        {"format": 1},
        {"format": 1, "flags": [{"key": "x"}]},
        {"format": 1, "flags": [3]},
        {"format": 1, "flags": [{"nonsense": 1}]},
        {"format": 1, "flags": None},
    ],
)
def test_alien_cache_is_no_table(data: object) -> None:
    assert table_from_json(data) is None


def test_other_texts_are_not_trusted() -> None:
    assert not parse_help("").trusted
    assert not parse_help("usage: wrapper [-v]\n\n-v  be loud\n--model FILE\n").trusted


def test_noise_between_entries_is_passed_over() -> None:
    noisy = HELP.read_text().replace("\n-", "\nggml_cuda_init: found 1 CUDA device\n  Device 0\n-")
    assert parse_help(noisy) == table()


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=400))
def test_any_text_is_survived(text: str) -> None:
    for flag in parse_help(text + "\n-" + text).flags:
        assert flag.key


def test_embedded_rows_are_llama_servers_own() -> None:
    """A profile written for the one engine means the same on the other."""
    ours = parse_help(help_text())
    assert ours.trusted
    assert len(ours.flags) == len(ROWS)
    fields = ("key", "kind", "positive", "negative", "metavar", "number", "choices", "range")
    for flag in ours.flags:
        theirs = table().by_spelling[flag.name]
        for name in (*fields, "comma", "path", "exits"):
            assert getattr(flag, name) == getattr(theirs, name), (flag.key, name)
        assert set(flag.words) <= set(theirs.words), flag.key


@pytest.mark.real
def test_every_spelling_that_the_real_binary_completes(llama_server: str) -> None:
    said = {
        option: subprocess.run(
            [llama_server, option], capture_output=True, text=True, timeout=10, check=True
        ).stdout
        for option in ("--help", "--completion-bash")
    }
    found = parse_help(said["--help"])
    completed = said["--completion-bash"].partition('opts="')[2].partition('"')[0].split()
    assert len(completed) > 300
    assert [word for word in completed if word not in found.by_spelling] == []
