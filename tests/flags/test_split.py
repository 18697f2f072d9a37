"""The check after a push: sample units get what the state says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from expnb import errors
from expnb.decisions.plan import RampPlan
from expnb.flags.bucketing import assign_all
from expnb.flags.memory import InMemoryFlags
from expnb.flags.split import (
    SAMPLE_UNITS,
    check_split,
    eligible_sample,
    expected_shares,
    serve_sample,
    stranger_sample,
)
from expnb.spec.flag import UNIT, Eligibility, Exposure, FlagRef, FlagSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_split_that_is_not_what_the_flag_says_is_an_error(demo):
    state = demo.flag(demo.experiment("gate_position"))
    check_split(state, {"off": 100, "gate_30": 50, "gate_40": 50})
    with pytest.raises(errors.PushUncertainError, match="200 of 200 sample units get 'off'|0 of 200 sample units"):
        check_split(state, {"off": 200})


@pytest.mark.parametrize(
    ("change", "shares"),
    [
        ({}, {"gate_30": 0.25, "gate_40": 0.25, "off": 0.5}),
        ({"serve": "gate_40", "holdback": 5}, {"gate_30": 0.05, "gate_40": 0.95, "off": 0}),
        ({"serve": "gate_30"}, {"gate_30": 1, "gate_40": 0, "off": 0}),
    ],
)
def test_expected_shares_follow_the_exposure(demo, change, shares):
    state = demo.flag(demo.experiment("gate_position"))
    found = expected_shares(replace(state, exposure=replace(state.exposure, **change)))
    assert found == pytest.approx(shares)


def test_the_real_flag_serves_what_it_says(demo):
    for name in demo.experiments:
        state = demo.flag(demo.experiment(name))
        check_split(state, serve_sample(demo.flags, state.ref))


# --- who is eligible ----------------------------------------------------------------------------


ARMS = {"gate_30": 50, "gate_40": 50}
NARROW = {
    "everybody": Eligibility(),
    "audience": Eligibility({"country": ("DE", "AT"), "platform": ("ios",)}),
    "layer": Eligibility(layer="checkout", slice=(0, 5)),
    "holdout": Eligibility(holdout=50),
    "all": Eligibility({"country": ("DE",)}, "checkout", (90, 95), 50),
    "allow-list": Eligibility({UNIT: tuple(f"tester-{number}" for number in range(300)), "country": ("DE",)}),
    "few": Eligibility({UNIT: ("ana", "ben")}),
}


def opened(who, **changes):
    """A flag in memory that lets `who` in, and its state."""
    backend = InMemoryFlags(f"memory://{uuid4().hex}", "production")
    ref = FlagRef("gate-position", "production")
    state = backend.create(FlagSpec(ref, ARMS, "gate_30", who), now=NOW)
    after = replace(state.exposure, **(changes or {"enrolled": 50}))
    times = {"created_at": NOW, "expires_at": NOW + timedelta(hours=1)}
    plan = RampPlan("ramp_up", "x", ref, state.version, state.exposure, after, "", "p", "e", **times)
    return backend, backend.apply(plan, now=NOW).after


@pytest.mark.parametrize("name", NARROW)
def test_sample_units_are_eligible_ones_whoever_is_let_in(name):
    backend, state = opened(NARROW[name])
    served = serve_sample(backend, state.ref)
    assert sum(served.values()) == (2 if name == "few" else SAMPLE_UNITS)
    check_split(state, served)
    if name != "few":
        assert served["gate_30"] + served["gate_40"] > 50


@pytest.mark.parametrize("name", NARROW)
def test_sample_units_of_a_full_gate_all_get_a_variant(name):
    backend, state = opened(NARROW[name], enrolled=100)
    assert "off" not in serve_sample(backend, state.ref, state)


@pytest.mark.parametrize("name", NARROW)
def test_a_shipped_variant_is_served_to_every_sample_unit(name):
    backend, state = opened(NARROW[name], serve="gate_40")
    assert set(serve_sample(backend, state.ref)) == {"gate_40"}


@pytest.mark.parametrize("name", [name for name in NARROW if name != "everybody"])
def test_a_flag_that_lets_in_everybody_is_found_out(name):
    backend, state = opened(Eligibility(), enrolled=100)
    narrow = replace(state, exposure=replace(state.exposure, eligibility=NARROW[name]))
    with pytest.raises(errors.PushUncertainError, match="sample units that are not eligible get a variant"):
        check_split(narrow, serve_sample(backend, state.ref, narrow))


def test_a_flag_that_serves_nobody_is_found_out_in_a_narrow_audience():
    backend, state = opened(Eligibility({"country": ("FR",)}), enrolled=50)
    told = replace(state, exposure=replace(state.exposure, eligibility=Eligibility({"country": ("DE",)})))
    with pytest.raises(errors.PushUncertainError, match=r"get 'gate_30' where 50|get 'off' where 100"):
        check_split(told, serve_sample(backend, state.ref, told))


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("change", [{"enrolled": 100}, {"serve": "gate_40"}, {"serve": "gate_40", "holdback": 20}])
def test_strangers_are_served_nothing_and_eligible_units_something(name, change):
    exposure = replace(Exposure(ARMS, "gate_30", eligibility=NARROW[name]), **change)
    own = eligible_sample(exposure)
    others = stranger_sample(exposure, own)
    assert "off" not in assign_all("any-flag", exposure, own.units, own.attributes)
    assert set(assign_all("any-flag", exposure, others.units, others.attributes)) <= {"off"}
