"""How people spell a model, as keys: a reference and a model share one when it names it.

A key is (form, text). Forms, from the most exact to the loosest:

    path      an absolute path, or one relative to the folder, with or without `.gguf`
    exact     the file name or its stem as written; an Ollama tag
    name      the same without regard to case
    stem+quant  `stem:quant` where the file name is the stem and the quantisation
    base+quant  `name:quant` where the header says the quantisation, or the general name
    base      a name that leaves the quantisation out
    hf...     the same for a repository of the Hugging Face cache
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

Key = tuple[str, str]

SUFFIX = ".gguf"
DEFAULT_TAG = "latest"
DEFAULT_REGISTRY = "registry.ollama.ai/"
DEFAULT_NAMESPACE = "library/"

_QUANT = re.compile(
    r"[-._](?:ud[-_])?"
    r"(?:i?q\d(?:[-_](?:[0-9]|k|xxs|xs|nl|[smlx]+))*|tq\d[-_]0|bf16|f16|f32|fp16|fp32"
    r"|mxfp4(?:[-_]moe)?|nvfp4)$"
)


def expanded(ref: str, home: str) -> str:
    """A reference with the `~` of a path below one's home written out, where that is known."""
    return posixpath.join(home, ref[2:]) if home and ref.startswith("~/") else ref


def lookup_keys(ref: str, *, folder: str) -> Iterator[Key]:
    """The keys to try for what a person wrote, in order."""
    if ref.startswith("hf:"):
        yield from _hub_lookup(ref.removeprefix("hf:"))
        return
    yield "path", posixpath.normpath(posixpath.join(folder, ref))
    yield "exact", ref
    tag = _short_tag(ref)
    yield "name", tag
    yield "name", f"{tag}:{DEFAULT_TAG}"
    name, colon, quant = ref.rpartition(":")
    if colon:
        base = _plain(_stem(name))
        yield "stem+quant", f"{base}:{_plain(quant)}"
        yield "base+quant", f"{base}:{_plain(quant)}"
    else:
        yield "base", _plain(_stem(ref))


def path_keys(path: str) -> Iterator[Key]:
    """An absolute path names its model with and without `.gguf`."""
    path = posixpath.normpath(path)
    yield "path", path
    yield "path", _stem(path)


def file_keys(
    stem: str, *, parts: tuple[str, ...], name: str | None, quantization: str | None
) -> Iterator[Key]:
    """The keys of a GGUF file (or of a set of them) called `stem` whose header says the rest."""
    names = {stem, stem + SUFFIX}
    for part in parts:
        names |= {basename(part), _stem(basename(part))}
    for spelling in sorted(names):
        yield "exact", spelling
        yield "name", spelling.casefold()
    plain = _plain(stem)
    for base, quant in _splits(plain):
        yield "stem+quant", f"{base}:{quant}"
    bases = {plain, without_quant(plain)}
    if name:
        bases |= {_plain(name), without_quant(_plain(name))}
    for base in sorted(bases):
        yield "base", base
        if quantization:
            yield "base+quant", f"{base}:{_plain(quantization)}"


def tag_keys(tag: str) -> Iterator[Key]:
    """The keys of an Ollama model, `name:tag` with the tag always written out."""
    yield "exact", tag
    yield "name", _short_tag(tag)


def alias_keys(alias: str, quantization: str | None) -> Iterator[Key]:
    """The keys of another name; `hf:org/name/FILE` is one of the Hugging Face cache."""
    yield "exact", alias
    if not alias.startswith("hf:"):
        yield "name", alias.casefold()
        return
    parts = alias.removeprefix("hf:").casefold().split("/")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    yield from _hub_keys(repository, file, quantization)


def label(stem: str, quantization: str) -> str:
    """`name:quant` as a person would write it, when the stem says its quantisation itself."""
    bare = stem[: len(without_quant(_plain(stem)))]
    return f"{bare}:{quantization}"


def basename(path: str) -> str:
    return posixpath.basename(path)


def without_quant(plain: str) -> str:
    """A plain name with a quantisation at its end taken off."""
    return _QUANT.sub("", plain)


def _hub_lookup(ref: str) -> Iterator[Key]:
    ref = ref.casefold()
    organisation, _, rest = ref.partition("/")
    name, slash, file = rest.partition("/")
    if slash:
        yield "hf-file", f"{organisation}/{name}/{_stem(file)}"
        return
    name, colon, quant = rest.partition(":")
    if colon:
        yield "hf-name+quant", f"{organisation}/{name}:{_plain(quant)}"
        yield "hf-quant", f"{organisation}/{name}:{_plain(quant)}"
    else:
        yield "hf", f"{organisation}/{name}"


def _hub_keys(repository: str, file: str, quantization: str | None) -> Iterator[Key]:
    """What a file says by its name goes before what its header says: two files of a repository
    may both be of one file type (`Q4_K_M` and `UD-Q4_K_XL`)."""
    stem = _stem(file)
    yield "hf", repository
    yield "hf-file", f"{repository}/{stem}"
    yield "hf-file", f"{repository}/{basename(stem)}"
    plain = _plain(_SPLIT.sub("", basename(stem)))
    for _, quant in _splits(plain):
        yield "hf-name+quant", f"{repository}:{quant}"
    if quantization:
        yield "hf-quant", f"{repository}:{_plain(quantization)}"


_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")


def _splits(plain: str) -> Iterator[tuple[str, str]]:
    """`name-ud-q4-k-xl` -> (`name`, `ud-q4-k-xl`) and, for `q4-k-xl` alone, (`name-ud`, ...)."""
    bare = without_quant(plain)
    if bare == plain:
        return
    quant = plain[len(bare) + 1 :]
    yield bare, quant
    if quant.startswith("ud-"):
        yield f"{bare}-ud", quant.removeprefix("ud-")


def _plain(text: str) -> str:
    """Case, spaces and underscores are all the same to people."""
    return text.casefold().replace(" ", "-").replace("_", "-")


def _stem(name: str) -> str:
    return name[: -len(SUFFIX)] if name.casefold().endswith(SUFFIX) else name


def _short_tag(ref: str) -> str:
    """As Ollama prints it: its own registry and its `library` are left out."""
    return ref.casefold().removeprefix(DEFAULT_REGISTRY).removeprefix(DEFAULT_NAMESPACE)
