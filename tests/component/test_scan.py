"""Scans of real folders: what is one model, what is an error, what a rescan costs."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orchestrator.core.catalog import Catalog, Model
from orchestrator.discovery.places import Location
from orchestrator.discovery.scan import inspect, scan
from orchestrator.errors import InputError
from tests import generated_models as make
from tests.component.test_ollama_store import LIBRARY, Store


def scanned(*folders: Path, cache: Path | None = None, complete: bool = True) -> Catalog:
    places = [Location("folder", str(folder), named=True) for folder in folders]
    return scan(places, cache_file=str(cache) if cache else None, complete=complete)


def refs(catalog: Catalog) -> list[str]:
    return [model.ref for model in catalog.models]


def only(catalog: Catalog) -> Model:
    (model,) = catalog.models
    return model


def test_a_folder_of_models(tmp_path: Path) -> None:
    path = make.write_small(tmp_path / "sub" / "b.gguf")
    make.write_small(tmp_path / "a.GGUF")
    (tmp_path / "notes.txt").write_text("x")
    catalog = scanned(tmp_path)
    assert refs(catalog) == ["a", "b"]
    assert catalog.errors == ()
    model = catalog.models[1]
    info = path.stat()
    assert (model.path, model.parts, model.source) == (str(path), (str(path),), "folder")
    assert model.size_bytes == info.st_size
    identity = model.identity
    assert (identity.size, identity.mtime_ns, identity.inode) == (
        info.st_size,
        info.st_mtime_ns,
        info.st_ino,
    )


def test_one_bad_file_never_stops_a_scan(tmp_path: Path) -> None:
    make.write_small(tmp_path / "good.gguf")
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "page.gguf").write_text("<html>")
    torn = make.write_small(tmp_path / "torn.gguf", data=8192)
    os.truncate(torn, torn.stat().st_size - 100)
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    catalog = scanned(tmp_path)
    assert refs(catalog) == ["good"]
    messages = {Path(error.path).name: error.message for error in catalog.errors}
    assert set(messages) == {"empty.gguf", "page.gguf", "torn.gguf", "pipe.gguf"}
    assert "100 of its" in messages["torn.gguf"]


def test_a_missing_named_folder_is_an_error(tmp_path: Path) -> None:
    catalog = scanned(tmp_path / "none")
    assert [error.path for error in catalog.errors] == [str(tmp_path / "none")]
    quiet = scan([Location("lmstudio", str(tmp_path / "none"))], cache_file=None)
    assert quiet == Catalog()
    assert catalog.errors[0].message == "cannot be read: No such file or directory"


def test_a_named_file_is_no_folder(tmp_path: Path) -> None:
    path = make.write_small(tmp_path / "x.gguf")
    assert scanned(path).errors[0].message == "cannot be read: Not a directory"


def test_an_ollama_that_never_pulled_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    assert scan([Location("ollama", str(tmp_path))], cache_file=None) == Catalog()


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    make.write_small(tmp_path / os.fsdecode(b"caf\xe9.gguf"))
    cache = tmp_path / "c" / "headers"
    first = scanned(tmp_path, cache=cache)
    assert len(first.models) == 1
    assert scanned(tmp_path, cache=cache) == first


@contextmanager
def somebody_else() -> Generator[None]:
    """Root may read everything: inside, it is nobody. Other people stay who they are."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unreadable_folder_or_file_is_an_error() -> None:
    # Not tmp_path: nobody may not enter what pytest made for root.
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        make.write_small(folder / "good.gguf")
        closed = make.write_small(folder / "closed" / "x.gguf").parent
        file = make.write_small(folder / "secret.gguf")
        closed.chmod(0)
        file.chmod(0)
        with somebody_else():
            catalog = scanned(folder)
        closed.chmod(0o700)
    assert refs(catalog) == ["good"]
    assert {error.path for error in catalog.errors} == {str(closed), str(file)}
    assert all("Permission denied" in error.message for error in catalog.errors)


def test_loops_of_links_end(tmp_path: Path) -> None:
    make.write_small(tmp_path / "a" / "x.gguf")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "self.gguf").symlink_to(tmp_path / "self.gguf")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    catalog = scanned(tmp_path)
    assert refs(catalog) == ["x"]
    assert [Path(error.path).name for error in catalog.errors] == ["self.gguf"]


def test_a_link_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").symlink_to(tmp_path / "gone")
    (error,) = scanned(tmp_path).errors
    assert "is a link to a file that is missing" in error.message


def test_a_file_found_on_two_ways_is_one_model(tmp_path: Path) -> None:
    real = make.write_small(tmp_path / "one" / "x.gguf")
    link = tmp_path / "two" / "y.gguf"
    link.parent.mkdir()
    link.symlink_to(real)
    (tmp_path / "three").symlink_to(tmp_path / "one")
    model = only(scanned(tmp_path / "one", tmp_path / "two", tmp_path / "three", tmp_path))
    assert (model.ref, model.path) == ("x", str(real))
    assert {"y", str(link)} <= set(model.aliases)


def write_split(folder: Path, stem: str, count: int) -> list[Path]:
    files: list[Path] = []
    for number in range(1, count + 1):
        extra = [make.key_u32("split.no", number - 1), make.key_u32("split.count", count)]
        path = folder / f"{stem}-{number:05}-of-{count:05}.gguf"
        files.append(make.write_small(path, name=stem, extra=extra, data=4096 * number))
    return files


def test_a_split_model_is_one(tmp_path: Path) -> None:
    files = write_split(tmp_path, "big-Q4_K_M", 3)
    model = only(scanned(tmp_path))
    assert model.ref == "big-Q4_K_M"
    assert model.path == str(files[0])
    assert model.parts == tuple(str(file) for file in files)
    assert model.size_bytes == sum(file.stat().st_size for file in files)
    assert model.metadata.parameters == 1024 * (1 + 2 + 3)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    files = write_split(tmp_path, "big", 3)
    files[1].unlink()
    catalog = scanned(tmp_path)
    assert catalog.models == ()
    (error,) = catalog.errors
    assert "big-00002-of-00003.gguf" in error.message


def test_a_stray_part_of_very_many_is_a_short_message(tmp_path: Path) -> None:
    make.write_small(tmp_path / "x-00007-of-99999.gguf")
    (error,) = scanned(tmp_path).errors
    assert len(error.message) < 600
    assert "99998 in all" in error.message


def test_a_torn_part_is_an_error_of_that_part(tmp_path: Path) -> None:
    files = write_split(tmp_path, "big", 2)
    os.truncate(files[1], files[1].stat().st_size - 7)
    catalog = scanned(tmp_path)
    assert catalog.models == ()
    assert [error.path for error in catalog.errors] == [str(files[1])]


def projector(path: Path, feeds: int) -> Path:
    extra = [make.key_u32("clip.vision.projection_dim", feeds)]
    return make.write_small(path, architecture="clip", extra=extra)


def test_a_projector_goes_with_the_model_of_its_folder(tmp_path: Path) -> None:
    make.write_small(tmp_path / "vl-Q4_K_M.gguf")
    make.write_small(tmp_path / "vl-Q8_0.gguf")
    projector(tmp_path / "mmproj-vl-f32.gguf", 9)
    best = projector(tmp_path / "mmproj-vl-f16.gguf", 9)
    catalog = scanned(tmp_path)
    assert refs(catalog) == ["vl-Q4_K_M", "vl-Q8_0"]
    assert {model.mmproj for model in catalog.models} == {str(best)}


def test_in_a_crowded_folder_a_projector_goes_with_what_it_fits(tmp_path: Path) -> None:
    make.write_small(tmp_path / "sees.gguf")
    blind = [
        pair if b"embedding_length" not in pair else make.key_u32("llama.embedding_length", 128)
        for pair in make.small_pairs()
    ]
    (tmp_path / "blind.gguf").write_bytes(make.header(blind))
    path = projector(tmp_path / "mmproj.gguf", 64)
    models = {model.ref: model.mmproj for model in scanned(tmp_path).models}
    assert models == {"sees": str(path), "blind": None}


def test_what_goes_beside_a_model_is_no_model(tmp_path: Path) -> None:
    projector(tmp_path / "eyes.gguf", 64)
    make.write_small(tmp_path / "lora.gguf", extra=[make.key_text("general.type", "adapter")])
    assert scanned(tmp_path) == Catalog()


def write_hub(root: Path, repository: str, revision: str, file: str, content: str) -> Path:
    folder = root / f"models--{repository.replace('/', '--')}"
    blob = make.write_small(folder / "blobs" / content, name=content)
    link = folder / "snapshots" / revision / file
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def test_a_hugging_face_cache(tmp_path: Path) -> None:
    write_hub(tmp_path, "org/name-GGUF", "aaa", "x-Q4_K_M.gguf", "old")
    newest = write_hub(tmp_path, "org/name-GGUF", "bbb", "x-Q4_K_M.gguf", "new")
    other = write_hub(tmp_path, "org/name-GGUF", "aaa", "sub/y.gguf", "other")
    refs_main = tmp_path / "models--org--name-GGUF" / "refs" / "main"
    refs_main.parent.mkdir()
    refs_main.write_text("bbb")
    catalog = scan([Location("huggingface", str(tmp_path))], cache_file=None)
    assert [(model.ref, model.path) for model in catalog.models] == [
        ("x-Q4_K_M", str(newest)),
        ("y", str(other)),
    ]
    assert catalog.models[0].metadata.name == "new"
    assert catalog.models[0].source == "huggingface"
    assert catalog.models[0].aliases == ("hf:org/name-GGUF/x-Q4_K_M.gguf",)


def test_a_torn_hub_download_is_an_error(tmp_path: Path) -> None:
    link = write_hub(tmp_path, "org/name", "aaa", "x.gguf", "blob")
    link.resolve().unlink()
    (error,) = scanned(tmp_path).errors
    assert error.path == str(link)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "ollama")


def test_an_ollama_store(tmp_path: Path, store: Store) -> None:
    weights = make.write_small(tmp_path / "w.gguf", name="Llama").read_bytes()
    store.tag(f"{LIBRARY}/llama3.1/8b", model=weights)
    store.tag(f"{LIBRARY}/llama3.1/latest", model=weights)
    store.tag(f"{LIBRARY}/bad/latest", model=b"not a model")
    catalog = scan([Location("ollama", str(store.root))], cache_file=None)
    assert refs(catalog) == ["llama3.1:8b", "llama3.1:latest"]
    assert catalog.models[0].source == "ollama"
    assert catalog.models[0].metadata.name == "Llama"
    assert Path(catalog.models[0].path).name.startswith("sha256-")
    assert len(catalog.errors) == 1


def test_a_store_given_as_a_folder_is_read_as_a_store(tmp_path: Path, store: Store) -> None:
    store.tag(f"{LIBRARY}/x/y", model=make.write_small(tmp_path / "w.gguf").read_bytes())
    assert refs(scanned(store.root)) == ["x:y"]


def test_the_first_store_that_has_a_tag_wins(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path / "other")
    store.tag(f"{LIBRARY}/x/y", model=make.write_small(tmp_path / "a.gguf", name="a").read_bytes())
    other.tag(f"{LIBRARY}/x/y", model=make.write_small(tmp_path / "b.gguf", name="b").read_bytes())
    assert only(scanned(store.root, other.root)).metadata.name == "a"


def test_a_link_to_a_blob_is_another_name_of_its_tag(tmp_path: Path, store: Store) -> None:
    store.tag(f"{LIBRARY}/x/y", model=make.write_small(tmp_path / "w.gguf").read_bytes())
    (blob,) = (store.root / "blobs").iterdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "nice.gguf").symlink_to(blob)
    model = only(scanned(store.root, folder))
    assert model.ref == "x:y"
    assert "nice" in model.aliases


# The cache


def test_a_rescan_opens_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "headers"
    path = make.write_small(tmp_path / "m" / "a.gguf", name="kept")
    first = scanned(tmp_path / "m", cache=cache)
    # Other bytes under an unchanged identity: only a reader of the file would notice.
    info = path.stat()
    with path.open("r+b") as file:
        file.write(b"XXXX")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert scanned(tmp_path / "m", cache=cache) == first


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    cache = tmp_path / "headers"
    path = make.write_small(tmp_path / "m" / "a.gguf", name="old")
    scanned(tmp_path / "m", cache=cache)
    make.write_small(path, name="newer")
    assert only(scanned(tmp_path / "m", cache=cache)).metadata.name == "newer"


def test_an_error_is_remembered_too(tmp_path: Path) -> None:
    cache = tmp_path / "headers"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "bad.gguf").write_bytes(b"no model")
    first = scanned(tmp_path / "m", cache=cache)
    assert first.errors
    assert scanned(tmp_path / "m", cache=cache) == first


def test_the_cache_is_private_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    cache = tmp_path / "c" / "headers"
    make.write_small(tmp_path / "m" / "a.gguf")
    scanned(tmp_path / "m", cache=cache)
    assert cache.stat().st_mode & 0o777 == 0o600
    assert os.listdir(cache.parent) == ["headers"]


@pytest.mark.parametrize("damage", ["torn", "alien", "empty", "binary", "folder"])
def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "headers"
    make.write_small(tmp_path / "m" / "a.gguf")
    good = scanned(tmp_path / "m", cache=cache)
    raw = cache.read_bytes()
    cache.unlink()
    if damage == "folder":
        cache.mkdir()
    else:
        contents = {"torn": raw[:-5], "alien": b'{"x": 1}', "empty": b"", "binary": bytes(500)}
        cache.write_bytes(contents[damage])
    assert scanned(tmp_path / "m", cache=cache) == good


def test_vanished_files_are_forgotten_others_are_kept(tmp_path: Path) -> None:
    cache = tmp_path / "headers"
    gone = make.write_small(tmp_path / "m" / "gone.gguf")
    kept = make.write_small(tmp_path / "other" / "kept.gguf")
    scanned(tmp_path / "m", tmp_path / "other", cache=cache)
    gone.unlink()
    scanned(tmp_path / "m", cache=cache)
    raw = cache.read_text()
    assert str(gone) not in raw
    assert str(kept) in raw


def test_a_quick_scan_is_completed_by_the_next(tmp_path: Path) -> None:
    cache = tmp_path / "headers"
    (tmp_path / "m").mkdir()
    make.write_big(tmp_path / "m" / "big.gguf", name="Big", tokens=3000, merges=5000)
    quick = only(scanned(tmp_path / "m", cache=cache, complete=False))
    assert (quick.metadata.complete, quick.metadata.name) == (False, "Big")
    full = only(scanned(tmp_path / "m", cache=cache))
    assert (full.metadata.complete, full.metadata.quantization) == (True, "Q4_K_M")
    assert only(scanned(tmp_path / "m", cache=cache, complete=False)) == full


# One explicit file


def test_inspect_a_file_whatever_it_is_called(tmp_path: Path) -> None:
    path = make.write_small(tmp_path / "sha256-abc", name="blob")
    model = inspect(str(path))
    assert (model.path, model.metadata.name) == (str(path), "blob")


def test_inspect_any_part_of_a_split_model(tmp_path: Path) -> None:
    files = write_split(tmp_path, "big", 3)
    model = inspect(str(files[2]))
    assert model.path == str(files[0])
    assert len(model.parts) == 3


def test_inspect_finds_the_projector(tmp_path: Path) -> None:
    make.write_small(tmp_path / "vl.gguf")
    path = projector(tmp_path / "mmproj.gguf", 64)
    assert inspect(str(tmp_path / "vl.gguf")).mmproj == str(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.gguf", "does not exist"),
        (".", "is a folder"),
        ("empty.gguf", "is empty"),
        ("mmproj.gguf", "is a projector"),
        ("lora.gguf", "not a model that can be served"),
        ("half-00001-of-00002.gguf", "half-00002-of-00002.gguf"),
    ],
)
def test_inspect_says_why_not(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty.gguf").touch()
    projector(tmp_path / "mmproj.gguf", 64)
    make.write_small(tmp_path / "lora.gguf", extra=[make.key_text("general.type", "adapter")])
    make.write_small(tmp_path / "half-00001-of-00002.gguf")
    with pytest.raises(InputError, match=message):
        inspect(str(tmp_path / name))
