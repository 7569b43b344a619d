"""`orchestrate completion`, in a real shell where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.world import World

BIN = Path(sys.executable).parent


def complete(world: World, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    script = f"""
        source <(orchestrate completion bash)
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
        COMP_CWORD={len(words) - 1}
        _orchestrate_completion orchestrate
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {**world.env, "PATH": f"{BIN}:/usr/bin:/bin", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        env=env,
        cwd=world.folder,
        timeout=60,
    )
    assert done.stderr == "", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(world: World, shell: str) -> None:
    ran = world.run("completion", shell)

    assert "_ORCHESTRATE_COMPLETE" in ran.out
    assert f"{shell}_complete" in ran.out
    assert ran.err == ""


def test_another_shell_is_wrong_input(world: World) -> None:
    ran = world.run("completion", "csh", ok=False)

    assert ran.code == 2
    assert "'bash', 'zsh', 'fish'" in ran.err


def test_commands_and_options_are_completed(world: World) -> None:
    assert complete(world, "orchestrate", "sta") == ["status", "start"]
    assert complete(world, "orchestrate", "models", "s") == ["show"]
    assert "--check" in complete(world, "orchestrate", "status", "--c")


def test_instances_are_completed_with_a_daemon_and_without(world: World) -> None:
    assert complete(world, "orchestrate", "status", "c") == []
    world.profile({"coder": None, "chat": None, "embed": None})
    world.run("apply", "p.yaml")

    assert complete(world, "orchestrate", "status", "c") == ["chat", "coder"]
    assert complete(world, "orchestrate", "restart", "e") == ["embed"]
    assert complete(world, "orchestrate", "logs", "") == ["chat", "coder", "embed"]
    world.run("daemon", "stop")
    assert complete(world, "orchestrate", "stop", "co") == ["coder"]


def test_the_gateway_is_completed_like_an_instance(world: World) -> None:
    world.profile({"gap": None}, gateway={"port": world.port()})
    world.run("apply", "p.yaml")

    assert complete(world, "orchestrate", "logs", "ga") == ["gap", "gateway"]
    world.run("daemon", "stop")
    assert complete(world, "orchestrate", "logs", "gat") == ["gateway"]
