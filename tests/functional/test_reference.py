"""`docs/reference.md` says what the code does: not a word more, not a word less."""

from __future__ import annotations

from tests import reference, reference_examples
from tests.world import World


def test_the_page_is_that_of_the_code() -> None:
    """Meanings of new words go into `tests/reference_text.py`."""
    assert reference.PAGE.read_text() == reference.page(), "run: python tests/reference.py --write"


def test_the_examples_of_documents_have_the_shape_of_real_ones(world: World) -> None:
    world.profile({"a": None}, name="profiles/p.yaml")
    world.run("apply", "p")

    [status] = world.status()["instances"]
    [profile] = world.run("profiles", "--json").json["profiles"]
    document = world.run("doctor", "--json").json

    [shown] = reference_examples.status_example()["instances"]
    assert set(status) == set(shown)
    assert set(world.status()) == set(reference_examples.status_example())
    assert set(profile) == set(reference_examples.PROFILE)
    assert set(document) == {"ok", "version", "findings"}
    for event in world.events():
        assert set(event) == set(reference_examples.event_example())
