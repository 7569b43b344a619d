"""The entry point: finds the command, shows errors, exits with the right code.

Commands are imported only when they are called: `status` must not pay for `apply`.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
from typing import Any

import click

from orchestrator import __version__
from orchestrator.errors import OrchestrateError

COMMANDS: dict[str, tuple[str, str]] = {
    "apply": ("apply", "Make profiles run: exactly these, and keep them so."),
    "serve": ("apply", "Apply, and run the loop here instead of in the background."),
    "remove": ("apply", "Take profiles out of the applied set."),
    "plan": ("check", "What apply would do, and why; changes nothing."),
    "validate": ("check", "All errors of all files; touches nothing."),
    "status": ("status", "What runs, and how it is."),
    "wait": ("status", "Wait until instances are ready, or stopped."),
    "start": ("verbs", "Start instances that are stopped or failed."),
    "stop": ("verbs", "Stop instances and hold them down."),
    "restart": ("verbs", "Replace the processes of instances."),
    "kill": ("verbs", "Stop instances without grace."),
    "logs": ("logs", "The output of an instance, or of the daemon."),
    "events": ("logs", "The timeline, with causes."),
    "dashboard": ("dashboard", "Open the page in a browser."),
    "models": ("models", "The models on this machine."),
    "profiles": ("profiles", "Profiles found: active or not, valid or not."),
    "down": ("daemon", "Stop everything, and forget what is applied."),
    "daemon": ("daemon", "The process in the background."),
    "mcp": ("mcp", "Let an agent drive this, by the Model Context Protocol."),
    "doctor": ("doctor", "What is here, what is missing, and what to do."),
    "install-service": ("install_service", "Run it as a systemd service."),
    "export": ("export", "A profile for compose, systemd or Kubernetes."),
    "import": ("importing", "A profile from llama-swap, a llama-server router, or Ollama."),
    "init": ("init", "Write a first profile from the models found."),
    "schema": ("profiles", "JSON Schema of a profile, for editors."),
    "completion": ("completion", "Shell completion."),
}


class LazyGroup(click.Group):
    """Commands by name, loaded when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"orchestrator.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from orchestrator.core.problem import did_you_mean

            hint = did_you_mean(args[0], COMMANDS) or "`orchestrate --help` lists them"
            raise click.UsageError(f"unknown command {args[0]!r}\nhint: {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read us (`| head`) has enough. Click would make a failure of it.
            _drop_output()
            raise click.exceptions.Exit(0) from None
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None or _debug():
                raise
            _drop_output()
            raise OrchestrateError("the output cannot be written: its disk is full") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: orchestrate apply profiles/coding.yaml",
)
@click.version_option(__version__, "--version", prog_name="orchestrate")
@click.pass_context
def main(context: click.Context) -> None:
    """Declare in YAML which local LLM servers should run; orchestrate makes it so."""
    if os.environ.get("NO_COLOR"):
        context.color = False


def run() -> None:
    """What the console script calls."""
    _open_closed_streams()
    try:
        code = main.main(prog_name="orchestrate", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        code = leaving.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = 2
    except click.ClickException as error:
        _show_usage_error(error)
        code = 2
    except OrchestrateError as error:
        if _debug():
            raise
        show_error(error)
        code = error.exit_code
    except Exception as error:
        if _debug():
            raise
        click.echo(f"error: a bug in orchestrate: {error!r}", err=True)
        click.echo("hint: ORCHESTRATE_DEBUG=1 shows where; please report it", err=True)
        code = 1
    # Nor need the interpreter search it once more on its way out.
    gc.freeze()
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """A stream that the shell closed (`>&-`) is nowhere; nothing else may get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The lowest free number is taken, and these are filled from below.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _drop_output() -> None:
    """Python would complain, while it ends, of what it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_error(error: OrchestrateError) -> None:
    """`error: message`, then `hint: hint`."""
    from orchestrator.cli.render import inert

    def shown(text: str) -> str:
        return "\n".join(map(inert, text.split("\n")))

    click.echo(f"{click.style('error:', fg='red', bold=True)} {shown(error.message)}", err=True)
    if error.hint:
        click.echo(f"{click.style('hint:', fg='cyan')} {shown(error.hint)}", err=True)


def _show_usage_error(error: click.ClickException) -> None:
    message, _, hint = error.format_message().partition("\nhint: ")
    context: Any = getattr(error, "ctx", None)
    if not hint and context is not None:
        hint = f"`{context.command_path} --help` shows how"
    show_error(OrchestrateError(message.rstrip("."), hint=hint))


def _debug() -> bool:
    return os.environ.get("ORCHESTRATE_DEBUG", "") not in ("", "0")
