"""Profiles on disk, through the API: which are found, what is written, and over what."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.profile_files import revision_of
from orchestrator.core.source import MAX_BYTES
from orchestrator.runtime.rewrite import ChangedMeanwhileError, rewrite
from orchestrator.runtime.state import AppliedSource
from tests.served_api import Api, run

NOTHING = "instances: {}\n"


def source(path: Path) -> AppliedSource:
    return AppliedSource(str(path), path.is_dir(), {}, str(path.parent))


async def listed(served: Api) -> dict[str, Any]:
    rows = (await served.ask("GET", "/v1/profiles")).json["profiles"]
    return {os.path.basename(row["file"]): row for row in rows}


# --- finding --------------------------------------------------------------------------------------


def test_profiles_are_found_where_apply_would_look_and_beside_what_is_applied(
    tmp_path: Path,
) -> None:
    usual, other, folder = (tmp_path / name for name in ("profiles", "other", "folder"))
    for one in (usual, other, folder):
        one.mkdir()
    (usual / "a.yaml").write_text("name: other-name\ndescription: the first\n" + NOTHING)
    (usual / "broken.yml").write_text("instances:\n  x: {prot: 1}\n")
    (usual / ".hidden.yaml").write_text(NOTHING)
    (usual / "notes.txt").write_text(NOTHING)
    (other / "applied.yaml").write_text(NOTHING)
    (other / "sibling.yaml").write_text(f"# a comment\n{NOTHING}")
    (other / "compose.yaml").write_text("services: {}\n")
    (folder / "inside.yaml").write_text(NOTHING)

    async def story(served: Api) -> None:
        assert set(await listed(served)) == {"a.yaml", "broken.yml"}
        await served.applied.apply([source(other / "applied.yaml"), source(folder)], add=False)
        served.reconciler.step()
        # Now the usual place is where that shell stood.
        (other / "profiles").symlink_to(usual)
        (tmp_path / "profiles").touch()
        rows = await listed(served)
        assert set(rows) == {
            *("a.yaml", "broken.yml", "applied.yaml", "sibling.yaml", "inside.yaml")
        }
        active = {name for name, row in rows.items() if row["active"]}
        assert active == {"applied.yaml", "inside.yaml"}
        assert (rows["a.yaml"]["name"], rows["a.yaml"]["description"]) == (
            "other-name",
            "the first",
        )
        assert not rows["broken.yml"]["ok"]
        assert rows["broken.yml"]["errors"][0]["line"] == 2
        for word in ("a", "other-name", "%2F".join(rows["a.yaml"]["file"].split("/"))):
            answer = await served.ask("GET", f"/v1/profiles/{word}")
            assert answer.json["file"] == rows["a.yaml"]["file"], word

    run(tmp_path, story)


def test_of_several_with_one_name_the_path_says_which(tmp_path: Path) -> None:
    first, second = tmp_path / "profiles", tmp_path / "second"
    for one in (first, second):
        one.mkdir()
        (one / "p.yaml").write_text(f"{NOTHING}# {one.name}\n")

    async def story(served: Api) -> None:
        await served.applied.apply([source(second), source(first)], add=False)
        answer = await served.ask("GET", "/v1/profiles/p")
        assert (answer.status, answer.error["code"]) == (409, "ambiguous")
        assert str(second / "p.yaml") in answer.error["hint"]
        quoted = str(second / "p.yaml").replace("/", "%2F")
        assert "# second" in (await served.ask("GET", f"/v1/profiles/{quoted}")).json["text"]

    run(tmp_path, story)


def test_what_a_profile_refers_to_is_of_the_shell_that_applied_it(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    file = tmp_path / "profiles" / "p.yaml"
    file.write_text("description: '${env:WHAT}'\n" + NOTHING)

    async def story(served: Api) -> None:
        assert "WHAT is not set" in (await listed(served))["p.yaml"]["errors"][0]["message"]
        told = AppliedSource(str(file), False, {"WHAT": "that"}, str(tmp_path))
        await served.applied.apply([told], add=False)
        assert (await listed(served))["p.yaml"]["description"] == "that"

    run(tmp_path, story)


# --- writing --------------------------------------------------------------------------------------


def test_of_two_who_edit_the_same_text_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    file = tmp_path / "profiles" / "p.yaml"
    file.write_text(NOTHING)

    async def story(served: Api) -> None:
        read = (await served.ask("GET", "/v1/profiles/p")).json

        async def put(text: str, revision: str) -> Any:
            body = json.dumps({"text": text, "revision": revision}).encode()
            return await served.ask("PUT", "/v1/profiles/p", body)

        first = await put(f"{NOTHING}# first\n", read["revision"])
        second = await put(f"{NOTHING}# second\n", read["revision"])
        assert (first.status, second.status) == (200, 409)
        assert second.json["revision"] == first.json["revision"] == revision_of(file.read_bytes())
        assert file.read_text().endswith("# first\n")
        third = await put(f"{NOTHING}# second\n", second.json["revision"])
        assert third.status == 200
        for wrong in ("", "instances: 7\n", "\ud800", "x" * (MAX_BYTES + 1), "instances: {}\0"):
            answer = await put(wrong, third.json["revision"])
            assert (answer.status, answer.error["code"]) == (422, "bad-input"), wrong[:10]
        assert file.read_text().endswith("# second\n")
        assert os.listdir(file.parent) == ["p.yaml"]

    run(tmp_path, story)


def test_a_file_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    file = tmp_path / "profiles" / "p.yaml"
    file.write_text(NOTHING)

    async def story(served: Api) -> None:
        await served.applied.apply([source(file)], add=False)
        read = (await served.ask("GET", "/v1/profiles/p")).json
        file.unlink()
        body = json.dumps({"text": read["text"], "revision": read["revision"]}).encode()
        answer = await served.ask("PUT", "/v1/profiles/p", body)
        assert answer.status in (400, 422)
        assert not file.exists()

    run(tmp_path, story)


def test_a_rewrite_is_whole_or_nothing_for_who_reads(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    texts = {bytes([65 + n]) * 50_000 for n in range(20)}
    file.write_bytes(next(iter(texts)))
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(file.read_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    for text in texts:
        rewrite(str(file), text, still=lambda _: True, limit=1 << 20)
    done.set()
    looking.join()
    assert seen <= texts
    with pytest.raises(ChangedMeanwhileError):
        rewrite(str(file), b"x", still=lambda _: False, limit=1 << 20)
    assert file.read_bytes() in texts
    assert os.listdir(tmp_path) == ["p.yaml"]


def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    link, pipe = tmp_path / "link.yaml", tmp_path / "pipe.yaml"
    link.symlink_to(target)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path / "missing", tmp_path):
        with pytest.raises(OSError):  # noqa: PT011 - each has a number of its own
            rewrite(str(path), b"theirs", still=lambda _: True, limit=1 << 20)
    assert target.read_text() == "mine"


def test_a_file_that_is_mounted_by_itself_is_written_in_place(tmp_path: Path) -> None:
    """As docker does with `-v ./p.yaml:/profiles/p.yaml`."""
    real, mounted = tmp_path / "real.yaml", tmp_path / "in" / "p.yaml"
    mounted.parent.mkdir()
    real.write_text("a longer text than what comes\n")
    mounted.touch()
    if subprocess.run(["mount", "--bind", real, mounted], check=False).returncode != 0:
        pytest.skip("nothing may be mounted here: a file that is a mount goes untested")
    try:
        rewrite(str(mounted), b"short\n", still=lambda old: b"longer" in old, limit=1 << 20)
        assert real.read_text() == "short\n"
        assert os.listdir(mounted.parent) == ["p.yaml"]
    finally:
        subprocess.run(["umount", mounted], check=True)
