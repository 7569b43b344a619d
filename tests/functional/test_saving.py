"""Every way of saving a file, with a real daemon and real engines.

What a save means is the same however it is done: what it changed is taken up, once, and everything
else goes on. The ways themselves are in `tests/saving.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml

from orchestrator.runtime import watch
from tests.fakes import fake
from tests.look import owned, pids, rows, status, until_phase, until_row
from tests.ollama_world import OllamaWorld, ask
from tests.saving import WAYS, halves, point, publish, save
from tests.world import World

COMMENT = "# so that the first half is a profile by itself\n" * 12


def declared(world: World, instances: Mapping[str, Any]) -> str:
    """The text of a profile. Its first half has the first instance alone."""
    whole = {name: {"model": str(world.model), **(more or {})} for name, more in instances.items()}
    text = yaml.safe_dump({"instances": whole}, sort_keys=False)
    second = re.compile(r"^  \w+:$", re.MULTILINE).findall(text)[1:2]
    return text.replace(second[0], COMMENT + second[0]) if second else text


def sized(world: World, size: int, **more: Any) -> str:
    """Two instances: one of this context size, and one that is never edited."""
    return declared(world, {"a": {"flags": {"ctx-size": size}, **more}, "b": None})


def until_serves(world: World, size: int, name: str = "a") -> None:
    """Until an instance is ready with this context size, as it says itself."""

    def serves(row: Mapping[str, Any]) -> bool:
        if row["phase"] != "ready":
            return False
        try:
            return world.props(row["port"])["default_generation_settings"]["n_ctx"] == size
        except OSError:
            # It has just been replaced.
            return False

    until_row(world, name, serves, f"serves {size}")


def told(world: World) -> tuple[list[str], list[str]]:
    """What was said of edits, and of mistakes in files."""
    events = world.events()
    edits = [e["message"] for e in events if e["type"] == "applied" and e.get("reason") == "edited"]
    return edits, [e["message"] for e in events if e["type"].startswith("profile")]


def text_file(world: World, name: str, text: str) -> Path:
    path = world.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- programs that save ---------------------------------------------------------------------------


@pytest.mark.parametrize("names", [list(WAYS)[::2], list(WAYS)[1::2]], ids=["these", "those"])
def test_every_program_that_saves_a_profile(world: World, names: list[str]) -> None:
    """Half a file would stop `b`, and a file that is away would be a mistake: see `InBetween`."""
    path = text_file(world, "p.yaml", sized(world, 256))
    world.run("apply", path)
    before = pids(world)
    for number, name in enumerate(names, 1):
        size = 256 * (1 + number % 2)
        save(WAYS[name], path, sized(world, size, description=name))
        until_serves(world, size)
        assert rows(world)["a"]["description"] == name
        assert pids(world)["b"] == before["b"], name
    edits, mistakes = told(world)
    assert (len(edits), mistakes) == (len(names), []), "one edit for each"
    assert sorted(p.name for p in world.folder.iterdir() if p.name.startswith("p.yaml")) == [
        path.name
    ], "they tidied up"


def test_a_save_that_takes_longer_than_the_slow_look(world: World) -> None:
    """No notice is needed for half a file to be looked at; the kernel says that it is written."""
    path = text_file(world, "p.yaml", sized(world, 256))
    world.run("apply", path)
    before = pids(world)
    first, second = halves(sized(world, 512))
    with path.open("w") as writing:
        for piece in (first, second):
            writing.write(piece)
            writing.flush()
            time.sleep(watch.RECHECK + 0.2)
            assert pids(world) == before
    until_serves(world, 512)
    assert pids(world)["b"] == before["b"]
    edits, mistakes = told(world)
    assert (len(edits), mistakes) == (1, [])


def test_a_file_that_is_written_without_a_change(world: World) -> None:
    """Contents are compared: without that, each of these would be an edit."""
    text = sized(world, 256)
    path = text_file(world, "p.yaml", text)
    world.run("apply", path)
    before, number = pids(world), len(world.events())
    os.utime(path)
    for way in WAYS.values():
        save(way, path, text)
    path.chmod(0o600)
    world.write("unrelated.yaml", "nonsense: [")
    # An edit that comes after all of them shows that they were looked at.
    save(WAYS["write_rename"], path, sized(world, 256, description="edited"))
    until_row(world, "a", lambda row: row["description"] == "edited")
    assert pids(world) == before
    new = [(e["type"], e.get("reason")) for e in world.events()[number:]]
    assert [one for one in new if one[0] != "converged"] == [("applied", "edited"), ("updated", "")]


def test_of_200_saves_in_a_second_two_are_passes_and_the_last_one_counts(world: World) -> None:
    """A burst ends with a silence that grows with it: 10 ms alone would be a pass in each."""
    path = text_file(world, "p.yaml", sized(world, 256, description="0"))
    world.run("apply", path)
    before = pids(world)
    stalls = 0
    for number in range(1, 201):
        began = time.monotonic()
        way = (WAYS["write_rename"], WAYS["vs_code"])[number % 2]
        for _ in way(path, sized(world, 512 if number == 200 else 256, description=str(number))):
            pass
        time.sleep(max(0.0, 0.005 - (time.monotonic() - began)))
        # A machine that does not run us for so long makes two bursts of one.
        stalls += time.monotonic() - began > watch.SAME_BURST
    until_serves(world, 512)
    assert rows(world)["a"]["description"] == "200"
    assert pids(world)["b"] == before["b"]
    edits, mistakes = told(world)
    assert mistakes == []
    assert 1 <= len(edits) <= 2 + stalls


# --- links and mounts -----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["", "a.yaml"], ids=["the folder", "a file"])
def test_a_config_map_of_a_cluster(world: World, what: str) -> None:
    """The file that is read never changes: a link on the way to it is what is watched."""
    folder = world.folder / "config"
    one, other = declared(world, {"b": None}), declared(world, {"c": None})

    def a(size: int) -> str:
        return declared(world, {"a": {"flags": {"ctx-size": size}}})

    publish(folder, {"a.yaml": a(256), "b.yaml": one})
    world.run("apply", folder / what)
    before = pids(world)
    for size in (512, 256):
        publish(folder, {"a.yaml": a(size), "b.yaml": one})
        until_serves(world, size)
        assert pids(world).get("b") == before.get("b")
    if not what:
        publish(folder, {"a.yaml": a(256), "c.yaml": other})
        until_phase(world, "c", "ready")
        world.until(lambda: "b" not in rows(world), "its file is no more")
    assert told(world)[1] == []


def test_a_profile_behind_a_link_of_which_the_target_or_the_link_changes(world: World) -> None:
    """Links are followed one by one, and each is watched where it lies."""
    path, current = world.folder / "p.yaml", world.folder / "far" / "current"
    for version, size in (("v1", 256), ("v2", 512)):
        text_file(world, f"far/{version}/real.yaml", sized(world, size))
    current.symlink_to("v1")
    path.symlink_to(current / "real.yaml")
    world.run("apply", path)
    before = pids(world)
    save(WAYS["in_place"], current / "real.yaml", sized(world, 512))
    until_serves(world, 512)
    save(WAYS["write_rename"], world.folder / "far/v1/real.yaml", sized(world, 256))
    until_serves(world, 256)
    point(current, "v2")
    until_serves(world, 512)
    point(path, world.folder / "far/v1/real.yaml")
    until_serves(world, 256)
    assert pids(world)["b"] == before["b"]
    assert told(world)[1] == []


def apart(world: World, script: str, *words: object, **env: str) -> None:
    """Run a shell script in a mount namespace of its own, or skip where that is not permitted."""
    prefix = (
        ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    )
    tried = subprocess.run([*prefix, "mount", "--bind", "/tmp", "/tmp"], capture_output=True)
    if tried.returncode != 0:
        pytest.skip("PRIVATE MOUNTS ARE NOT PERMITTED HERE: no bind-mounted profile was tested")
    subprocess.run(
        [*prefix, "sh", "-ec", script, "sh", *map(str, words)],
        cwd=world.folder,
        env={**world.env, **env},
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


def test_a_single_file_that_is_mounted_and_written_from_outside(world: World) -> None:
    """As into a container. Its folder hears nothing of that: without a watch on the file itself,
    and without the slow look, it would not be seen."""
    source = text_file(world, "outside/source.yaml", sized(world, 256))
    mounted = text_file(world, "inside/p.yaml", "what is there without the mount: nothing\n")
    command = world.command("apply", mounted)
    apart(world, 'mount --bind "$1" "$2"; shift 2; exec "$@"', source, mounted, *command)
    before = pids(world)
    for name in ("in_place", "vs_code", "cut_then_write", "nano"):
        size = 768 - served(world)
        save(WAYS[name], source, sized(world, size))
        until_serves(world, size)
        assert pids(world)["b"] == before["b"], name
    assert told(world)[1] == []


def served(world: World) -> int:
    """The context size that `a` runs with."""
    port = rows(world)["a"]["port"]
    return world.props(port)["default_generation_settings"]["n_ctx"]


# --- many files at once ---------------------------------------------------------------------------


def git(world: World, *words: str) -> None:
    person = ["-c", "user.name=somebody", "-c", "user.email=somebody@here"]
    done = subprocess.run(
        ["git", *person, *words], cwd=world.folder / "repo", capture_output=True, text=True
    )
    assert done.returncode == 0, f"git {words}: {done.stderr}"


def test_git_checkout_between_branches(world: World) -> None:
    """Files go and come one by one: what is missing for a moment is waited for."""
    text_file(world, "repo/README", "profiles")
    git(world, "init", "--initial-branch=nothing")
    git(world, "add", ".")
    git(world, "commit", "-m", "without the folder")
    git(world, "checkout", "-b", "main")
    a = text_file(world, "repo/set/a.yaml", declared(world, {"a": {"flags": {"ctx-size": 256}}}))
    b = text_file(world, "repo/set/b.yaml", declared(world, {"b": None}))
    text_file(world, "repo/set/kept.yaml", declared(world, {"kept": None}))
    git(world, "add", ".")
    git(world, "commit", "-m", "a and b")
    git(world, "checkout", "-b", "other")
    a.write_text(declared(world, {"a": {"flags": {"ctx-size": 512}}}))
    b.unlink()
    text_file(world, "repo/set/c.yaml", declared(world, {"c": None}))
    git(world, "add", ".")
    git(world, "commit", "-m", "another a, and c for b")
    git(world, "checkout", "main")
    world.run("apply", "repo/set")
    kept = pids(world)["kept"]

    for branch, size, there in (("other", 512, "c"), ("main", 256, "b"), ("other", 512, "c")):
        git(world, "checkout", branch)
        until_serves(world, size)
        until_phase(world, there, "ready")
        names = {"a", "kept", there}
        world.until(lambda names=names: set(rows(world)) == names, f"{branch}: {names}")
        assert pids(world)["kept"] == kept
    assert told(world)[1] == [], "nothing was wrong at any moment"

    # A branch without the folder: that is no word about what is to run.
    before = pids(world)
    git(world, "checkout", "nothing")
    world.until(lambda: not all(p["ok"] for p in status(world)["profiles"]), "it is said")
    assert pids(world) == before
    git(world, "checkout", "main")
    until_serves(world, 256)
    until_phase(world, "b", "ready")
    world.until(lambda: all(p["ok"] for p in status(world)["profiles"]), "all is well")
    assert pids(world)["kept"] == kept


# --- without notices ------------------------------------------------------------------------------

LIMIT = "/proc/sys/user/max_inotify_instances"

WITHOUT_INOTIFY = f"""
echo 0 > {LIMIT}
"$@" > applied 2>&1
read again
echo 1000 > {LIMIT}
read done || true
"""


@contextmanager
def limited(world: World, script: str, *words: str) -> Generator[Callable[[], None]]:
    """A script in a user namespace, whose limits are its own; call to let it read a line."""
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-ec"]
    tried = subprocess.run([*prefix, f"echo 0 > {LIMIT}"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"NO LIMITS OF ITS OWN (user namespace) ARE PERMITTED HERE: {tried.stderr}")
    process = subprocess.Popen(
        [*prefix, script, "sh", *words],
        cwd=world.folder,
        env=world.env,
        stdin=subprocess.PIPE,
        text=True,
    )

    def go_on() -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    try:
        yield go_on
    finally:
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_when_the_kernel_has_no_notices_left_it_looks_and_says_so(world: World) -> None:
    """Without the slow look nothing would be seen; without another try it would stay slow."""
    path = text_file(world, "p.yaml", sized(world, 256))
    with limited(world, WITHOUT_INOTIFY, *world.command("apply", path)) as go_on:
        world.until(lambda: rows(world).get("a", {}).get("phase") == "ready", "applied")
        before = pids(world)

        def warned() -> bool:
            return any("fs.inotify.max_user_instances" in w for w in status(world)["warnings"])

        world.until(warned, "it says so")
        assert "edits are seen every 2 s only" in world.run("status").out
        for name in ("in_place", "write_rename", "emacs"):
            save(WAYS[name], path, sized(world, 256, description=name))
            until_row(world, "a", lambda row, name=name: row["description"] == name)
        go_on()
        world.until(lambda: not warned(), "there are some again")
        save(WAYS["write_rename"], path, sized(world, 256, description="again"))
        until_row(world, "a", lambda row: row["description"] == "again")
        assert pids(world) == before
        assert told(world)[1] == []


# --- while something is going on ------------------------------------------------------------------


def starts(world: World, name: str) -> int:
    return sum(event["type"] == "starting" for event in world.events(name))


def test_an_edit_while_the_last_one_is_starting_supersedes_it(world: World) -> None:
    """What is starting is compared with what is wanted, as what runs is."""
    gate = world.folder / "gate"
    profile = {"a": fake("well"), "b": None}
    path = world.profile(profile)
    world.run("apply", path)
    before = pids(world)
    slow = fake(f"wait={gate}")
    world.profile({**profile, "a": slow})
    until_row(world, "a", lambda row: row["phase"] == "starting" and row["pid"])
    first = pids(world)["a"]
    world.profile({**profile, "a": {**slow, "flags": {"ctx-size": 512}}})
    until_row(
        world,
        "a",
        lambda row: row["phase"] == "starting" and row["pid"] not in (None, first),
    )
    gate.touch()
    until_phase(world, "a", "ready")
    (pid,) = owned(world)["a"]
    assert b"\x00512\x00" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert pids(world) == {"a": pid, "b": before["b"]}
    assert status(world)["converged"]


def test_an_edit_while_the_old_one_has_its_grace_supersedes_what_was_to_come(
    world: World,
) -> None:
    """What a stop was for is not remembered: what is wanted is, when it has ended."""
    deaf = fake("deaf", stop={"grace": "3s"})
    path = world.profile({"a": deaf, "b": None})
    world.run("apply", path)
    before, begun = pids(world), starts(world, "a")
    for size in (256, 512, 1024):
        world.profile({"a": {**deaf, "flags": {"ctx-size": size}}, "b": None})
        until_row(world, "a", lambda row: row["phase"] == "stopping")
    until_row(world, "a", lambda row: row["phase"] == "ready" and row["pid"] != before["a"])
    (pid,) = owned(world)["a"]
    assert b"\x001024\x00" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert starts(world, "a") == begun + 1, "neither of the others was started"
    assert pids(world)["b"] == before["b"]


def test_an_edit_that_is_taken_back_while_the_old_one_has_its_grace(world: World) -> None:
    deaf = fake("deaf", stop={"grace": "3s"})
    path = world.profile({"a": deaf})
    text = path.read_text()
    world.run("apply", path)
    before = pids(world)
    world.profile({"a": {**deaf, "flags": {"ctx-size": 256}}})
    until_row(world, "a", lambda row: row["phase"] == "stopping")
    world.write("p.yaml", text)
    until_row(world, "a", lambda row: row["phase"] == "ready" and row["pid"] != before["a"])
    (pid,) = owned(world)["a"]
    assert b"\x00256\x00" not in Path(f"/proc/{pid}/cmdline").read_bytes()


# --- a Modelfile ----------------------------------------------------------------------------------


def system_of(port: int, model: str) -> str:
    try:
        return ask(port, "/api/show", {"model": model}).get("system", "")
    except HTTPError:
        # The server is just writing it.
        return ""


def test_a_modelfile_is_saved_in_these_ways_too(ollama_world: OllamaWorld) -> None:
    """The server has what was saved, and no mistake was seen on the way."""
    world = ollama_world

    def text(word: str) -> str:
        return f'FROM tiny\n{COMMENT}SYSTEM """{word}\n"""\nPARAMETER temperature 0\n'

    path = text_file(world, "m.Modelfile", text("before"))
    tiny = {"name": "tiny", "gguf": str(world.model)}
    profile = world.ollamas({"o": [tiny, {"name": "m", "modelfile": "m.Modelfile"}]})
    world.run("apply", profile)
    before, port = pids(world), rows(world)["o"]["port"]
    for name in ("in_place", "cut_then_write", "vim_renames", "emacs", "write_rename"):
        save(WAYS[name], path, text(name))
        world.until(lambda name=name: name in system_of(port, "m"), name)
        assert pids(world) == before
    edits, mistakes = told(world)
    assert (len(edits), mistakes) == (5, [])
