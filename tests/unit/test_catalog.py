"""How a reference names a model: every form, the order they go in, and what is said of failures."""

from __future__ import annotations

import pytest

from orchestrator.core.catalog import (
    Ambiguous,
    Catalog,
    Found,
    Lookup,
    Metadata,
    Model,
    Source,
    Unknown,
    find,
)
from orchestrator.core.spec import FileIdentity

SAME = FileIdentity(1, 1, 1)


def model(
    path: str,
    *,
    ref: str | None = None,
    source: Source = "folder",
    parts: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
    name: str | None = None,
    quant: str | None = None,
) -> Model:
    stem = path.rpartition("/")[2].removesuffix(".gguf")
    return Model(
        ref=ref or stem,
        source=source,
        path=path,
        size_bytes=1,
        parts=parts or (path,),
        identity=SAME,
        metadata=Metadata(name=name, quantization=quant),
        aliases=aliases,
    )


def tag(ref: str, blob: str = "1") -> Model:
    return model(f"/store/blobs/sha256-{blob}", ref=ref, source="ollama", quant="Q4_K_M")


def hub(file: str, *, repository: str = "Org/Name-GGUF", quant: str | None = None) -> Model:
    path = f"/hub/models--{repository.replace('/', '--')}/snapshots/abc/{file}"
    return model(path, source="huggingface", aliases=(f"hf:{repository}/{file}",), quant=quant)


CODER = model("/m/qwen2.5-coder-7b-instruct-q4_k_m.gguf", quant="Q4_K_M")
CODER_8 = model("/m/qwen2.5-coder-7b-instruct-q8_0.gguf", quant="Q8_0")
LLAMA = model("/m/sub/Meta-Llama-3.1-8B.Q5_K_S.gguf", name="Llama 3.1 8B", quant="Q5_K_S")
PLAIN = model("/m/tiny-random.gguf", name="Tiny Random", quant="F32")
SPLIT = model(
    "/m/big-Q4_0-00001-of-00002.gguf",
    ref="big-Q4_0",
    parts=("/m/big-Q4_0-00001-of-00002.gguf", "/m/big-Q4_0-00002-of-00002.gguf"),
)
OLLAMA_8B, OLLAMA_LATEST = tag("llama3.1:8b"), tag("llama3.1:latest", "2")
OTHERS = (tag("mattw/pygmalion:latest", "3"), tag("hf.co/Bart/Llama-GGUF:Q4_K_M", "4"))
HUB_4, HUB_UD = hub("Name-Q4_K_M.gguf", quant="Q4_K_M"), hub("Name-UD-Q4_K_XL.gguf", quant="Q4_K_M")
HUB_SUB = hub("Q8_0/Other-Q8_0.gguf", repository="Org/Other", quant="Q8_0")
HUB = (HUB_4, HUB_UD, HUB_SUB)

CATALOG = Catalog((CODER, CODER_8, LLAMA, PLAIN, SPLIT, OLLAMA_8B, OLLAMA_LATEST, *OTHERS, *HUB))


def look(ref: str, *models: Model) -> Lookup:
    return find(Catalog(models) if models else CATALOG, ref, folder="/m/sub")


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        # paths
        ("/m/tiny-random.gguf", PLAIN),
        ("/m/tiny-random", PLAIN),
        ("/m/sub/../tiny-random.gguf", PLAIN),
        ("../tiny-random.gguf", PLAIN),
        ("./Meta-Llama-3.1-8B.Q5_K_S.gguf", LLAMA),
        ("/m/big-Q4_0-00002-of-00002.gguf", SPLIT),
        ("/store/blobs/sha256-1", OLLAMA_8B),
        # file names
        ("tiny-random.gguf", PLAIN),
        ("tiny-random", PLAIN),
        ("TINY-RANDOM", PLAIN),
        ("big-Q4_0", SPLIT),
        ("big-Q4_0-00001-of-00002", SPLIT),
        # stem:quant
        ("qwen2.5-coder-7b-instruct:Q4_K_M", CODER),
        ("Qwen2.5-Coder-7B-Instruct:q8_0", CODER_8),
        ("meta-llama-3.1-8b:Q5_K_S", LLAMA),
        ("Llama-3.1-8B:q5_k_s", LLAMA),
        ("tiny-random:F32", PLAIN),
        ("big:Q4_0", SPLIT),
        ("qwen2.5-coder-7b-instruct-q4_k_m:Q4_K_M", CODER),
        # a name that leaves out the quantisation, when there is but one
        ("meta-llama-3.1-8b", LLAMA),
        ("Tiny Random", PLAIN),
        # Ollama tags
        ("llama3.1:8b", OLLAMA_8B),
        ("llama3.1", OLLAMA_LATEST),
        ("Llama3.1:8B", OLLAMA_8B),
        ("library/llama3.1:8b", OLLAMA_8B),
        ("registry.ollama.ai/library/llama3.1", OLLAMA_LATEST),
        ("mattw/pygmalion", OTHERS[0]),
        ("hf.co/bart/llama-gguf:Q4_K_M", OTHERS[1]),
        # the Hugging Face cache
        ("hf:org/name-gguf:q4_k_m", HUB_4),
        ("hf:Org/Name-GGUF:UD-Q4_K_XL", HUB_UD),
        ("hf:Org/Name-GGUF/Name-Q4_K_M.gguf", HUB_4),
        ("hf:Org/Name-GGUF/Name-Q4_K_M", HUB_4),
        ("hf:Org/Other", HUB_SUB),
        ("hf:Org/Other/Q8_0/Other-Q8_0.gguf", HUB_SUB),
        ("hf:Org/Other/Other-Q8_0.gguf", HUB_SUB),
    ],
)
def test_a_reference_finds_its_model(ref: str, expected: Model) -> None:
    assert look(ref) == Found(expected)


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("qwen2.5-coder-7b-instruct", (CODER, CODER_8)),
        ("hf:Org/Name-GGUF", (HUB_4, HUB_UD)),
    ],
)
def test_an_ambiguous_reference_lists_its_candidates(ref: str, expected: tuple[Model]) -> None:
    assert look(ref) == Ambiguous(expected)


def test_the_same_file_name_in_two_folders_is_ambiguous_its_path_is_not() -> None:
    one, two = model("/a/x.gguf"), model("/b/x.gguf")
    assert look("x", one, two) == Ambiguous((one, two))
    assert look("x.gguf", one, two) == Ambiguous((one, two))
    assert look("/b/x.gguf", one, two) == Found(two)


def test_the_exact_name_goes_before_what_merely_matches() -> None:
    exact, near = model("/a/coder.gguf"), model("/a/coder-q4_0.gguf")
    assert look("coder", exact, near) == Found(exact)
    upper, lower = model("/a/X.gguf"), model("/b/x.gguf")
    assert look("X", upper, lower) == Found(upper)


def test_a_file_beside_the_profile_goes_before_one_elsewhere() -> None:
    here, there = model("/m/sub/x.gguf"), model("/b/x.gguf")
    assert look("x.gguf", there, here) == Found(here)


def test_other_names_and_paths_of_a_file_find_it() -> None:
    found = model("/a/x.gguf", aliases=("/b/y.gguf", "y", "hf:o/n/x.gguf"))
    for ref in ("y", "/b/y.gguf", "/b/y", "hf:o/n", "hf:o/n/x"):
        assert look(ref, found) == Found(found)


@pytest.mark.parametrize(
    ("ref", "near"),
    [
        ("tiny-randm", "tiny-random"),
        ("llama3.1:80b", "llama3.1:8b"),
        ("qwen2.5-coder-7b-instruct:Q4_K_L", "qwen2.5-coder-7b-instruct:Q4_K_M"),
        ("/elsewhere/tiny-random.gguf", "tiny-random"),
    ],
)
def test_an_unknown_reference_names_the_nearest(ref: str, near: str) -> None:
    found = look(ref)
    assert isinstance(found, Unknown)
    assert found.nearest[0] == near
    assert len(found.nearest) <= 3


@pytest.mark.parametrize("ref", ["", ":", "hf:", "hf:/", "hf:a", "/", ".gguf", ":Q4_K_M", "a:b:c"])
def test_odd_references_are_unknown(ref: str) -> None:
    assert isinstance(look(ref), Unknown)


def test_an_empty_catalog() -> None:
    assert find(Catalog(), "x", folder="/") == Unknown(())
