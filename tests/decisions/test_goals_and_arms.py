"""Several goals, several treatments, segments, and data that are too old."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb.decisions.rules import as_served, quality_rules, sample_ratio_check
from expnb.errors import SpecError
from expnb.spec.experiment import Epoch
from expnb.spec.flag import Exposure, FlagRef, FlagState
from expnb.spec.policy import Ship
from expnb.stats.checks import Check

NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)
WEAK = {"p_above_rope": 0.6, "expected_loss_rel": 0.01, "p_rope": 0.3, "p_best": 0.7}
FLAT = {"p_above_rope": 0.01, "p_rope": 0.97, "p_best": 0.5}


@pytest.fixture
def two_goals(gate_position):
    """An experiment in which both retentions are goals."""

    def make(rule, **policy):
        first, second = gate_position.metrics
        return replace(
            gate_position,
            metrics=(first, replace(second, role="goal", rope=0.005, margin=0.005)),
            policy=replace(gate_position.policy, goal_rule=rule, **policy),
        )

    return make


@pytest.fixture
def ask_two(two_goals, goal, posterior_of, flag_at):
    """The decision where both goals were found as given."""

    def make(rule, first, second, **policy):
        second = replace(goal, metric="retention_1", **second)
        posterior = posterior_of(replace(goal, **first), second)
        return xb.decide(two_goals(rule, **policy), posterior, flag=flag_at(100), looks=1, now=NOW)

    return make


def test_where_all_goals_must_improve_one_that_does_not_stops_the_shipping(ask_two):
    assert ask_two("all", {}, {}).action == "ship"
    assert ask_two("all", {}, WEAK).action == "hold"
    assert ask_two("any", {}, WEAK).action == "ship"


def test_where_one_goal_is_enough_each_has_to_be_surer(ask_two):
    nearly = {"p_above_rope": 0.985}
    assert ask_two("all", nearly, nearly).action == "ship"
    assert ask_two("any", nearly, nearly).action == "hold"  # 0.98 leaves 0.02, which two goals share
    assert ask_two("any", {"p_above_rope": 0.99}, nearly).action == "ship"


def test_only_the_goals_that_carry_it_are_reasons_to_ship(ask_two):
    reasons = " ".join(ask_two("any", WEAK, {}).reasons)
    assert "retention_1" in reasons
    assert "retention_7" not in reasons


def test_one_goal_that_does_not_matter_ends_what_all_must_improve(ask_two):
    assert ask_two("all", {}, FLAT).action == "conclude_flat"
    assert ask_two("any", WEAK, FLAT).action == "hold"
    assert ask_two("any", FLAT, FLAT).action == "conclude_flat"


def test_under_non_inferiority_a_goal_without_a_difference_is_no_reason_to_stop(ask_two):
    asked = ask_two("all", {"p_harm_flat": 0.2}, FLAT, aim="non_inferiority")
    assert asked.action == "hold"


def test_harm_on_any_goal_closes_the_gate(ask_two):
    assert ask_two("any", {}, {"p_harm_wide": 0.9999}).action == "roll_back"


def test_the_sentences_of_a_policy_say_how_goals_decide(two_goals):
    assert any("Each of the goals" in sentence for sentence in two_goals("all").policy.sentences())
    assert any("One of the goals is enough" in sentence for sentence in two_goals("any").policy.sentences())


# --- several treatments -------------------------------------------------------------------------


@pytest.fixture
def three_arms(gate_position):
    """Two treatments against one control."""
    return replace(gate_position, weights={"gate_30": 50, "gate_40": 25, "gate_50": 25})


@pytest.fixture
def ask_three(three_arms, goal, guardrail, posterior_of):
    """The decision where the second treatment was found as given."""

    def make(
        second=None,
        guardrail_of_second=None,
        *,
        first=None,
        enrolled=25,
        counts=None,
        experiment=three_arms,
        judged=None,
        checks=(),
        fourth=None,
        **exposure,
    ):
        second, guarded = second or {}, guardrail_of_second or {}
        if fourth:
            experiment = replace(experiment, weights={**experiment.weights, "gate_60": 25})
        arms = {"weights": experiment.weights, "control": "gate_30"}
        more = [replace(goal, variant="gate_60", **fourth), replace(guardrail, variant="gate_60")] if fourth else []
        flag = FlagState(
            FlagRef("gate-position", "production"),
            Exposure(**arms, enrolled=enrolled, **exposure),
            "7-abc",
            enabled=True,
            changed_at=NOW - timedelta(days=2),
        )
        posterior = posterior_of(
            replace(goal, **(first or {})),
            guardrail,
            replace(goal, variant="gate_50", **({"p_best": 0.0005} | second)),
            replace(guardrail, variant="gate_50", **guarded),
            *more,
            counts=counts
            or {"gate_30": 40_000, "gate_40": 20_000, "gate_50": 20_000} | ({"gate_60": 9_000} if more else {}),
        )
        posterior = replace(posterior, checks=checks)
        return xb.decide(experiment, posterior, flag=flag, looks=1, now=NOW, judged=judged)

    return make


HARMED = {"p_harm_wide": 0.9999}


def test_a_harmed_treatment_is_dropped_and_the_others_go_on(ask_three):
    decision = ask_three(HARMED)
    assert decision.action == "roll_back"
    assert decision.exit_code == 20
    assert (decision.to.enrolled, decision.to.dropped) == (25, ("gate_50",))
    assert "gate_50" in decision.reasons[0]
    assert decision.to.shares() == {"gate_30": 0.125, "gate_40": 0.0625, "gate_50": 0.0}


def test_a_plan_to_drop_says_so_and_treats_nobody_more(ask_three, three_arms):
    plan = xb.plan_ramp(three_arms, ask_three(HARMED), now=NOW)
    assert plan.verb == "drop"
    assert not plan.raises_treated
    assert plan.after.treated == 6.25


def test_where_every_treatment_is_harmed_the_gate_closes(ask_three):
    decision = ask_three(HARMED, first=HARMED)
    assert (decision.to.enrolled, decision.to.dropped) == (0, ())
    last = ask_three(HARMED, first=HARMED, dropped=("gate_50",))
    assert last.to.enrolled == 0


def test_what_a_dropped_treatment_did_stops_nothing(ask_three):
    decision = ask_three(HARMED, {"p_harm": 0.9, "p_harm_flat": 0.9}, dropped=("gate_50",))
    assert decision.action == "ramp_up"
    assert decision.to.dropped == ("gate_50",)
    assert not [rule for rule in decision.rules if rule.variant == "gate_50"]


def test_the_sample_ratio_is_that_of_the_arms_that_are_left(ask_three):
    few_of_the_dropped = {"gate_30": 40_000, "gate_40": 20_000, "gate_50": 300}
    assert ask_three(counts=few_of_the_dropped).action == "hold"
    assert ask_three(counts=few_of_the_dropped, dropped=("gate_50",)).action == "ramp_up"


def test_the_best_of_the_treatments_that_are_left_ships(ask_three):
    decision = ask_three({}, first={"p_best": 0.9}, enrolled=100, dropped=("gate_40",))
    assert (decision.action, decision.variant, decision.to.serve) == ("ship", "gate_50", "gate_50")


def test_a_guardrail_of_another_treatment_holds_the_climb_and_not_the_shipping(ask_three, three_arms):
    unsure = {"p_harm": 0.2, "p_harm_flat": 0.2}
    assert ask_three({}, unsure, enrolled=100).action == "ship"
    assert ask_three({}, unsure, first={"p_best": 0.0001}, enrolled=100).action == "hold"  # it would ship itself
    learning = {"learn_at": 25, "ship": Ship(p_above_rope=0.995)}
    early = replace(three_arms, policy=replace(three_arms.policy, **learning))
    held = ask_three({}, unsure, enrolled=25, experiment=early)
    assert held.action == "hold"
    assert "gate_50" in held.reasons[0]
    assert ask_three(enrolled=25, experiment=early).action == "ramp_up"


def test_a_verdict_on_a_treatment_that_was_dropped_ships_no_other(ask_three, goal, guardrail):
    judged = ask_three({"p_best": 0.9999}, first={"p_best": 0.0}, enrolled=100)
    assert (judged.action, judged.variant) == ("ship", "gate_50")
    later = ask_three({"p_best": 0.9999}, enrolled=100, dropped=("gate_50",), judged=judged)
    assert later.action == "hold"
    assert later.variant == "gate_40"


def test_harm_of_what_was_shipped_closes_the_gate(ask_three):
    assert ask_three(first=HARMED, enrolled=100, serve="gate_40").to.enrolled == 0
    assert ask_three(HARMED, enrolled=100, serve="gate_40").action == "hold"  # nobody gets the other one


@pytest.mark.parametrize(
    ("exposure", "says"),
    [
        ({"dropped": ("gate_30",)}, "at least one treatment stays"),
        ({"dropped": ("gate_40", "gate_50")}, "at least one treatment stays"),
        ({"dropped": ("gate_50",), "serve": "gate_50"}, "'gate_50' served"),
        ({"dropped": ("gate_60",)}, "variant 'gate_60' has no weight"),
    ],
)
def test_an_exposure_keeps_control_and_a_treatment(three_arms, exposure, says):
    with pytest.raises(SpecError, match=says):
        Exposure(weights=three_arms.weights, control="gate_30", **exposure)


# --- segments -----------------------------------------------------------------------------------


@pytest.fixture
def ask_segments(gate_position, goal, guardrail, posterior_of, flag_at):
    """The decision where segments were found as given."""

    def make(*segments, enrolled=25):
        posterior = posterior_of(goal, guardrail, *segments)
        return xb.decide(gate_position, posterior, flag=flag_at(enrolled), looks=1, now=NOW)

    return make


def test_a_harmed_segment_holds_and_rolls_nothing_back(ask_segments, guardrail, goal):
    ios = replace(guardrail, segment="platform=ios", p_harm=0.985, p_harm_wide=0.9999, effect_rel=-0.08)
    decision = ask_segments(ios)
    assert decision.action == "hold"
    assert decision.reasons == (
        "Guardrail retention_1 under gate_40 in platform=ios is harmed: raw effect -8.00 %; worse than the margin of 2 % with probability 98.50 %, segments pooled (a ramp holds from 98.00 % on).",
    )
    assert ask_segments(replace(goal, segment="platform=ios", p_harm=0.985), enrolled=100).action == "hold"


def test_the_worst_segment_of_each_kind_is_asked(ask_segments, guardrail):
    effects = [
        replace(guardrail, segment=segment, p_harm=p)
        for segment, p in (("platform=ios", 0.2), ("platform=web", 0.4), ("country=de", 0.1))
    ]
    decision = ask_segments(*effects)
    assert decision.action == "ramp_up"
    asked = {rule.value for rule in decision.rules if rule.name == "segment"}
    assert asked == {0.4, 0.1}


def test_a_segment_of_a_metric_that_decides_nothing_holds_nothing(ask_segments, goal):
    info = replace(goal, metric="sum_gamerounds", role="info", segment="platform=ios", p_harm=0.99)
    assert ask_segments(info).action == "ramp_up"


# --- old data -----------------------------------------------------------------------------------


@pytest.fixture
def open_ended(gate_position):
    """An experiment that has no end yet."""
    return replace(gate_position, start=None, end=None, exposed_at="ts")


@pytest.mark.parametrize(("last", "action"), [(date(2017, 2, 17), "ramp_up"), (date(2017, 2, 16), "hold")])
def test_data_older_than_the_policy_allows_raise_nothing(
    open_ended, goal, guardrail, posterior_of, flag_at, last, action
):
    posterior = replace(posterior_of(goal, guardrail), last_day=last)
    decision = xb.decide(open_ended, posterior, flag=flag_at(25), looks=1, now=NOW)
    assert decision.action == action
    if action == "hold":
        assert decision.reasons == (
            "The last day of data, 2017-02-16, lies 4 days before today (at most 3 allowed). Load newer data before exposure is raised.",
        )


def test_old_data_still_close_the_gate(open_ended, goal, guardrail, posterior_of, flag_at):
    posterior = replace(posterior_of(replace(goal, **HARMED), guardrail), last_day=date(2017, 1, 1))
    assert xb.decide(open_ended, posterior, flag=flag_at(25), looks=1, now=NOW).action == "roll_back"


def test_data_up_to_the_end_of_an_experiment_do_not_age(ask):
    assert ask(enrolled=100, now=datetime(2020, 1, 1, tzinfo=UTC)).action == "ship"


def test_data_may_age_where_the_policy_does_not_ask(open_ended, goal, guardrail, posterior_of, flag_at):
    asked = replace(open_ended, policy=replace(open_ended.policy, max_age_days=0))
    posterior = replace(posterior_of(goal, guardrail), last_day=date(2017, 1, 1))
    assert xb.decide(asked, posterior, flag=flag_at(25), looks=1, now=NOW).action == "ramp_up"


def test_views_of_arm_sizes_do_not_miss_an_arm_that_nobody_gets(ask_three):
    views = tuple(
        Check(name, 0.001, "warn", f"{name}: gate_50 has fewer units") for name in ("sample_ratio:country", "days")
    )
    duplicates = Check("duplicates", 3.0, "warn", "3 units occur twice.")
    kept = ask_three(checks=(*views, duplicates)).notes
    left_out = ask_three(checks=(*views, duplicates), dropped=("gate_50",)).notes
    assert {check.sentence for check in views} <= set(kept)
    assert not {check.sentence for check in views} & set(left_out)
    assert duplicates.sentence in left_out
    assert any(note.startswith("gate_50 was dropped") for note in left_out)


def test_a_treatment_that_came_back_is_not_concluded_flat_unjudged(ask_three):
    judged = ask_three({}, first=FLAT | {"p_best": 0.1}, enrolled=100, dropped=("gate_50",))
    assert judged.action == "conclude_flat"
    back = ask_three(WEAK, first=FLAT, enrolled=100, judged=judged)
    assert back.action != "conclude_flat"


def test_after_a_drop_the_best_is_the_best_of_those_that_are_left(ask_three):
    nobody = {"p_best": 1e-300}  # the dropped one was by far the best
    decision = ask_three(
        nobody | {"effect_rel_post": 0.2, "p_improvement": 1.0},
        first=nobody | {"effect_rel_post": 0.1, "p_improvement": 1.0},
        fourth={"p_best": 1.0},
        dropped=("gate_60",),
    )
    assert decision.variant == "gate_50"


# --- sample ratios after a drop -----------------------------------------------------------------


def three_arm_cohort(experiment, *, days=14, dropped_after=5, triggered=None):
    """Units of three arms, of which the last came in on the first days only; `triggered` are shares per arm."""
    rows = []
    for arm in experiment.variants:
        n = 200 * (dropped_after if arm == "gate_50" else days)
        day = np.repeat(np.arange(n // 200), 200)
        part = {
            "version": arm,
            "ts": pd.Timestamp("2017-02-01 12:00") + pd.to_timedelta(day, unit="D"),
            "retention_7": np.resize([1, 0, 0, 0, 1], n),
            "retention_1": np.resize([1, 0], n),
            "saw": np.resize(np.arange(100), n) < 100 * (triggered or {}).get(arm, 0.7),
        }
        rows.append(pd.DataFrame(part))
    frame = pd.concat(rows, ignore_index=True)
    return frame.assign(userid=np.arange(len(frame)))


@pytest.fixture
def dated_arms(gate_position):
    """Three equal arms whose units have a day, with a flag that serves two of them."""
    weights = {"gate_30": 1, "gate_40": 1, "gate_50": 1}
    return replace(gate_position, weights=weights, exposed_at="ts", start=None, end=None)


def fitted(experiment, **data):
    return xb.fit(experiment, xb.load_cohort(experiment, three_arm_cohort(experiment, **data)))


def arms_left(experiment, *dropped):
    return Exposure(weights=experiment.weights, control="gate_30", enrolled=50, dropped=dropped)


def test_epochs_after_a_drop_hold_only_what_is_served_against_its_weights(dated_arms):
    epochs = replace(dated_arms, epochs=(Epoch(start=date(2017, 2, 3), weights=dated_arms.weights),))
    posterior = fitted(epochs)
    assert sample_ratio_check(epochs, posterior, arms_left(epochs)).outcome == "block"
    left = sample_ratio_check(epochs, posterior, arms_left(epochs, "gate_50"))
    assert left.outcome == "ok"
    assert "gate_50" not in left.sentence
    assert "epoch 2: every arm is within" in left.sentence
    other = replace(epochs, epochs=(Epoch(start=date(2017, 2, 3), weights={"gate_30": 2, "gate_40": 1, "gate_50": 1}),))
    assert sample_ratio_check(other, fitted(other), arms_left(other, "gate_50")).outcome == "block"


def test_triggered_units_after_a_drop_are_those_of_the_served_arms(dated_arms):
    triggered = replace(dated_arms, trigger="saw")

    def blocking(posterior, *dropped):
        checks = as_served(triggered, posterior, arms_left(triggered, *dropped)).checks
        return [rule.sentence for rule in quality_rules(checks) if "riggered" in rule.sentence]

    posterior = fitted(triggered)
    assert "gate_50" in blocking(posterior)[0]
    assert not blocking(posterior, "gate_50")
    checks = as_served(triggered, posterior, arms_left(triggered, "gate_50")).checks
    assert [check.name for check in checks] == [check.name for check in posterior.checks]
    leak = fitted(triggered, triggered={"gate_40": 0.5})  # the arm decides who is triggered
    assert "gate_40" in blocking(leak, "gate_50")[0]
