"""What is at a path, in a word that changes when it does."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.runtime.marks import mark_of, state_of


def test_a_mark_changes_with_all_that_matters_and_with_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen = [mark_of(str(path))]

    def changed() -> bool:
        seen.append(mark_of(str(path)))
        return seen[-1] not in seen[:-1]

    path.write_text("a")
    assert changed()
    path.write_text("ab")
    assert changed()
    path.chmod(0o755)
    assert changed()
    other = tmp_path / "other"
    other.write_text("ab")
    other.replace(path)
    assert changed()
    path.read_text()
    os.link(path, tmp_path / "link")
    assert not changed()
    path.unlink()
    assert mark_of(str(path)) == seen[0]


def test_of_what_is_missing_it_counts_how_near_one_gets(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    far = mark_of(str(path))
    path.parent.mkdir(parents=True)
    (tmp_path / "a").chmod(0o700)
    assert mark_of(str(path)) != far
    near = mark_of(str(path))
    (tmp_path / "a" / "b" / "neighbour").touch()
    assert mark_of(str(path)) == near


def test_the_content_of_a_folder_counts_only_when_asked_for(tmp_path: Path) -> None:
    before = mark_of(str(tmp_path)), mark_of(f"{tmp_path}/")
    os.utime(tmp_path, ns=(1, 1))
    assert mark_of(str(tmp_path)) == before[0]
    assert mark_of(f"{tmp_path}/") != before[1]
    assert mark_of("/dev/null") == mark_of("/dev/null")


def test_how_a_file_is_that_was_to_be_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert state_of(str(path), None) == "missing"
    path.write_text("a")
    known = mark_of(str(path))
    assert state_of(str(path), known) == "there"
    path.write_text("ab")
    assert state_of(str(path), known) == "changed"
    assert state_of(str(tmp_path), known) == "folder"
