"""`status --watch`, as somebody in tmux sees and uses it: on a real terminal, with real engines."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import KEPT
from tests.fakes import fake
from tests.machine_has import needs_program
from tests.tmux import Tmux
from tests.world import PATIENCE, World, alive, kill

pytestmark = needs_program("tmux")

SHELL_WAITS = re.compile(r"\$ *$")


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, model: Path, llama_server: str
) -> Iterator[World]:
    """One daemon with three instances: two by themselves, one that is noisy."""
    folder = tmp_path_factory.mktemp("desk")
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    made = World(folder, model, {**env, "ORCHESTRATE_LLAMA_SERVER": llama_server})
    wide = folder / "モデル名.gguf"
    wide.write_bytes(model.read_bytes())
    wide_text = "日本語" * 13
    noisy = made.write(
        "noisy",
        "#!/bin/sh\n"
        'case "$*" in *--port*)\n'
        r"printf 'begin \033[2J\033[10;10H\033]0;owned\007 end of hostile\n';"
        r"printf 'colour \033[31mred\033[0m\tand a tab\n';"
        f"printf 'wide {wide_text} tail\\n'"
        f';; esac\nexec {llama_server} "$@"\n',
    )
    noisy.chmod(0o755)
    try:
        made.run(
            "apply",
            made.profile(
                {
                    "coder": None,
                    "embed": {"model": str(wide)},
                    "noisy": {"binary": str(noisy)},
                }
            ),
        )
        yield made
    finally:
        made.end()


@pytest.fixture
def all_well(desk: World) -> World:
    """The desk, as every test finds it."""
    if not desk.status()["converged"]:
        desk.run("start", "coder", "embed", "noisy")
        desk.until_converged()
    return desk


@pytest.fixture
def terminal(all_well: World, tmp_path: Path) -> Iterator[Tmux]:
    """A watch that runs in 80 columns and 24 rows."""
    with Tmux(tmp_path, all_well.env) as tmux:
        tmux.type("echo before the watch")
        tmux.start(all_well.command("status", "--watch"))
        tmux.until_shown("converged: 3 of 3 ready", "q quit")
        yield tmux


def row(screen: str, name: str) -> str:
    """The line of an instance in the table."""
    return next(line for line in screen.splitlines() if re.match(rf"[> ] {name} ", line))


def leave(tmux: Tmux) -> str:
    """Press q; the screen of the shell."""
    tmux.press("q")
    return tmux.until(lambda _: not tmux.on_other_screen(), "the shell's screen")


# --- the table -----------------------------------------------------------------------------------


def test_the_table_is_right_at_80_columns(terminal: Tmux, all_well: World) -> None:
    screen = terminal.screen()

    head = next(line for line in screen.splitlines() if "INSTANCE" in line)
    shown = head.split()
    assert shown[:3] == ["INSTANCE", "MODEL", "PHASE"]
    assert {"FOR", "PORT", "MEMORY", "CPU", "RESTARTS"} <= {*shown}
    assert "2m" not in shown, "charts need more room"
    assert max(map(cells, screen.splitlines())) <= 80
    for name, one in ((o["name"], o) for o in all_well.status()["instances"]):
        line = row(screen, name)
        # Characters of two cells do not move what comes after them.
        assert cells_before(line, " ready ") == cells_before(head, " PHASE")
        assert str(one["port"]) in line
    assert "モデル名.gguf" in row(screen, "embed")
    assert screen.splitlines()[-1].startswith("↑↓ select")
    assert "memory" in screen
    assert terminal.on_other_screen()
    assert not terminal.cursor_is_shown()


def cells_before(line: str, word: str) -> int:
    from orchestrator.cli.cells import wide

    return wide(line[: line.index(word)])


def test_a_wider_window_has_more_columns_and_a_smaller_one_less(terminal: Tmux) -> None:
    terminal.resize(120, 30)
    wide = terminal.until_shown("PID", "CPU 2m")
    assert len(wide.splitlines()) == 30

    terminal.resize(40, 10)
    small = terminal.until(
        lambda seen: "converged: 3 of 3 ready" in seen and "> coder" in seen, "all of it again"
    )
    assert len(small.splitlines()) == 10
    assert "MEMORY" not in small
    assert "PHASE" in small

    terminal.resize(80, 24)
    assert "RESTARTS" in terminal.until_shown("RESTARTS", "── coder")


def test_the_selected_one_is_shown_in_full(terminal: Tmux, all_well: World) -> None:
    assert "── coder" in terminal.screen()

    terminal.press("Down")
    screen = terminal.until_shown("── embed", "> embed")
    assert f"{all_well.instance('embed')['url']}  llama-server  pid" in screen
    assert "ready after" in screen

    terminal.press("k")
    terminal.until_shown("── coder", "> coder")
    terminal.press("End")
    terminal.until_shown("> noisy")


def test_only_some_of_them_are_shown_when_asked_for(terminal: Tmux) -> None:
    terminal.press("/", "m", "b", "e", "Enter")
    screen = terminal.until(lambda seen: "> embed" in seen and "  coder" not in seen, "only embed")
    assert "noisy" not in screen

    terminal.press("Escape")
    terminal.until_shown("  coder", "  noisy")


# --- what happens is seen ------------------------------------------------------------------------


def test_a_death_and_the_return_are_seen(terminal: Tmux, all_well: World) -> None:
    before = all_well.instance("coder")["restarts"]
    pid = all_well.pids()["coder"]
    terminal.resize(120, 24)
    terminal.until_shown(str(pid))

    kill(pid)

    screen = terminal.until(
        lambda seen: f"restarts {before + 1}" in seen and "converged: 3 of 3" in seen, "its return"
    )
    assert str(pid) not in screen
    terminal.press("e")
    assert re.search(r"coder +exited.*SIGKILL", terminal.until_shown("events", "SIGKILL"))


def test_another_daemon_is_found_again(terminal: Tmux, all_well: World) -> None:
    pid = all_well.daemon_pid()
    pids = all_well.pids()

    all_well.run("daemon", "stop")
    lost = terminal.until_shown("no daemon is running", "what follows was last known")
    assert all(name in lost for name in pids), "what runs is still shown"
    assert "d start the daemon" in lost

    terminal.press("r")
    terminal.until_shown("error: no daemon answers (d starts one)")
    terminal.press("d")
    found = terminal.until_shown("converged: 3 of 3 ready", "daemon ")
    assert f"daemon {pid}," not in found
    assert all_well.pids() == pids


# --- keys that do something ----------------------------------------------------------------------


def test_restart_by_a_key(terminal: Tmux, all_well: World) -> None:
    pid = all_well.pids()["coder"]

    terminal.press("r")

    terminal.until_shown("coder: ready")
    assert all_well.pids()["coder"] != pid
    assert not alive(pid)


def test_stop_and_start_by_one_key(terminal: Tmux, all_well: World) -> None:
    terminal.press("j", "s")
    terminal.until_shown("embed: stopped", "not converged: embed: ", "held by hand")
    terminal.until(lambda seen: "stopped" in row(seen, "embed"), "the row of what is stopped")
    assert all_well.instance("embed")["held"]

    terminal.press("s")
    terminal.until_shown("embed: ready", "converged: 3 of 3 ready")
    assert not all_well.instance("embed")["held"]


def test_a_kill_is_asked_about(terminal: Tmux, all_well: World) -> None:
    pid = all_well.pids()["coder"]

    terminal.press("K")
    terminal.until_shown("kill coder, without grace? (y/n)")
    terminal.press("n")
    terminal.until_shown("left as it is")
    assert alive(pid)

    terminal.press("K", "y")
    terminal.until_shown("coder: stopped")
    assert not alive(pid)


def test_what_is_pasted_is_no_key(terminal: Tmux, all_well: World) -> None:
    pid = all_well.pids()["coder"]
    terminal.paste("Ky\nq")
    terminal.press("/")
    terminal.paste("no\x07isy")
    terminal.press("Enter")

    terminal.until_shown("no instance has 'no�isy' in its name")
    assert alive(pid)
    assert terminal.on_other_screen()


# --- logs ----------------------------------------------------------------------------------------


def test_logs_are_live_and_searched(terminal: Tmux, all_well: World) -> None:
    terminal.press("Enter")
    terminal.until_shown("logs of coder", "following", "llama_server: listening on")
    port = all_well.instance("coder")["port"]
    all_well.complete(port)
    terminal.until_shown("eval time")

    terminal.press("/", *"loaded", "Enter")
    found = terminal.until_shown("1 of 1 lines with loaded")
    assert "model loaded" in found
    terminal.press("Escape", "/", *"nothing-like-it", "Enter")
    terminal.until_shown("not found: nothing-like-it")

    # Its next run is gone over to.
    terminal.press("G")
    terminal.until_shown("following")
    all_well.run("restart", "coder")
    terminal.until(lambda seen: seen.rfind("listening on") > seen.rfind("eval time"), "the new run")
    terminal.press("o")
    terminal.until_shown("logs of coder (the run before)", "eval time")
    terminal.press("Escape", "q")
    terminal.until_shown("INSTANCE", "> coder")


def test_what_a_program_writes_cannot_steer_the_terminal(terminal: Tmux) -> None:
    terminal.press("End", "l")

    screen = terminal.until_shown("end of hostile", "tail")

    assert screen.splitlines()[0].startswith("logs of noisy")
    assert "begin �[2J�[10;10H�]0;owned� end of hostile" in screen
    assert "colour red      and a tab" in screen
    assert terminal.title() != "owned"
    assert max(map(cells, screen.splitlines())) <= 80
    terminal.press("w")
    terminal.until(
        lambda seen: "日…" in seen or "本…" in seen or "語…" in seen, "a line that is cut"
    )


def cells(line: str) -> int:
    from orchestrator.cli.cells import wide

    return wide(line)


def test_events_profiles_and_help_are_a_key_away(terminal: Tmux, all_well: World) -> None:
    terminal.press("e")
    terminal.until_shown("events", "following")
    all_well.run("restart", "embed")
    terminal.until(lambda seen: re.search(r"embed +ready", seen), "what happened just now")
    terminal.press("o")
    assert " embed " not in terminal.until_shown("events of coder", "coder ")
    terminal.press("q", "p")
    terminal.until_shown("profiles", "p: ok", "instances: coder, embed, noisy")
    terminal.press("q", "?")
    terminal.until_shown("restart it", "kill it")
    terminal.press("Escape")
    terminal.until_shown("INSTANCE")


# --- coming and going ----------------------------------------------------------------------------


def test_leaving_gives_the_screen_back(terminal: Tmux) -> None:
    screen = leave(terminal)

    assert "before the watch" in screen
    assert "INSTANCE" not in screen
    terminal.type("echo code $?, $(stty -a | grep -c ' echo ')")
    terminal.until_shown("code 0, 1")
    assert terminal.cursor_is_shown()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_gives_the_screen_back(
    terminal: Tmux, all_well: World, number: signal.Signals, code: int
) -> None:
    os.kill(terminal.foreground(), number)

    terminal.until(lambda _: not terminal.on_other_screen(), "the shell's screen")
    terminal.type("echo code $?, $(stty -a | grep -c ' echo ')")
    assert "before the watch" in terminal.until_shown(f"code {code}, 1")


def test_it_can_be_stopped_and_goes_on(terminal: Tmux) -> None:
    terminal.press("C-z")
    assert "before the watch" in terminal.until(
        lambda seen: not terminal.on_other_screen() and "Stopped" in seen, "the shell"
    )
    assert terminal.cursor_is_shown()

    terminal.type("fg")
    terminal.until_shown("converged: 3 of 3 ready", "q quit")
    assert terminal.on_other_screen()
    leave(terminal)


def test_a_name_that_is_not_there_is_said_before_anything_is_drawn(
    all_well: World, tmp_path: Path
) -> None:
    with Tmux(tmp_path, all_well.env) as tmux:
        tmux.start(all_well.command("status", "-w", "codr"))
        tmux.until_shown("unknown instance 'codr'", "did you mean 'coder'?")
        assert not tmux.on_other_screen()


def test_without_a_daemon_it_ends_at_once(world: World, tmp_path: Path) -> None:
    ran = world.run("status", "--watch", ok=False)
    assert ran.code == 3
    assert world.on_a_terminal("status", "--watch").startswith("\x1b[31m\x1b[1merror:")


# --- what is written -----------------------------------------------------------------------------


def recorded(world: World, *words: str, answer: bytes = b"", during: str = "", **env: str) -> str:
    """All that a watch writes on a terminal of 80 by 24, while a command runs beside it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    watch = subprocess.Popen(
        world.command("status", "--watch"),
        cwd=world.folder,
        env={**world.env, "TERM": "xterm", "LANG": "C.UTF-8", **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    end = time.monotonic() + PATIENCE
    try:
        while b"quit" not in said:
            assert time.monotonic() < end, said
            said += _some(ours)
        os.write(ours, answer)
        begin = len(said)
        if words:
            world.run(*words)
        while during and during.encode() not in said[begin:]:
            assert time.monotonic() < end, said
            said += _some(ours)
        os.write(ours, b"q")
        while chunk := _some(ours):
            said += chunk
    finally:
        watch.kill()
        watch.wait()
        os.close(ours)
    return said.decode()


def _some(descriptor: int) -> bytes:
    if not select.select([descriptor], [], [], PATIENCE)[0]:
        return b""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def test_nothing_is_cleared_between_frames(all_well: World) -> None:
    said = recorded(all_well, "restart", "coder", during="restarts")

    drawn = said[said.index("\x1b[?1049h") : said.rindex("\x1b[?1049l")]
    assert not re.search(r"\x1b\[[0-3]?J|\x1bc", drawn), "nothing is cleared"
    assert "\n" not in drawn, "nothing scrolls"
    rows = [int(number) for number in re.findall(r"\x1b\[(\d+);1H", drawn)]
    assert set(range(1, 25)) == set(rows)
    # The first frame has every row; later ones have what changed, and nothing else.
    frames = max(rows.count(number) for number in range(1, 25))
    assert frames > 1
    assert rows.count(24) == rows.count(23) == 1
    assert len(rows) < 24 + 12 * (frames - 1)


def test_a_terminal_that_can_gets_each_frame_at_once(all_well: World) -> None:
    plain = recorded(all_well, "restart", "coder", during="ready")
    at_once = recorded(all_well, "restart", "coder", during="\x1b[?2026l", answer=b"\x1b[?2026;2$y")

    assert "\x1b[?2026h" not in plain
    assert at_once.count("\x1b[?2026h") >= 1
    for frame in at_once.split("\x1b[?2026h")[1:]:
        assert "\x1b[?2026l" in frame


def test_no_color_leaves_none(all_well: World) -> None:
    coloured = recorded(all_well)
    plain = recorded(all_well, NO_COLOR="1")

    colour = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7])m")
    assert colour.search(coloured)
    assert not colour.search(plain)
    assert "> coder" in plain


def test_a_terminal_without_unicode_gets_ascii(all_well: World) -> None:
    said = recorded(all_well, LANG="C", LC_ALL="")

    assert said.isascii()
    assert "> coder" in said
    assert "????????.gguf" in said


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_costs_next_to_nothing_while_nothing_happens(terminal: Tmux, world: World) -> None:
    pid = terminal.foreground()
    terminal.until_shown("memory")

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    frames = terminal.screen()
    before, began = ticks(), time.monotonic()
    # Two frames at least, for each shows another second.
    for _ in range(2):
        frames = terminal.until(lambda seen, last=frames: seen != last, "another second")
    seconds = time.monotonic() - began

    assert (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds < 0.2


# --- larger worlds -------------------------------------------------------------------------------


def test_more_than_the_screen_holds_is_scrolled_through(world: World, tmp_path: Path) -> None:
    names = [f"x{n:02d}" for n in range(14)]
    world.run("apply", world.profile({name: fake() for name in names}))
    with Tmux(tmp_path, world.env, rows=16) as tmux:
        tmux.start(world.command("status", "--watch"))
        tmux.until_shown("converged: 14 of 14", "> x00", "of 14")
        tmux.press(*["j"] * 13)
        screen = tmux.until_shown("> x13")
        assert "x00" not in screen
        assert "── x13" in screen
        tmux.press("g")
        tmux.until_shown("> x00", "── x00")


def test_what_fails_says_all_of_why(world: World, tmp_path: Path) -> None:
    said = "error: the quick brown fox jumps over the lazy dog, and then it goes home at last"
    script = world.write(
        "broken", f'#!/bin/sh\ncase "$*" in *--port*)\necho "{said}" >&2; exit 3\nesac\n'
    )
    script.chmod(0o755)
    profile = world.profile({"broken": {"binary": str(script), "restart": {"policy": "never"}}})
    world.run("apply", profile, ok=False)

    with Tmux(tmp_path, world.env) as tmux:
        tmux.start(world.command("status", "--watch"))
        screen = tmux.until_shown("not converged", "> broken", "exit code 3")
        assert "goes home at last" in re.sub(r"\s+", " ", screen)
