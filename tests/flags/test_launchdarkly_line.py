"""Stretches of LaunchDarkly's line: who is exposed, who stays, who is held back."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expnb.errors import FlagError, PercentError, UnitError
from expnb.flags.launchdarkly_line import assigner, check_shares, check_weights_fit, place, stretches, variants
from expnb.flags.launchdarkly_rules import serving
from expnb.spec.flag import Exposure

PLACES = range(50, 100_000, 100)  # one in each tenth of a percent
ARMS = st.lists(st.integers(1, 1000), min_size=2, max_size=6)
PERCENT = st.integers(0, 10_000).map(lambda steps: steps / 100)


def exposure_of(weights, **changes):
    return replace(Exposure({f"arm{number}": weight for number, weight in enumerate(weights)}, "arm0"), **changes)


def walk(served, at):
    """The index of the variation at a place of the line, as the vendor's SDKs walk a rollout."""
    if "variation" in served:
        return served["variation"]
    total = 0.0
    for part in served["rollout"]["variations"]:
        total += part["weight"] / 100_000.0
        if at < total:
            return part["variation"]
    return served["rollout"]["variations"][-1]["variation"]


def line(exposure):
    order = variants(exposure)
    served = serving(exposure, order)
    return [order[walk(served, (number + 0.5) / 100_000)] for number in PLACES]


@settings(deadline=None)
@given(weights=ARMS, percents=st.lists(PERCENT, min_size=2, max_size=5).map(sorted))
def test_raising_takes_nobody_out_and_moves_nobody_to_another_arm(weights, percents):
    lines = [line(exposure_of(weights, enrolled=percent)) for percent in percents]
    for before, after in pairwise(lines):
        assert all(was in ("off", now) for was, now in zip(before, after, strict=True))


@settings(deadline=None)
@given(weights=ARMS, percent=PERCENT)
def test_the_line_is_full_and_each_arm_has_its_share_of_it(weights, percent):
    exposure = exposure_of(weights, enrolled=percent)
    parts = stretches(exposure)
    assert sum(width for _, width in parts) == 100_000
    assert all(width > 0 for _, width in parts)
    for name, share in exposure.shares().items():
        # Two borders, each on the nearest thousandth of a percent, and one within the stretch.
        assert sum(width for arm, width in parts if arm == name) == pytest.approx(share * 100_000, abs=1.5)


@settings(deadline=None)
@given(weights=st.lists(st.integers(1, 1000), min_size=3, max_size=6), percent=PERCENT)
def test_dropping_an_arm_serves_its_units_nothing_new_and_moves_nobody_else(weights, percent):
    exposure = exposure_of(weights, enrolled=percent)
    before, after = line(exposure), line(replace(exposure, dropped=("arm1",)))
    assert after == ["off" if name == "arm1" else name for name in before]


def test_two_arms_have_off_once_between_them_so_that_any_rollout_can_say_it():
    assert stretches(Exposure({"new": 50, "old": 50}, "old", enrolled=25)) == (
        ("old", 12_500),
        ("off", 75_000),
        ("new", 12_500),
    )


def test_shipping_holds_back_those_who_had_control_first():
    ramp = Exposure({"old": 50, "new": 50}, "old", enrolled=20)
    shipped = line(replace(ramp, serve="new", holdback=10))
    assert shipped == ["old" if was == "old" else "new" for was in line(ramp)]
    assert line(replace(ramp, serve="new")) == ["new"] * len(PLACES)
    assert line(replace(ramp, serve="old", holdback=10)) == ["old"] * len(PLACES)


def test_the_order_of_the_weights_moves_nobody():
    one = Exposure({"a": 1, "b": 2, "c": 3}, "b", enrolled=50)
    assert stretches(one) == stretches(replace(one, weights={"c": 3, "b": 2, "a": 1}))


def test_thirds_are_served_to_a_thousandth_of_a_percent():
    exposure = exposure_of([1, 1, 1], enrolled=5)
    check_shares(exposure)
    assert {name: width for name, width in stretches(exposure) if name != "off"} == dict.fromkeys(
        exposure.weights, 1667
    )


@pytest.mark.parametrize(("weights", "percent"), [([1, 1, 1], 0.01), ([95, 5], 0.01), ([997, 3], 0.1)])
def test_a_ramp_too_small_to_give_an_arm_its_share_is_refused(weights, percent):
    with pytest.raises(PercentError, match="thousandths of a percent"):
        check_shares(exposure_of(weights, enrolled=percent))


@settings(deadline=None)
@given(weights=ARMS, percent=PERCENT)
def test_whatever_is_not_refused_is_served_to_one_part_in_a_hundred(weights, percent):
    exposure = exposure_of(weights, enrolled=percent)
    try:
        check_shares(exposure)
    except PercentError:
        return
    for name, share in exposure.shares().items():
        found = sum(width for arm, width in stretches(exposure) if arm == name)
        assert found == pytest.approx(share * 100_000, rel=0.0101)


def test_a_weight_too_small_for_the_line_is_refused_before_the_flag_is_made():
    with pytest.raises(FlagError, match="larger weight"):
        check_weights_fit(exposure_of([1_000_000, 1]))


@pytest.mark.parametrize(
    ("key", "expected"), [("userKeyA", 0.42157587), ("userKeyB", 0.6708485), ("userKeyC", 0.10343106)]
)
def test_a_unit_stands_where_the_vendors_sdks_put_it(key, expected):
    # launchdarkly-server-sdk, testing/impl/test_evaluator_bucketing.py and the same table in the SDKs of other languages.
    assert place("hashKey", "saltyA", key) == pytest.approx(expected, abs=1e-6)


def test_a_unit_that_no_sdk_can_hash_is_refused():
    with pytest.raises(UnitError, match="UTF-8"):
        place("flag", "salt", "\ud800")


def test_a_unit_without_a_name_is_served_nothing_new():
    assign = assigner("flag", "salt", exposure_of([1, 1], enrolled=100))
    assert assign("", {}) == "off"
    assert assign("someone", {}) in ("arm0", "arm1")
