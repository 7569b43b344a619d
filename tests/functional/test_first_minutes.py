"""The page for the first five minutes, typed line by line by somebody who has only models."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.world import World

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "first-five-minutes.md"
TYPED = re.compile(r"^\$ (.*)$", re.MULTILINE)


def typed(world: World, line: str) -> str:
    """What a line of the page says, typed into a shell in the person's folder."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=world.folder,
        env={**world.env, "PATH": f"{Path(sys.executable).parent}:{world.env['PATH']}"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_line_does_what_the_page_says(world: World) -> None:
    (world.folder / "models").mkdir(exist_ok=True)
    shutil.copy(world.model, world.folder / "models" / "tiny-chat.gguf")
    lines = TYPED.findall(PAGE.read_text())
    assert len(lines) == 13
    said: dict[str, str] = {}
    port = 8081
    for line in lines:
        if line == "orchestrate status":
            # Whoever types looks at it later than a machine does.
            typed(world, "orchestrate wait")
        # `init` chooses a port that is free here, which need not be that of the page.
        said[line] = typed(world, line.replace("8081", str(port)))
        if line == "orchestrate init":
            profile = yaml.safe_load((world.folder / "profiles" / "first.yaml").read_text())
            port = profile["instances"]["chat"]["port"]
    answer = next(text for line, text in said.items() if line.startswith("curl"))
    assert json.loads(answer)["choices"][0]["message"]["role"] == "assistant"
    assert "ctx-size: 4096 -> 2048" in said["orchestrate events -n 8"]
    assert "ready" in said["orchestrate status"]
    assert "/login?code=" in said["orchestrate dashboard"]
    assert world.status()["instances"] == []
