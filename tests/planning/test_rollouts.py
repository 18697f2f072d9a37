"""Simulated rollouts take the decisions that `decide` takes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import expnb as xb
from expnb.decisions.decision import PRECEDENCE
from expnb.decisions.rules import was_judged
from expnb.planning.baseline import Baseline
from expnb.planning.rollouts import Run, judged_metrics, roll_out
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
    exposure = experiment.exposure(look.enrolled[place])
    flag = FlagState(FlagRef("button", "production"), exposure, "1", enabled=True, changed_at=reached)
    before = (look.units[place] - look.units_at_rung[place]).astype(int).tolist()
    units = dict(zip(experiment.variants, before, strict=True)) if any(before) else None
    return xb.decide(experiment, posterior, flag=flag, looks=look.day, now=now, before=units, judged=judged)


@pytest.mark.parametrize(
    ("effects", "units_per_day"),
    [((0.0, 0.0), 20_000), ((0.05, 0.0), 20_000), ((0.0, -0.05), 20_000), ((0.03, -0.01), 2_000)],
)
def test_verdicts_agree_with_decide(planned, effects, units_per_day):
    experiment = planned()
    run = Run(experiment, truth(experiment, 3, *effects), baselines(experiment), units_per_day, [3])
    asked, differ, judged = 0, [], {}
    for look in run.looks(28):
        for place, row in enumerate(look.rows):
            decision = decided(experiment, look, place, judged.get(row))
            if was_judged(decision):
                judged[row] = decision
            asked += 1
            if decision.action != PRECEDENCE[look.action[place]]:
                differ.append((look.day, decision.action, PRECEDENCE[look.action[place]]))
    assert asked >= 10
    assert len(differ) <= 1, differ  # a value beside its threshold may fall on either side


def test_the_sample_ratio_is_the_one_of_the_product(planned):
    experiment = planned(treatments=2)
    rng = np.random.default_rng(1)
    run = Run(experiment, truth(experiment, 1), baselines(experiment), 100, [1])
    units = rng.binomial(40_000, [0.33, 0.33, 0.33], (200, 3)).astype(float)
    units[:50, 1] *= 0.93
    names, weights = experiment.variants, experiment.weights
    expected = [
        sample_ratio_anytime_p([(dict(zip(names, row.astype(int).tolist(), strict=True)), weights)]) <= 0.001
        for row in units
    ]
    assert run._sample_ratio_blocks(np.floor(units)).tolist() == expected
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
    run = Run(experiment, truth(experiment, 200), baselines(experiment), 2_000, [2])
    looks = list(run.looks(20))
    first, middle = run.reached[:, 0], run.reached[:, 1]
    assert (first == 1).all()
    assert (middle[np.isfinite(middle)] >= 10).all()  # ten units per arm and day at 1 %, a hundred needed
    top = run.reached[:, 2] - middle
    assert (top[np.isfinite(top)] >= 4).all()  # five hundred per arm and day at 50 %
    assert all((look.days_at_rung >= 1).all() for look in looks)


def test_a_rollout_that_ended_takes_no_more_units(planned):
    experiment = planned(0)
    run = Run(experiment, truth(experiment, 300, goal=0.2), baselines(experiment), 40_000, [2])
    seen = {}
    for look in run.looks(28):
        for place, row in enumerate(look.rows):
            assert seen.get(row) is None
            if PRECEDENCE[look.action[place]] == "ship":
                seen[row] = look.units[place]
    assert len(seen) > 250
    for row, units in seen.items():
        assert (run.units[row] == units).all()
