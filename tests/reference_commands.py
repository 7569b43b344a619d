"""The part of the reference about commands: usage, help, options and examples, asked of click."""

from __future__ import annotations

from collections.abc import Iterator

import click

from orchestrator.cli.main import main
from tests.markdown import code, table


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    """A section for each command and subcommand of a group."""
    above = click.Context(group, info_name=" ".join(("orchestrate", *path)))
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        assert command is not None, name
        yield _command(command, (*path, name))
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def _command(command: click.Command, path: tuple[str, ...]) -> str:
    words = " ".join(("orchestrate", *path))
    given = [_argument(one) for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option)]
    usage = " ".join([words, *(["[OPTIONS]"] if options else []), *given])
    lines = [f"### `{words}`\n", f"```text\n{usage}\n```\n", f"{_flowing(command.help or '')}\n"]
    if options:
        rows = [(", ".join(map(code, _spellings(one))), _told(one)) for one in options]
        lines.append(table(("option", "does"), rows))
    if command.epilog:
        lines.append(f"{_example(command.epilog)}\n")
    return "\n".join(lines)


def _argument(argument: click.Argument) -> str:
    if argument.metavar:
        return argument.metavar
    if isinstance(argument.type, click.Choice):
        return "|".join(str(choice) for choice in argument.type.choices)
    name = (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _spellings(option: click.Option) -> list[str]:
    spelled = sorted(option.opts, key=lambda name: (not name.startswith("--"), name))
    return spelled if option.is_flag else [f"{name} {_value(option)}" for name in spelled]


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(str(choice) for choice in option.type.choices)
    whole = isinstance(option.type, click.IntRange)
    return "N" if whole else option.type.name.upper()


def _told(option: click.Option) -> str:
    told = _flowing(option.help or "")
    return f"{told} Default: `{option.default}`.".strip() if option.show_default else told


def _flowing(paragraphs: str) -> str:
    """Help as Markdown: the line breaks are the terminal's, not ours."""
    plain = (" ".join(one.split()) for one in paragraphs.replace("\b", "").split("\n\n"))
    return "\n\n".join(plain)


def _example(epilog: str) -> str:
    """`Examples: orchestrate a | b c` as a block; what follows a bar may leave the name out. A bar
    before what is no command of ours is the shell's."""
    lines: list[str] = []
    for one in epilog.partition(": ")[2].split(" | "):
        if "orchestrate" in one:
            lines.append(one)
        elif one.split()[0] in main.list_commands(click.Context(main)):
            lines.append(f"orchestrate {one}")
        else:
            lines[-1] += f" | {one}"
    return "\n".join(["```console", *(f"$ {one}" for one in lines), "```"])
