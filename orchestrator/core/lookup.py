"""What to say when a reference names no model, or several: the same words wherever one stands."""

from __future__ import annotations

import posixpath

from orchestrator.core.catalog import Ambiguous, Catalog, CatalogError, Unknown
from orchestrator.core.naming import expanded
from orchestrator.core.problem import listing


def not_found(
    catalog: Catalog, ref: str, found: Ambiguous | Unknown, *, folder: str
) -> tuple[str, str]:
    """The message, and what to do. `folder` is what a path is relative to."""
    broken = _broken_file(catalog, ref, folder)
    if broken is not None:
        said = broken.message
        what = said if broken.path in said else f"{broken.path}: {said}"
        if broken.hint:
            return f"model {ref!r} cannot be used: {what}", broken.hint
        return f"model {ref!r} cannot be read: {what}", "download or copy it again"
    if isinstance(found, Ambiguous):
        candidates = listing([candidate.path for candidate in found.candidates])
        return f"model {ref!r} is ambiguous", f"name one of: {candidates}"
    near = " or ".join(repr(name) for name in found.nearest)
    hint = f"did you mean {near}?" if near else "`orchestrate models` lists what was found"
    return f"unknown model {ref!r}", hint


def _broken_file(catalog: Catalog, ref: str, folder: str) -> CatalogError | None:
    """A file that is there but cannot be read says more than a model that is not known."""
    wanted = posixpath.normpath(posixpath.join(folder, expanded(ref, catalog.home)))
    stems = {posixpath.basename(ref), f"{posixpath.basename(ref)}.gguf"}
    for error in catalog.errors:
        if error.path == wanted or posixpath.basename(error.path) in stems:
            return error
    return None
