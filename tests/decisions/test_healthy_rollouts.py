"""All quality gates together on rollouts in which nothing is wrong, looked at every day."""

from collections import Counter

import numpy as np
import pytest

from expnb.decisions.rules import quality_rules, sample_ratio_rule
from expnb.stats.checks import expectation, lost_by_arm, pre_period_imbalance
from expnb.stats.moments import Moments
from expnb.stats.sample_ratio import sample_ratio, sample_ratio_by


def sample_ratio_views(counts, weights, **options):
    """Views with one set of weights throughout."""
    return sample_ratio_by(
        {view: {value: [(arms, weights)] for value, arms in values.items()} for view, values in counts.items()},
        **options,
    )


DAYS = 28
PER_DAY = np.repeat([40, 200, 1000, 1500], 7)  # a ladder: 1, 5, 25, 50 %
LOST = {"retention": 0.02, "revenue": 0.3, "rounds": 0.0005}
LEAK = 0.0005  # half of what is tolerated


def held_rollouts(weights, rollouts, seed):
    """Gates that held healthy rollouts up, counted once per rollout; `"any"` counts rollouts."""
    rng, held = np.random.default_rng(seed), Counter()
    for _ in range(rollouts):
        gates = set().union(*(blocking(checks) for checks in looks(weights, rng)))
        held.update(gates | ({"any"} if gates else set()))
    return held


def blocking(checks):
    ratio, *others = checks
    rule = sample_ratio_rule(ratio)
    names = {check.name for check in others if check.outcome == "block"}
    assert len(list(quality_rules(others))) == len(names)
    return names | ({rule.name} if rule.outcome != "met" else set())


def looks(weights, rng):
    """The checks of each day's look at one healthy rollout."""
    arms, total = list(weights), int(PER_DAY.sum())
    shares = np.array(list(weights.values())) / sum(weights.values())
    place = np.repeat(np.arange(DAYS), PER_DAY) * len(arms) + rng.choice(len(arms), total, p=shares)
    money = np.where(rng.random(total) < 0.7, 0.0, rng.lognormal(2.0, 1.0, total))
    visits = rng.poisson(3.0, total).astype(float)

    def so_far(values=None):
        sums = np.bincount(place, weights=values, minlength=DAYS * len(arms)).reshape(DAYS, -1)
        return np.cumsum(sums, axis=0)

    def by_arm(row):
        return {name: int(n) for name, n in zip(arms, row, strict=True)}

    n, leak = so_far(), so_far(rng.random(total) < LEAK)
    country = [so_far(rng.random(total) < 0.5) for _ in range(2)]
    lost = {name: so_far(rng.random(total) < share) for name, share in LOST.items()}
    before = {name: (so_far(values), so_far(values**2)) for name, values in (("money", money), ("visits", visits))}
    for day in range(DAYS):
        units = by_arm(n[day])
        yield (
            sample_ratio([(units, weights)]),
            *sample_ratio_views(
                {"country": {str(i): by_arm(rows[day]) for i, rows in enumerate(country)}}, weights, min_cell=20
            ),
            *filter(None, (lost_by_arm(name, by_arm(rows[day]), units) for name, rows in lost.items())),
            *filter(
                None,
                (
                    pre_period_imbalance(
                        name, {arm: moments(n[day, i], s1[day, i], s2[day, i]) for i, arm in enumerate(arms)}
                    )
                    for name, (s1, s2) in before.items()
                ),
            ),
            expectation("audience", by_arm(leak[day]), units, 0.001),
        )


def moments(n, s1, s2):
    return Moments(int(n), s1 / max(1, n), max(0.0, s2 - s1**2 / max(1, n)), 0.0, 0.0)


@pytest.mark.parametrize(
    "weights", [{"control": 50, "treatment": 50}, {"control": 90, "a": 5, "b": 5}], ids=["even", "uneven"]
)
def test_all_quality_gates_together_hold_fewer_than_2_percent_of_healthy_rollouts(weights):
    # 1 of 10,000 such rollouts was held. Were it 2 %, none of 150 would be held with probability 0.05.
    assert held_rollouts(weights, 150, seed=1)["any"] == 0
