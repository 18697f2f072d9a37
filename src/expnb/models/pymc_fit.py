"""Cells to a posterior by the PyMC engine, checked against the exact one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from expnb.models.agreement import Gap, agreement
from expnb.models.arviz_bridge import versions
from expnb.models.question import Question, arms_question, check_kind, pooled_question
from expnb.models.run import Trace, answer
from expnb.models.sampling import Sampling
from expnb.models.summary import best_shares, quantity, share_ess, smooth, stacked
from expnb.posterior.effect import Effect, PooledEffect
from expnb.posterior.exact.arms import Arm, FloatArray
from expnb.posterior.fit import (
    Comparison,
    Quantities,
    assemble,
    comparisons,
    exact_effects,
    fit_exact,
    without_posterior,
)
from expnb.posterior.pooling.pool import Pooled
from expnb.posterior.pooling.segments import pool_segments
from expnb.posterior.pooling.two_scales import evidence
from expnb.posterior.posterior import Posterior
from expnb.posterior.table import Table
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.prior import Prior
from expnb.stats.cells import Cells
from expnb.stats.checks import Check

_QUANTILES = (0.025, 0.5, 0.975)


@dataclass(frozen=True, slots=True)
class Run:
    """What all metrics of one fit have in common."""

    prior: Prior | None
    control: str
    seed: int
    sampling: Sampling

    def trace(self, asked: Question) -> Trace:
        """Draws that answer a question."""
        return answer(asked, seed=self.seed, sampling=self.sampling)


@dataclass(frozen=True, slots=True)
class _Sampled:
    """An effect, and what was compared with the exact engine."""

    effect: Effect
    gaps: tuple[Gap, ...] = ()


def fit_pymc(experiment: Experiment, cells: Cells, run: Run) -> Posterior:
    """Posterior of every treatment effect, sampled; see `fit.fit`."""
    for metric in experiment.metrics:
        check_kind(metric)
    exact = fit_exact(experiment, cells, prior=run.prior, seed=run.seed)
    effects: list[Effect] = []
    pooled: list[PooledEffect] = []
    checks: list[Check] = []
    for metric in experiment.metrics:
        found, together, gaps = _metric(experiment, cells, metric, run, exact)
        effects += found
        pooled += together
        checks += _agreement(metric, gaps)
    sampled = {(one.metric, one.variant, one.segment): one for one in effects}
    return replace(
        exact,
        effects=tuple(
            sampled[effect.metric, effect.variant, effect.segment] if effect.estimate == "main" else effect
            for effect in exact.effects
        ),
        pooled=tuple(pooled),
        engine="pymc",
        checks=(*exact.checks, *checks),
        versions={**exact.versions, **versions()},
    )


def _metric(
    experiment: Experiment, cells: Cells, metric: Metric, run: Run, exact: Posterior
) -> tuple[list[Effect], Sequence[PooledEffect], list[Gap]]:
    """Sampled main effects on one metric, what is known of its segments together, and what was compared."""
    pairs = list(comparisons(experiment, cells, metric))
    prior = run.prior or experiment.prior_on(metric.name)
    together = {(one.variant, segment) for one in exact.pooled if one.metric == metric.name for segment in one.segments}
    alone = exact_effects(experiment, cells, metric, prior)
    sampled: dict[tuple[str, str], _Sampled] = {}
    for segment in dict.fromkeys(pair.segment for pair in pairs):
        group = [row for row, pair in enumerate(pairs) if pair.segment == segment]
        if all((pairs[row].variant, segment) in together for row in group):
            found: Sequence[_Sampled] = [_Sampled(replace(alone[row], engine="pymc")) for row in group]
        else:
            found = list(_segment([pairs[row] for row in group], [alone[row] for row in group], prior, run))
        sampled |= {(one.effect.variant, segment): one for one in found}
    rows = [sampled[pair.variant, pair.segment] for pair in pairs]
    gaps = [
        gap
        for pair, one in zip(pairs, rows, strict=True)
        if (pair.variant, pair.segment) not in together
        for gap in one.gaps
    ]
    pool = _SampledPool(run, exact, gaps)
    effects, pooled = pool_segments(pairs, [prior] * len(pairs), [one.effect for one in rows], how=pool)
    return effects, pooled, gaps


@dataclass(frozen=True, slots=True)
class _SampledPool:
    """Segments pooled by draws; what can be compared with the exact engine goes to `gaps`."""

    run: Run
    exact: Posterior
    gaps: list[Gap]

    def __call__(
        self,
        control: Arm,
        treatment: Arm,
        prior: Prior,
        cuts: FloatArray,
        *,
        sign: int,
        margin: float | None,
        tau_scale: float | None,
        pairs: Sequence[Comparison],
    ) -> Pooled:
        trace = self.run.trace(pooled_question(pairs, control, treatment, self.run.control, prior, tau_scale=tau_scale))
        tau, each = trace.draws("tau"), trace.draws("effect_rel")
        for place, pair in enumerate(pairs):
            better = (sign * each[..., place] > 0).astype(float)
            expected = self.exact.effect(pair.metric.name, pair.variant, pair.segment).p_improvement
            self.gaps.extend(_gap(f"P(improvement) of {pair.variant}, {pair.segment}", better, expected))
        levels = tuple(cuts.tolist())
        made = [quantity(each[..., place], levels) for place in range(len(pairs))]
        grid, density = smooth(np.sort(tau, axis=None))
        low, middle, high = np.quantile(tau, _QUANTILES).tolist()
        spread = evidence(control, treatment).spread
        return Pooled(
            effect=quantity(trace.draws("effect_pooled"), levels),
            segments=stacked(made),
            raw=np.array(
                [pair.treatment.mean / pair.control.mean - 1.0 if pair.control.mean > 0 else np.nan for pair in pairs]
            ),
            shrinkage=np.array([(s**2 / (s**2 + tau**2)).mean() for s in spread.tolist()]),
            tau_mean=float(tau.mean()),
            tau_quantiles=(low, middle, high),
            tau_grid=grid,
            tau_density=density,
            p_any_harmed=None if margin is None else float((sign * each < -margin).any(axis=2).mean()),
            p_all_improve=float((sign * each > 0).all(axis=2).mean()),
        )


def _segment(group: Sequence[Comparison], exact: Sequence[Effect], prior: Prior, run: Run) -> Iterator[_Sampled]:
    """Effects of all treatments in one segment: each from its own two arms, P(best) from all arms together."""
    table = Table(group)
    known = table.known.tolist()
    asked = [arms_question(table, [row], run.control, prior) if known[row] else None for row in range(len(group))]
    traces = [None if one is None else run.trace(one) for one in asked]
    joint, level = traces[0], "" if asked[0] is None else asked[0].level
    if len(group) > 1:
        joint = run.trace(arms_question(table, list(range(len(group))), run.control, prior)) if all(known) else None
    for row, (pair, question, trace) in enumerate(zip(group, asked, traces, strict=True)):
        if question is None or trace is None:
            yield _Sampled(without_posterior(pair, prior, "pymc"))
            continue
        best = None if joint is None else best_shares(joint.draws(level), largest=pair.sign > 0)[..., row + 1]
        yield _sampled(table, row, question, trace, best, exact[row], alone=joint is trace)


def _sampled(
    table: Table, row: int, asked: Question, trace: Trace, best: FloatArray | None, exact: Effect, *, alone: bool
) -> _Sampled:
    """One effect from its draws; harm apart from the prior and the Bayes factor are the exact engine's, which needs no second run for them."""
    pair, sign = table.pairs[row], table.pairs[row].sign
    none, up, down, harm = table.cuts[row].tolist()
    cuts = (none, up, down, harm)
    difference = trace.draws("effect_abs")[..., 0]
    absolute = quantity(difference, cuts)
    judged, relative = difference, None
    if table.relative[row]:
        ratio = trace.draws("effect_rel")[..., 0]
        relative = quantity(
            ratio[ratio > -1.0], cuts
        )  # without a prior a mean may be below 0; a ratio of such has no meaning
        judged = ratio if table.on_relative_scale[row] else difference
    made = Quantities(relative, absolute)
    effect = assemble(pair, made, 0, None if best is None else float(best.mean()), asked.prior, "pymc")
    place = f"{pair.variant}, {pair.segment}"
    gaps = _gap(f"P(improvement) of {place}", (sign * judged > 0).astype(float), exact.p_improvement)
    if not alone:
        gaps += _gap(f"P(best) of {place}", best, exact.p_best)
    return _Sampled(
        replace(
            effect,
            scale=exact.scale,
            note=exact.note,
            p_harm_flat=exact.p_harm_flat,
            p_harm_wide=exact.p_harm_wide,
            log_bayes_factor=exact.log_bayes_factor,
        ),
        gaps,
    )


def _gap(label: str, happened: FloatArray | None, exact: float | None) -> tuple[Gap, ...]:
    """What to compare, where both engines state it."""
    if happened is None or exact is None:
        return ()
    return (Gap(label, float(happened.mean()), exact, share_ess(happened)),)


def _agreement(metric: Metric, gaps: Sequence[Gap]) -> list[Check]:
    if not gaps:
        return []
    check = agreement(metric.name, gaps)
    if check.outcome != "ok":
        warnings.warn(check.sentence, RuntimeWarning, stacklevel=4)
    return [check]
