"""Decisions: three outcomes, one precedence, every reason a sentence with numbers."""

from dataclasses import replace
from datetime import date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import expnb as xb
from expnb.errors import SpecError
from expnb.spec.experiment import Epoch
from expnb.stats.sample_ratio import sample_ratio, sample_ratio_by


def sample_ratio_views(counts, weights):
    """Views with one set of weights throughout."""
    return sample_ratio_by(
        {view: {value: [(arms, weights)] for value, arms in values.items()} for view, values in counts.items()}
    )


NOTHING = {
    "p_improvement": None,
    "p_above_rope": None,
    "p_harm": None,
    "p_rope": None,
    "p_harm_flat": None,
    "p_harm_wide": None,
    "expected_loss_rel": None,
    "expected_loss_abs": None,
    "p_best": None,
    "note": "no posterior",
}


def test_good_news_below_the_last_rung_ramps_up_one_rung(ask):
    decision = ask(enrolled=25)
    assert decision.action == "ramp_up"
    assert decision.to.enrolled == 50
    assert decision.exit_code == 0


def test_good_news_at_the_last_rung_ships_the_treatment(ask):
    decision = ask(enrolled=100)
    assert (decision.action, decision.to.serve, decision.to.enrolled) == ("ship", "gate_40", 100)


def test_shipping_keeps_the_holdback_of_the_policy(ask, gate_position):
    experiment = replace(gate_position, policy=replace(gate_position.policy, holdback=5))
    assert ask(enrolled=100, experiment=experiment).to.holdback == 5


@pytest.mark.parametrize("broken", ["goal", "guardrail"])
def test_harm_on_goal_or_guardrail_closes_the_gate(ask, goal, guardrail, broken):
    harmed = {"goal": goal, "guardrail": guardrail}[broken]
    decision = ask(**{broken: replace(harmed, p_harm_wide=0.9999, p_harm=0.4)})
    assert (decision.action, decision.to.enrolled, decision.exit_code) == ("roll_back", 0, 20)
    assert "is harmed" in decision.reasons[0]


def test_harm_needs_no_clean_sample_ratio_no_units_and_no_other_metric(ask, goal, guardrail):
    decision = ask(
        goal=replace(goal, **NOTHING),
        guardrail=replace(guardrail, p_harm_wide=0.9999),
        counts={"gate_30": 900, "gate_40": 100},
    )
    assert decision.action == "roll_back"


def test_harm_after_shipping_undoes_the_shipping(ask, goal):
    decision = ask(enrolled=100, serve="gate_40", goal=replace(goal, p_harm_wide=0.9999))
    assert (decision.action, decision.to.serve, decision.to.enrolled) == ("roll_back", "", 0)


@pytest.mark.parametrize("look", [1, 2, 200])
def test_the_harm_rule_asks_for_the_same_probability_at_every_look(ask, goal, look):
    level = 0.01 / 3  # a third of harm_alpha, as long as no more than three effects are judged
    assert ask(goal=replace(goal, p_harm_wide=1 - 0.99 * level), looks=look).action == "roll_back"
    assert ask(goal=replace(goal, p_harm_wide=1 - 1.01 * level), looks=look).action != "roll_back"


def test_with_more_effects_each_has_to_be_surer(ask, gate_position, goal, guardrail):
    more = tuple(replace(gate_position.metric("retention_1"), name=f"guardrail_{i}") for i in range(8))
    experiment = replace(gate_position, metrics=(*gate_position.metrics, *more))
    assert experiment.harm_threshold == pytest.approx(1 - 0.01 / (len(gate_position.metrics) + 8))
    assert ask(goal=replace(goal, p_harm_wide=0.9985), experiment=experiment).action != "roll_back"
    assert ask(goal=replace(goal, p_harm_wide=0.9985)).action == "roll_back"


def test_without_a_relative_effect_harm_is_judged_without_a_prior_and_needs_more(ask, goal):
    absolute = replace(goal, scale="absolute", p_harm_wide=None, margin=0.1)
    assert ask(goal=replace(absolute, p_harm_flat=0.998)).action != "roll_back"
    assert ask(goal=replace(absolute, p_harm_flat=0.9994)).action == "roll_back"


@pytest.mark.parametrize("unknown", ["goal", "guardrail"])
def test_an_unknown_rule_holds_and_never_passes(ask, goal, guardrail, unknown):
    effect = {"goal": goal, "guardrail": guardrail}[unknown]
    decision = ask(**{unknown: replace(effect, **NOTHING)})
    assert (decision.action, decision.exit_code) == ("hold", 10)
    assert decision.to == decision.flag.exposure
    assert any("cannot be judged (no posterior)" in reason for reason in decision.reasons)


def test_a_sample_ratio_mismatch_blocks_the_way_up(ask):
    decision = ask(counts={"gate_30": 45_000, "gate_40": 42_000})
    assert decision.action == "hold"
    assert "do not have the promised sizes" in decision.reasons[0]


def test_a_sample_ratio_of_0_009_warns_and_does_not_block(ask):
    decision = ask(counts={"gate_30": 44_700, "gate_40": 45_489})
    assert decision.action == "ramp_up"
    assert any("p = 0.0086" in note for note in decision.notes)


def test_the_sample_ratio_uses_the_weights_that_the_flag_really_had(
    ask, gate_position, goal, guardrail, posterior_of, flag_at
):
    counts = {"gate_30": 90_000, "gate_40": 10_000}
    flag = flag_at(25)
    uneven = replace(flag, exposure=replace(flag.exposure, weights={"gate_30": 90, "gate_40": 10}))
    now = datetime(2017, 2, 20).astimezone()
    assert (
        xb.decide(gate_position, posterior_of(goal, guardrail, counts=counts), flag=uneven, looks=1, now=now).action
        == "ramp_up"
    )


@pytest.mark.parametrize("look", [1, 2, 200])
def test_the_sample_ratio_needs_no_number_of_looks(ask, look):
    decision = ask(counts={"gate_30": 45_000, "gate_40": 42_000}, looks=look)
    (rule,) = [rule for rule in decision.rules if rule.name == "sample_ratio"]
    assert (rule.outcome, rule.threshold) == ("not met", 0.001)
    assert rule.value <= rule.threshold


def test_the_sample_ratio_of_two_arms_with_changed_weights_is_that_of_the_cohort(
    gate_position, goal, guardrail, posterior_of, flag_at
):
    uneven, even = {"gate_30": 90, "gate_40": 10}, {"gate_30": 50, "gate_40": 50}
    experiment = replace(gate_position, exposed_at="seen", epochs=(Epoch(start=date(2017, 2, 8), weights=even),))
    strata = [({"gate_30": 36_000, "gate_40": 4_000}, uneven), ({"gate_30": 25_000, "gate_40": 25_000}, even)]
    counts = {"gate_30": 61_000, "gate_40": 29_000}

    def action(strata):
        posterior = replace(posterior_of(goal, guardrail, counts=counts), checks=(sample_ratio(strata),))
        return xb.decide(experiment, posterior, flag=flag_at(25), looks=1, now=datetime(2017, 2, 20).astimezone())

    assert action(strata).action == "ramp_up"
    lost = action([({"gate_30": 36_000, "gate_40": 3_000}, uneven), strata[1]])
    assert (lost.action, lost.exit_code) == ("hold", 10)
    assert "epoch 1: gate_40 has 23.1 % fewer units than promised" in lost.reasons[0]


def test_changed_weights_without_a_check_by_epoch_hold(gate_position, goal, guardrail, posterior_of, flag_at):
    even = {"gate_30": 50, "gate_40": 50}
    experiment = replace(gate_position, exposed_at="seen", epochs=(Epoch(start=date(2017, 2, 8), weights=even),))
    now = datetime(2017, 2, 20).astimezone()
    decision = xb.decide(experiment, posterior_of(goal, guardrail), flag=flag_at(25), looks=1, now=now)
    assert decision.action == "hold"
    assert "The sample ratio cannot be judged" in decision.reasons[0]


def test_views_of_the_sample_ratio_explain_and_never_hold(gate_position, goal, guardrail, posterior_of, flag_at):
    views = sample_ratio_views({"country": {"DE": {"gate_30": 9_000, "gate_40": 8_000}}}, gate_position.weights)
    posterior = replace(posterior_of(goal, guardrail), checks=views)
    now = datetime(2017, 2, 20).astimezone()
    decision = xb.decide(gate_position, posterior, flag=flag_at(25), looks=1, now=now)
    assert decision.action == "ramp_up"
    assert any("'DE' is the worst" in note for note in decision.notes)


def test_arms_too_small_to_be_shown_are_not_shown(ask):
    decision = ask(counts={"gate_30": 13, "gate_40": 17})
    page = decision.markdown()
    assert decision.action == "hold"
    assert "gate_30, has fewer than 20 units (1,000 needed)" in page
    rules = [rule for rule in decision.rules if rule.name in {"sample_ratio", "min_units"}]
    assert [rule.value for rule in rules] == [1.0, None]
    assert not any(count in rule.sentence for rule in rules for count in ("13", "17"))


def test_too_few_units_hold(ask):
    decision = ask(counts={"gate_30": 998, "gate_40": 999})
    assert decision.action == "hold"
    assert "gate_30, has 998 units (1,000 needed)" in decision.reasons[0]


def test_a_guardrail_passes_below_learn_at_unless_harm_is_likelier_than_not(ask, guardrail):
    assert ask(guardrail=replace(guardrail, p_harm=0.5)).action == "ramp_up"
    assert ask(guardrail=replace(guardrail, p_harm=0.51)).action == "hold"


def test_a_guardrail_from_learn_at_on_needs_95_percent_with_and_without_the_prior(ask, guardrail):
    assert ask(enrolled=100, guardrail=replace(guardrail, p_harm=0.05, p_harm_flat=0.05)).action == "ship"
    assert ask(enrolled=100, guardrail=replace(guardrail, p_harm=0.06, p_harm_flat=0.01)).action == "hold"
    assert ask(enrolled=100, guardrail=replace(guardrail, p_harm=0.01, p_harm_flat=0.06)).action == "hold"


def test_expected_loss_alone_never_ships(ask, goal):
    assert ask(enrolled=100, goal=replace(goal, p_above_rope=0.5, expected_loss_rel=0.0)).action == "hold"


def test_a_large_expected_loss_stops_shipping(ask, goal):
    assert ask(enrolled=100, goal=replace(goal, expected_loss_rel=0.0011)).action == "hold"


def test_no_difference_that_matters_serves_control(ask, goal):
    decision = ask(enrolled=100, goal=replace(goal, p_rope=0.96, p_above_rope=0.03))
    assert (decision.action, decision.to.serve, decision.exit_code) == ("conclude_flat", "gate_30", 30)
    assert decision.to.treated == 0


def test_a_verdict_on_the_goal_waits_for_the_days_of_the_policy(ask, gate_position):
    early = replace(gate_position, policy=replace(gate_position.policy, min_days=15))
    decision = ask(enrolled=100, experiment=early)
    assert decision.action == "hold"
    assert any("14 days of data are in (15 needed" in reason for reason in decision.reasons)


def test_days_in_the_future_do_not_count(ask, gate_position):
    decision = ask(enrolled=100, now=datetime(2017, 2, 3, 12).astimezone())
    assert any(rule.name == "min_days" and rule.value == 3 for rule in decision.rules)
    assert decision.action == "hold"


def test_without_days_asked_for_time_rules_are_not_applicable(gate_position, goal, guardrail, posterior_of, flag_at):
    experiment = replace(gate_position, start=None, end=None, policy=replace(gate_position.policy, min_days=0))
    posterior = replace(posterior_of(goal, guardrail), first_day=None, last_day=None)
    decision = xb.decide(experiment, posterior, flag=flag_at(100), looks=1, now=datetime(2017, 2, 20).astimezone())
    assert decision.action == "ship"
    assert any("not applicable" in rule.sentence for rule in decision.rules)


def test_non_inferiority_ships_what_is_no_worse_than_the_margin(ask, gate_position, goal):
    experiment = replace(gate_position, policy=replace(gate_position.policy, aim="non_inferiority"))
    no_better = replace(goal, p_above_rope=0.01, p_improvement=0.4)
    assert ask(enrolled=100, experiment=experiment, goal=replace(no_better, p_harm_flat=0.024)).action == "ship"
    assert ask(enrolled=100, experiment=experiment, goal=replace(no_better, p_harm_flat=0.026)).action == "hold"


def test_a_long_hold_proposes_one_rung_down(ask, guardrail):
    stuck = replace(guardrail, p_harm=0.6)
    decision = ask(enrolled=25, guardrail=stuck, changed=timedelta(days=15))
    assert (decision.action, decision.to.enrolled) == ("hold", 5)
    assert ask(enrolled=25, guardrail=stuck, changed=timedelta(days=13)).to.enrolled == 25


def test_from_learn_at_on_a_long_hold_stays_because_fewer_units_would_only_take_longer(ask, guardrail):
    stuck = replace(guardrail, p_harm=0.6)
    decision = ask(enrolled=100, guardrail=stuck, changed=timedelta(days=60))
    assert (decision.action, decision.to.enrolled) == ("hold", 100)


def test_a_rung_has_its_own_waiting_times(ask, gate_position, goal, guardrail):
    ladder = (1, xb.Rung(enrolled=25, days=3, units=60_000, max_hold_days=5), 100)
    experiment = replace(gate_position, policy=xb.Policy(ladder=ladder))
    assert ask(experiment=experiment, changed=timedelta(days=4)).reasons == (
        "The smallest arm, gate_30, has 45,000 units (60,000 needed).",
    )
    assert ask(experiment=experiment, changed=timedelta(days=5)).to.enrolled == 1
    enough = {
        "counts": {"gate_30": 60_000, "gate_40": 60_000},
        "goal": replace(goal, n_control=60_000, n_treatment=60_000),
        "guardrail": replace(guardrail, n_control=60_000, n_treatment=60_000),
    }
    assert ask(experiment=experiment, **enough).action == "hold"
    assert ask(experiment=experiment, **enough, changed=timedelta(days=3)).to.enrolled == 100


def test_the_time_of_a_rung_holds_the_next_step_and_no_verdict(ask):
    early = ask(enrolled=25, changed=timedelta(hours=12))
    assert (early.action, early.to.enrolled) == ("hold", 25)
    assert early.reasons == ("The flag has been at 25 % for 0.5 days (1 needed before the next rung).",)
    assert ask(enrolled=100, changed=timedelta(hours=12)).action == "ship"


def test_only_units_that_came_in_at_this_rung_count_for_the_next_one(ask):
    before = {"gate_30": 44_050, "gate_40": 43_800}
    decision = ask(before=before)
    assert decision.action == "hold"
    assert decision.reasons == ("The smallest arm, gate_30, has 950 units since this rung was reached (1,000 needed).",)
    assert ask(before={"gate_30": 44_000, "gate_40": 43_800}).action == "ramp_up"


def test_a_verdict_stands_until_another_week_is_complete(gate_position, goal, guardrail, posterior_of, flag_at):
    """So that a plan to ship can wait a day for its approval, and no day but the seventh is another chance."""

    def ask_on(day, goal, judged):
        posterior = replace(
            posterior_of(goal, guardrail, fingerprint=str(day) * 64),
            last_day=date(2017, 2, 1) + timedelta(days=day - 1),
        )
        now = datetime(2017, 2, day, 23).astimezone()
        return xb.decide(gate_position, posterior, flag=flag_at(100), looks=1, now=now, judged=judged)

    worse = replace(goal, p_above_rope=0.9)
    first = ask_on(7, goal, None)
    assert first.action == "ship"
    later = ask_on(9, worse, first)
    assert later.action == "ship"
    assert "The goal is judged every 7 days; the verdict is that on data up to 2017-02-07." in later.notes
    assert ask_on(13, worse, later).action == "ship"
    assert ask_on(14, worse, later).action == "hold"
    assert ask_on(9, worse, None).action == "hold"
    harmed = replace(goal, p_harm_wide=0.999)
    assert ask_on(9, harmed, first).action == "roll_back"


def test_one_set_of_data_carries_one_step(ask):
    decision = ask(before={"gate_30": 45_000, "gate_40": 45_000})
    assert decision.action == "hold"
    assert "already carried a step up" in decision.reasons[0]


def test_a_killed_flag_holds_until_it_is_restored(ask):
    decision = ask(enrolled=0, enabled=False)
    assert decision.action == "hold"
    assert "was killed; restore it" in decision.reasons[0]


def test_a_shipped_flag_stays_shipped(ask):
    decision = ask(enrolled=100, serve="gate_40")
    assert decision.action == "hold"
    assert decision.to == decision.flag.exposure


def test_the_same_inputs_give_the_same_decision_and_evidence(ask):
    assert ask() == ask()
    assert ask().evidence_hash == ask().evidence_hash
    assert ask(looks=2).evidence_hash != ask(looks=1).evidence_hash


PROBABILITY = st.one_of(st.none(), st.floats(0, 1))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(data=st.data())
def test_no_posterior_whatever_raises_exposure_past_harm_unknowns_or_one_rung(ask, goal, guardrail, data):
    names = ("p_improvement", "p_above_rope", "p_harm", "p_rope", "p_harm_flat", "expected_loss_rel", "p_best")
    drawn = {role: {name: data.draw(PROBABILITY) for name in names} for role in ("goal", "guardrail")}
    enrolled = data.draw(st.sampled_from([0, 1, 5, 25, 50, 100]))
    decision = ask(
        enrolled=enrolled, goal=replace(goal, **drawn["goal"]), guardrail=replace(guardrail, **drawn["guardrail"])
    )
    if decision.to.treated > decision.flag.exposure.treated:
        assert all(
            rule.outcome == "met"
            for rule in decision.rules
            if rule.name in {"harm", "guardrail", "sample_ratio", "min_units"}
        )
        assert (
            decision.to.enrolled == decision.flag.exposure.enrolled
            or decision.to.enrolled == {0: 1, 1: 5, 5: 25, 25: 50, 50: 100}[enrolled]
        )
    assert 0 <= decision.to.enrolled <= 100
    assert decision.reasons


def test_what_does_not_belong_together_is_refused(ask, gate_position, goal, guardrail, posterior_of, flag_at):
    now = datetime(2017, 2, 20).astimezone()
    posterior = posterior_of(goal, guardrail)
    with pytest.raises(SpecError, match="the posterior belongs to 'other'"):
        xb.decide(gate_position, replace(posterior, experiment="other"), flag=flag_at(5), looks=1, now=now)
    with pytest.raises(SpecError, match="looks is 0"):
        xb.decide(gate_position, posterior, flag=flag_at(5), looks=0, now=now)
    with pytest.raises(SpecError, match="now has no time zone"):
        xb.decide(gate_position, posterior, flag=flag_at(5), looks=1, now=datetime(2017, 2, 20))
    other = replace(gate_position, weights={"gate_30": 50, "gate_50": 50})
    with pytest.raises(SpecError, match="has the arms"):
        xb.decide(other, posterior, flag=flag_at(5), looks=1, now=now)


def test_names_are_escaped_in_html(ask, goal, gate_position, guardrail):
    nasty = '<b>\'"retention"&'
    metrics = tuple(replace(m, name=nasty) if m.role == "goal" else m for m in gate_position.metrics)
    page = ask(goal=replace(goal, metric=nasty), experiment=replace(gate_position, metrics=metrics))._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_the_page_for_reviewers_has_every_rule(ask):
    decision = ask()
    page = decision.markdown()
    assert all(rule.sentence in page for rule in decision.rules)
    assert decision.evidence_hash in page
