"""Several goals, several treatments, segments, and data that are too old."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

import expnb as xb
from expnb.errors import SpecError
from expnb.spec.flag import Exposure, FlagRef, FlagState
from expnb.spec.policy import Ship

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
        **exposure,
    ):
        second, guarded = second or {}, guardrail_of_second or {}
        arms = {"weights": three_arms.weights, "control": "gate_30"}
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
            counts=counts or {"gate_30": 40_000, "gate_40": 20_000, "gate_50": 20_000},
        )
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
