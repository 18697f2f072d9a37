"""The benchmark of the policy at a small size: what it compares is comparable, and its figures are numbers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from bench import policy


@pytest.fixture
def small(monkeypatch):
    """A few rollouts at one traffic."""
    monkeypatch.setattr(policy, "LADDERS", {10_000: (1, 5, 25, 50, 100)})
    for name, value in (("NULL_ROLLOUTS", 400), ("ROLLOUTS", 200), ("SETS", 1), ("PER_SET", 200)):
        monkeypatch.setattr(policy, name, value)


def test_every_part_gives_numbers(small):
    parts = (policy._harmless, policy._several, policy._power, policy._harm_rules, policy._worlds)
    found = {figure.name: figure.value for part in parts for figure in part()}
    assert all(math.isfinite(value) for value in found.values())
    assert {
        "policy_aa_ship_percent_max",
        "policy_aa_roll_back_percent_max",
        "policy_healthy_held_percent_max",
        "policy_power_ratio_to_best_min",
        "policy_stated_minus_true_max",
        "policy_harm_users_student_8",
    } <= set(found)
    assert found["policy_several_dropped_harmed_arm"] > 0.9
    assert found["policy_several_lift_ship_two_goals_all"] < 0.1 < found["policy_several_lift_ship_two_goals_any"]
    assert found["policy_harm_users_bound"] == 1
    assert found["policy_harm_users_student_8"] < 1


def test_a_rival_at_its_bound_is_wrong_as_often_as_the_policy(small):
    edge = policy.paths(10_000, (policy.ROPE,), 3_000, 1)
    wrong = policy._ships(edge)
    for name in policy.RIVALS:
        bound = policy._bound_of(name, edge, wrong)
        assert policy._rival_ships(name, edge, bound) == pytest.approx(wrong, abs=2 / 3_000)


def test_a_confidence_sequence_fires_in_at_most_its_level_of_harmless_rollouts(small):
    these = policy.paths(
        10_000, (-policy.ROPE, -policy.MARGIN, -policy.MARGIN), 2_000, 2
    )  # at the margin: the worst case
    fired = policy.HARM_RULES["confidence_sequence_10"](these, 0.05).any(axis=1)
    assert (fired.mean(axis=0) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2_000)).all()


def test_past_experiments_give_numbers(real_data, monkeypatch):
    monkeypatch.setattr(policy, "ASOS", real_data / "asos" / "asos_experiments.parquet")
    found = {figure.name: figure.value for figure in policy._past()}
    assert all(math.isfinite(value) for value in found.values())
    for name in ("default", "any_look"):
        assert sum(
            found[f"policy_asos_{what}_{name}"] for what in ("ship", "roll_back", "conclude_flat", "hold")
        ) == pytest.approx(1)


def test_past_experiments_are_left_out_where_they_are_absent(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(policy, "ASOS", tmp_path / "none.parquet")
    assert list(policy._past()) == []
    assert "EXPNB_DATA" in capsys.readouterr().out


def test_what_the_simulation_says_of_its_own_agreement_was_measured():
    measured = json.loads((Path(policy.__file__).parent / "results.json").read_text())
    assert 0.9985 <= measured["policy_agreement_with_decide"]["value"] <= 1
