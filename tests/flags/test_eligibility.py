"""Who can be exposed at all: audience, layer, holdout."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expnb.errors import FlagError
from expnb.flags.bucketing import assign_all
from expnb.spec.flag import Eligibility, Exposure, FlagSpec

UNITS = [f"user-{number}" for number in range(20_000)]
WEIGHTS = {"control": 1, "new": 1}
PERCENTS = st.integers(0, 10_000).map(lambda steps: steps / 100)


def opened(**eligibility):
    return Exposure(WEIGHTS, "control", 100, eligibility=Eligibility(**eligibility))


def exposed(flag, exposure, units=UNITS, **attributes):
    answers = assign_all(flag, exposure, units, attributes)
    return {unit for unit, variant in zip(units, answers, strict=True) if variant != "off"}


@settings(max_examples=100, deadline=None)
@given(st.lists(PERCENTS, min_size=3, max_size=6, unique=True), st.text(min_size=1, max_size=9))
def test_experiments_of_one_layer_with_disjoint_slices_never_share_a_unit(cuts, layer):
    cuts = sorted(cuts)
    seen = set()
    for place, (start, end) in enumerate(pairwise(cuts)):
        mine = exposed(f"flag-{place}", opened(layer=layer, slice=(start, end)), UNITS[:400])
        assert not mine & seen
        seen |= mine


def test_the_slices_of_a_layer_together_are_everybody_and_have_their_size():
    slices = [(0, 20), (20, 70), (70, 100)]
    parts = [exposed(f"flag-{end}", opened(layer="checkout", slice=(start, end))) for start, end in slices]
    assert set.union(*parts) == set(UNITS)
    for part, (start, end) in zip(parts, slices, strict=True):
        share = (end - start) / 100
        assert len(part) == pytest.approx(20_000 * share, abs=4 * (20_000 * share * (1 - share)) ** 0.5)


def test_two_layers_cut_independently():
    one = exposed("one", opened(layer="checkout", slice=(0, 50)))
    other = exposed("other", opened(layer="search", slice=(0, 50)))
    assert len(one & other) == pytest.approx(5_000, abs=4 * (20_000 * 0.25 * 0.75) ** 0.5)


def test_the_gate_and_the_split_are_independent_of_the_slice():
    half = replace(opened(layer="checkout", slice=(0, 50)), enrolled=50)
    answers = assign_all("one", half, UNITS)
    for variant in WEIGHTS:
        assert answers.count(variant) == pytest.approx(2_500, abs=4 * (20_000 * 0.125 * 0.875) ** 0.5)


@pytest.mark.parametrize("serve", ["", "new"], ids=["ramping", "shipped"])
def test_units_of_the_holdout_are_in_nothing(serve):
    flags = [f"flag-{number}" for number in range(5)]
    seen = [exposed(flag, replace(opened(holdout=10), serve=serve)) for flag in flags]
    assert all(found == seen[0] for found in seen)
    assert 20_000 - len(seen[0]) == pytest.approx(2_000, abs=4 * (20_000 * 0.1 * 0.9) ** 0.5)


def test_raising_the_holdout_keeps_those_that_are_held_out():
    small, large = (exposed("flag", opened(holdout=percent)) for percent in (2, 10))
    assert large < small


def test_an_allow_list_lets_in_the_units_it_names_and_nobody_else():
    named = ("user-3", "user-77", "user-19999", "someone else")
    assert exposed("flag", opened(audience={"targetingKey": named})) == {"user-3", "user-77", "user-19999"}


def test_an_allow_list_asks_the_unit_and_not_an_attribute_of_its_name():
    some = ["user-1", "user-2"]
    exposure = opened(audience={"targetingKey": ("user-1",)})
    assert exposed("flag", exposure, some, targetingKey=["user-2", "user-1"]) == {"user-1"}


def test_all_attributes_of_an_audience_have_to_match():
    exposure = opened(audience={"country": ("DE", "AT"), "platform": ("ios",)})
    countries, platforms = ["DE", "DE", "AT", "CH", ""], ["ios", "web", "ios", "ios", "ios"]
    assert exposed("flag", exposure, list("abcde"), country=countries, platform=platforms) == {"a", "c"}


def test_an_attribute_that_nobody_says_lets_nobody_in():
    assert not exposed("flag", opened(audience={"country": ("DE",)}))


def test_a_shipped_flag_ignores_the_slice_of_its_layer_but_neither_audience_nor_holdout():
    countries = [("DE", "CH")[number % 2] for number in range(len(UNITS))]
    ramping = opened(audience={"country": ("DE",)}, layer="checkout", slice=(0, 10), holdout=5)
    shipped = replace(ramping, serve="new")
    whole = opened(audience={"country": ("DE",)}, holdout=5)
    assert exposed("flag", shipped, country=countries) == exposed("flag", whole, country=countries)
    assert exposed("flag", ramping, country=countries) < exposed("flag", shipped, country=countries)


def test_an_attribute_with_a_dot_is_refused_since_flagd_would_let_nobody_in(ramp):
    spec = FlagSpec(replace(ramp.ref, flag="dotted"), WEIGHTS, "control", Eligibility({"device.os": ("ios",)}))
    before = ramp.path.read_bytes()
    with pytest.raises(FlagError, match="reads a dot as a path"):
        ramp.backend.create(spec, now=ramp.now)
    assert ramp.path.read_bytes() == before


@pytest.mark.parametrize(
    ("flag", "layer", "words"), [("größe", "", "the flag 'größe'"), ("size", "größe", "the layer 'größe'")]
)
def test_names_that_javascript_hashes_otherwise_are_refused_since_they_are_part_of_every_key(ramp, flag, layer, words):
    spec = FlagSpec(replace(ramp.ref, flag=flag), WEIGHTS, "control", Eligibility(layer=layer))
    before = ramp.path.read_bytes()
    with pytest.raises(FlagError, match=words):
        ramp.backend.create(spec, now=ramp.now)
    assert ramp.path.read_bytes() == before
