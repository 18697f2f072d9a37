"""Whether an edit makes a ramp easier."""

from dataclasses import replace

import pytest

import expnb as xb
from expnb.spec.changes import changes
from expnb.spec.experiment import Cost
from expnb.spec.policy import ConcludeFlat, Policy, Ship


def edited(experiment, **policy):
    return replace(experiment, policy=replace(experiment.policy, **policy))


def found(then, now):
    return {change.where: change.loosens for change in changes(then, now)}


def test_the_same_specification_has_no_changes(gate_position):
    assert not list(changes(gate_position, replace(gate_position)))


@pytest.mark.parametrize(
    ("easier", "harder", "where"),
    [
        ({"ship": Ship(p_above_rope=0.9)}, {"ship": Ship(p_above_rope=0.99)}, "policy.ship.p_above_rope"),
        ({"ship": Ship(expected_loss=0.01)}, {"ship": Ship(expected_loss=0.0001)}, "policy.ship.expected_loss"),
        ({"ship": Ship(p_above_margin=0.9)}, {"ship": Ship(p_above_margin=0.99)}, "policy.ship.p_above_margin"),
        (
            {"conclude_flat": ConcludeFlat(p_rope=0.9)},
            {"conclude_flat": ConcludeFlat(p_rope=0.99)},
            "policy.conclude_flat.p_rope",
        ),
        ({"harm_alpha": 0.001}, {"harm_alpha": 0.02}, "policy.harm_alpha"),
        ({"min_days": 5}, {"min_days": 9}, "policy.min_days"),
        ({"min_units": 10}, {"min_units": 5000}, "policy.min_units"),
        ({"rung_days": 0.5}, {"rung_days": 2}, "policy.rung_days"),
        ({"max_hold_days": 0}, {"max_hold_days": 3}, "policy.max_hold_days"),
        ({"max_age_days": 30}, {"max_age_days": 1}, "policy.max_age_days"),
    ],
)
def test_thresholds_and_times_loosen_one_way_and_tighten_the_other(gate_position, easier, harder, where):
    assert found(gate_position, edited(gate_position, **easier))[where] is True
    assert found(gate_position, edited(gate_position, **harder))[where] is False


def test_a_wider_margin_loosens_and_a_narrower_one_does_not(gate_position):
    def margin(value):
        goal, guardrail = gate_position.metrics
        return replace(gate_position, metrics=(goal, replace(guardrail, margin=value)))

    assert found(gate_position, margin(0.05)) == {"metric 'retention_1': margin": True}
    assert found(gate_position, margin(0.01)) == {"metric 'retention_1': margin": False}


def test_metrics_that_go_loosen_and_guardrails_that_come_do_not(gate_position):
    goal, guardrail = gate_position.metrics
    alone = replace(gate_position, metrics=(goal,))
    assert found(gate_position, alone) == {"metric 'retention_1'": True}
    assert found(alone, gate_position) == {"metric 'retention_1'": False}
    info = replace(gate_position, metrics=(goal, replace(guardrail, role="info", margin=None)))
    assert found(gate_position, info)["metric 'retention_1': role"] is True
    assert found(info, gate_position)["metric 'retention_1': role"] is False


@pytest.mark.parametrize(
    "edit",
    [
        {"hypothesis": "Another question."},
        {"weights": {"gate_30": 60, "gate_40": 40}},
        {"prior": xb.Prior(scale=0.1)},
        {"policy": Policy(ladder=(50, 100))},
        {"policy": Policy(verdict_days=1)},
        {"policy": Policy(verdict_days=365)},
        {"source": "another.parquet"},
    ],
    ids=str,
)
def test_where_it_cannot_be_told_a_change_counts_as_loosening(gate_position, edit):
    assert any(found(gate_position, replace(gate_position, **edit)).values())


@pytest.mark.parametrize("edit", [{"owner": "others"}, {"cost": Cost(max_rows=10)}], ids=str)
def test_what_decides_nothing_loosens_nothing(gate_position, edit):
    assert set(found(gate_position, replace(gate_position, **edit)).values()) == {False}


def test_the_definition_of_a_metric_is_no_harmless_text(gate_position):
    goal, guardrail = gate_position.metrics
    other = replace(gate_position, metrics=(replace(goal, column="", sql="retention_7 * 2"), guardrail))
    assert found(gate_position, other)["metric 'retention_7': sql"] is True
    worded = replace(gate_position, metrics=(replace(goal, description="Came back."), guardrail))
    assert found(gate_position, worded) == {"metric 'retention_7': description": False}


def test_guardrails_that_make_harm_surer_everywhere_loosen(gate_position):
    goal, guardrail = gate_position.metrics
    many = tuple(replace(guardrail, name=f"guardrail_{number}") for number in range(3))
    assert many[0].role == "guardrail"
    assert set(found(gate_position, replace(gate_position, metrics=(goal, guardrail, *many))).values()) == {True}
    info = tuple(replace(metric, role="info", margin=None) for metric in many)
    then = replace(gate_position, metrics=(goal, guardrail, *info))
    assert found(then, replace(then, metrics=(goal, guardrail, *many)))["metric 'guardrail_0': harm"] is True


def test_hiding_more_segments_loosens(gate_position):
    assert found(gate_position, replace(gate_position, min_cell=2000)) == {"min_cell": True}
    assert found(gate_position, replace(gate_position, min_cell=5)) == {"min_cell": False}


def test_a_segment_that_goes_loosens_and_one_that_comes_does_not(gate_position):
    more = replace(gate_position, segments=("platform",))
    assert found(gate_position, more) == {"segments": False}
    assert found(more, gate_position) == {"segments": True}


def test_changes_are_sentences(gate_position):
    sentences = [change.sentence for change in changes(gate_position, edited(gate_position, min_days=3))]
    assert sentences == ["policy.min_days went from 7 to 3."]
