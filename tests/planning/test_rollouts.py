"""Simulated rollouts take the decisions that `decide` takes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import expnb as xb
from expnb.decisions.decision import PRECEDENCE
from expnb.decisions.rules import was_judged
from expnb.planning.baseline import Baseline
from expnb.planning.judging import judged_metrics, sample_ratio_blocks
from expnb.planning.records import Records, Stream
from expnb.planning.rollouts import Draws, Run, roll_out
from expnb.spec.flag import FlagRef, FlagState
from expnb.stats.cells import Cells, MetricCells
from expnb.stats.sample_ratio import sample_ratio_anytime_p


def baselines(experiment, rate=0.1):
    return {metric.name: Baseline(rate, (rate * (1 - rate)) ** 0.5) for metric in judged_metrics(experiment)}


def truth(experiment, rollouts, goal=0.0, guardrail=0.0):
    metrics = judged_metrics(experiment)
    out = np.zeros((rollouts, len(experiment.treatments), len(metrics)))
    out[..., 0], out[..., 1:2] = goal, guardrail
    return out


def cells_of(experiment, units, sums):
    count, none = len(experiment.variants), np.zeros(len(experiment.variants), dtype=np.int64)
    n = units.astype(np.int64)
    columns = {
        metric.name: MetricCells(0.0, n, none, none, none, none, hits, hits, np.zeros(count), np.ones(count))
        for metric, hits in zip(judged_metrics(experiment), sums, strict=True)
    }
    days = np.full(count, np.datetime64("NaT", "D"))
    return Cells(np.array(experiment.variants), {}, days, n, columns, (), "simulated", {})


def decided(experiment, look, place, judged):
    """What `decide` does where the simulation acted, after the decision of the last verdict."""
    posterior = xb.fit(experiment, cells_of(experiment, look.units[place], look.sums[place]))
    posterior = replace(posterior, first_day=experiment.start, last_day=experiment.start + timedelta(days=look.day - 1))
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=look.day - 1, hours=23)
    reached = now - timedelta(days=int(look.days_at_rung[place]))
    gone = (name for name, live in zip(experiment.treatments, look.live[place].tolist(), strict=True) if not live)
    exposure = replace(experiment.exposure(look.enrolled[place]), dropped=tuple(gone))
    flag = FlagState(FlagRef("button", "production"), exposure, "1", enabled=True, changed_at=reached)
    before = (look.units[place] - look.units_at_rung[place]).astype(int).tolist()
    units = dict(zip(experiment.variants, before, strict=True)) if any(before) else None
    return xb.decide(experiment, posterior, flag=flag, looks=look.day, now=now, before=units, judged=judged)


def against_decide(experiment, true, units_per_day, days=28):
    """Looks at simulated rollouts, those at which `decide` does something else, and what the simulation did."""
    run = Run(experiment, Draws(experiment, true, baselines(experiment), units_per_day, [3]))
    asked, differ, judged = 0, [], {}
    for look in run.looks(days):
        for place, row in enumerate(look.rows):
            decision = decided(experiment, look, place, judged.get(row))
            if was_judged(decision):
                judged[row] = decision
            asked += 1
            live = look.live[place] & ~look.dropping[place]
            arms = [name for name, on in zip(experiment.treatments, live.tolist(), strict=True) if on]
            kept = not decision.to.enrolled or set(decision.to.arms) == {"old", *arms}
            if decision.action != PRECEDENCE[look.action[place]] or not kept:
                differ.append((look.day, decision.action, PRECEDENCE[look.action[place]], decision.to))
    assert len(differ) <= 1, differ  # a value beside its threshold may fall on either side
    return asked, run.ended()


@pytest.mark.parametrize(
    ("effects", "units_per_day"),
    [((0.0, 0.0), 20_000), ((0.05, 0.0), 20_000), ((0.0, -0.05), 20_000), ((0.03, -0.01), 2_000)],
)
def test_verdicts_agree_with_decide(planned, effects, units_per_day):
    experiment = planned()
    asked, _ = against_decide(experiment, truth(experiment, 3, *effects), units_per_day)
    assert asked >= 10


def test_a_harmed_arm_of_three_is_dropped_as_decide_drops_it(planned):
    experiment = planned(1, treatments=2)
    true = truth(experiment, 4)
    true[:, 0, 1], true[:, 1, 0] = -0.2, 0.04
    _, ended = against_decide(experiment, true, 40_000)
    assert ended.dropped.tolist() == [[True, False]] * 4
    assert (ended.action == PRECEDENCE.index("ship")).sum() >= 2
    assert (ended.arm == 1).all()
    assert (ended.treated[:, 0] < 0.3 * ended.treated[:, 1]).all()


def test_both_arms_harmed_close_the_gate(planned):
    experiment = planned(1, treatments=2)
    true = truth(experiment, 3, guardrail=-0.3)
    _, ended = against_decide(experiment, true, 40_000)
    assert (ended.action == PRECEDENCE.index("roll_back")).all()


@pytest.mark.parametrize(
    ("rule", "aim", "effects", "verdict"),
    [
        ("all", "superiority", (0.06, 0.06), "ship"),
        ("all", "superiority", (0.06, 0.0), "conclude_flat"),
        ("any", "superiority", (0.06, 0.0), "ship"),
        ("all", "non_inferiority", (0.01, 0.01), "ship"),
    ],
)
def test_several_goals_decide_as_in_decide(planned, rule, aim, effects, verdict):
    experiment = planned(0, goals=2, goal_rule=rule, aim=aim, ladder=(25, 100))
    true = truth(experiment, 3)
    true[:, 0] = effects
    _, ended = against_decide(experiment, true, 1_000_000, days=21)
    assert [PRECEDENCE[action] for action in ended.action] == [verdict] * 3


def test_one_of_two_goals_needs_a_higher_threshold(planned):
    one, several = planned(0, ladder=(100,)), planned(0, goals=2, goal_rule="any", ladder=(100,))
    shipped = []
    for experiment in (one, several):
        true = truth(experiment, 4_000, goal=0.005)  # the rope itself: a mistake
        ends = roll_out(experiment, true, baselines=baselines(experiment), units_per_day=20_000, days=28, seed=1)
        shipped.append((ends.action == PRECEDENCE.index("ship")).mean())
    assert 0 < shipped[1] < shipped[0]


def test_a_dropped_arm_starts_the_time_at_the_rung_anew_and_not_its_units(planned):
    experiment = planned(1, treatments=2, ladder=(xb.Rung(enrolled=50, days=6), 100))
    true = truth(experiment, 50)
    true[:, 0, 1] = -0.3
    run = Run(experiment, Draws(experiment, true, baselines(experiment), 6_000, [3]))
    when = np.full(50, 0)
    for look in run.looks(20):
        dropped = look.dropping.any(axis=1)
        when[look.rows[dropped]] = look.day
        after = ~look.live.all(axis=1)
        assert (
            look.days_at_rung[after & (look.enrolled == 50)]
            == (look.day - when[look.rows])[after & (look.enrolled == 50)]
        ).all()
        assert (look.units_at_rung[look.enrolled == 50] == look.units[look.enrolled == 50]).all()
    climbed = np.isfinite(run.reached[:, 1]) & (when > 0) & (when < run.reached[:, 1])
    assert climbed.sum() > 20
    assert (run.reached[climbed, 1] >= when[climbed] + 7).all()


def test_the_sample_ratio_is_the_one_of_the_product(planned):
    experiment = planned(treatments=2)
    rng = np.random.default_rng(1)
    units = rng.binomial(40_000, [0.33, 0.33, 0.33], (200, 3)).astype(float)
    units[:50, 1] *= 0.93
    names, weights = experiment.variants, experiment.weights
    expected = [
        sample_ratio_anytime_p([(dict(zip(names, row.astype(int).tolist(), strict=True)), weights)]) <= 0.001
        for row in units
    ]
    assert sample_ratio_blocks(np.floor(units), np.full(3, 1 / 3)).tolist() == expected
    assert 0 < sum(expected) < 200


def test_a_harmful_treatment_is_rolled_back_and_few_units_meet_it(planned):
    experiment = planned()
    ends = roll_out(
        experiment,
        truth(experiment, 400, guardrail=-0.2),
        baselines=baselines(experiment),
        units_per_day=20_000,
        days=28,
        seed=1,
    )
    healthy = roll_out(
        experiment,
        truth(experiment, 400),
        baselines=baselines(experiment),
        units_per_day=20_000,
        days=28,
        seed=1,
    )
    back = ends.action == PRECEDENCE.index("roll_back")
    assert back.mean() > 0.99
    assert ends.treated.mean() < 0.1 * healthy.treated.mean()


def test_nothing_moves_without_units_at_the_rung_and_time(planned):
    experiment = planned(ladder=(1, xb.Rung(enrolled=50, days=3, units=2_000), 100))
    run = Run(experiment, Draws(experiment, truth(experiment, 200), baselines(experiment), 2_000, [2]))
    looks = list(run.looks(20))
    first, middle = run.reached[:, 0], run.reached[:, 1]
    assert (first == 1).all()
    assert (middle[np.isfinite(middle)] >= 10).all()  # ten units per arm and day at 1 %, a hundred needed
    top = run.reached[:, 2] - middle
    assert (top[np.isfinite(top)] >= 4).all()  # five hundred per arm and day at 50 %
    assert all((look.days_at_rung >= 1).all() for look in looks)


def test_a_rollout_that_ended_takes_no_more_units(planned):
    experiment = planned(0)
    run = Run(experiment, Draws(experiment, truth(experiment, 300, goal=0.2), baselines(experiment), 40_000, [2]))
    seen = {}
    for look in run.looks(28):
        for place, row in enumerate(look.rows):
            assert seen.get(row) is None
            if PRECEDENCE[look.action[place]] == "ship":
                seen[row] = look.units[place]
    assert len(seen) > 250
    for row, units in seen.items():
        assert (run.units[row] == units).all()


@pytest.fixture
def doubted(planned):
    """Three arms: until day 7 new_0 is better and its guardrail in doubt, then that is harmed; new_1 is as control."""
    experiment = planned(1, treatments=2, ladder=(100,))
    days, n = np.arange(1, 14.0), 50_000.0
    hits = np.tile([[[5_000.0, 5_750.0, 5_000.0], [5_000.0, 4_910.0, 5_000.0]]], (13, 1, 1))
    hits[7:, 1, 1] = 3_000
    units = (n * days)[:, None].repeat(3, axis=1)
    valued, sd, shares = units[:, None].repeat(2, axis=1), np.ones((13, 2, 3)), np.full(3, 1 / 3)
    stream = Stream(
        name="e", kind="conversion", variants=experiment.variants, time=days, units=units,
        valued=valued, sums=hits.cumsum(axis=0), sd=sd, shares=shares,
    )  # fmt: skip
    return experiment, Records([stream])


def test_a_verdict_on_a_dropped_treatment_ships_nothing(doubted):
    experiment, records = doubted
    run = Run(experiment, records, stop=False)
    looks = list(run.looks(13))
    assert looks[6].verdict.better.all()  # new_0, held up by its guardrail
    assert [PRECEDENCE[look.action[0]] for look in looks] == ["hold"] * 7 + ["roll_back"] + ["hold"] * 5
    assert run.live.tolist() == [[False, True]]


def test_decide_ships_nothing_on_the_verdict_of_a_dropped_treatment_either(doubted):
    experiment, records = doubted
    judged = None
    for look in Run(experiment, records, stop=False).looks(13):
        decision = decided(experiment, look, 0, judged)
        judged = decision if was_judged(decision) else judged
        assert decision.action == PRECEDENCE[look.action[0]], (look.day, decision.action, decision.variant)
