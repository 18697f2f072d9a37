"""Many units at once get what each of them gets alone."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expnb.errors import UnitError
from expnb.flags.bucketing import assign_all, assigner
from expnb.flags.generations import GENERATIONS
from expnb.flags.vectorised import assigned
from expnb.spec.flag import Eligibility, Exposure

NAMES = st.text(min_size=1, max_size=6).filter(lambda name: name != "off")
PERCENTS = st.integers(0, 10_000).map(lambda steps: steps / 100)
UNITS = st.lists(st.text(max_size=40), max_size=60)
COUNTRIES = st.sampled_from(["DE", "AT", "CH", ""])
ELIGIBILITIES = st.builds(
    lambda audience, layer, start, width, holdout: Eligibility(
        audience, layer, (start, start + width) if layer else (0, 100), holdout
    ),
    st.dictionaries(st.sampled_from(["country", "targetingKey", "other"]), st.just(("DE", "AT", "u")), max_size=2),
    st.sampled_from(["", "checkout"]),
    st.integers(0, 50),
    st.integers(1, 50),
    PERCENTS,
)


@st.composite
def exposures(draw):
    weights = draw(
        st.dictionaries(NAMES, st.integers(0, 1000), min_size=1, max_size=5).filter(lambda w: any(w.values()))
    )
    serve = draw(st.sampled_from(["", *weights]))
    control = draw(st.sampled_from(sorted(weights)))
    left = sorted(set(weights) - {control, serve})
    dropped = tuple(draw(st.sets(st.sampled_from(left)))) if left else ()
    if len(dropped) == len(weights) - 1:
        dropped = ()
    return Exposure(
        weights, control, draw(PERCENTS), serve, draw(PERCENTS), dropped=dropped, eligibility=draw(ELIGIBILITIES)
    )


@settings(max_examples=300, deadline=None)
@given(NAMES, exposures(), UNITS, st.data(), st.sampled_from(sorted(GENERATIONS)))
def test_many_units_at_once_get_what_each_gets_alone(flag, exposure, units, data, generation):
    countries = data.draw(st.lists(COUNTRIES, min_size=len(units), max_size=len(units)))
    names, codes = assigned(flag, exposure, units, {"country": countries}, generation=generation)
    alone = assigner(flag, exposure, generation)
    expected = [alone(unit, {"country": country}) for unit, country in zip(units, countries, strict=True)]
    assert [names[code] for code in codes] == expected


@pytest.mark.parametrize("generation", GENERATIONS)
def test_units_of_every_length_are_hashed_as_alone(generation):
    units = ["x" * length for length in range(1, 300)] + ["ü" * length for length in range(1, 100)] + ["x" * 70_000]
    exposure = Exposure({"a": 1, "b": 2}, "a", 60)
    names, codes = assigned("flag", exposure, units, generation=generation)
    alone = assigner("flag", exposure, generation)
    assert [names[code] for code in codes] == [alone(unit, {}) for unit in units]


def test_assign_all_gives_the_same_whether_units_are_few_or_many():
    units = [f"user-{number}" for number in range(5_000)]
    exposure = Exposure({"a": 1, "b": 1}, "a", 50)
    parts = [assign_all("flag", exposure, units[start : start + 100]) for start in range(0, 5_000, 100)]
    assert assign_all("flag", exposure, units) == [variant for part in parts for variant in part]


@pytest.mark.parametrize("count", [1, 5_000], ids=["few", "many"])
@pytest.mark.parametrize(("unit", "words"), [("\ud800", "UTF-8"), (5, "of type int"), (None, "of type NoneType")])
def test_a_unit_that_is_no_text_is_refused(count, unit, words):
    with pytest.raises(UnitError, match=words):
        assign_all("flag", Exposure({"a": 1, "b": 1}, "a", 50), [unit, *["u"] * count])


def test_a_push_of_200_sample_units_needs_no_numpy():
    code = "import sys; from expnb.flags.flagd import FlagdFile; from expnb.flags.bucketing import assign_all; from expnb.spec.flag import Exposure; assign_all('f', Exposure({'a': 1, 'b': 1}, 'a', 5), ['u'] * 200); assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
