"""Plans: set to, never add to; bound to state, policy and evidence."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import expnb as xb
from expnb.errors import PercentError

NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)


@pytest.fixture
def plan(gate_position, ask):
    return xb.plan_ramp(gate_position, ask(enrolled=25), now=NOW)


def test_a_plan_says_from_where_to_where(plan):
    assert (plan.verb, plan.before.enrolled, plan.after.enrolled, plan.base_version) == ("ramp_up", 25, 50, "7-abc")
    assert (
        str(plan)
        == "ramp_up: gate-position in production: enrolled 25 %, treated 12.5 % -> enrolled 50 %, treated 25 %"
    )
    assert plan.raises_treated
    assert plan.expires_at == NOW + timedelta(hours=24)


def test_the_id_binds_everything(plan):
    assert plan.id == replace(plan).id
    for change in (
        {"base_version": "8-abc"},
        {"after": replace(plan.after, enrolled=51)},
        {"policy_hash": "x"},
        {"evidence_hash": "x"},
        {"expires_at": NOW},
    ):
        assert replace(plan, **change).id != plan.id


def test_a_hold_changes_nothing(gate_position, ask):
    plan = xb.plan_ramp(gate_position, ask(counts={"gate_30": 10, "gate_40": 10}), now=NOW)
    assert plan.verb == "hold"
    assert not plan.changes


def test_a_smaller_step_than_the_decision_is_allowed(gate_position, ask):
    plan = xb.plan_ramp(gate_position, ask(enrolled=25), now=NOW, to=5)
    assert (plan.verb, plan.after.enrolled) == ("ramp_down", 5)


@pytest.mark.parametrize(
    ("to", "sentence"),
    [
        (100, "the decision is ramp_up and allows enrolled 50 %"),
        (30, "the ladder of this experiment has the rungs 1, 5, 25, 50, 100"),
        (-1, "a percentage lies between 0 and 100"),
        (101, "a percentage lies between 0 and 100"),
        (float("nan"), "a percentage lies between 0 and 100"),
    ],
)
def test_a_percent_that_cannot_be_is_refused(gate_position, ask, to, sentence):
    with pytest.raises(PercentError, match=sentence):
        xb.plan_ramp(gate_position, ask(enrolled=25), now=NOW, to=to)


def test_no_step_up_past_a_hold(gate_position, ask):
    with pytest.raises(PercentError, match="the decision is hold"):
        xb.plan_ramp(gate_position, ask(counts={"gate_30": 10, "gate_40": 10}), now=NOW, to=50)
