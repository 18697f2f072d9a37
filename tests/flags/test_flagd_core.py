"""JavaScript services see what was pushed: npm's @openfeature/flagd-core reads the file that expnb writes."""

import pytest
from tests.flags.golden.evaluate import attributes, units, wide_units
from tests.flags.npm import flagd_core

from expnb.flags.sdks import node_answers
from expnb.spec.flag import Eligibility, FlagRef, FlagSpec

UNITS = units()
COUNTRIES = {"country": [attributes(unit).get("country", "") for unit in UNITS]}
CONTEXTS = [{"targetingKey": unit, **attributes(unit)} for unit in UNITS]
NARROW = Eligibility({"country": ("DE", "AT")}, "checkout", (20, 70), 5)


@pytest.fixture(scope="module")
def sdk():
    return flagd_core()


@pytest.fixture
def flag(ramp, make_plan):
    """A flag of three arms for a part of the units, beside the plain one; a function that pushes it."""
    ref = FlagRef("narrow", "production")
    ramp.backend.create(FlagSpec(ref, {"a": 40, "b": 25, "c": 35}, "a", NARROW), now=ramp.now)

    def push(verb, **changes):
        return ramp.backend.apply(make_plan(ramp.backend.read(ref), verb, **changes), now=ramp.now)

    return ref, push


def told(sdk, ramp, ref, contexts=CONTEXTS):
    return node_answers(sdk, ramp.path.read_text(), [ref.flag], contexts).answers[ref.flag]


def test_a_service_agrees_with_expnb_on_20_000_units_after_every_kind_of_push(sdk, ramp):
    for verb, changes in (
        ("ramp_up", {"enrolled": 0.5}),
        ("ramp_up", {"enrolled": 50}),
        ("ship", {"serve": "gate_40", "holdback": 5}),
        ("restore", {"serve": "", "holdback": 0}),
        ("roll_back", {"enrolled": 0}),
    ):
        ramp.push(verb, **changes)
        assert told(sdk, ramp, ramp.ref) == list(ramp.backend.evaluate(ramp.ref, UNITS))


def test_a_service_agrees_on_audience_layer_and_holdout_through_drop_ship_and_restore(sdk, ramp, flag):
    ref, push = flag
    seen = []
    for verb, changes in (
        ("ramp_up", {"enrolled": 60}),
        ("drop", {"dropped": ("b",)}),
        ("ship", {"serve": "c", "holdback": 10}),
        ("restore", {"serve": "", "holdback": 0, "dropped": ()}),
    ):
        push(verb, **changes)
        seen.append(told(sdk, ramp, ref))
        assert seen[-1] == list(ramp.backend.evaluate(ref, UNITS, COUNTRIES))
        assert {"a", "c", "off"} <= set(seen[-1])
    assert seen[3] == seen[0]
    assert seen[1] == ["off" if variant == "b" else variant for variant in seen[0]]


def test_a_service_gets_its_code_default_after_a_kill(sdk, ramp):
    ramp.push(enrolled=100)
    ramp.kill()
    assert set(told(sdk, ramp, ramp.ref, CONTEXTS[:50])) == {"code default"}


@pytest.mark.parametrize("changes", [{"enrolled": 100}, {"serve": "gate_40"}], ids=["all enrolled", "shipped"])
def test_a_caller_without_a_targeting_key_is_never_exposed(sdk, ramp, changes):
    ramp.push(**changes)
    assert told(sdk, ramp, ramp.ref, [{}, {"targetingKey": ""}]) == ["off", "off"]


def test_a_unit_with_letters_outside_ascii_is_hashed_otherwise_in_javascript(sdk, ramp):
    """Not a promise of ours but a fact that the doctor tells; when it fails, the SDK was mended."""
    ramp.push(enrolled=100)
    wide = wide_units()
    answers = told(sdk, ramp, ramp.ref, [{"targetingKey": unit} for unit in wide])
    assert answers != list(ramp.backend.evaluate(ramp.ref, wide))
