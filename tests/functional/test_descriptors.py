"""A daemon that may open few files runs as many instances as it can watch, and says so."""

from __future__ import annotations

import subprocess

from tests.look import rows, status, until_phase
from tests.world import World

LIMIT = 64
MANY = 20


def test_what_cannot_be_watched_is_not_started_and_comes_once_there_is_room(world: World) -> None:
    names = [f"i{number}" for number in range(MANY)]
    profile = world.profile(dict.fromkeys(names))
    limited = f'ulimit -n {LIMIT}; exec "$@"'
    command = ["bash", "-c", limited, "bash", *world.command("apply", profile, "--no-wait")]
    subprocess.run(command, cwd=world.folder, env=world.env, check=True, timeout=60)

    def told() -> list[str]:
        return [name for name, row in rows(world).items() if row["reason"] == "too-many-files"]

    def ready() -> list[str]:
        return [name for name, row in rows(world).items() if row["phase"] == "ready"]

    world.until(lambda: told() and len(told()) + len(ready()) == MANY, "all are where they can be")
    late = told()[0]
    assert f"the limit of the daemon is {LIMIT}" in rows(world)[late]["message"]
    # It still sees all there is to see, and its store is whole.
    running = {name: rows(world)[name]["pid"] for name in ready()}
    world.run("events")
    # Room is made: those that waited come by themselves, the others are not touched.
    kept = ready()[: len(ready()) // 2]
    world.profile(dict.fromkeys([*kept, late]))
    until_phase(world, late, "ready")
    world.until(lambda: status(world)["converged"], "all that is left is ready")
    assert {name: rows(world)[name]["pid"] for name in kept} == {n: running[n] for n in kept}
