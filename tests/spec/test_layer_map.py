"""Layers: collisions are found, and what is called free is free."""

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expnb.spec.layers import Claim, LayerMap, collisions, common, free_slices, layer_maps, suggested

PERCENTS = st.integers(0, 10_000).map(lambda part: part / 100)
SLICES = st.tuples(PERCENTS, PERCENTS).filter(lambda part: part[0] != part[1]).map(lambda part: tuple(sorted(part)))
CLAIM = Claim("new", "new-flag", "checkout", (0, 50))


def width(parts):
    return sum(end - start for start, end in parts)


@given(st.lists(SLICES))
def test_free_slices_never_overlap_used_ones(taken):
    for part in free_slices(taken):
        assert all(common(part, used) is None for used in taken)


@given(st.lists(SLICES))
def test_free_and_used_slices_together_are_the_whole_layer(taken):
    free = free_slices(taken)
    # Whoever stands in no free part stands in a used one: hundredths of a percent, of which each layer has 10,000.
    middles = [(number + 0.5) / 100 for number in range(10_000)]
    covered = sum(any(start < at < end for start, end in [*free, *taken]) for at in middles[::37])
    assert covered == len(middles[::37])
    assert width(free) <= 100 - max((end - start for start, end in taken), default=0) + 1e-9


@given(st.lists(SLICES), SLICES)
def test_a_suggested_slice_is_free_and_no_wider_than_asked(taken, wanted):
    size = wanted[1] - wanted[0]
    found = suggested(free_slices(taken), size)
    if found is None:
        assert not free_slices(taken)
    else:
        assert found[1] - found[0] <= max(size, 0) + 0.01
        assert all(common(found, used) is None for used in taken)


@given(SLICES, SLICES)
def test_what_two_slices_share_lies_in_both(first, second):
    both = common(first, second)
    assert both == common(second, first)
    if both:
        assert max(first[0], second[0]) == both[0] < both[1] == min(first[1], second[1])


def test_experiments_that_share_units_of_a_layer_collide_with_a_way_out():
    others = [Claim("old", "old-flag", "checkout", (25, 60))]
    (sentence,) = collisions(CLAIM, others)
    assert "'new' (0 to 50 %) and 'old' (25 to 60 %) share 25 % of layer 'checkout', from 25 to 50 %" in sentence
    assert "Free is 0 to 25 % and 60 to 100 %." in sentence


def test_the_suggested_slice_does_not_collide():
    others = [Claim("old", "old-flag", "checkout", (25, 40))]
    (sentence,) = collisions(CLAIM, others)
    assert "Write slice = [40, 90]." in sentence
    assert not list(collisions(replace(CLAIM, slice=(40, 90)), others))


def test_a_full_layer_is_said_to_be_full():
    (sentence,) = collisions(CLAIM, [Claim("old", "old-flag", "checkout")])
    assert "share 50 % of layer" in sentence
    assert "Nothing of the layer is free" in sentence


@pytest.mark.parametrize(
    "other",
    [
        Claim("old", "old-flag", "checkout", (50, 100)),
        Claim("old", "old-flag", "search", (0, 100)),
        Claim("old", "old-flag"),
        Claim("old", "old-flag", "checkout", status="over"),
        Claim("old", "old-flag", "checkout", last=date(2026, 2, 28)),
        Claim("old", "old-flag", "checkout", first=date(2026, 4, 1)),
        Claim("old", "new-flag", last=date(2026, 2, 28)),
        Claim("new", "new-flag", "checkout", (0, 50)),
    ],
)
def test_what_never_meets_does_not_collide(other):
    own = replace(CLAIM, first=date(2026, 3, 1), last=date(2026, 3, 31))
    assert not list(collisions(own, [other]))


def test_days_that_touch_are_shared():
    own = replace(CLAIM, first=date(2026, 3, 1), last=date(2026, 3, 31))
    assert list(collisions(own, [Claim("old", "old-flag", "checkout", first=date(2026, 3, 31))]))


def test_two_experiments_on_one_flag_collide_without_a_layer():
    (sentence,) = collisions(Claim("new", "button"), [Claim("old", "button")])
    assert "both move the flag 'button'" in sentence


def test_a_map_shows_holders_and_gaps_and_forgets_what_is_over():
    claims = [
        Claim("right", "r", "checkout", (60, 100), status="open"),
        Claim("left", "l", "checkout", (0, 50), date(2026, 3, 1), date(2026, 3, 31)),
        Claim("gone", "g", "checkout", status="over"),
        Claim("elsewhere", "e", "search"),
        Claim("none", "n"),
    ]
    first, second = layer_maps(claims)
    assert (first.layer, second.layer) == ("checkout", "search")
    assert [row[1] for row in first.rows] == ["left", "(free)", "right"]
    assert first.free == ((50, 60),)
    assert "50 to 60 %" in str(first)
    assert "2026-03-01 to 2026-03-31" in first._repr_html_()
    assert "gone" not in str(first)


def test_a_name_in_html_is_text():
    shown = LayerMap("<b>", (Claim("<i>", "f", "<b>"),))._repr_html_()
    assert "<b>" not in shown
    assert "<i>" not in shown
