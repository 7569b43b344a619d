"""The limit of open files: raised for the daemon, and nobody else's affair."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Generator

import pytest

from orchestrator.core.spec import Command
from orchestrator.runtime import descriptors
from orchestrator.runtime.process import spawn

FILES = resource.RLIMIT_NOFILE


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Generator[int]:
    """A soft limit well below the hard one, as a shell would hand it down."""
    soft, hard = resource.getrlimit(FILES)
    low = 512
    assert hard == resource.RLIM_INFINITY or hard > low
    monkeypatch.setattr(descriptors, "_found", None)
    resource.setrlimit(FILES, (low, hard))
    yield low
    resource.setrlimit(FILES, (soft, hard))


def soft_limit_of_a_child() -> str:
    read, write = os.pipe()

    async def life() -> None:
        command = Command(("/bin/sh", "-c", "ulimit -Sn"), {}, "/")
        await spawn(command, inherited=os.environ, owner=("O", "x"), log=write).ended()

    asyncio.run(life())
    os.close(write)
    with open(read) as out:
        return out.read().strip()


def test_a_child_has_the_limit_that_we_were_started_with(found: int) -> None:
    descriptors.raise_limit()
    raised = descriptors.limit()
    assert raised != found
    assert soft_limit_of_a_child() == str(found)
    assert descriptors.limit() == raised


def test_with_more_open_than_that_a_child_can_be_started_too(found: int) -> None:
    descriptors.raise_limit()
    many = [os.open("/dev/null", os.O_RDONLY) for _ in range(found + 10)]
    try:
        assert max(many) < int(soft_limit_of_a_child()) < found * 2
    finally:
        for one in many:
            os.close(one)


def test_a_limit_that_was_not_raised_is_left_alone(found: int) -> None:
    assert soft_limit_of_a_child() == str(found)


@pytest.mark.parametrize("error", [ValueError("not allowed to raise maximum limit"), OSError(1)])
def test_where_it_may_not_be_raised_it_stays(
    found: int, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise error

    monkeypatch.setattr(resource, "setrlimit", refuses)
    descriptors.raise_limit()
    assert descriptors.limit() == found
    assert soft_limit_of_a_child() == str(found)
    monkeypatch.undo()
