"""Cells to a posterior, by the engine that was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from expnb.errors import NameNotFoundError, PosteriorError, SourceError
from expnb.models.agreement import Gap, agreement
from expnb.models.arviz_bridge import versions
from expnb.models.question import Question, arms_question, check_kind
from expnb.models.run import Trace, answer
from expnb.models.sampling import Sampling
from expnb.models.summary import best_shares, quantity, share_ess
from expnb.posterior.arms import FloatArray
from expnb.posterior.effect import Effect
from expnb.posterior.fit import (
    Comparison,
    HasCells,
    Quantities,
    assemble,
    comparisons,
    fit_exact,
    without_posterior,
)
from expnb.posterior.posterior import Posterior
from expnb.posterior.table import Table
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.prior import Prior
from expnb.stats.cells import Cells
from expnb.stats.checks import Check

Engine = Literal["exact", "pymc"]
ENGINES: tuple[Engine, ...] = ("exact", "pymc")


def fit(
    experiment: Experiment,
    data: Cells | HasCells,
    *,
    engine: Engine = "exact",
    prior: Prior | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
) -> Posterior:
    """Posterior of every treatment effect.

    Parameters
    ----------
    experiment : Experiment
    data : Cells or Cohort
    engine : {"exact", "pymc"}
        Quadrature in milliseconds, or the same likelihood and prior as a PyMC model sampled by nutpie. The second
        compiles each shape once per process, which takes 10 to 60 s, is checked against the first, and says so in
        `Posterior.checks`.
    prior : Prior, optional
        On every metric; each metric's own, or the experiment's, when left out.
    seed : int
        Of the draws; the exact engine draws nothing and records it.
    sampling : Sampling, optional
        Length of the chains; for the pymc engine only.

    Returns
    -------
    Posterior
        Effects of all units first, then by segment. Of the pymc engine the main rows are sampled; the rows that explain them are the exact engine's, as their `engine` says.

    Raises
    ------
    NameNotFoundError
        If the engine is unknown.
    PosteriorError
        If `sampling` is given to the exact engine.
    EngineError
        If the pymc engine has no model for a metric (quantiles and ratios), cannot compile it, or its diagnostics are too bad to state a probability.

    Warns
    -----
    RuntimeWarning
        If the engines differ by more than 4 Monte Carlo errors.
    """
    if not isinstance(experiment, Experiment) or not isinstance(getattr(data, "cells", data), Cells):
        found = f"({type(experiment).__name__}, {type(data).__name__})"
        raise SourceError(
            f"fit takes (experiment, cohort); it was given {found}. Load the data first: xb.load_cohort(experiment, source)."
        )
    if engine not in ENGINES:
        raise NameNotFoundError("engine", engine, ENGINES)
    if engine == "exact":
        if sampling is not None:
            raise PosteriorError(
                f"sampling is {sampling}, but the exact engine does not sample. Leave it out, or use engine='pymc'."
            )
        return fit_exact(experiment, data, prior=prior, seed=seed)
    return _fit_pymc(
        experiment,
        data if isinstance(data, Cells) else data.cells,
        _Run(prior, experiment.control, seed, sampling or Sampling()),
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """What all metrics of one fit have in common."""

    prior: Prior | None
    control: str
    seed: int
    sampling: Sampling

    def trace(self, asked: Question) -> Trace:
        return answer(asked, seed=self.seed, sampling=self.sampling)


@dataclass(frozen=True, slots=True)
class _Sampled:
    """An effect, and what was compared with the exact engine."""

    effect: Effect
    gaps: tuple[Gap, ...] = ()


def _fit_pymc(experiment: Experiment, cells: Cells, run: _Run) -> Posterior:
    for metric in experiment.metrics:
        check_kind(metric)
    exact = fit_exact(experiment, cells, prior=run.prior, seed=run.seed)
    sampled: dict[tuple[str, str, str], Effect] = {}
    checks: list[Check] = []
    for metric in experiment.metrics:
        found = list(_effects(experiment, cells, metric, run, exact))
        sampled |= {(one.effect.metric, one.effect.variant, one.effect.segment): one.effect for one in found}
        checks += _agreement(metric, [gap for one in found for gap in one.gaps])
    return replace(
        exact,
        effects=tuple(
            sampled[effect.metric, effect.variant, effect.segment] if effect.estimate == "main" else effect
            for effect in exact.effects
        ),
        engine="pymc",
        checks=(*exact.checks, *checks),
        versions={**exact.versions, **versions()},
    )


def _effects(experiment: Experiment, cells: Cells, metric: Metric, run: _Run, exact: Posterior) -> Iterator[_Sampled]:
    """Sampled main effects on one metric."""
    pairs = list(comparisons(experiment, cells, metric))
    prior = run.prior or experiment.prior_on(metric.name)
    for segment in dict.fromkeys(pair.segment for pair in pairs):
        group = [pair for pair in pairs if pair.segment == segment]
        effects = [exact.effect(metric.name, pair.variant, segment) for pair in group]
        yield from _segment(group, effects, prior, run)


def _segment(group: Sequence[Comparison], exact: Sequence[Effect], prior: Prior, run: _Run) -> Iterator[_Sampled]:
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
    """One effect from its draws; harm without a prior and the Bayes factor are the exact engine's, which needs no second run for them."""
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
    made = Quantities(relative, absolute, relative, absolute)
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
