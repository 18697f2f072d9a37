"""The value of more data: against brute force, quadrature and the unit normal loss integral; and what is said where nothing can be known."""

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri

import expnb as xb
from expnb.errors import NameNotFoundError, SpecError
from expnb.planning.belief import Belief
from expnb.planning.goal import GoalRule, Outlook, indifferent, mean_effect
from expnb.planning.waiting import value_of_waiting
from expnb.spec.experiment import Traffic
from expnb.spec.prior import FLAT

LEARNT = xb.Prior(family="learnt", scales=(0.01, 0.05), weights=(0.6, 0.4), null_share=0.5)
PRIORS = [xb.Prior(), xb.Prior(family="normal", scale=0.02), LEARNT, FLAT]
BELLS = [(0.02, 0.02, 1.5), (-0.05, 0.02, 1.1), (0.0, 0.05, 4.0)]


def gain(prior, estimate, error, growth, *, increase=True):
    known = Belief.of(prior).given(np.array(estimate), np.array(error))
    outlook = Outlook.after(known, estimate, error, growth)
    now = float(mean_effect(known)) * (1 if increase else -1)
    return outlook.gain_of_choosing(indifferent(error / math.sqrt(growth)), increase=increase) - max(0.0, now)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.family)
@pytest.mark.parametrize("increase", [True, False])
def test_the_gain_is_that_of_brute_force(prior, increase):
    (estimate, error, growth), draws = BELLS[0], 50_000
    rng = np.random.default_rng(5)
    known = Belief.of(prior).given(np.array(estimate), np.array(error))
    part = rng.choice(len(known.weight), draws, p=known.weight / known.weight.sum())
    truth = rng.normal(known.mean[part], known.sd[part])
    fresh = rng.normal(truth, error / math.sqrt(growth - 1))
    both = (estimate + (growth - 1) * fresh) / growth
    sign = 1 if increase else -1
    then = sign * mean_effect(Belief.of(prior).given(both, np.full(both.shape, error / math.sqrt(growth))))
    # What is known on average then is what is known now; taking off the known mean leaves the noise of the choice alone.
    values = np.maximum(0, then) - (then if sign * mean_effect(known) > 0 else 0)
    expected = gain(prior, estimate, error, growth, increase=increase)
    assert expected == pytest.approx(values.mean(), abs=4 * values.std() / math.sqrt(draws) + 1e-12)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.family)
@pytest.mark.parametrize(("estimate", "error", "growth"), BELLS)
def test_the_gain_is_that_of_quadrature(prior, estimate, error, growth):
    known = Belief.of(prior).given(np.array(estimate), np.array(error))
    outlook = Outlook.after(known, estimate, error, growth)
    edges = np.linspace(-0.5, 0.5, 40_001)
    mass, middle = -np.diff(outlook.above(edges)), 0.5 * (edges[1:] + edges[:-1])
    then = mean_effect(Belief.of(prior).given(middle, np.full(middle.shape, error / math.sqrt(growth))))
    now = float(mean_effect(known))
    assert (mass * then).sum() == pytest.approx(now, rel=1e-5, abs=1e-9)
    expected = (mass * np.maximum(0, then)).sum() - max(0.0, now)
    assert gain(prior, estimate, error, growth) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(("estimate", "growth"), [(2e-5, 2.0), (-8e-5, 1.2), (1.6e-4, 10.0)])
def test_under_a_normal_prior_it_is_the_unit_normal_loss_integral(estimate, growth):
    # Raiffa and Schlaifer (1961), 5.5: EVSI = sigma* L_N(|m| / sigma*), L_N(u) = phi(u) - u (1 - Phi(u)); effects small enough that a log ratio is a relative effect.
    scale, error = 1e-4, 8e-5
    variance = 1 / (scale**-2 + error**-2)
    mean = variance * estimate / error**2
    spread = math.sqrt(variance - 1 / (scale**-2 + growth * error**-2))
    u = abs(mean) / spread
    loss = math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi) - u * ndtr(-u)
    found = gain(xb.Prior(family="normal", scale=scale), estimate, error, growth)
    assert found == pytest.approx(spread * loss, rel=1e-3)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.family)
@pytest.mark.parametrize("direction", ["increase", "decrease"])
@pytest.mark.parametrize("aim", ["superiority", "non_inferiority"])
def test_chances_of_verdicts_are_the_shares_of_simulated_ones(planned, prior, direction, aim):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", direction=direction, rope=0.01, margin=0.01)
    rule = GoalRule.of(planned(0, goal=goal, prior=prior, aim=aim))
    rng = np.random.default_rng(1)
    estimate, error, growth = 0.004, 0.007, 3.0
    known = Belief.of(prior).given(np.array(estimate), np.array(error))
    part = rng.choice(len(known.weight), 20_000, p=known.weight / known.weight.sum())
    truth = rng.normal(known.mean[part], known.sd[part])
    both = (estimate + (growth - 1) * rng.normal(truth, error / math.sqrt(growth - 1))) / growth
    then = np.full(both.shape, error / math.sqrt(growth))
    flat = rule.flat(both, then)
    found = Outlook.after(known, estimate, error, growth).chances(rule, error / math.sqrt(growth))
    assert found["ship"] == pytest.approx((rule.ships(both, then) & ~flat).mean(), abs=0.01)
    assert found["conclude flat"] == pytest.approx(flat.mean(), abs=0.01)
    assert sum(found.values()) == pytest.approx(1)


def test_the_estimate_from_which_it_ships_parts_those_that_do(planned):
    rule, errors = GoalRule.of(planned(0)), np.array([0.001, 0.01, 0.05])
    cut = rule.cut(errors)
    assert rule.ships(cut * (1 + 1e-4), errors).all()
    assert not rule.ships(cut * (1 - 1e-4), errors).any()
    hopeless = GoalRule.of(planned(0, prior=xb.Prior(family="normal", scale=1e-5)))
    assert hopeless.cut(np.array([0.01])).tolist() == [np.inf]


@pytest.mark.parametrize("direction", ["increase", "decrease"])
@pytest.mark.parametrize("rope", [0.0, 0.002, 0.005, 0.02, 0.1])
@pytest.mark.parametrize("family", ["normal", "student_t", "flat"])
def test_the_cut_and_the_range_are_those_of_direct_root_finding(planned, direction, rope, family):
    """Under posteriors by quadrature of prior times likelihood, at standard errors far below and above the rope."""
    prior = FLAT if family == "flat" else xb.Prior(family=family, scale=0.03)
    goal = xb.Metric(name="bought", kind="conversion", role="goal", direction=direction, rope=rope)
    rule = GoalRule.of(planned(0, goal=goal, prior=prior))
    density = {
        "normal": lambda lam: -0.5 * (lam / 0.03) ** 2,
        "student_t": lambda lam: -2.5 * np.log1p((lam / 0.03) ** 2 / 4),
        "flat": np.zeros_like,
    }[family]
    sign = 1 if rule.up else -1
    near, other = np.log1p(sign * rope), np.log1p(-sign * rope)

    def posterior(estimate, error):
        around = np.linspace(-12, 12, 8_001) * error
        prior_grid = 0.0 if family == "flat" else 0.03 * np.sinh(np.linspace(-5, 5, 8_001))
        lam = np.unique(np.concatenate([estimate + around, np.atleast_1d(prior_grid), around + near]))
        log = density(lam) - 0.5 * ((estimate - lam) / error) ** 2
        mass = np.exp(log - log.max()) * np.gradient(lam)
        return lam, mass / mass.sum()

    def beyond(gap, error):
        lam, mass = posterior(sign * gap, error)
        loss = (mass * np.maximum(0, -sign * np.expm1(lam))).sum()
        missing = mass[sign * (lam - near) > 0].sum() + 0.5 * mass[lam == near].sum() - rule.needed
        return min(missing, (rule.policy.ship.expected_loss - loss) * 100)

    def inside(estimate, error):
        lam, mass = posterior(estimate, error)
        return mass[(lam > min(near, other)) & (lam < max(near, other))].sum() - rule.policy.conclude_flat.p_rope

    for error in (1e-7, 1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3):
        step = 0.02 * error
        cut = sign * float(rule.cut(np.array([error]))[0])
        furthest = 12 * math.hypot(0.03, error)
        if np.isfinite(cut):
            assert beyond(cut - step, error) < 0 < beyond(cut + step, error), error
        else:
            assert beyond(furthest, error) < 0, error
        low, high = (float(end[0]) for end in rule.flat_range(np.array([error])))
        if inside(0.0, error) < 0:
            assert low == high == 0.0
            continue
        for end, side in ((low, -1), (high, 1)):
            assert inside(end - side * step, error) > 0, error
            assert abs(end) >= furthest or inside(end + side * step, error) < 0, error


@pytest.mark.parametrize("direction", ["increase", "decrease"])
@pytest.mark.parametrize("scale", [0.001, 0.03])
def test_a_prior_that_is_narrow_against_the_rope_moves_the_cut_by_as_much_as_it_pulls(planned, direction, scale):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", direction=direction, rope=0.005)
    prior = xb.Prior(family="normal", scale=scale)
    rule = GoalRule.of(planned(0, goal=goal, prior=prior))
    error = np.geomspace(1e-7, 0.0015, 40)
    kept = scale**2 / (scale**2 + error**2)
    sign = 1 if rule.up else -1
    needed = (abs(np.log1p(sign * 0.005)) + ndtri(rule.needed) * np.sqrt(kept) * error) / kept
    possible = needed < 12 * np.hypot(scale, error)
    assert possible[:30].all()
    assert sign * rule.cut(error)[possible] == pytest.approx(needed[possible], rel=1e-6)


@pytest.mark.parametrize("direction", ["increase", "decrease"])
def test_under_non_inferiority_the_cut_is_the_margin_and_some_standard_errors(planned, direction):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", direction=direction, rope=0.005, margin=0.01)
    rule, error = GoalRule.of(planned(0, goal=goal, aim="non_inferiority")), np.geomspace(1e-7, 0.3, 30)
    sign = 1 if rule.up else -1
    expected = np.log1p(-sign * 0.01) + sign * ndtri(rule.needed) * error
    assert rule.cut(error) == pytest.approx(expected)
    assert [end.tolist() for end in rule.flat_range(error)] == [[0.0] * 30] * 2


# --- in an experiment -----------------------------------------------------------------------


@pytest.fixture
def waiting(planned):
    """The value of waiting when so many of 20,000 units per arm bought."""

    def make(bought, *, left=13, direction="increase", traffic=2_000, ask=None, **policy):
        goal = xb.Metric(name="bought", kind="conversion", role="goal", direction=direction, rope=0.01)
        experiment = planned(0, treatments=len(bought) - 1, goal=goal, **policy)
        experiment = replace(experiment, traffic=traffic and Traffic(units_per_day=traffic))
        arms = [
            pd.DataFrame({"user": np.arange(20_000) + 20_000 * n, "arm": arm, "bought": np.arange(20_000) < some})
            for n, (arm, some) in enumerate(zip(experiment.variants, bought, strict=True))
        ]
        posterior = xb.fit(experiment, xb.load_cohort(experiment, pd.concat(arms)))
        last = date(2026, 3, 1 - left) if left < 1 else date.fromordinal(date(2026, 3, 1).toordinal() - left)
        return value_of_waiting(experiment, replace(posterior, last_day=last), **(ask or {}))

    return make


def test_in_doubt_data_are_worth_something_and_cost_less(waiting):
    found = waiting((2_000, 2_020))
    assert found.units == 14_000
    assert found.month == pytest.approx(30 * 2_000 * 0.1)
    assert found.gain_per_month == pytest.approx(found.gain * found.month)
    assert found.cost < found.gain
    assert found.payback_days == pytest.approx(30 * found.cost / found.gain)
    assert (found.verdict, found.end) == ("none", date(2026, 3, 1))
    assert f"{found.gain_per_month:.3g} more units with bought" in str(found)


def test_a_clear_winner_is_settled_and_waiting_only_costs(waiting):
    found = waiting((2_000, 2_400))
    assert found.verdict == "ship"
    assert found.settled
    assert found.sentences[-1] == "More data can hardly change that."
    assert found.gain < 1e-9
    # Half of the units do not get the better arm, which is about 18 % better, for a week of the month.
    assert found.cost == pytest.approx(0.5 * 0.18 * 7 / 30, rel=0.1)
    assert "not expected to improve the choice" in str(found)


def test_a_look_that_may_tip_is_not_settled(waiting):
    found = waiting((2_000, 2_190))
    assert 0.01 < found.p_change < 0.9
    assert not found.settled
    assert f"with probability {100 * found.p_change:.1f} %" in str(found)


def test_fewer_errors_are_worth_fewer_units(waiting):
    found = waiting((2_020, 2_000), direction="decrease")
    assert found.gain > 0
    assert "fewer units with bought" in str(found)
    assert found.gain == pytest.approx(waiting((2_000, 2_020)).gain, rel=0.1)


def test_below_full_enrolment_fewer_units_come_and_more_miss_the_better_arm(waiting):
    full, part = (waiting((2_000, 2_060), ask={"enrolled": share}) for share in (100.0, 10.0))
    assert part.units == pytest.approx(full.units / 10)
    assert part.gain < full.gain
    assert part.cost == pytest.approx(full.cost * (1 - 0.05) / (1 - 0.5))
    assert "no units come in" in str(waiting((2_000, 2_060), ask={"enrolled": 0.0}))


def test_of_several_treatments_the_best_counts_and_every_other_arm_costs(waiting):
    found = waiting((2_000, 2_040, 2_200))
    assert found.variant == "new_1"
    assert waiting((2_000, 2_040, 2_200), ask={"variant": "new_0"}).gain > found.gain
    two = waiting((2_000, 2_200))
    assert found.cost > two.cost


def drawn_again(experiment, units, bought, arm, days, draws=40_000):
    """Gain and P(ship) after more days, by drawing the truth, the units of every arm and what they do; units of all arms per day 2,000."""
    rng, n, k = np.random.default_rng(4), np.array(units, float), np.array(bought, float)
    error = math.sqrt(sum((1 - k[each] / n[each]) / k[each] for each in (0, arm)))
    estimate = math.log(k[arm] / n[arm] / (k[0] / n[0]))
    belief = Belief.of(experiment.prior)
    known = belief.given(np.array(estimate), np.array(error))
    part = rng.choice(len(known.weight), draws, p=known.weight / known.weight.sum())
    ratio = rng.normal(known.mean[part], known.sd[part])
    # Given their ratio, the level of both arms is known from both.
    precision = k[[0, arm]] / (1 - k[[0, arm]] / n[[0, arm]])
    level = (
        precision[0] * math.log(k[0] / n[0]) + precision[1] * (math.log(k[arm] / n[arm]) - ratio)
    ) / precision.sum()
    level = level + rng.standard_normal(draws) / math.sqrt(precision.sum())
    logs, variances = [], []
    for each, mean in ((0, np.exp(level)), (arm, np.exp(level + ratio))):
        new = rng.poisson(2_000 * days * experiment.share(experiment.variants[each]), draws)
        total, hits = n[each] + new, k[each] + rng.binomial(new, np.minimum(mean, 1))
        logs.append(np.log(hits / total))
        variances.append((1 - hits / total) / hits)
    then, errors = logs[1] - logs[0], np.sqrt(variances[0] + variances[1])
    effect = mean_effect(belief.given(then, errors))
    now = float(mean_effect(known))
    values = np.maximum(0, effect) - (effect if now > 0 else 0)
    return values.mean(), 4 * values.std() / math.sqrt(draws), GoalRule.of(experiment).ships(then, errors).mean()


@pytest.mark.parametrize(
    ("weights", "units"), [((1, 1, 1), (20_000, 20_000, 3_000)), ((50, 20, 30), (5_000, 20_000, 900))]
)
def test_after_a_drop_units_come_in_by_the_weights_and_the_dropped_arm_is_out_of_everything(planned, weights, units):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", rope=0.01)
    experiment = planned(0, treatments=2, goal=goal, ladder=(100,))
    experiment = replace(experiment, weights=dict(zip(experiment.variants, weights, strict=True)))
    bought = [int(n * rate) for n, rate in zip(units, (0.1, 0.103, 0.15), strict=True)]
    arms = [
        pd.DataFrame({"user": np.arange(n) + 100_000 * place, "arm": arm, "bought": np.arange(n) < some})
        for place, (arm, n, some) in enumerate(zip(experiment.variants, units, bought, strict=True))
    ]
    posterior = xb.fit(experiment, xb.load_cohort(experiment, pd.concat(arms)))
    found = value_of_waiting(experiment, posterior, units_per_day=2_000, days=20, dropped=("new_1",))
    assert found.variant == "new_0"
    assert found.units == pytest.approx(40_000 * (weights[0] + weights[1]) / sum(weights))
    gain, tolerance, ships = drawn_again(experiment, units, bought, 1, 20)
    assert found.gain == pytest.approx(gain, abs=tolerance + 0.02 * gain)
    assert found.verdict == "none"
    assert found.p_change == pytest.approx(ships, abs=0.01)
    # Control and everybody outside miss what new_0 is thought to bring; new_1 is no choice any more.
    mean = posterior.effect("bought", "new_0").effect_rel_post
    assert found.cost == pytest.approx(mean * (1 - weights[1] / sum(weights)) * 20 / 30)
    all_in = value_of_waiting(experiment, posterior, units_per_day=2_000, days=20)
    assert all_in.variant == "new_1"
    assert all_in.cost > found.cost
    gone = value_of_waiting(experiment, posterior, units_per_day=2_000, variant="new_1", dropped=("new_1",))
    assert gone.sentences == ("Waiting teaches nothing about new_1: it was dropped and gets no units.",)
    none = value_of_waiting(experiment, posterior, units_per_day=2_000, dropped=("new_0", "new_1"))
    assert "was dropped" in str(none)
    with pytest.raises(NameNotFoundError, match="new_7"):
        value_of_waiting(experiment, posterior, units_per_day=2_000, dropped=("new_7",))
    with pytest.raises(NameNotFoundError):
        value_of_waiting(experiment, posterior, units_per_day=2_000, dropped=("old",))


def test_traffic_is_read_off_the_arms_that_still_get_units(planned):
    experiment = replace(planned(0, treatments=2), weights={"old": 1, "new_0": 1, "new_1": 1})
    frame = pd.concat(
        pd.DataFrame({"user": np.arange(n) + 100_000 * place, "arm": arm, "bought": np.arange(n) % 10 == 0})
        for place, (arm, n) in enumerate(zip(experiment.variants, (10_000, 10_000, 500), strict=True))
    )
    posterior = replace(
        xb.fit(experiment, xb.load_cohort(experiment, frame)), first_day=date(2026, 1, 1), last_day=date(2026, 1, 10)
    )
    assert value_of_waiting(experiment, posterior, dropped=("new_1",)).units == pytest.approx(7 * 2_000)


def test_the_verdict_is_said_as_what_the_rules_would_say_today(waiting):
    assert "Judged today, the rules on the goal would say to ship; 7 more days would change that with" in str(
        waiting((2_000, 2_400))
    )
    assert "Judged today, the rules on the goal would give no verdict yet; 1,000 more days would bring one with" in str(
        waiting((2_000, 2_020), ask={"days": 1_000})
    )


@pytest.mark.parametrize("enrolled", [150, -5, math.nan])
def test_enrolled_is_a_percentage(waiting, enrolled):
    with pytest.raises(SpecError, match="it is a percentage from 0 to 100"):
        waiting((2_000, 2_020), ask={"enrolled": enrolled})


def test_a_longer_wait_is_worth_more(waiting):
    gains = [waiting((2_000, 2_020), ask={"days": days}).gain for days in (1, 7, 30, 365)]
    assert gains == sorted(gains)


def test_after_the_planned_end_only_the_days_asked_for_are_judged(waiting):
    found = waiting((2_000, 2_400), left=0)
    assert (found.end, found.p_change_by_end) == (None, None)
    assert found.settled
    assert found.sentences[-1] == "So much more data can hardly change that."


def test_without_traffic_the_days_of_the_data_say_it_and_without_days_it_is_asked_for(waiting, planned):
    assert waiting((2_000, 2_020), traffic=None).units == pytest.approx(7 * 40_000 / 47)
    experiment = replace(planned(0, min_days=0), start=None, end=None)
    frame = pd.DataFrame({"user": range(8_000), "arm": ["old", "new_0"] * 4_000, "bought": [0, 1, 1, 0] * 2_000})
    posterior = xb.fit(experiment, xb.load_cohort(experiment, frame))
    unknown = value_of_waiting(experiment, posterior)
    assert (unknown.gain, unknown.verdict, unknown.settled) == (None, None, False)
    assert "Pass units_per_day=6000" in str(unknown)
    assert value_of_waiting(experiment, posterior, units_per_day=100).gain is not None


def test_without_a_log_ratio_the_reason_is_said(planned):
    goal = xb.Metric(name="margin", kind="mean", role="goal", rope_abs=0.1, rope=0.01)
    experiment = planned(0, goal=goal)
    values = np.random.default_rng(0).normal(0, 5, 4_000)
    frame = pd.DataFrame({"user": range(4_000), "arm": ["old", "new_0"] * 2_000, "margin": values})
    found = value_of_waiting(experiment, xb.fit(experiment, xb.load_cohort(experiment, frame)), units_per_day=100)
    assert "margin has no log ratio (no relative effect" in found.why
    assert found._repr_html_().startswith("<div>")


def test_a_ratio_has_no_total_and_is_said_in_percent(planned):
    goal = xb.Metric(name="rate", kind="ratio", role="goal", rope=0.01, numerator="clicks", denominator="views")
    experiment = planned(0, goal=goal)
    rng = np.random.default_rng(0)
    views = rng.poisson(5, 4_000) + 1
    frame = pd.DataFrame(
        {"user": range(4_000), "arm": ["old", "new_0"] * 2_000, "views": views, "clicks": rng.binomial(views, 0.2)}
    )
    found = value_of_waiting(experiment, xb.fit(experiment, xb.load_cohort(experiment, frame)), units_per_day=100)
    assert (found.month, found.gain_per_month, found.cost_in_all) == (None, None, None)
    assert "% more rate per month" in str(found)


def test_a_goal_with_an_absolute_rope_alone_has_a_gain_and_no_chance_of_a_verdict(planned):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", rope_abs=0.001)
    experiment = planned(0, goal=goal)
    frame = pd.DataFrame({"user": range(8_000), "arm": ["old", "new_0"] * 4_000, "bought": [0, 1, 1, 0] * 2_000})
    found = value_of_waiting(experiment, xb.fit(experiment, xb.load_cohort(experiment, frame)), units_per_day=100)
    assert found.gain > 0
    assert found.verdict is None
    assert "not judged by a relative effect" in str(found)


@pytest.mark.parametrize("ask", [{"days": 0}, {"units_per_day": -3}])
def test_an_impossible_wait_is_refused(waiting, ask):
    with pytest.raises(SpecError, match="it must be above 0"):
        waiting((2_000, 2_020), ask=ask)
