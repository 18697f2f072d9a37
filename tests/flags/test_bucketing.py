"""Who gets what: goldens from published vectors, and what no percentage may do to a unit."""

import math
from dataclasses import replace

import mmh3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core.targeting.custom_ops import fractional as flagd_fractional

from expnb.errors import SpecError, UnitError
from expnb.flags.bucketing import MAX_TOTAL, assign_all, assigner, bucket, fractional, murmur3_32, split_weights
from expnb.spec.flag import Exposure

PERCENTS = st.integers(0, 10_000).map(lambda steps: steps / 100)
NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name != "off")
WEIGHTS = st.dictionaries(NAMES, st.integers(0, 1000).map(lambda tenths: tenths / 10), min_size=2, max_size=5)
EXPOSURES = WEIGHTS.filter(lambda weights: any(weights.values())).map(lambda weights: Exposure(weights, min(weights)))
UNITS = st.lists(st.text(), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # the test vectors of Wikipedia's article on MurmurHash, seed 0
        ("", 0x00000000),
        ("test", 0xBA6BD213),
        ("Hello, world!", 0xC0363E43),
        ("The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ],
)
def test_murmur3_matches_the_published_vectors(text, expected):
    assert murmur3_32(text.encode()) == expected


@given(st.binary(max_size=64))
def test_murmur3_matches_the_library_that_the_provider_uses(data):
    assert murmur3_32(data) == mmh3.hash(data, signed=False)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1), st.lists(st.tuples(NAMES, st.integers(0, 10_000)), min_size=2, max_size=6))
def test_fractional_matches_the_provider(key, weights):
    if sum(weight for _, weight in weights):
        assert fractional(key, weights) == flagd_fractional({}, key, *map(list, weights))


def test_fractional_without_any_weight_is_refused():
    with pytest.raises(SpecError, match="add up to 0"):
        fractional("key", [("a", 0), ("b", 0)])


@settings(max_examples=60, deadline=None)
@given(EXPOSURES, PERCENTS, PERCENTS, UNITS)
def test_raising_enrolled_never_moves_or_drops_an_exposed_unit(exposure, one, other, units):
    low, high = sorted((one, other))
    before = assign_all("flag", replace(exposure, enrolled=low), units)
    after = assign_all("flag", replace(exposure, enrolled=high), units)
    assert all(was in ("off", now) for was, now in zip(before, after, strict=True))


@settings(max_examples=60, deadline=None)
@given(EXPOSURES, PERCENTS, PERCENTS, UNITS)
def test_a_unit_that_comes_back_gets_the_variant_it_had(exposure, first, second, units):
    everybody = dict(zip(units, assign_all("flag", replace(exposure, enrolled=100), units), strict=True))
    for percent in (first, second):
        found = assign_all("flag", replace(exposure, enrolled=percent), units)
        assert all(variant in ("off", everybody[unit]) for unit, variant in zip(units, found, strict=True))


@settings(max_examples=60, deadline=None)
@given(EXPOSURES, PERCENTS, UNITS)
def test_the_order_in_which_weights_are_written_moves_nobody(exposure, percent, units):
    other = Exposure(dict(reversed(exposure.weights.items())), exposure.control, percent)
    assert assign_all("flag", other, units) == assign_all("flag", replace(exposure, enrolled=percent), units)


@settings(max_examples=60, deadline=None)
@given(EXPOSURES, st.integers(2, 9), UNITS)
def test_scaling_all_weights_moves_nobody(exposure, factor, units):
    scaled = {name: weight * factor for name, weight in exposure.weights.items()}
    if split_weights(scaled) == split_weights(exposure.weights):  # 0.1 * 3 is 0.30000000000000004
        other = Exposure(scaled, exposure.control, 100)
        assert assign_all("flag", other, units) == assign_all("flag", replace(exposure, enrolled=100), units)


@settings(max_examples=60, deadline=None)
@given(EXPOSURES, PERCENTS, UNITS)
def test_ship_gives_the_winner_to_all_but_the_holdback_and_nothing_else_to_anybody(exposure, holdback, units):
    winner = max(exposure.weights)
    found = assign_all("flag", replace(exposure, serve=winner, holdback=holdback), units)
    for unit, variant in zip(units, found, strict=True):
        held = bucket(f"flag/gate/{unit}", 10_000) >= round(10_000 - holdback * 100)
        assert variant == ("off" if not unit else exposure.control if held else winner)


@settings(max_examples=60, deadline=None)
@given(EXPOSURES, PERCENTS, st.sampled_from(["", "serve"]))
def test_a_unit_without_a_name_is_never_exposed(exposure, percent, serve):
    shipped = replace(exposure, enrolled=percent, serve=max(exposure.weights) if serve else "")
    assert assigner("flag", shipped)("", {}) == "off"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"b": 50, "a": 50}, (("a", 1), ("b", 1))),
        ({"a": 1, "b": 1, "c": 1}, (("a", 1), ("b", 1), ("c", 1))),
        ({"a": 33.3, "b": 66.7}, (("a", 333), ("b", 667))),
        ({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, (("a", 1), ("b", 1), ("c", 1))),
        ({"a": 0, "b": 2}, (("a", 0), ("b", 1))),
    ],
)
def test_weights_become_the_smallest_exact_integers(weights, expected):
    assert split_weights(weights) == expected


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=6))
def test_weights_without_a_small_exact_form_stay_within_flagd_and_are_close(weights):
    names = {f"v{place}": weight for place, weight in enumerate(weights)}
    found = dict(split_weights(names))
    total = sum(found.values())
    assert total <= MAX_TOTAL
    for name, weight in names.items():
        assert found[name] / total == pytest.approx(weight / math.fsum(weights), abs=1e-8)


def test_a_weight_that_would_expose_nobody_is_refused():
    with pytest.raises(SpecError, match="less than one billionth"):
        split_weights({"a": 1e-12, "b": 1.123456789})


def test_a_unit_that_no_sdk_can_hash_is_refused():
    with pytest.raises(UnitError, match="UTF-8"):
        bucket("flag/gate/\ud800", 10_000)


@pytest.mark.parametrize(
    "weights", [{"a": -1, "b": 2}, {"a": math.nan, "b": 1}, {"a": math.inf, "b": 1}, {"a": 0, "b": 0}]
)
def test_an_exposure_refuses_weights_that_are_no_shares(weights):
    with pytest.raises(SpecError, match="weight"):
        Exposure(weights, "a")
