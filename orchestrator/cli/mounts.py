"""What of this machine a container has to see, so that profiles mean the same in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.cli.check import resolve_here
from orchestrator.cli.sources import applied_sources
from orchestrator.core.export_compose import STATE, Mounts
from orchestrator.core.exported import Exported
from orchestrator.core.problem import Problem
from orchestrator.core.spec import Built, Imported, InstanceSpec
from orchestrator.discovery.places import Location, locations
from orchestrator.settings import Settings

_VARIABLES = {
    "folder": "ORCHESTRATE_MODELS",
    "lmstudio": "ORCHESTRATE_MODELS",
    "huggingface": "HF_HUB_CACHE",
    "llama.cpp": "LLAMA_CACHE",
}
"""Which variable tells discovery where a place lies. Ollama's store is found in its home there."""

_STORE = f"{STATE}/.ollama/models"


def mounts_of(files: Sequence[str], exported: Exported, settings: Settings) -> Mounts:
    """The folders of the profiles, and of all that they read. What is not there cannot be
    mounted: problems are shown, and end it."""
    from orchestrator.cli.apply import reject
    from orchestrator.cli.client import RejectedError

    resolution = resolve_here(files, settings, force=True)
    problems = [one for one in resolution.problems if not _is_of_the_machine(one)]
    if problems:
        errors = [problem.as_json() for problem in problems]
        reject(RejectedError(errors[0]["message"], "", errors), as_json=False)
    places = list(_places(exported, settings, files))
    used: set[Location] = set()
    folders = {profile.folder: profile.folder for profile in exported.profiles}
    for path in {path for spec in resolution.desired.values() for path in _read(spec)}:
        place = next((one for one in places if _is_in(path, one.path)), None)
        if place is not None:
            used.add(place)
        else:
            # A link, and what it leads to.
            behind = os.path.realpath(path)
            folders.update({os.path.dirname(one): os.path.dirname(one) for one in (path, behind)})
    env = _mount_places(used, folders)
    return Mounts(_outermost(folders), env)


def _is_of_the_machine(problem: Problem) -> bool:
    """It is another machine that is to have the GPU, and the image that has the program."""
    return not {"resources", "binary"}.isdisjoint(problem.path)


def _mount_places(places: Iterable[Location], folders: dict[str, str]) -> dict[str, str]:
    """Add them to `folders`; the variables that have discovery look there."""
    env: dict[str, str] = {}
    for place in sorted(places, key=lambda place: place.path):
        if place.source == "ollama":
            folders[_STORE] = place.path
            continue
        folders[place.path] = place.path
        name = _VARIABLES[place.source]
        env[name] = f"{env[name]}:{place.path}" if name in env else place.path
    return env


def user_of(mounts: Mounts) -> str:
    """Who may read all that: whoever asks. For root that is the account of the image, unless what
    is mounted lies where only root comes."""
    if os.getuid() != 0:
        return f"{os.getuid()}:{os.getgid()}"
    return "0:0" if any(_is_in(folder, "/root") for folder in mounts.folders) else ""


def _read(spec: InstanceSpec) -> Iterator[str]:
    yield from (file.path for file in spec.inputs if file.role != "binary")
    for model in spec.holds.models if spec.holds is not None else ():
        if isinstance(model.origin, Built):
            yield model.origin.path
        elif isinstance(model.origin, Imported):
            yield from (file.path for file in model.origin.files)


def _places(exported: Exported, settings: Settings, files: Sequence[str]) -> Iterator[Location]:
    sources = applied_sources(files, settings, os.environ)
    dirs = [
        os.path.normpath(os.path.join(profile.folder, one))
        for profile in exported.profiles
        for one in profile.config.catalog.dirs
    ]
    home, cwd = os.path.expanduser("~"), sources[0].cwd
    yield from locations(sources[0].env, home=home, cwd=cwd, dirs=dirs)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _outermost(folders: dict[str, str]) -> dict[str, str]:
    """Without those that another one has in it, at the same place."""
    return {
        target: source
        for target, source in folders.items()
        if not any(
            other != target
            and _is_in(target, other)
            and source == folders[other] + target[len(other.rstrip("/")) :]
            for other in folders
        )
    }
