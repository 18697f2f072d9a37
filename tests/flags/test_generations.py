"""The three published hash generations: what real packages answered for 20,000 units of every shape of flag."""

import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.flags.golden.cases import CASES, HALVES
from tests.flags.golden.evaluate import attributes, digest, units, wide_units

from expnb.errors import FlagError
from expnb.flags.bucketing import assign_all, fractional
from expnb.flags.flagd_rules import targeting
from expnb.flags.generations import GENERATIONS, cbor_head

GOLDEN = Path(__file__).with_name("golden")
TOLD = json.loads((GOLDEN / "generations.json").read_text())
UNITS = {"ascii": units(), "wide": wide_units()}


def ours(flag, kind, generation):
    asked = UNITS[kind]
    countries = [attributes(unit).get("country", "") for unit in asked]
    return assign_all(flag, CASES[flag], asked, {"country": countries}, generation=generation)


@pytest.mark.parametrize("flag", CASES)
def test_the_flags_that_packages_were_asked_about_are_those_that_expnb_writes(flag):
    asked = json.loads((GOLDEN / "flags.json").read_text())["flags"]
    assert asked[flag]["targeting"] == targeting(CASES[flag])


@pytest.mark.parametrize("flag", CASES)
@pytest.mark.parametrize("told", TOLD, ids=[f"{told['package']} {told['version']}" for told in TOLD])
def test_each_generation_answers_20_000_units_as_its_published_package_did(told, flag):
    assert len(UNITS["ascii"]) == 20_000
    for kind in ("ascii", "wide"):
        if flag in told[kind]:
            assert digest(ours(flag, kind, told["generation"])) == told[kind][flag]


def test_the_generations_put_different_units_into_the_same_percentage():
    found = {name: ours("gate-position", "ascii", name) for name in GENERATIONS}
    for one, other in (("1", "2"), ("1", "3"), ("2", "3")):
        differ = sum(a != b for a, b in zip(found[one], found[other], strict=True))
        assert differ > 5_000, (one, other)


@pytest.mark.parametrize(
    ("length", "head"),
    [  # RFC 8949, section 3.1 and appendix A: the head of a text string of so many bytes
        (0, "60"),
        (4, "64"),
        (23, "77"),
        (24, "7818"),
        (255, "78ff"),
        (256, "790100"),
        (65_535, "79ffff"),
        (65_536, "7a00010000"),
    ],
)
def test_a_text_has_the_cbor_head_of_the_standard(length, head):
    assert cbor_head(length).hex() == head


@given(st.lists(st.integers(0, 2**29), min_size=1, max_size=4).filter(any))
def test_a_part_ends_at_the_very_hash_at_which_the_product_passes_its_weights(parts):
    total = sum(parts)
    for edge, end in zip(GENERATIONS["2"].edges(parts), accumulate(parts), strict=True):
        assert edge * total >> 32 >= end
        assert edge == 0 or (edge - 1) * total >> 32 < end


@pytest.mark.parametrize("generation", GENERATIONS)
def test_raising_the_gate_moves_nobody_in_any_generation(generation):
    some = UNITS["ascii"][:1000]
    before = ["off"] * len(some)
    for percent in (0.1, 1, 5, 25, 50, 100):
        exposure = replace(CASES["three-arms"], enrolled=percent)
        after = assign_all("ramp", exposure, some, generation=generation)
        assert all(was in ("off", now) for was, now in zip(before, after, strict=True))
        before = after


def test_generation_1_has_no_part_for_the_hashes_at_its_rim():
    # The largest signed hash is 100 % of generation 1, and no part begins there; the provider answers null.
    place, edges = GENERATIONS["1"].place(2**31 - 1), GENERATIONS["1"].edges([1, 1])
    assert place == 100
    assert all(place >= edge for edge in edges)


def test_an_unknown_generation_is_refused():
    for ask in (
        lambda: fractional("key", [("a", 1), ("b", 1)], "4"),
        lambda: assign_all("flag", CASES["open"], ["u"], generation="4"),
    ):
        with pytest.raises(FlagError, match="published are 1, 2, 3"):
            ask()


def test_the_golden_flags_cover_audience_layer_holdout_drop_and_ship():
    seen = [CASES[flag] for flag in CASES]
    assert any(exposure.dropped for exposure in seen)
    assert {need for exposure in seen for need in exposure.eligibility.needs} == {"audience", "layer", "holdout"}
    assert any(exposure.serve and exposure.eligibility.needs for exposure in seen)
    assert any(exposure.weights == HALVES for exposure in seen)
