"""Error rates of the default policy before launch: how often it ships, closes and holds; against other rules; on past experiments; and what its simulation costs.

The past experiments lie in the folder that EXPNB_DATA names, as `asos/asos_experiments.parquet`; without them their figures are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

import expnb as xb
from bench.figure import Figure
from expnb.decisions.decision import PRECEDENCE, Decision
from expnb.decisions.precedence import code
from expnb.decisions.rules import was_judged
from expnb.planning.baseline import Baseline
from expnb.planning.belief import Belief
from expnb.planning.judging import judged_metrics
from expnb.planning.rollouts import Draws, Look, Run, roll_out
from expnb.planning.simulate import simulate_policy
from expnb.posterior.priors.learn import learn_prior
from expnb.spec.flag import FlagRef, FlagState
from expnb.spec.policy import ConcludeFlat, Ship
from expnb.spec.prior import HARM_PRIOR
from expnb.stats.cells import Cells, MetricCells

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

ASOS = Path(os.environ.get("EXPNB_DATA", "")) / "asos" / "asos_experiments.parquet"
START = date(2026, 1, 1)
RATE, DAYS, MARGIN, ROPE = 0.1, 28, 0.02, 0.005
# Units per day and arm; the ladder starts where a hundred of them per arm come in within two days.
LADDERS: Mapping[int, tuple[float, ...]] = {
    300: (25, 50, 100),
    1_000: (5, 25, 50, 100),
    10_000: (1, 5, 25, 50, 100),
    100_000: (1, 5, 25, 50, 100),
}
HARMS = (2, 3, 10)  # margins
NULL_ROLLOUTS, ROLLOUTS = 20_000, 4_000
FOUND = 0.8  # power at which rules are compared
FALSE = 0.01  # roll backs of harmless ramps, at most


def figures() -> Iterator[Figure]:
    """All figures."""
    yield from _harmless()
    yield from _several()
    yield from _cost()
    yield from _agreement()
    yield from _power()
    yield from _harm_rules()
    yield from _worlds()
    yield from _past()


def experiment(
    guardrails: int, ladder: tuple[float, ...], *, goals: int = 1, treatments: int = 1, **policy: object
) -> xb.Experiment:
    """Goals and guardrails, conversions of 10 %, under arms of equal weight."""
    metrics = [
        xb.Metric(name=f"goal_{number}" if number else "goal", kind="conversion", role="goal", rope=ROPE)
        for number in range(goals)
    ]
    metrics += [
        xb.Metric(name=f"guardrail_{number}", kind="conversion", role="guardrail", margin=MARGIN)
        for number in range(guardrails)
    ]
    arms = ["old", "new", *(f"new_{number}" for number in range(1, treatments))]
    return xb.Experiment(
        name="e", hypothesis="h", owner="o", flag="f", unit="user", variant="arm", control="old", weights=dict.fromkeys(arms, 50.0),
        start=START, end=START + timedelta(days=DAYS), metrics=tuple(metrics), policy=xb.Policy(ladder=ladder, **policy),  # type: ignore[arg-type]
    )  # fmt: skip


def baselines(asked: xb.Experiment) -> dict[str, Baseline]:
    """Of conversions of 10 %."""
    return {metric.name: Baseline(RATE, (RATE * (1 - RATE)) ** 0.5) for metric in judged_metrics(asked)}


# --- nothing has an effect ----------------------------------------------------------------------


def _harmless() -> Iterator[Figure]:
    found = {}
    for guardrails in (0, 2):
        for units, ladder in LADDERS.items():
            (row,) = simulate_policy(
                experiment(guardrails, ladder), baseline=RATE, traffic=2 * units, rollouts=NULL_ROLLOUTS, seed=1
            ).rows
            found[guardrails, units] = row
            where = f"{NULL_ROLLOUTS:,} A/A rollouts of {DAYS} daily looks, {units:,} units per day and arm at 100 %, {guardrails} guardrails"
            for what, value in (("ship", row.ship), ("roll_back", row.roll_back)):
                yield Figure(f"policy_aa_{what}_{guardrails}_{units}", 100 * value, "percent", f"1; {where}")
    for name, values in (
        ("policy_aa_ship_percent_max", [row.ship for row in found.values()]),
        ("policy_aa_roll_back_percent_max", [row.roll_back for row in found.values()]),
        ("policy_healthy_held_percent_max", [row.blocked for row in found.values()]),
    ):
        yield Figure(
            name, 100 * max(values), "percent", "1 (2 for held); the largest over 0 and 2 guardrails and four traffics"
        )


def _several() -> Iterator[Figure]:
    """Several goals, several treatments."""
    units = 10_000
    cases = {
        "one_goal": experiment(2, LADDERS[units]),
        "two_goals_any": experiment(2, LADDERS[units], goals=2, goal_rule="any"),
        "two_goals_all": experiment(2, LADDERS[units], goals=2, goal_rule="all"),
        "three_arms": experiment(2, LADDERS[units], treatments=2),
    }
    harm, lift = -10 * MARGIN, 0.05
    for name, asked in cases.items():
        arms = len(asked.variants)
        lifts: list[object] = [{"goal": lift}]
        if arms > 2:
            lifts.append({"new": {"guardrail_0": harm}, "new_1": lift})
        rows = simulate_policy(
            asked,
            baseline=RATE,
            effects=({}, *lifts),  # type: ignore[arg-type]
            traffic=arms * units,
            rollouts=NULL_ROLLOUTS // 2,
            seed=1,
        ).rows
        where = f"{NULL_ROLLOUTS // 2:,} rollouts of {DAYS} daily looks, {units:,} units per day and arm at 100 %, 2 guardrails"
        for what, value in (("ship", rows[0].ship), ("roll_back", rows[0].roll_back)):
            yield Figure(f"policy_several_aa_{what}_{name}", 100 * value, "percent", f"1; no effect, {where}")
        yield Figure(
            f"policy_several_lift_ship_{name}",
            rows[1].ship,
            "share",
            f"1; {100 * lift:g} % on the first goal, under all treatments; {where}",
        )
        if arms > 2:
            mixed = (
                f"one treatment harms a guardrail by 10 margins, the other lifts the goal by {100 * lift:g} %; {where}"
            )
            yield Figure("policy_several_aa_dropped", 100 * rows[0].dropped, "percent", f"1; no effect, {where}")
            yield Figure("policy_several_dropped_harmed_arm", rows[2].dropped, "share", f"1; {mixed}")
            yield Figure("policy_several_ship_other_arm", rows[2].ship, "share", f"1; {mixed}")
            yield Figure(
                "policy_several_harmed_units", rows[2].harmed, "units", f"that met the harm, on average; {mixed}"
            )


# --- cost and agreement -------------------------------------------------------------------------


def _cost() -> Iterator[Figure]:
    asked, rollouts = experiment(2, LADDERS[10_000]), 10_000

    def once() -> float:
        begin = time.perf_counter()
        simulate_policy(asked, baseline=RATE, traffic=20_000, rollouts=rollouts, days=DAYS)
        return time.perf_counter() - begin

    seconds = float(np.median([once() for _ in range(3)]))
    yield Figure(
        "policy_10000_rollouts_seconds",
        seconds,
        "seconds",
        "5; wall after imports, 28 days x 3 metrics, no effect, median of 3",
    )
    run = Run(asked, Draws(asked, np.zeros((1, 1, 3)), baselines(asked), 20_000, [1]))
    looks = list(run.looks(DAYS))
    begin = time.perf_counter()
    for look in looks:
        decided(asked, look, 0, None)
    each = (time.perf_counter() - begin) / len(looks)
    yield Figure(
        "policy_speedup_over_decide_loop",
        each * rollouts * DAYS / seconds,
        "ratio",
        f"fit and decide one by one, {1000 * each:.0f} ms a look, for as many looks",
    )


def _agreement() -> Iterator[Figure]:
    worlds = ((0.0, 0.0, 10_000), (0.05, 0.0, 10_000), (0.0, -0.05, 10_000), (0.03, -0.01, 1_000))
    asked = same = 0
    for goal, guardrail, units in worlds:
        one = experiment(2, LADDERS[units])
        truth = np.broadcast_to(np.array([goal, guardrail, 0.0]), (25, 1, 3))
        run = Run(one, Draws(one, truth, baselines(one), 2 * units, [units]))
        judged: dict[int, Decision] = {}
        for look in run.looks(DAYS):
            for place, row in enumerate(look.rows.tolist()):
                decision = decided(one, look, place, judged.get(row))
                if was_judged(decision):
                    judged[row] = decision
                asked += 1
                same += decision.action == PRECEDENCE[look.action[place]]
    yield Figure(
        "policy_agreement_with_decide",
        same / asked,
        "share",
        f"0.995; {asked:,} simulated looks in four worlds, decided again from their cells",
    )


def decided(asked: xb.Experiment, look: Look, place: int, judged: Decision | None) -> Decision:
    """What `decide` does on the cells of one simulated look."""
    posterior = xb.fit(asked, _cells(asked, look.units[place], look.sums[place]))
    last = START + timedelta(days=look.day - 1)
    posterior = replace(posterior, first_day=START, last_day=last)
    now = datetime(last.year, last.month, last.day, 23, tzinfo=UTC)
    changed = now - timedelta(days=int(look.days_at_rung[place]))
    flag = FlagState(FlagRef("f", "production"), asked.exposure(float(look.enrolled[place])), "1", True, changed)
    before = (look.units[place] - look.units_at_rung[place]).astype(int).tolist()
    units = dict(zip(asked.variants, before, strict=True)) if any(before) else None
    return xb.decide(asked, posterior, flag=flag, looks=look.day, now=now, before=units, judged=judged)


def _cells(asked: xb.Experiment, units: Floats, sums: Floats) -> Cells:
    count, none = len(asked.variants), np.zeros(len(asked.variants), dtype=np.int64)
    n = units.astype(np.int64)
    columns = {
        metric.name: MetricCells(0.0, n, none, none, none, none, hits, hits, np.zeros(count), np.ones(count))
        for metric, hits in zip(judged_metrics(asked), sums, strict=True)
    }
    return Cells(
        np.array(asked.variants), {}, np.full(count, np.datetime64("NaT", "D")), n, columns, (), "simulated", {}
    )


# --- paths that no rule stops -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paths:
    """What is known each day while the ladder is climbed and no rule stops it.

    Parameters
    ----------
    estimate, error : ndarray, shape (rollout, day, metric)
        Of the log ratio.
    treated : ndarray, shape (rollout, day)
        Units so far.
    top : ndarray of bool, shape (rollout, day)
        Whether the goal is judged.
    """

    estimate: Floats
    error: Floats
    treated: Floats
    top: NDArray[np.bool_]


def paths(units: int, truth: tuple[float, ...], rollouts: int, seed: int) -> Paths:
    """Rollouts under a policy that neither ships nor concludes nor closes."""
    never = {
        "ship": Ship(p_above_rope=1 - 1e-15),
        "conclude_flat": ConcludeFlat(p_rope=1 - 1e-15),
        "harm_alpha": 1e-15,
    }
    asked = experiment(len(truth) - 1, LADDERS[units], **never)
    shape = (rollouts, DAYS, len(truth))
    out = Paths(np.zeros(shape), np.full(shape, 1e3), np.zeros(shape[:2]), np.zeros(shape[:2], dtype=np.bool_))
    for start in range(0, rollouts, 4_000):
        some = min(4_000, rollouts - start)
        truths = np.broadcast_to(np.array(truth), (some, 1, len(truth)))
        run = Run(asked, Draws(asked, truths, baselines(asked), 2 * units, [seed, start]))
        for look in run.looks(DAYS):
            rows, day = start + look.rows, look.day - 1
            hits, n = look.sums + 0.5, look.units[:, None, :] + 1.0
            out.estimate[rows, day] = np.log(hits[..., 1] / n[..., 1]) - np.log(hits[..., 0] / n[..., 0])
            out.error[rows, day] = np.sqrt(1 / hits[..., 0] - 1 / n[..., 0] + 1 / hits[..., 1] - 1 / n[..., 1])
            out.treated[rows, day] = look.units[:, 1]
            out.top[rows, day] = (look.enrolled >= 100) & (look.day >= asked.policy.min_days)
    return out


# --- power --------------------------------------------------------------------------------------


def _sequential(shape: float) -> Callable[[Floats, Floats], Floats]:
    """Group sequential: z against a boundary that falls with information to that power; 0 is Pocock's, 0.5 that of O'Brien and Fleming."""
    return lambda gap, error: gap / error * (error[:, -1:] / error) ** (2 * shape)


def _mixture(tau: float) -> Callable[[Floats, Floats], Floats]:
    """Mixture sequential probability ratio (Robbins 1970; Johari et al. 2017), on the side of a benefit."""

    def statistic(gap: Floats, error: Floats) -> Floats:
        ratio = tau**2 / error**2
        return np.where(gap > 0, 0.5 * (gap / error) ** 2 * ratio / (1 + ratio) - 0.5 * np.log1p(ratio), -1e3)

    return statistic


RIVALS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "Pocock": _sequential(0.0),
    "between": _sequential(0.25),
    "O'Brien-Fleming": _sequential(0.5),
    "steeper": _sequential(0.75),
    "mSPRT 3 %": _mixture(0.03),
    "mSPRT 10 %": _mixture(0.1),
}


def _ships(these: Paths) -> float:
    """How often the default policy does."""
    policy, belief = xb.Policy(), Belief.of(xb.Prior())
    parts = [
        belief.given(these.estimate[i : i + 2000, :, 0], these.error[i : i + 2000, :, 0])
        for i in range(0, len(these.top), 2000)
    ]
    sure = np.concatenate([part.above(np.log1p(ROPE)) for part in parts]) >= policy.ship.p_above_rope
    cheap = np.concatenate([part.expected_loss(increase=True) for part in parts]) <= policy.ship.expected_loss
    weekly = np.arange(1, DAYS + 1) % policy.verdict_days == 0
    return float((sure & cheap & these.top & weekly).any(axis=1).mean())


def _rival_ships(name: str, these: Paths, bound: float) -> float:
    statistic = RIVALS[name](these.estimate[..., 0] - np.log1p(ROPE), these.error[..., 0])
    return float(((statistic >= bound) & these.top).any(axis=1).mean())


def _bound_of(name: str, edge: Paths, wrong: float) -> float:
    """Bound at which a rival ships as often as the policy where the lift is exactly the rope."""
    return _bisect(lambda bound: _rival_ships(name, edge, bound) > wrong, 0.0, 60.0)


def _power() -> Iterator[Figure]:
    ratios = []
    for units in LADDERS:
        edge = paths(units, (ROPE,), NULL_ROLLOUTS, 2)
        wrong = _ships(edge)
        bounds = {name: _bound_of(name, edge, wrong) for name in RIVALS}
        last, lift, own, best, name = float(np.median(edge.error[:, -1, 0])), 0.0, 0.0, 0.0, ""
        for step in np.arange(2.0, 6.01, 0.25):  # to the lift that the best rule finds four times in five
            lift = float(np.expm1(np.log1p(ROPE) + step * last))
            these = paths(units, (lift,), ROLLOUTS, 3)
            powers = {name: _rival_ships(name, these, bound) for name, bound in bounds.items()}
            name = max(powers, key=lambda each: powers[each])
            own, best = _ships(these), powers[name]
            if best >= FOUND:
                break
        ratios.append(own / best)
        yield Figure(
            f"policy_power_{units}",
            own,
            "share",
            f"{best:.3f} of {name}, the best of {', '.join(RIVALS)}, which look daily and ship a lift of exactly the rope as often ({100 * wrong:.2f} %); true lift {100 * lift:.1f} %, {units:,} units per day and arm",
        )
    yield Figure(
        "policy_power_ratio_to_best_min",
        min(ratios),
        "ratio",
        "power of the best group sequential rule or mSPRT of equal error rate, at the lift that it finds four times in five; the smallest over four traffics",
    )


def _bisect(too_low: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(26):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return high


# --- harm rules ---------------------------------------------------------------------------------

Fires = Callable[[Paths, float], NDArray[np.bool_]]
_MARGINS = np.log1p(-np.array([ROPE, MARGIN, MARGIN]))  # the goal's margin is its rope


def _bound(these: Paths, alpha: float) -> NDArray[np.bool_]:
    """A fixed bound at level ``alpha * 6 / (pi k)**2`` at look k."""
    look = np.arange(1, DAYS + 1)[None, :, None]
    return (_MARGINS - these.estimate) / these.error >= -ndtri(alpha * 6 / (np.pi * look) ** 2)


def _confidence_sequence(tau: float) -> Fires:
    """One-sided Normal mixture (Howard et al. 2021, equation 3.7)."""

    def fires(these: Paths, alpha: float) -> NDArray[np.bool_]:
        z, ratio = (_MARGINS - these.estimate) / these.error, tau**2 / these.error**2
        log_e = (
            0.5 * z * z * ratio / (1 + ratio)
            - 0.5 * np.log1p(ratio)
            + np.log(2 * ndtr(z * np.sqrt(ratio / (1 + ratio))))
        )
        return log_e >= -np.log(alpha)

    return fires


def _posterior(prior: xb.Prior) -> Fires:
    belief = Belief.of(prior)

    def fires(these: Paths, alpha: float) -> NDArray[np.bool_]:
        parts = [
            1 - belief.given(these.estimate[i : i + 1000], these.error[i : i + 1000]).above(_MARGINS) >= 1 - alpha
            for i in range(0, len(these.top), 1000)
        ]
        return np.concatenate(parts)

    return fires


def _either(one: Fires, other: Fires) -> Fires:
    return lambda these, alpha: one(these, alpha / 2) | other(these, alpha / 2)


HARM_RULES: Mapping[str, Fires] = {
    "bound": _bound,
    "confidence_sequence_10": _confidence_sequence(0.1),
    "confidence_sequence_30": _confidence_sequence(0.3),
    "flat": _posterior(xb.Prior(family="flat")),
    "normal_20": _posterior(xb.Prior(family="normal", scale=0.2)),
    "student_3": _posterior(xb.Prior()),
    "student_8": _posterior(HARM_PRIOR),
    "bound_or_confidence_sequence": _either(_bound, _confidence_sequence(0.1)),
}


def _harm_rules() -> Iterator[Figure]:
    nulls = [paths(units, (0.0, 0.0, 0.0), NULL_ROLLOUTS // 2, 4) for units in LADDERS]
    harmed = {
        (units, times): paths(units, (0.0, -times * MARGIN, 0.0), ROLLOUTS // 2, 5)
        for units in LADDERS
        for times in HARMS
    }
    users: dict[str, Floats] = {}
    for name, fires in HARM_RULES.items():

        def too_many(log_alpha: float, fires: Fires = fires) -> bool:
            return max(float(fires(these, np.exp(-log_alpha)).any(axis=(1, 2)).mean()) for these in nulls) > FALSE

        alpha = np.exp(-_bisect(too_many, 0.7, 16.0))
        users[name] = np.array([_until(these, fires(these, alpha)).mean() for these in harmed.values()])
        relative = users[name] / users["bound"]
        words = f"the fixed bound at level alpha_k; every rule at 1 false roll back per 100 ramps, over harms of {', '.join(map(str, HARMS))} margins and four traffics"
        yield Figure(
            f"policy_harm_users_{name}",
            float(np.exp(np.log(relative).mean())),
            "ratio",
            f"geometric mean of users harmed, to those of {words}",
        )
        yield Figure(
            f"policy_harm_total_{name}",
            float(users[name].sum() / users["bound"].sum()),
            "ratio",
            f"users harmed in all, to those of {words}",
        )
    alpha = 1 - xb.Policy().harm_threshold(3)
    for (units, times), these in harmed.items():
        fired = HARM_RULES["student_8"](these, alpha).any(axis=2)
        where = f"harm of {times} margins on one of two guardrails, {units:,} units per day and arm at 100 %"
        yield Figure(
            f"policy_harm_found_{units}_{times}",
            float(fired.any(axis=1).mean()),
            "share",
            f"1; within {DAYS} days, {where}",
        )
        days = np.where(fired.any(axis=1), fired.argmax(axis=1) + 1, np.inf)
        if np.isfinite(np.median(days)):
            yield Figure(
                f"policy_harm_days_{units}_{times}", float(np.median(days)), "days", f"median to the roll back, {where}"
            )
        yield Figure(
            f"policy_harm_met_{units}_{times}",
            float(_until(these, fired[..., None]).mean()),
            "units",
            f"that met the treatment until then, on average, {where}",
        )


def _until(these: Paths, fired: NDArray[np.bool_]) -> Floats:
    """Treated units until the rule fires."""
    any_metric = fired.any(axis=2)
    day = np.where(any_metric.any(axis=1), any_metric.argmax(axis=1), DAYS - 1)
    treated: Floats = these.treated[np.arange(len(day)), day]
    return treated


# --- past experiments ---------------------------------------------------------------------------

# ``P(improvement) >= 0.95 ships at any look``, as many dashboards read.
ANY_LOOK = xb.Policy(
    ladder=(100,), min_days=0, min_units=0, harm_alpha=1e-12, ship=Ship(p_above_rope=0.95, expected_loss=1)
)


def asos_checkpoints(path: Path) -> pd.DataFrame:
    """Every arm and metric of the ASOS experiments as an experiment of its own, in the form that `replay_policy` takes."""
    import pandas as pd

    frame = pd.read_parquet(path)
    names = frame.experiment_id + "/" + frame.variant_id.astype(str) + "/m" + frame.metric_id.astype(str)
    sides = [
        pd.DataFrame(
            {
                "experiment": names,
                "variant": variant,
                "kind": np.where(frame.metric_id == 1, "conversion", "mean"),
                "time": frame.time_since_start,
                "n": frame[f"count_{side}"],
                "mean": frame[f"mean_{side}"],
                "variance": frame[f"variance_{side}"],
            }
        )
        for variant, side in (("control", "c"), ("treatment", "t"))
    ]
    return pd.concat(sides, ignore_index=True)


def _past() -> Iterator[Figure]:
    if not ASOS.is_file():
        print("left out: EXPNB_DATA names no folder with the ASOS experiments", flush=True)
        return
    frame = asos_checkpoints(ASOS)
    for name, words, found in (
        ("default", "default policy, rope 0.5 %", xb.replay_policy(xb.Policy(), frame, rope=ROPE)),
        (
            "any_look",
            "P(improvement) >= 0.95 without a prior ships at any look",
            xb.replay_policy(ANY_LOOK, frame, rope=0.0, prior="flat"),
        ),
    ):
        where = f"{words}; {len(found.runs)} streams of ASOS experiments, {len(found.checkpoints):,} checkpoints"
        for what in ("ship", "roll_back", "conclude_flat", "hold"):
            yield Figure(f"policy_asos_{what}_{name}", found.share(what), "share", where)  # type: ignore[arg-type]
        for what, value in (
            ("flipped", found.flipped),
            ("shipped_worse", found.shipped_worse),
        ):
            yield Figure(f"policy_asos_{what}_{name}", value or 0.0, "share", f"0; {where}")
        yield Figure(f"policy_asos_days_to_ship_{name}", found.days_to("ship") or np.nan, "days", f"median, {where}")
        for what, value in (("regret", found.regret), ("regret_of_shipping", found.regret_of_shipping)):
            yield Figure(
                f"policy_asos_{what}_{name}", 100 * (value or 0.0), "percent", f"0; of the metric, on average, {where}"
            )


# --- stated against true ------------------------------------------------------------------------

WORLDS: Mapping[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda rng, n: rng.normal(0, 0.03, n),
    "nulls_80": lambda rng, n: np.where(rng.random(n) < 0.8, 0.0, rng.normal(0, 0.05, n)),
    "nulls_90": lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, rng.normal(0, 0.05, n)),
    "student_t_3": lambda rng, n: np.clip(rng.standard_t(3, n) * 0.02, -0.9, 3.0),
}
PAST, SETS, PER_SET = (0, 20, 50), 20, 2_000


def _worlds() -> Iterator[Figure]:
    import pandas as pd

    units, gaps = 10_000, {}
    base = experiment(0, LADDERS[units])
    for name, draw in WORLDS.items():
        for past in PAST:
            rng = np.random.default_rng([past, len(name)])
            stated, right, shipped = 0.0, 0, 0
            for number in range(SETS if past else 4):
                prior = xb.Prior()
                if past:
                    se = np.exp(rng.normal(np.log(0.015), 0.4, past))
                    frame = pd.DataFrame(
                        {
                            "experiment": [f"e{i}" for i in range(past)],
                            "metric": "goal",
                            "kind": "conversion",
                            "variant": "new",
                            "log_ratio": np.log1p(draw(rng, past)) + se * rng.standard_normal(past),
                            "se": se,
                            "randomised": True,
                        }
                    )
                    prior = learn_prior(frame, metric="goal")
                truth = draw(rng, PER_SET)
                ended = roll_out(
                    replace(base, prior=prior),
                    truth[:, None, None],
                    baselines=baselines(base),
                    units_per_day=2 * units,
                    days=DAYS,
                    seed=number,
                )
                won = ended.action == code("ship")
                shipped += int(won.sum())
                right += int((truth[won] > 0).sum())
                stated += float(ended.stated[won].sum())
            gaps[name, past] = (stated - right) / max(shipped, 1)
            yield Figure(
                f"policy_stated_minus_true_{name}_{past}",
                gaps[name, past],
                "share",
                f"0; {stated / max(shipped, 1):.3f} stated and {right / max(shipped, 1):.3f} true among {shipped:,} shipped, {past} past experiments, {units:,} units per day and arm",
            )
    yield Figure(
        "policy_stated_minus_true_max",
        max(abs(gap) for (_, past), gap in gaps.items() if past == max(PAST)),
        "share",
        f"0; largest difference of stated and true probability among the shipped over {len(WORLDS)} worlds, {max(PAST)} past experiments",
    )
