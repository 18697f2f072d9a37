"""Policies: rungs with waiting times of their own, presets, and what contradicts itself."""

from dataclasses import replace
from datetime import timedelta

import pytest

import expnb as xb
from expnb.errors import PercentError, SpecError, SpecFileError
from expnb.spec.experiment import Traffic
from expnb.spec.policy import ConcludeFlat, Ship

PRESETS = ["superiority", "non_inferiority", "canary", "linear", "blue_green"]


def test_a_number_is_a_rung_with_the_waiting_times_of_the_policy():
    policy = xb.Policy(ladder=(1, xb.Rung(enrolled=25, days=3, units=0), 100), min_units=50, max_hold_days=5)
    assert policy.percents == (1.0, 25.0, 100.0)
    assert policy.rung(1) == xb.Rung(enrolled=1, days=1, units=50, max_hold_days=5)
    assert policy.rung(25) == xb.Rung(enrolled=25, days=3, units=0, max_hold_days=5)
    assert (policy.next_rung(25), policy.previous_rung(25), policy.next_rung(100)) == (100.0, 1.0, None)


def test_a_changed_policy_changes_the_rungs_that_say_nothing_themselves():
    policy = replace(xb.Policy(ladder=(xb.Rung(enrolled=5, units=7), 100)), min_units=900)
    assert (policy.rung(5).units, policy.rung(100).units) == (7, 900)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_policy_that_can_be_read_aloud(name):
    words = list(xb.Policy.preset(name).sentences())
    assert words
    assert all(sentence.endswith(".") for sentence in words)


def test_a_preset_can_be_changed_and_an_unknown_one_is_refused():
    assert xb.Policy.preset("canary", min_days=3).min_days == 3
    with pytest.raises(SpecError, match="canary"):
        xb.Policy.preset("canaries")


def test_blue_green_takes_95_percent_at_once_and_keeps_5_to_compare_with(gate_position):
    policy = xb.Policy.preset("blue_green")
    with pytest.raises(SpecError, match="Give control the weight 5 and the treatment 95"):
        replace(gate_position, policy=policy)
    experiment = replace(gate_position, policy=policy, weights={"gate_30": 5, "gate_40": 95})
    assert experiment.exposure(policy.percents[0]).treated == pytest.approx(95)


def test_rungs_with_the_same_times_share_a_sentence():
    words = list(xb.Policy(ladder=(1, 5, xb.Rung(enrolled=25, days=0.5, units=0, max_hold_days=0), 100)).sentences())
    assert (
        "At 1, 5 percent it stays for 1 day at least, until 100 units per arm came in there; after 14 days without a way up, one rung down is proposed."
        in words
    )
    assert "At 25 percent it stays for 12 hours at least." in words


def test_a_file_names_a_preset_and_what_differs_from_it(tmp_path):
    path = tmp_path / "button.toml"
    text = """
schema = 1
[experiment]
name = "button"
hypothesis = "A larger button sells more."
owner = "shop"
flag = "button"
unit = "user"
variant = "arm"
control = "old"
weights = { old = 50, new = 50 }
start = 2026-01-01
end = 2026-02-01
[[metrics]]
name = "bought"
kind = "conversion"
role = "goal"
rope = 0.005
[policy]
preset = "canary"
min_days = 2
ladder = [1, { enrolled = 25, days = 3 }, 100]
"""
    path.write_text(text)
    policy = xb.read_experiment(path).policy
    assert policy == xb.Policy.preset("canary", min_days=2, ladder=(1, xb.Rung(enrolled=25, days=3), 100))
    path.write_text(text.replace('"canary"', '"cannary"'))
    with pytest.raises(SpecFileError, match="canary"):
        xb.read_experiment(path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ladder": (5, 1, 100)}, "rungs rise"),
        ({"ladder": (1, 1, 100)}, "rungs rise"),
        ({"ladder": ()}, "rungs rise"),
        ({"ladder": (0, 100)}, "rungs rise"),
        ({"learn_at": 60}, "no rung of the ladder 1, 5, 25, 50, 100"),
        ({"verdict_days": 0}, "judged every day at most"),
        ({"rung_days": -1}, "cannot be negative"),
        ({"min_units": -1}, "cannot be negative"),
        ({"harm_alpha": 0.95}, "not the probability that is needed"),
        ({"harm_alpha": 0}, "lies between 0 and 1"),
        ({"conclude_flat": ConcludeFlat(p_rope=0.3)}, "below 0.5 the opposite is likelier"),
        ({"ship": Ship(p_above_rope=0.4)}, "below 0.5 the opposite is likelier"),
        ({"control_share": 5}, "lies between 0 and 1"),
    ],
)
def test_what_contradicts_itself_is_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        xb.Policy(**wrong)


def test_a_rung_outside_of_0_to_100_or_with_negative_times_is_refused():
    with pytest.raises(PercentError):
        xb.Rung(enrolled=101)
    with pytest.raises(SpecError, match="days of the rung at 5 %"):
        xb.Rung(enrolled=5, days=-1)


def test_the_threshold_of_harm_shares_the_false_alarms():
    policy = xb.Policy(harm_alpha=0.012)
    assert policy.harm_threshold(1) == policy.harm_threshold(3) == pytest.approx(0.996)
    assert policy.harm_threshold(12) == pytest.approx(0.999)


def test_a_rung_that_the_traffic_cannot_fill_is_questioned(gate_position):
    slow = replace(gate_position, traffic=Traffic(units_per_day=600), policy=xb.Policy())
    assert any("at 1 % it takes 33 days until 100 units per arm came in" in question for question in slow.questions())
    assert not any(
        "it takes" in question for question in replace(slow, traffic=Traffic(units_per_day=60_000)).questions()
    )


def test_a_policy_that_can_never_ship_is_said_before_launch(gate_position):
    short = replace(gate_position, traffic=Traffic(units_per_day=60_000), end=gate_position.start + timedelta(days=3))
    assert any("can never ship" in question and "ends after 4" in question for question in short.questions())
    goal = xb.Metric(name="profit", kind="mean", role="goal", rope_abs=0.1)
    absolute = replace(gate_position, metrics=(goal,))
    assert any("without ship.expected_loss_abs" in question for question in absolute.questions())
    enough = replace(gate_position, traffic=Traffic(units_per_day=60_000), policy=xb.Policy())
    assert not any("can never ship" in question for question in enough.questions())


def test_a_policy_that_can_hardly_roll_back_is_questioned(gate_position):
    blind = replace(gate_position, policy=replace(gate_position.policy, harm_alpha=1e-6))
    assert any("can hardly ever roll back: harm has to be 99.99996667 % certain" in each for each in blind.questions())
    assert not any("roll back" in question for question in gate_position.questions())
