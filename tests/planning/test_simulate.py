"""Operating characteristics: what is asked, what comes back, what is refused."""

import numpy as np
import pytest

import expnb as xb
from expnb.errors import NameNotFoundError, SpecError


def test_shares_add_up_and_the_same_seed_gives_the_same_table(planned):
    ask = {"baseline": 0.1, "effects": (0.0, 0.1), "traffic": (2_000, 40_000), "rollouts": 200, "seed": 4}
    first, second = (xb.simulate_policy(planned(), **ask).table() for _ in range(2))
    assert first.equals(second)
    assert first[["ship", "roll_back", "conclude_flat", "running"]].sum(axis=1).tolist() == pytest.approx([1.0] * 4)
    assert first["effect"].tolist() == ["none", "bought +10 %"] * 2
    assert not first.equals(xb.simulate_policy(planned(), **(ask | {"seed": 5})).table())


def test_a_true_lift_ships_more_often_with_more_units_and_a_harm_closes_the_gate(planned):
    found = xb.simulate_policy(
        planned(),
        baseline=0.1,
        effects=(0.1, {"kept_0": -0.3}),
        traffic=(2_000, 200_000),
        rollouts=200,
    )
    small_lift, small_harm, large_lift, large_harm = found.rows
    assert small_lift.ship < 0.3
    assert large_lift.ship > 0.9
    assert large_harm.roll_back > 0.99
    assert large_harm.days_to_roll_back <= small_harm.days_to_roll_back
    assert small_lift.harmed == 0 < large_harm.harmed


def test_where_less_is_better_a_decrease_ships(planned):
    goal = xb.Metric(name="errors", kind="conversion", role="goal", direction="decrease", rope=0.005)
    up, down = xb.simulate_policy(
        planned(0, goal=goal), baseline=0.1, effects=(0.1, -0.1), traffic=100_000, rollouts=100
    ).rows
    assert (up.ship, down.roll_back) == (0.0, 0.0)
    assert down.ship > 0.95 < up.roll_back


def test_means_have_a_baseline_of_mean_and_spread(planned):
    goal = xb.Metric(name="revenue", kind="revenue", role="goal", rope=0.005)
    found = xb.simulate_policy(
        planned(0, goal=goal), baseline={"revenue": (10.0, 15.0)}, effects=(0.1,), traffic=100_000, rollouts=100
    )
    assert found.rows[0].ship > 0.95
    with pytest.raises(SpecError, match=r"Write baseline=\{'revenue': \(10.0, 15.0\)\}"):
        xb.simulate_policy(planned(0, goal=goal), baseline=0.1, traffic=1_000)


def test_the_baseline_can_be_that_of_an_earlier_experiment(planned):
    experiment = planned(0)
    rng = np.random.default_rng(0)
    frame = {
        "user": range(4_000),
        "arm": ["old", "new_0"] * 2_000,
        "bought": rng.binomial(1, 0.2, 4_000),
    }
    import pandas as pd

    cells = xb.load_cohort(experiment, pd.DataFrame(frame)).cells
    found = xb.simulate_policy(experiment, baseline=cells, traffic=1_000, rollouts=10)
    assert found.baselines["bought"].mean == pytest.approx(np.mean(frame["bought"][::2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": 1.4}, "a share lies between 0 and 1"),
        ({"baseline": {"bought": 0.1}}, "metric 'kept_0' has no baseline"),
        ({"traffic": 0}, "must be above 0"),
        ({"traffic": None}, "Pass traffic=6000"),
        ({"days": 0}, "days is 0"),
        ({"rollouts": -1}, "rollouts is -1"),
        ({"effects": (-1.5,)}, "a true effect of -150% on 'bought' is impossible"),
        ({"effects": (20.0,)}, "a true effect of .* is impossible"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(planned, change, message):
    with pytest.raises(SpecError, match=message):
        xb.simulate_policy(planned(), **({"baseline": 0.1, "traffic": 1_000, "rollouts": 10} | change))


def test_unknown_metrics_are_refused(planned):
    with pytest.raises(NameNotFoundError, match="no goal or guardrail is called 'kept'"):
        xb.simulate_policy(planned(), baseline=0.1, effects=({"kept": 0.1},), traffic=1_000)
    with pytest.raises(NameNotFoundError, match="bougth"):
        xb.simulate_policy(planned(), baseline={"bougth": 0.1}, traffic=1_000)


def test_a_harmful_treatment_is_dropped_and_the_other_one_ships(planned):
    found = xb.simulate_policy(
        planned(1, treatments=2),
        baseline=0.1,
        effects=({"new_0": {"kept_0": -0.3}, "new_1": 0.1}, {"kept_0": -0.3}),
        traffic=100_000,
        rollouts=100,
    )
    one, both = found.rows
    assert (one.effect, both.effect) == ("new_0: kept_0 -30 %; new_1: bought +10 %", "kept_0 -30 %")
    assert one.dropped > 0.95 < one.ship
    assert both.roll_back > 0.95
    assert 0 < one.harmed < 0.3 * one.treated
    assert both.harmed == both.treated
    assert found.table()["dropped"].tolist() == [one.dropped, both.dropped]
    assert f"a treatment is dropped in {100 * one.dropped:.1f} %" in str(found)
    assert "dropped" not in xb.simulate_policy(planned(), baseline=0.1, traffic=1_000, rollouts=10).table()


def test_all_goals_ship_less_often_than_any_of_them(planned):
    effects = ({}, {"bought": 0.05}, {"bought": 0.05, "bought_1": 0.05})
    all_of, any_of = (
        xb.simulate_policy(
            planned(0, goals=2, goal_rule=rule), baseline=0.1, effects=effects, traffic=100_000, rollouts=200
        ).rows
        for rule in ("all", "any")
    )
    assert [row.ship > 0.9 for row in all_of] == [False, False, True]
    assert [row.ship > 0.9 for row in any_of] == [False, True, True]
    assert all_of[0].ship < 0.05 > any_of[0].ship


def test_effects_that_can_mean_two_things_are_refused(planned):
    two = planned(1, treatments=2)
    ask = {"baseline": 0.1, "traffic": 1_000, "rollouts": 10}
    with pytest.raises(NameNotFoundError, match="no treatment is called 'bought'"):
        xb.simulate_policy(two, effects=({"new_0": 0.1, "bought": 0.1},), **ask)
    with pytest.raises(NameNotFoundError, match="no treatment is called 'new'"):
        xb.simulate_policy(two, effects=({"new": {"bought": 0.1}},), **ask)
    with pytest.raises(SpecError, match=r"names no metric, and the goals are .* Write \{'bought': 0.1\}"):
        xb.simulate_policy(planned(0, goals=2, goal_rule="any"), effects=(0.1,), **ask)
    same = planned(0, goal=xb.Metric(name="new_0", kind="conversion", role="goal", rope=0.005))
    with pytest.raises(SpecError, match="'new_0' is a treatment and a metric"):
        xb.simulate_policy(same, effects=({"new_0": 0.1},), **ask)
