"""The pieces of `status --watch`: keys, frames, text that is paged through, charts, the table."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.cli.cells import wide
from orchestrator.cli.watch_actions import VERBS, Doing, question
from orchestrator.cli.watch_feed import lines_of
from orchestrator.cli.watch_frame import changes, ends, fitted, in_ascii, selected, without_colour
from orchestrator.cli.watch_keys import Keys, Offered, Pasted
from orchestrator.cli.watch_pager import KEPT, LONGEST, Pager, written
from orchestrator.cli.watch_table import Instances, Seen
from orchestrator.cli.watch_terminal import speaks_unicode
from orchestrator.cli.watch_trends import Trends, bar, spark
from orchestrator.core.report import ProfileReport
from orchestrator.core.status import Phase
from tests.unit.test_plan import A, status
from tests.unit.test_screens import GIB, PULLING, document, plain, seen

# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"jK/", ["j", "K", "/"]),
        (b"\r\n\x7f\t", ["enter", "enter", "backspace", "tab"]),
        (b"\x1b[A\x1b[B\x1bOA\x1b[1;5C", ["up", "down", "up", "right"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", ["page-up", "page-down", "home", "end"]),
        (b"\x15\x03", ["ctrl-u", "ctrl-c"]),
        ("日é".encode(), ["日", "é"]),
        (b"\x1bq", ["escape", "q"]),
        (b"\x1b[99~\x1b[<0;1;1Mx", ["x"]),
        (b"\x1b\x1b[A", ["escape", "up"]),
        (b"\x1b[?2026;2$y", [Offered(2026, True)]),
        (b"\x1b[?2026;0$y", [Offered(2026, False)]),
        (b"\x1b[200~K\ny\x1b[A\x1b[201~q", [Pasted("K\ny\x1b[A"), "q"]),
    ],
)
def test_what_a_terminal_sends(data: bytes, keys: list[object]) -> None:
    assert Keys().feed(data) == keys
    piecemeal = Keys()
    assert [key for n in range(len(data)) for key in piecemeal.feed(data[n : n + 1])] == keys
    assert piecemeal.flush() == []


def test_an_escape_by_itself_is_a_key() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.open
    assert keys.flush() == ["escape"]
    assert not keys.open


# --- frames --------------------------------------------------------------------------------------


def test_only_what_differs_is_written() -> None:
    before = ["one", "two", "three"]

    assert changes(before, before, 10) == ""
    said = changes(before, ["one", "2", "three"], 10)
    assert said == "\x1b[2;1H2\x1b[m\x1b[K"
    # What fills its row is not followed by what would erase its end.
    assert changes([], ["0123456789"], 10) == "\x1b[1;1H0123456789\x1b[m"
    assert changes([], ["a"], 10, at_once=True).startswith("\x1b[?2026h")
    assert changes(["a"], ["a"], 10, at_once=True) == ""


def test_a_frame_is_exactly_as_large_as_the_screen() -> None:
    frame = fitted(["a" * 99, "日" * 9], 10, 4)

    assert len(frame) == 4
    assert max(map(wide, frame)) <= 10


def test_the_selected_line_is_reversed_as_a_whole() -> None:
    said = selected("> a \x1b[32mready\x1b[0m x", 14)

    assert said == "\x1b[7m> a \x1b[32mready\x1b[0;7m x   \x1b[0m"


def test_two_ends_share_a_line_where_there_is_room() -> None:
    assert ends("left", "right", 12) == "left   right"
    assert ends("a long left", "right", 12) == "a long left"


def test_poor_terminals_get_what_they_can_show() -> None:
    assert (
        without_colour("\x1b[1;2mx\x1b[32mgreen\x1b[91mred\x1b[0m") == "\x1b[1;2mxgreenred\x1b[0m"
    )
    assert in_ascii("█░ ▁▄█ 日x… \x1b[2m─\x1b[0m") == "#. _-# ??x~ \x1b[2m-\x1b[0m"


@pytest.mark.parametrize(
    ("environ", "speaks"),
    [
        ({"LANG": "en_US.UTF-8"}, True),
        ({"LANG": "C.utf8"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True),
        ({"LANG": "de_DE"}, False),
        ({}, False),
    ],
)
def test_the_locale_says_what_a_terminal_speaks(environ: dict[str, str], speaks: bool) -> None:
    assert speaks_unicode(environ) is speaks


# --- paging --------------------------------------------------------------------------------------


def numbered(count: int, **more: Any) -> Pager:
    pager = Pager(**more)
    pager.add(f"line {n}" for n in range(count))
    return pager


def test_the_end_is_followed_until_one_moves_away() -> None:
    pager = numbered(10, follow=True)
    assert pager.rows(20, 3) == ["line 7", "line 8", "line 9"]

    pager.key("up")
    pager.add(["line 10"])
    assert pager.rows(20, 3) == ["line 6", "line 7", "line 8"]
    assert not pager.follow

    pager.key("G")
    assert pager.rows(20, 3)[-1] == "line 10"
    assert pager.follow
    pager.key("g")
    assert pager.rows(20, 3)[0] == "line 0"
    pager.key("page-down")
    assert pager.rows(20, 3)[0] == "line 2"


def test_long_lines_are_folded_or_cut_and_stay_in_sight() -> None:
    pager = Pager()
    pager.add(["a" * 25, "日" * 12])

    assert pager.rows(10, 9) == ["a" * 10, "a" * 10, "a" * 5, "日" * 5, "日" * 5, "日" * 2]
    pager.fold = False
    assert pager.rows(10, 9) == ["a" * 9 + "…", "日" * 4 + "…"]


def test_only_the_newest_lines_are_kept() -> None:
    pager = numbered(KEPT + 100)
    assert pager.rows(20, 1) == ["line 100"]
    pager.key("down")
    pager.rows(20, 1)
    pager.add(["more"])
    # What is looked at stays where it is while the oldest line goes.
    assert pager.rows(20, 1) == ["line 101"]


def test_a_search_goes_round() -> None:
    pager = numbered(30)
    pager.rows(20, 5)

    assert pager.search("line 2") == "1 of 11 lines with line 2"
    assert pager.rows(20, 5)[0] == "\x1b[7mline 2\x1b[27m"
    assert pager.next(backward=False).startswith("2 of 11")
    assert "line 2" in pager.rows(20, 5)[0]
    for n in range(3, 12):
        assert pager.next(backward=False).startswith(f"{n} of 11"), "also where none scrolls"
    assert pager.next(backward=False).startswith("1 of 11")
    assert pager.next(backward=True).startswith("11 of 11")
    assert pager.search("LINE") == "not found: LINE"
    assert pager.search("") == ""
    assert pager.next(backward=False) == "nothing is searched for: / begins"


def test_a_search_at_the_end_begins_with_the_newest() -> None:
    pager = numbered(30, follow=True)
    pager.rows(20, 5)

    assert pager.search("line") == "30 of 30 lines with line"
    assert pager.next(backward=True) == "29 of 30 lines with line"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b[2Jgone", "�[2Jgone"),
        (b"a\tb", "a       b"),
        (b" 10 %\r 50 %\r100 %\r", "100 %"),
        (b"\xff\xfe", "��"),
        (b"\x9b31m\x00", "�31m�"),
        ("\u202edlrow".encode(), "�dlrow"),
    ],
)
def test_a_log_line_cannot_steer(raw: bytes, shown: str) -> None:
    assert written(raw) == shown


def test_a_line_that_never_ends_is_shown_in_parts() -> None:
    pager = Pager(fold=False)
    for _ in range(3):
        pager.feed(b"x" * LONGEST)
    pager.feed(b"y\nz")

    assert len(pager.rows(10, 9)) >= 2
    pager.clear()
    assert pager.rows(10, 9) == []


def test_lines_come_whole() -> None:
    came: list[bytes] = []
    take = lines_of(came.append)
    for chunk in (b"on", b"e\ntwo\nthr", b"ee\n"):
        take(chunk)
    assert came == [b"one", b"two", b"three"]


# --- charts --------------------------------------------------------------------------------------


def test_a_chart_has_a_sign_for_each_value() -> None:
    assert spark([0, 50, 100], 100) == "▁▅█"
    assert spark([0, 0], 0) == "▁▁"
    assert bar(0.5, 4) == "██░░"
    assert bar(7.0, 4) == "████"


def test_what_the_daemon_kept_goes_on_with_what_is_seen() -> None:
    trends = Trends()
    trends.recall({"instances": {"a": {"memory_bytes": [None, 100.0], "cpu_percent": [0, 50.0]}}})
    trends.note([{"name": "a", "memory_bytes": 50, "cpu_percent": 100.0}], now=5.0)
    trends.note([{"name": "a", "memory_bytes": 100, "cpu_percent": 10.0}], now=6.0)
    trends.note([{"name": "a", "memory_bytes": 0, "cpu_percent": 0.0}], now=15.0)

    assert len(trends.memory("a", 9)) == 4
    assert trends.cpu("a", 9) == "▁▅█▁"
    assert trends.cpu("a", 2) == "█▁"
    assert trends.cpu("b", 9) == ""


# --- the table -----------------------------------------------------------------------------------


def shown(made: Any, columns: int, rows: int, **more: Any) -> list[str]:
    instances = Instances(())
    instances.take(made)
    return plain(instances.lines(Seen(made, **more), columns, rows)).split("\n")


@pytest.mark.parametrize("rows", [3, 6, 12, 24])
@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_small_screen_keeps_the_word_on_whether_all_is_well(columns: int, rows: int) -> None:
    many = [status(replace(A, name=f"a-rather-long-name-{n}")) for n in range(30)]
    error = {"file": "/p.yaml", "line": 1, "column": 1, "message": "m", "hint": "", "source": "x"}
    broken = ProfileReport("p", "/p.yaml", "sha256:1", ok=False, errors=(error,) * 9)

    said = shown(document(*many, seen(PULLING), profiles=(broken,)), columns, rows)

    assert len(said) <= rows
    assert "not conv" in said[0]


def test_a_large_screen_shows_all_of_it() -> None:
    machine = {
        "memory": {"total": 32 * GIB, "available": 8 * GIB, "instances": {"a": GIB}},
        "gpus": [{"index": 0, "name": "G", "total": 24 * GIB, "free": 6 * GIB, "instances": ["a"]}],
    }

    said = "\n".join(shown(document(seen(PULLING)), 160, 40, machine=machine))

    assert "not converged: ollama: " in said
    assert re.search(r"> ollama +2 models +ready", said)
    assert "pulling 25 %" in said
    assert "memory  ███████████████░░░░░ 24.0 GiB of 32.0 GiB, instances 1.0 GiB" in said
    assert "gpu 0   ███████████████░░░░░ 18.0 GiB of 24.0 GiB, a" in said
    assert "████░░░░░░░░░░░░  25 %" in said, "the pull has a bar below"


def test_what_is_lost_is_said_first() -> None:
    said = shown(document(status(A)), 80, 24, lost="no daemon is running")

    assert said[0] == "orchestrate  no daemon is running: what follows was last known"


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_no_row_is_wider_than_the_screen_and_columns_stand_below_each_other(columns: int) -> None:
    rows = [
        replace(status(A), name=name, spec=replace(A, model=model, name=name))
        for name, model in (
            ("a", "x"),
            ("a-name-of-some-length", "モデル" * 9),
            ("c", "e\u0301" * 9),
        )
    ]
    said = shown(document(*rows), columns, 24)

    head = next(line for line in said if "INSTANCE" in line)
    for line in said:
        if " ready" in line and "converged" not in line:
            assert wide(line[: line.index("ready")]) == head.index("PHASE")
            assert wide(line) <= columns


def test_the_selected_one_stays_selected() -> None:
    a, b, c = (status(replace(A, name=name)) for name in "abc")
    instances = Instances(())
    instances.take(document(a, b, c))
    instances.key("down")
    assert instances.name == "b"
    instances.take(document(b, c))
    assert instances.name == "b"
    instances.take(document(a, c))
    assert instances.name == "a"
    instances.take(document())
    assert instances.name == ""
    assert instances.row is None


# --- actions -------------------------------------------------------------------------------------


def row(**more: Any) -> dict[str, Any]:
    [one] = document(status(A))["instances"]
    return {**one, "memory_bytes": 1 << 20, "ready_after_s": 0.1, **more}


def test_only_what_costs_is_asked_about() -> None:
    assert question("restart", row()) == ""
    assert question("start", row(phase="stopped")) == ""
    assert question("kill", row()).startswith("kill a, without grace")
    asked = question("restart", row(memory_bytes=40 * GIB, ready_after_s=75.0))
    assert asked == "restart a? it has 40.0 GiB, took 1m15s to be ready"
    assert question("stop", row(memory_bytes=2 * GIB)) == "stop a? it has 2.0 GiB"
    assert question("stop", row(memory_bytes=2 * GIB, managed=False)) == ""
    assert question("restart", row(memory_bytes=2 * GIB, phase="backoff")) == ""


def test_one_key_stops_and_starts() -> None:
    assert VERBS["s"](row()) == "stop"
    assert VERBS["s"](row(phase="failed")) == "start"
    assert VERBS["s"](row(phase="backoff")) == "stop"
    assert VERBS["s"](row(phase=Phase.STOPPED.value, held=True)) == "start"


def test_what_is_under_way_is_told() -> None:
    doing = Doing()
    ended = doing.begin("restart", "a")
    doing.begin("start", "b")
    assert doing.text() == "restarting a …, starting b …"
    ended()
    assert doing.text() == "starting b …"
