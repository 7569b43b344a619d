"""Who belongs together, of processes as they were at one look."""

from __future__ import annotations

from orchestrator.runtime.families import Families
from orchestrator.runtime.identity import ProcStat


def stat(pid: int, parent: int, group: int) -> ProcStat:
    return ProcStat(pid, "x", "S", parent, group, group, 0, 1, 1)


def test_a_tree_is_all_that_descends_from_its_root() -> None:
    families = Families([stat(1, 0, 1), stat(2, 1, 2), stat(3, 2, 2), stat(4, 3, 9), stat(5, 1, 5)])
    assert [one.pid for one in families.tree(2)] == [2, 3, 4]
    assert [one.pid for one in families.tree(4)] == [4]
    assert families.tree(6) == []


def test_a_group_goes_on_without_its_leader() -> None:
    families = Families([stat(3, 1, 2), stat(4, 1, 2), stat(5, 1, 5)])
    assert [one.pid for one in families.group(2)] == [3, 4]
    assert not families.group(6)


def test_a_table_that_was_read_while_numbers_changed_hands_has_an_end() -> None:
    families = Families([stat(2, 3, 2), stat(3, 2, 2)])
    assert [one.pid for one in families.tree(2)] == [2, 3]
