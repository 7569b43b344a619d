"""What the documents say is so: every profile in them is valid, every command in them exists."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from orchestrator.cli.main import main
from tests.conftest import OLLAMA
from tests.stand_ins import models_on_disk, stand_in
from tests.world import World

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = {"console", "bash", "sh"}


class Block(NamedTuple):
    """A fenced block of a page, and the line that it begins in."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        content = page.read_text()
        for match in FENCE.finditer(content):
            yield Block(page, content[: match.start()].count("\n") + 1, match[1], match[2])


BLOCKS = list(blocks())
WHOLE = [one for one in BLOCKS if one.kind == "yaml" and "\ninstances:" in f"\n{one.text}"]


def commands(block: Block) -> list[str]:
    """The `orchestrate` lines of a block: with a prompt, or as they are."""
    lines = block.text.replace("\\\n", " ").splitlines()
    stripped = [line.removeprefix("$ ").strip() for line in lines]
    return [line for line in stripped if "orchestrate " in f"{line} " and line[:1] != "#"]


SPOKEN = [(block, line) for block in BLOCKS if block.kind in SHELLS for line in commands(block)]


def test_there_is_something_to_test() -> None:
    assert len(WHOLE) > 10
    assert len(SPOKEN) > 30


@pytest.fixture
def desk(tmp_path: Path, model: Path, llama_server: str) -> Iterator[World]:
    """A machine with the real engines, for their flags and settings are what examples name."""
    env = {**os.environ, "ORCHESTRATE_LLAMA_SERVER": llama_server}
    if OLLAMA is not None:
        env["ORCHESTRATE_OLLAMA"] = OLLAMA
    made = World(tmp_path, model, env)
    yield made
    made.end()


@pytest.mark.parametrize("block", WHOLE, ids=str)
def test_every_profile_is_valid(desk: World, block: Block, request: pytest.FixtureRequest) -> None:
    profile = desk.write("profiles/example.yaml", block.text)
    document = yaml.safe_load(block.text)
    if "engine: ollama" in block.text:
        request.getfixturevalue("ollama")
    for ref in models_on_disk(document):
        stand_in(ref, home=desk.folder, folder=desk.folder / "models", tiny=desk.model)
    desk.write("profiles/chatml.jinja", "")
    desk.write("profiles/reviewer.Modelfile", "FROM llama3.1:8b\n")

    secrets = set(re.findall(r"\$\{env:(\w+)\}", block.text)) - {"HOME"}
    env: dict[str, Any] = {name: f"of-{name}" for name in secrets}
    ran = desk.run("validate", profile, **env)

    assert ran.err == "", f"{block}: {ran.err}"


@pytest.mark.parametrize(
    ("block", "line"), SPOKEN, ids=[f"{block}-{line}" for block, line in SPOKEN]
)
def test_every_command_exists(block: Block, line: str) -> None:
    for words in invocations(line):
        parse(main, words)


def invocations(line: str) -> Iterator[list[str]]:
    """The words after each `orchestrate` of a line; `eval "$(orchestrate ...)"` has one too."""
    inner = re.search(r"\$\((.*)\)", line)
    tokens = shlex.split(inner[1] if inner else line, comments=True)
    for part in split(tokens, {"&&", "||", "|", ";", ">"}):
        words = part[part.index("orchestrate") + 1 :] if "orchestrate" in part else []
        if words and words != ["--version"]:
            yield words


def split(words: list[str], separators: set[str]) -> Iterator[list[str]]:
    """The runs of words between separators."""
    part: list[str] = []
    for word in words:
        if word in separators:
            yield part
            part = []
        else:
            part.append(word)
    yield part


def parse(group: click.Group, words: list[str]) -> None:
    """Take the words apart as click would; nothing is run. Raises for what it does not know."""
    with click.Context(group, info_name="orchestrate") as context:
        name, command, rest = group.resolve_command(context, list(words))
        assert command is not None
        if isinstance(command, click.Group) and rest[:1] and not rest[0].startswith("-"):
            parse(command, rest)
        else:
            command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("line", ["orchestrate stauts", "orchestrate status --chek"])
def test_an_unknown_one_would_be_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(main, line.split()[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {slug(head) for head in heads}, target


def slug(head: str) -> str:
    """What a heading's link is called, as usual for Markdown on the web."""
    return re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
