"""Many writers at once: one wins, and all others are told."""

import pytest
from tests.faults.race import raced
from tests.faults.shop import make_shop


@pytest.fixture
def shop(tmp_path):
    """A shop whose gate is open."""
    return make_shop(tmp_path / "shop", more="").ramped(rungs=1)


def test_of_eight_writers_on_one_version_of_a_file_one_wins_and_seven_are_told(shop):
    for found in raced(shop, writers=8, rounds=2):
        assert (found.winners, sum(found.told.values()), found.untold, found.wrong) == (1, 7, [], [])


def test_of_four_writers_on_one_version_of_an_unleash_flag_never_two_win(unleash_shop):
    for found in raced(unleash_shop, writers=4, rounds=2):
        assert found.winners <= 1, "two winners, and neither was told"
        assert (found.winners + sum(found.told.values()), found.untold, found.wrong) == (4, [], [])
