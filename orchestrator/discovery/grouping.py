"""Which files belong together: the parts of a split model, and the projectors beside models."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from orchestrator.core.catalog import CatalogError
from orchestrator.core.problem import listing
from orchestrator.discovery.walk import GgufFile

_PART = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})$")
_MMPROJ = re.compile(r"(?:^|[-._])mmproj(?:[-._]|$)", re.IGNORECASE)
_PRECISIONS = ("f16", "bf16", "q8_0", "f32")
"""The order in which projectors of one model are preferred."""


class Artefact(Struct, frozen=True):
    """One model by its files: `parts` in order, the first is the one to load."""

    stem: str
    parts: tuple[GgufFile, ...]

    @property
    def first(self) -> GgufFile:
        return self.parts[0]

    @property
    def size_bytes(self) -> int:
        return sum(part.identity.size for part in self.parts)


class Group(Struct, frozen=True):
    """What the GGUF files of one folder are."""

    models: tuple[Artefact, ...]
    projectors: tuple[GgufFile, ...]
    errors: tuple[CatalogError, ...]


def grouped(files: Iterable[GgufFile]) -> Group:
    """Sort the files of one folder; a split model with a part missing is an error."""
    models: list[Artefact] = []
    projectors: list[GgufFile] = []
    errors: list[CatalogError] = []
    split: dict[tuple[str, int], dict[int, GgufFile]] = {}
    for file in files:
        stem = stem_of(file.path)
        part = _PART.match(stem)
        if _MMPROJ.search(stem):
            projectors.append(file)
        elif part and int(part["count"]) > 1:
            parts = split.setdefault((part["stem"], int(part["count"])), {})
            parts[int(part["number"])] = file
        else:
            models.append(Artefact(part["stem"] if part else stem, (file,)))
    for (stem, count), parts in split.items():
        whole = _whole(stem, count, parts)
        if isinstance(whole, CatalogError):
            errors.append(whole)
        else:
            models.append(whole)
    models.sort(key=lambda model: model.first.path)
    projectors.sort(key=lambda file: (_precision(file), file.path))
    return Group(tuple(models), tuple(projectors), tuple(errors))


def stem_of(path: str) -> str:
    """The file name without `.gguf`."""
    name = os.path.basename(path)
    return name[:-5] if name.lower().endswith(".gguf") else name


class Companions(Struct, frozen=True):
    """The projectors of one folder: path and the embedding size each feeds, preferred first.

    In a folder of one model (in any number of quantisations: `alone`) they are its own. Among
    several, only a size that fits tells whose, or every model of a crowded folder would be given
    a projector that it cannot load.
    """

    projectors: tuple[tuple[str, int | None], ...] = ()
    alone: bool = False

    def of(self, embedding_length: int | None) -> str | None:
        """The projector that goes with a model of that embedding size."""
        for path, feeds in self.projectors:
            if feeds is not None and feeds == embedding_length:
                return path
        return self.projectors[0][0] if self.projectors and self.alone else None


def of_one_family(models: Sequence[Artefact]) -> bool:
    """Whether the models are one model, in different quantisations."""
    return len({family(model.stem) for model in models}) == 1


def family(stem: str) -> str:
    """What the quantisations of one model share: its name up to a quantisation or precision."""
    return re.sub(r"[-._](?:ud[-_])?(?:i?q\d|tq\d|bf16|f16|f32|mxfp4).*$", "", stem.lower())


def _whole(stem: str, count: int, parts: dict[int, GgufFile]) -> Artefact | CatalogError:
    # Counting to 99,999 for one stray file is no danger, listing them all would be.
    missing = [number for number in range(1, count + 1) if number not in parts]
    if not missing:
        return Artefact(stem, tuple(parts[number] for number in range(1, count + 1)))
    names = [f"{stem}-{number:05}-of-{count:05}.gguf" for number in missing[:100]]
    more = f" ({len(missing)} in all)" if len(missing) > 8 else ""
    first = parts[min(parts)]
    return CatalogError(
        first.path,
        f"is part of a split model of {count} files, of which are missing: {listing(names)}{more}",
    )


def _precision(file: GgufFile) -> int:
    stem = stem_of(file.path).lower()
    for rank, precision in enumerate(_PRECISIONS):
        if re.search(rf"(?:^|[-._]){precision}$", stem):
            return rank
    return len(_PRECISIONS)
