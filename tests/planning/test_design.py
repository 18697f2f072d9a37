"""A plan before the data: against analytic power, its integral over the prior, and simulated guardrails."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

import expnb as xb
from expnb.decisions.precedence import code
from expnb.errors import NameNotFoundError, SpecError
from expnb.planning.baseline import Baseline
from expnb.planning.belief import Belief
from expnb.planning.design import climb, isotonic, plan_experiment, rung_traffic
from expnb.planning.goal import GoalRule
from expnb.planning.rollouts import roll_out
from expnb.spec.experiment import Traffic
from expnb.spec.policy import Ship
from expnb.spec.prior import FLAT

MEAN, SD = 10.0, 20.0
REVENUE = xb.Metric(name="revenue", kind="revenue", role="goal", rope=0.01, margin=0.9)
ONE_LOOK = {"ladder": (100,), "min_units": 0, "min_days": 10, "verdict_days": 100}


def one_look(planned, **other):
    """A policy that judges the goal once, on day 10, and is never stopped before."""
    return planned(0, goal=REVENUE, **(ONE_LOOK | other))


def standard_error(units):
    """Of the log ratio of two arms of so many units each."""
    return SD / MEAN * np.sqrt(2 / units)


@pytest.mark.parametrize("effect", [0.0, 0.03, 0.06])
def test_power_at_a_point_is_the_analytic_one(planned, effect):
    experiment = one_look(planned, prior=FLAT, ship=Ship(expected_loss=0.5))
    daily, rollouts = 20_000, 4_000
    found = roll_out(
        experiment,
        np.full((rollouts, 1, 1), effect),
        baselines={"revenue": Baseline(MEAN, SD)},
        units_per_day=daily,
        days=10,
        seed=1,
    )
    error = standard_error(daily * 10 / 2)
    # Without a prior it ships where (estimate - log(1 + rope)) / error > z of 0.98.
    power = ndtr((np.log1p(effect) - np.log1p(0.01)) / error - ndtri(0.98))
    assert (found.action == code("ship")).mean() == pytest.approx(power, abs=4 * np.sqrt(0.25 / rollouts))


def test_assurance_is_power_integrated_over_the_prior(planned):
    scale, daily = 0.03, 20_000
    experiment = one_look(planned, prior=xb.Prior(family="normal", scale=scale), ship=Ship(expected_loss=0.5))
    plan = plan_experiment(experiment, baseline=(MEAN, SD), daily_units=daily, days=10, rollouts=4_000)
    error = standard_error(daily * 10 / 2)
    kept = scale**2 / (scale**2 + error**2)
    cut = (np.log1p(0.01) + ndtri(0.98) * np.sqrt(kept) * error) / kept
    lam = np.linspace(-8 * scale, 8 * scale, 20_001)
    density = np.exp(-0.5 * (lam / scale) ** 2)
    power, better = ndtr((lam - cut) / error), lam > np.log1p(0.01)
    assert plan.assurance == pytest.approx((density * power).sum() / density.sum(), abs=0.015)
    assert plan.better == pytest.approx(density[better].sum() / density.sum(), abs=0.002)
    among = (density * power)[better].sum() / density[better].sum()
    assert plan.shipped_if_better == pytest.approx(among, abs=0.03)
    assert [row.shipped for row in plan.rows[:-1]] == [0.0] * 9


def test_the_smallest_detectable_effect_is_where_power_is_80_percent(planned):
    daily = 20_000
    experiment = one_look(planned)
    plan = plan_experiment(experiment, baseline=(MEAN, SD), daily_units=daily, days=10, rollouts=6_000)
    error = standard_error(np.array([daily * 10 / 2]))
    needed = np.expm1(GoalRule.of(experiment).cut(error) + ndtri(0.8) * error)[0]
    assert plan.rows[-1].detectable == pytest.approx(needed, rel=0.05)
    assert {row.detectable for row in plan.rows[:-1]} == {None}


def test_detectable_effects_shrink_and_shares_add_up_day_by_day(planned):
    plan = plan_experiment(planned(0), baseline=0.1, daily_units=40_000, days=28, rollouts=400)
    effects = [row.detectable for row in plan.rows if row.detectable is not None]
    assert effects == sorted(effects, reverse=True)
    table = plan.table()
    assert table[["shipped", "concluded_flat", "rolled_back", "running"]].sum(axis=1).tolist() == pytest.approx(
        [1.0] * 28
    )
    assert (table["shipped"].diff().dropna() >= 0).all()
    assert table["day"].tolist() == list(range(1, 29))
    assert plan.table().equals(
        plan_experiment(planned(0), baseline=0.1, daily_units=40_000, days=28, rollouts=400).table()
    )


def test_where_less_is_better_the_detectable_effect_is_negative(planned):
    goal = xb.Metric(name="errors", kind="conversion", role="goal", direction="decrease", rope=0.005)
    plan = plan_experiment(planned(0, goal=goal), baseline=0.1, daily_units=100_000, days=14, rollouts=300)
    assert -0.1 < plan.rows[-1].detectable < -0.01
    assert plan.assurance > 0.1


def test_under_non_inferiority_a_treatment_within_the_margin_ships(planned):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", rope=0.005, margin=0.05)
    experiment = planned(0, goal=goal, aim="non_inferiority", ladder=(100,))
    plan = plan_experiment(experiment, baseline=0.1, daily_units=100_000, days=14, rollouts=300)
    assert -0.05 < plan.rows[-1].detectable < 0


def test_the_effect_of_a_share_stays_below_all_units(planned):
    plan = plan_experiment(planned(0), baseline=0.9, daily_units=2_000, days=14, rollouts=160)
    assert all(row.detectable is None or 0.9 * (1 + row.detectable) < 1 for row in plan.rows)


@pytest.mark.parametrize("rule", ["any", "all"])
def test_of_several_goals_and_treatments_all_are_named(planned, rule):
    experiment = planned(0, treatments=2)
    loading = xb.Metric(name="loading", kind="duration", role="goal", direction="decrease", rope=0.01)
    experiment = replace(experiment, metrics=(*experiment.metrics, loading), policy=xb.Policy(goal_rule=rule))
    plan = plan_experiment(
        experiment, baseline={"bought": 0.1, "loading": (3.0, 6.0)}, daily_units=60_000, days=14, rollouts=200
    )
    assert plan.goal == "bought and loading"
    of = "at least one goal" if rule == "any" else "every goal"
    expected = (
        f"At least one of 2 treatments is better than the rope on {of} (bought 0.5 %, loading 1 %) with probability"
    )
    assert expected in str(plan)
    assert 0 < plan.rows[-1].detectable < 0.2


@pytest.mark.parametrize("treatments", [1, 2])
@pytest.mark.parametrize("rule", ["any", "all"])
def test_the_event_is_the_one_that_the_goals_are_asked_for(planned, rule, treatments):
    """Normal priors and one look: both the event and what ships in it are integrals over independent effects."""
    scale, daily = 0.03, 20_000
    prior = xb.Prior(family="normal", scale=scale)
    policy = ONE_LOOK | {"ship": Ship(expected_loss=0.5), "harm_alpha": 1e-12, "goal_rule": rule}
    second = replace(REVENUE, name="profit", rope=0.03)
    experiment = planned(0, treatments=treatments, goal=REVENUE, prior=prior)
    experiment = replace(experiment, metrics=(REVENUE, second), policy=xb.Policy(**policy))
    plan = plan_experiment(experiment, baseline=(MEAN, SD), daily_units=daily, days=10, rollouts=8_000)
    far = ndtr(-np.log1p([0.01, 0.03]) / scale)
    one = 1 - np.prod(1 - far) if rule == "any" else np.prod(far)
    assert plan.better == pytest.approx(1 - (1 - one) ** treatments, abs=0.015)
    assert plan.shipped_if_better > plan.assurance
    if treatments == 2:
        return
    error = standard_error(daily * 10 / 2)
    lam = np.linspace(-8 * scale, 8 * scale, 20_001)
    density = np.exp(-0.5 * (lam / scale) ** 2)
    density /= density.sum()
    meets, outside = [], []  # P(the rule | effect), and that times not being beyond the rope
    for goal in experiment.goals:
        cut = float(GoalRule.of(experiment, goal).cut(np.array([error]))[0])
        power, beyond = ndtr((lam - cut) / error), lam > np.log1p(goal.rope)
        meets.append((density * power)[beyond].sum())
        outside.append((density * (1 - power)).sum() - (density * (1 - power))[beyond].sum())
    if rule == "all":
        assert plan.shipped_if_better == pytest.approx(np.prod(meets) / one, abs=0.04)
    else:
        no_ship = np.array([(density * (1 - ndtr((lam - float(GoalRule.of(experiment, goal).cut(np.array([error]))[0])) / error))).sum() for goal in experiment.goals])  # fmt: skip
        assert plan.shipped_if_better == pytest.approx(1 - (np.prod(no_ship) - np.prod(outside)) / one, abs=0.03)


def test_of_several_treatments_with_one_goal_effects_are_counted(planned):
    plan = plan_experiment(planned(0, treatments=2), baseline=0.1, daily_units=20_000, days=14, rollouts=160)
    assert "At least one of 2 effects is better than the rope of 0.5 % with probability" in str(plan)


def test_under_non_inferiority_the_event_is_that_of_the_margin(planned):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", rope=0.005, margin=0.03)
    experiment = planned(0, goal=goal, prior=xb.Prior(family="normal", scale=0.03), aim="non_inferiority")
    plan = plan_experiment(experiment, baseline=0.1, daily_units=20_000, days=14, rollouts=400)
    assert plan.better == pytest.approx(ndtr(-np.log1p(-0.03) / 0.03), abs=0.01)
    assert "The effect is no worse than the margin of 3 % with probability" in str(plan)
    assert "rope" not in str(plan)


@pytest.mark.parametrize("daily", [1e6, 1e8])
def test_with_very_much_traffic_the_detectable_effect_is_the_rope_and_ships_as_often_as_said(planned, daily):
    experiment = planned(0, ladder=(100,))
    plan = plan_experiment(experiment, baseline=0.1, daily_units=daily, days=14, rollouts=4_000)
    effect = plan.rows[-1].detectable
    assert 0.005 < effect < 0.02
    found = xb.simulate_policy(
        experiment, baseline=0.1, effects=[0.95 * effect, 1.05 * effect], traffic=daily, days=14, rollouts=1_000
    )
    assert found.rows[0].ship < 0.8 < found.rows[1].ship


# --- time -----------------------------------------------------------------------------------


def test_a_plan_goes_to_the_end_and_says_where_it_goes_beyond(planned):
    experiment = replace(planned(0), end=date(2026, 1, 10))
    plan = plan_experiment(experiment, baseline=0.1, daily_units=20_000, rollouts=32)
    assert (plan.days, plan.end_day) == (10, 10)
    assert "up to the end on 2026-01-10" in str(plan)
    assert "runs longer" not in str(plan)
    longer = plan_experiment(experiment, baseline=0.1, daily_units=20_000, days=11, rollouts=32)
    assert (
        "The experiment ends on day 10, 2026-01-10: what is said of later days holds only if it runs longer."
        in longer.sentences
    )
    endless = replace(planned(0, min_days=0), start=None, end=None)
    assert plan_experiment(endless, baseline=0.1, daily_units=20_000, rollouts=32).days == 56


@pytest.mark.parametrize("days", [7, 10, 13])
def test_a_first_verdict_within_the_last_week_says_nothing_of_another_week(planned, days):
    plan = plan_experiment(planned(0), baseline=0.1, daily_units=1_000_000, days=days, rollouts=200)
    assert plan.first_ship_day == 7
    assert plan.full_power_day is None
    assert "The first rollouts ship on day 7, less than a week before the last day" in str(plan)
    assert "The last week still adds" not in str(plan)


def test_days_are_counted_as_the_experiments_questions_count_them(planned):
    experiment = replace(planned(0, min_units=600, ladder=(10, 100)), traffic=Traffic(units_per_day=400))
    experiment = replace(experiment, end=date(2026, 1, 20))
    asked = " ".join(experiment.questions())
    text = str(plan_experiment(experiment, baseline=0.1, days=60, rollouts=32))
    assert "at 10 % it takes 30 days until 600 units per arm came in" in asked
    assert "At 10 percent it takes 30 days until 600 units per arm came in" in text
    assert "is reached after 33 days at the earliest" in asked
    assert "is reached on day 31 at the earliest, with enough units after 33 days;" in text


# --- traffic and ladder ---------------------------------------------------------------------


def test_each_rung_says_what_it_asks_of_the_traffic(planned):
    experiment = planned(0, min_units=1_000, ladder=(1, 10, 100))
    first, second, third = rung_traffic(experiment, 10_000)
    assert (first.units, first.days, first.daily_units, first.filled) == (1_000, 20, 200_000, False)
    assert (second.days, second.daily_units, second.filled) == (2, 20_000, True)
    assert third.filled
    assert climb(experiment, 10_000, 25).tolist() == [1] * 20 + [10] * 2 + [100] * 3


def test_the_climb_is_the_fastest_of_simulated_ones(planned):
    experiment = planned(0, goal=replace(REVENUE, margin=0.9), min_units=3_000, ladder=(5, 25, 50, 100))
    found = roll_out(
        experiment,
        np.zeros((500, 1, 1)),
        baselines={"revenue": Baseline(MEAN, SD)},
        units_per_day=61_000,
        days=20,
        seed=0,
    )
    expected = climb(experiment, 61_000, 20)
    first = [1 + int(np.flatnonzero(expected == rung)[0]) for rung in (5, 25, 50, 100)]
    assert found.reached.min(axis=0).tolist() == first
    assert np.median(found.reached, axis=0).tolist() == first


def test_a_ladder_that_cannot_be_filled_is_said_with_one_that_can(planned):
    experiment = planned(0, min_units=1_000)
    plan = plan_experiment(experiment, baseline=0.1, daily_units=2_000, days=28, rollouts=160)
    assert plan.first_rung == 25
    text = str(plan)
    assert (
        "At 1 percent it takes 100 days until 1,000 units per arm came in, longer than it may hold; 200,000 units per day"
        in text
    )
    assert "A ladder that starts at 25 percent fits this traffic." in text
    assert "100 percent enrolled is not reached within 28 days" in text
    none = plan_experiment(replace(experiment, policy=replace(experiment.policy, ladder=(1, 5, 100))), baseline=0.1, daily_units=20, days=7, rollouts=20)  # fmt: skip
    assert none.first_rung is None
    assert "No ladder fits this traffic within 7 days." in str(none)
    tiny = plan_experiment(experiment, baseline=0.1, daily_units=3, days=28, rollouts=20)
    assert tiny.first_rung is None
    assert "fits this traffic." not in str(tiny)


def test_weeks_that_add_nothing_end_the_plan(planned):
    plan = plan_experiment(planned(0), baseline=0.1, daily_units=4_000_000, days=42, rollouts=400)
    assert plan.full_power_day is not None
    shipped = [row.shipped for row in plan.rows]
    day = plan.full_power_day
    assert shipped[day + 5] - shipped[day - 2] >= 0.01
    assert all(later - now < 0.01 for now, later in zip(shipped[day - 1 :], shipped[day + 6 :], strict=False))
    assert f"From day {day} on" in str(plan)
    short = plan_experiment(planned(0), baseline=0.1, daily_units=40_000, days=21, rollouts=400)
    assert short.full_power_day is None
    assert "more than 21 days would ship more" in str(short)


# --- guardrails -----------------------------------------------------------------------------


def test_the_smallest_margin_is_shown_with_80_percent_by_simulated_rollouts(planned):
    """On one day, with an effect on the goal that ships for certain, the guardrail alone is in the way."""
    policy = {"ladder": (100,), "min_days": 1, "verdict_days": 1}
    plan = plan_experiment(planned(1, **policy), baseline=0.1, daily_units=40_000, days=1, rollouts=32)
    experiment = planned(0, **policy)
    guardrail = xb.Metric(name="kept_0", kind="conversion", role="guardrail", margin=plan.guardrails[0].smallest)
    found = roll_out(
        replace(experiment, metrics=(*experiment.metrics, guardrail)),
        np.broadcast_to([[0.5, 0.0]], (4_000, 1, 2)),
        baselines={"bought": Baseline(0.1, 0.3), "kept_0": Baseline(0.1, 0.3)},
        units_per_day=40_000,
        days=1,
        seed=0,
    )
    assert (found.action == code("ship")).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("prior", [xb.Prior(), xb.Prior(family="normal", scale=0.01), xb.Prior(scale=0.2)])
def test_the_prior_only_makes_a_margin_easier_to_show(prior):
    estimates = 0.01 * np.linspace(-1.2, 3, 40)
    errors = np.full(estimates.shape, 0.01)
    for margin in (0.01, 0.02, 0.05):
        flat = ndtr((estimates - np.log1p(-margin)) / errors)
        own = Belief.of(prior).given(estimates, errors).above(np.log1p(-margin))
        assert (own[(flat >= 0.95)] >= 0.95).all()


def test_a_margin_of_2_percent_cannot_be_shown_with_5_000_units_per_day_and_arm_in_4_weeks(planned):
    plan = plan_experiment(planned(1), baseline=0.1, daily_units=10_000, days=28, rollouts=160)
    one = plan.guardrails[0]
    assert not one.shown
    assert 0.02 < one.smallest < 0.04
    sentence = plan.sentences[-1]
    assert "its margin of 2 % cannot be shown by day 28" in sentence
    assert "Either agree on a margin of" in sentence
    wider = plan_experiment(planned(1), baseline=0.1, daily_units=one.daily_units * 1.001, days=28, rollouts=160)
    assert wider.guardrails[0].smallest == pytest.approx(0.02, rel=0.05)
    longer = plan_experiment(planned(1), baseline=0.1, daily_units=10_000, days=int(np.ceil(one.days)), rollouts=160)
    assert longer.guardrails[0].shown
    assert "can be shown by day" in longer.sentences[-1]


def test_a_guardrail_that_nobody_meets_at_the_last_rung_shows_nothing(planned):
    plan = plan_experiment(planned(1), baseline=0.1, daily_units=300, days=14, rollouts=32)
    assert plan.guardrails[0].smallest is None
    assert "no margin can be shown" in str(plan)


def test_a_margin_of_nothing_can_never_be_shown(planned):
    experiment = planned(1)
    goal, guardrail = experiment.metrics
    experiment = replace(experiment, metrics=(goal, replace(guardrail, margin=0.0)))
    plan = plan_experiment(experiment, baseline=0.1, daily_units=20_000, days=14, rollouts=32)
    assert (plan.guardrails[0].shown, plan.guardrails[0].days) == (False, None)
    assert "nothing ships before it is. Agree on a margin of" in plan.sentences[-1]


# --- what is asked --------------------------------------------------------------------------


def test_isotonic_shares_are_the_closest_rising_ones():
    assert isotonic(np.array([0.1, 0.5, 0.3, 0.9])).tolist() == pytest.approx([0.1, 0.4, 0.4, 0.9])
    assert isotonic(np.array([[0.9, 0.1], [0.2, 0.4]])) == pytest.approx(np.array([[0.5, 0.5], [0.2, 0.4]]))
    noisy = np.random.default_rng(0).random((20, 9))
    found = isotonic(noisy)
    assert (np.diff(found, axis=1) >= -1e-12).all()
    assert found.mean(axis=1) == pytest.approx(noisy.mean(axis=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"daily_units": None}, "Pass daily_units=6000"),
        ({"daily_units": 0}, "must be above 0"),
        ({"days": 0}, "days is 0"),
        ({"days": float("nan")}, "days is nan; it is a whole number"),
        ({"days": 10.5}, "days is 10.5; it is a whole number from 1 on"),
        ({"baseline": 1.4}, "a share lies between 0 and 1"),
    ],
)
def test_what_is_missing_or_impossible_is_said(planned, change, message):
    with pytest.raises(SpecError, match=message):
        plan_experiment(planned(0), **({"baseline": 0.1, "daily_units": 1_000} | change))


def test_an_unknown_metric_and_a_flat_prior_are_refused(planned):
    with pytest.raises(NameNotFoundError):
        plan_experiment(planned(0), baseline={"sold": 0.1}, daily_units=1_000)
    with pytest.raises(SpecError, match="no assurance can be stated"):
        plan_experiment(planned(0, prior=FLAT), baseline=0.1, daily_units=1_000)


def test_a_plan_is_shown_as_text_and_as_a_page(planned):
    plan = plan_experiment(planned(1), baseline=0.1, daily_units=20_000, days=28, rollouts=160)
    assert "assurance under student_t(4, 0, 0.03)" in str(plan)
    page = plan._repr_html_()
    assert page.count("<tr>") == 1 + 4  # a head and four weeks
    assert "<td>28</td>" in page
