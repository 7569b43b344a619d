"""Where models are looked for, from an environment that is handed in."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.discovery.places import Location, locations


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def found(env: dict[str, str], home: Path, cwd: Path, *dirs: str) -> list[Location]:
    """The locations of the test's own world: a real Ollama of this machine is not in it."""
    every = locations(env, home=str(home), cwd=str(cwd), dirs=dirs)
    return [place for place in every if place.path.startswith(str(home.parent))]


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_nothing_is_there(home: Path, cwd: Path) -> None:
    assert found({}, home, cwd) == []


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        (".cache/huggingface/hub", "huggingface"),
        (".cache/llama.cpp", "llama.cpp"),
        (".lmstudio/models", "lmstudio"),
        (".cache/lm-studio/models", "lmstudio"),
        (".ollama/models", "ollama"),
    ],
)
def test_where_programs_put_theirs(home: Path, cwd: Path, folder: str, source: str) -> None:
    path = made(home / folder)
    (place,) = found({}, home, cwd)
    assert (place.source, place.path, place.named) == (source, str(path), False)


@pytest.mark.parametrize(
    ("variable", "below", "source"),
    [
        ("HF_HUB_CACHE", "", "huggingface"),
        ("HUGGINGFACE_HUB_CACHE", "", "huggingface"),
        ("HF_HOME", "hub", "huggingface"),
        ("LLAMA_CACHE", "", "llama.cpp"),
        ("OLLAMA_MODELS", "", "ollama"),
    ],
)
def test_variables_are_honoured(
    home: Path, cwd: Path, tmp_path: Path, variable: str, below: str, source: str
) -> None:
    path = made(tmp_path / "else" / below)
    (place,) = found({variable: str(tmp_path / "else")}, home, cwd)
    assert (place.source, place.path) == (source, str(path))


def test_a_variable_replaces_the_usual_place(home: Path, cwd: Path, tmp_path: Path) -> None:
    made(home / ".cache/huggingface/hub")
    made(tmp_path / "first")
    env = {"HF_HUB_CACHE": str(tmp_path / "first"), "HF_HOME": str(tmp_path / "second")}
    assert [place.path for place in found(env, home, cwd)] == [str(tmp_path / "first")]


def test_the_cache_home_moves_both_caches(home: Path, cwd: Path, tmp_path: Path) -> None:
    hub = made(tmp_path / "xdg/huggingface/hub")
    llama = made(tmp_path / "xdg/llama.cpp")
    env = {"XDG_CACHE_HOME": str(tmp_path / "xdg")}
    assert [place.path for place in found(env, home, cwd)] == [str(hub), str(llama)]


def test_every_ollama_store_is_read_the_named_first(home: Path, cwd: Path, tmp_path: Path) -> None:
    own = made(home / ".ollama/models")
    other = made(tmp_path / "store")
    env = {"OLLAMA_MODELS": str(other)}
    assert [place.path for place in found(env, home, cwd)] == [str(other), str(own)]


def test_catalog_folders_come_first_and_in_order(home: Path, cwd: Path, tmp_path: Path) -> None:
    default, named = made(cwd / "models"), made(tmp_path / "named")
    first, second = made(tmp_path / "a"), made(home / "b")
    env = {"ORCHESTRATE_MODELS": f"{first}::~/b"}
    places = found(env, home, cwd, str(named))
    assert [place.path for place in places] == [str(p) for p in (default, named, first, second)]
    assert [place.named for place in places] == [False, True, True, True]


def test_relative_folders_are_the_callers(home: Path, cwd: Path) -> None:
    path = made(cwd / "extra")
    (place,) = found({"ORCHESTRATE_MODELS": "./extra"}, home, cwd)
    assert place.path == str(path)


def test_one_real_folder_is_looked_into_once(home: Path, cwd: Path, tmp_path: Path) -> None:
    real = made(tmp_path / "real")
    (cwd / "models").symlink_to(real)
    env = {"ORCHESTRATE_MODELS": f"{real}:{real}/", "LLAMA_CACHE": str(real)}
    assert [place.path for place in found(env, home, cwd)] == [str(cwd / "models")]


def test_a_named_folder_that_is_missing_is_kept_to_be_reported(
    home: Path, cwd: Path, tmp_path: Path
) -> None:
    gone = str(tmp_path / "gone")
    assert found({}, home, cwd, gone) == [Location("folder", gone, named=True)]


def test_the_default_folder_named_too_must_exist(home: Path, cwd: Path) -> None:
    named = str(cwd / "models")
    assert found({}, home, cwd, named) == [Location("folder", named, named=True)]
