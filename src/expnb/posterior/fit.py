"""Cells to a posterior, by the exact engine."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from expnb._version import __version__
from expnb.posterior.arms import Arm, Binomial, NormalMean
from expnb.posterior.effect import Density, Effect, Scale
from expnb.posterior.exact import Quantity, absolute_effect, prob_best, relative_effect
from expnb.posterior.frequentist import pooled_z, welch
from expnb.posterior.posterior import Posterior
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.prior import FLAT, Prior
from expnb.stats.cells import ALL, Cells
from expnb.stats.moments import Moments

# Below this ratio of mean to standard error a relative effect may have the wrong sign.
CLEARLY_POSITIVE = 5.0
DISAGREEMENT_SD = 3.0
FEW_UNITS = 200
ROUNDING = 1e-6  # a variance that differs from that of independent units by less is theirs


class HasCells(Protocol):
    """A cohort, or anything else that carries cells."""

    @property
    def cells(self) -> Cells:
        """Additive statistics."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One treatment against control in one segment, before any model.

    Parameters
    ----------
    control, treatment : Moments
        Of a ratio and of a quantile they are those of a mean with the same standard error.
    min_cell : int
        With fewer units in an arm nothing of it may be shown.
    """

    metric: Metric
    variant: str
    segment: str
    control: Moments
    treatment: Moments
    min_cell: int = 0

    @property
    def sign(self) -> int:
        """+1 where more is better, -1 where less is."""
        return 1 if self.metric.direction == "increase" else -1

    @property
    def hidden(self) -> bool:
        """Whether an arm has so few units that no figure of it may be shown."""
        return min(self.control.n, self.treatment.n) < self.min_cell

    @property
    def missing(self) -> str:
        """Why no posterior can be stated; empty when one can."""
        if self.hidden:
            return f"fewer than {self.min_cell} units in an arm, which are not shown"
        if min(self.control.n, self.treatment.n) < 2:
            return "fewer than two units in an arm"
        if not self.metric.is_share and self.control.m2 == self.treatment.m2 == 0:
            return "all values are equal, so nothing is known about their spread"
        return ""

    @property
    def positive_control(self) -> bool:
        """Whether the control mean is clearly positive, so that a share of it means something."""
        if self.metric.is_share:
            return self.control.mean > 0
        return self.control.mean >= CLEARLY_POSITIVE * standard_errors(self)[0]

    @property
    def not_relative(self) -> str:
        """Why no relative effect exists; empty when one does."""
        if not self.positive_control:
            what = (
                "nothing converted in control" if self.metric.is_share else "the control mean is not clearly positive"
            )
            return f"no relative effect: {what}"
        if not self.metric.is_share and self.treatment.mean <= 0:
            return (
                "no relative effect: the treatment mean is not positive; rope and margin are shares of the control mean"
            )
        return ""

    @property
    def scale(self) -> Scale:
        """The scale on which rope and margin are applied."""
        if self.not_relative:
            return "absolute"
        given = (self.metric.rope, self.metric.margin)
        given_abs = (self.metric.rope_abs, self.metric.margin_abs)
        return "absolute" if given == (None, None) and given_abs != (None, None) else "relative"

    @property
    def rope(self) -> float | None:
        """Smallest difference that matters, on `scale`."""
        return self._on_scale(self.metric.rope, self.metric.rope_abs)

    @property
    def margin(self) -> float | None:
        """Tolerated harm, on `scale`."""
        return self._on_scale(self.metric.margin, self.metric.margin_abs)

    def _on_scale(self, relative: float | None, absolute: float | None) -> float | None:
        if self.scale == "relative":
            return relative
        # A treatment that lost everything has no log ratio, but it has lost more than any share of the control mean.
        if absolute is None and relative is not None and self.positive_control:
            return relative * self.control.mean
        return absolute

    @property
    def cuts(self) -> tuple[float, float, float, float]:
        """Effects at which probabilities are wanted: none, +rope, -rope, and harm beyond the margin."""
        rope, margin = self.rope or 0.0, self.margin or 0.0
        return 0.0, rope, -rope, -self.sign * margin


def fit_exact(
    experiment: Experiment, data: Cells | HasCells, *, prior: Prior | None = None, seed: int = 0
) -> Posterior:
    """Posterior of every treatment effect, by quadrature; no sampling.

    Parameters
    ----------
    experiment : Experiment
    data : Cells or Cohort
    prior : Prior, optional
        The experiment's own when left out.
    seed : int
        Recorded; the exact engine draws nothing.

    Returns
    -------
    Posterior
        Effects of all units first, then by segment; segments in which an arm has fewer than `min_cell` units are left out. An arm that has fewer in all gives a row without figures.
    """
    cells = data if isinstance(data, Cells) else data.cells
    prior = prior or experiment.prior
    effects = [effect for metric in experiment.metrics for effect in exact_effects(experiment, cells, metric, prior)]
    return posterior_of(
        experiment, cells, effects, engine="exact", prior=prior, seed=seed, versions={"numpy": np.__version__}
    )


def posterior_of(
    experiment: Experiment,
    cells: Cells,
    effects: Sequence[Effect],
    *,
    engine: str,
    prior: Prior,
    seed: int,
    versions: Mapping[str, str],
) -> Posterior:
    """Effects with the evidence they rest on."""
    agreed = (experiment.start, experiment.end) if experiment.start and experiment.end else None
    dated = experiment.exposed_at and not experiment.totals
    days = cells.days(least=experiment.min_cell) if dated else agreed
    return Posterior(
        experiment=experiment.name,
        control=experiment.control,
        effects=tuple(effects),
        engine=engine,
        prior=prior.id,
        seed=seed,
        counts={name: cells.count(name) for name in experiment.variants},
        fingerprint=cells.fingerprint,
        first_day=days[0] if days else None,
        last_day=days[1] if days else None,
        checks=cells.checks,
        versions={"expnb": __version__, "python": platform.python_version(), **versions},
    )


def shown(units: int, min_cell: int) -> int:
    """A number of units as it may be shown: 0 below `min_cell`."""
    return units if units >= min_cell else 0


def comparisons(experiment: Experiment, cells: Cells, metric: Metric) -> Iterator[Comparison]:
    """Every treatment against control: all units first, then the segments that are large enough to show."""
    selections = [(ALL, None)]
    for name in experiment.segments:
        selections += [(f"{name}={value}", cells.segments[name] == value) for value in cells.segment_values(name)]
    for segment, where in selections:
        arms = {variant: cells.moments(metric.name, variant, where) for variant in experiment.variants}
        if segment == ALL or min(arm.n for arm in arms.values()) >= experiment.min_cell:
            for variant in experiment.treatments:
                yield Comparison(metric, variant, segment, arms[experiment.control], arms[variant], experiment.min_cell)


def exact_effects(experiment: Experiment, cells: Cells, metric: Metric, prior: Prior) -> list[Effect]:
    """Effects on one metric, in the order of `comparisons`."""
    pairs = list(comparisons(experiment, cells, metric))
    best = _best(pairs, prior)
    groups: dict[tuple[bool, tuple[float, ...]], list[int]] = {}
    for i, pair in enumerate(pairs):
        if not pair.missing:
            groups.setdefault((not pair.not_relative, pair.cuts), []).append(i)
    effects: dict[int, Effect] = {}
    for (has_relative, _), chosen in groups.items():
        stated = prior if has_relative else FLAT
        made = _quantities([pairs[i] for i in chosen], stated, has_relative=has_relative)
        effects |= {i: assemble(pairs[i], made, row, best.get(i), stated, "exact") for row, i in enumerate(chosen)}
    return [effects.get(i) or without_posterior(pair, prior, "exact") for i, pair in enumerate(pairs)]


@dataclass(frozen=True, slots=True)
class Quantities:
    """Posteriors of many comparisons: stated and without a prior, relative (where it exists) and absolute."""

    relative: Quantity | None
    absolute: Quantity
    flat_relative: Quantity | None
    flat_absolute: Quantity


def _quantities(pairs: Sequence[Comparison], prior: Prior, *, has_relative: bool) -> Quantities:
    control, treatment = likelihoods(pairs)
    cuts = np.array(pairs[0].cuts)  # equal in all rows of a group
    flat_relative = relative_effect(control, treatment, FLAT, cuts) if has_relative else None
    flat_absolute = absolute_effect(control, treatment, FLAT, cuts)
    if prior.family == "flat":
        return Quantities(flat_relative, flat_absolute, flat_relative, flat_absolute)
    return Quantities(
        relative_effect(control, treatment, prior, cuts),
        absolute_effect(control, treatment, prior, cuts),
        flat_relative,
        flat_absolute,
    )


def likelihoods(pairs: Sequence[Comparison]) -> tuple[Arm, Arm]:
    """Likelihoods of both arms in many comparisons of one metric."""
    if pairs[0].metric.is_share:
        effects = [design_effects(pair) for pair in pairs]
        return (
            _binomial([pair.control for pair in pairs], [control for control, _ in effects]),
            _binomial([pair.treatment for pair in pairs], [treatment for _, treatment in effects]),
        )
    ses = np.array([standard_errors(pair) for pair in pairs])
    means = np.array([(pair.control.mean, pair.treatment.mean) for pair in pairs])
    return NormalMean(means[:, 0], ses[:, 0]), NormalMean(means[:, 1], ses[:, 1])


def _binomial(arms: Sequence[Moments], effects: Sequence[float]) -> Binomial:
    """Counts of independent units; with a design effect those of as many as would be equally precise."""
    units = [max(1.0, arm.n / effect) for arm, effect in zip(arms, effects, strict=True)]
    successes = [
        float(round(arm.mean * arm.n)) if effect == 1 else arm.mean * n
        for arm, effect, n in zip(arms, effects, units, strict=True)
    ]
    return Binomial(np.array(successes), np.array(units))


def design_effects(pair: Comparison) -> tuple[float, float]:
    """Variance of both shares over that of as many independent units; exactly 1 where units are independent.

    Units in clusters, or in strata, spread more or less than independent ones. A share of `n` units is then as precise as one of ``n / effect`` independent units, which is
    ``n**2 * mean * (1 - mean) / m2``. An arm in which nobody or everybody converted shows no spread; it borrows the effect of the other.

    References
    ----------
    .. [1] Kish (1965), Survey Sampling, 8.2.
    """
    own = [_design_effect(arm) for arm in (pair.control, pair.treatment)]
    known = [effect for effect in own if effect is not None]
    borrowed = max(known, default=1.0)
    return borrowed if own[0] is None else own[0], borrowed if own[1] is None else own[1]


def _design_effect(arm: Moments) -> float | None:
    independent = arm.n * arm.mean * (1 - arm.mean)
    if not arm.m2 > 0 or not independent > 0:
        return None
    effect = arm.m2 / independent
    return 1.0 if abs(effect - 1) <= ROUNDING else effect


def standard_errors(pair: Comparison) -> tuple[float, float]:
    """Standard errors of both means; an arm whose values are all equal borrows the spread of the other."""
    deviations = [math.sqrt(arm.variance) for arm in (pair.control, pair.treatment)]
    borrowed = [own or max(deviations) for own in deviations]
    return borrowed[0] / math.sqrt(pair.control.n), borrowed[1] / math.sqrt(pair.treatment.n)


def _best(pairs: Sequence[Comparison], prior: Prior) -> dict[int, float]:
    """P(best of all arms) per comparison; arms of one segment share their control."""
    best: dict[int, float] = {}
    for segment in dict.fromkeys(pair.segment for pair in pairs):
        chosen = [i for i, pair in enumerate(pairs) if pair.segment == segment]
        group = [pairs[i] for i in chosen]
        if any(pair.missing for pair in group):
            continue
        arms = [likelihoods([pair]) for pair in group]
        shared = FLAT if any(pair.not_relative for pair in group) else prior
        shares = prob_best([arms[0][0], *(treatment for _, treatment in arms)], shared, largest=group[0].sign > 0)
        best |= {i: float(shares[0, column]) for column, i in enumerate(chosen, 1)}
    return best


def assemble(pair: Comparison, made: Quantities, row: int, best: float | None, prior: Prior, engine: str) -> Effect:
    """One effect from the posteriors of row `row`."""
    judged, flat = (
        (made.relative, made.flat_relative) if pair.scale == "relative" else (made.absolute, made.flat_absolute)
    )
    assert judged is not None  # noqa: S101 - scale is relative only where the relative effect exists
    assert flat is not None  # noqa: S101
    above = [float(value) for value in judged.p_above[row]]
    beyond = [value if pair.sign > 0 else 1 - value for value in above]
    harm_flat = float(flat.p_above[row, 3])
    relative = made.relative
    return _effect(
        pair,
        prior,
        engine,
        note="; ".join(part for part in (pair.not_relative, _disagreement(pair, prior), _small(pair)) if part),
        p_best=best,
        effect_abs_post=float(made.absolute.mean[row]),
        effect_rel_post=float(relative.mean[row]) if relative else None,
        hdi_abs_low=float(made.absolute.hdi_low[row]),
        hdi_abs_high=float(made.absolute.hdi_high[row]),
        hdi_rel_low=float(relative.hdi_low[row]) if relative else None,
        hdi_rel_high=float(relative.hdi_high[row]) if relative else None,
        p_improvement=beyond[0],
        p_above_rope=None if pair.rope is None else (above[1] if pair.sign > 0 else 1 - above[2]),
        p_rope=None if pair.rope is None else above[2] - above[1],
        p_harm=None if pair.margin is None else 1 - beyond[3],
        p_harm_flat=None if pair.margin is None else (1 - harm_flat if pair.sign > 0 else harm_flat),
        expected_loss_abs=_loss(made.absolute, row, pair.sign),
        expected_loss_rel=_loss(relative, row, pair.sign) if relative else None,
        relative=Density(relative.grid[row], relative.density[row]) if relative else None,
        absolute=Density(made.absolute.grid[row], made.absolute.density[row]),
    )


def without_posterior(pair: Comparison, prior: Prior, engine: str) -> Effect:
    """The raw figures alone, with the reason."""
    return _effect(pair, prior, engine, note=f"no posterior: {pair.missing}")


def _effect(pair: Comparison, prior: Prior, engine: str, *, note: str, **figures: float | Density | None) -> Effect:
    independent = pair.metric.is_share and design_effects(pair) == (1.0, 1.0)
    test = pooled_z if independent else welch
    p_value, low, high = (None, None, None) if pair.hidden else test(pair.control, pair.treatment)
    return Effect(
        metric=pair.metric.name,
        kind=pair.metric.kind,
        role=pair.metric.role,
        direction=pair.metric.direction,
        unit=pair.metric.unit,
        variant=pair.variant,
        segment=pair.segment,
        n_control=shown(pair.control.n, pair.min_cell),
        n_treatment=shown(pair.treatment.n, pair.min_cell),
        mean_control=None if pair.hidden else pair.control.mean,
        mean_treatment=None if pair.hidden else pair.treatment.mean,
        effect_abs=None if pair.hidden else pair.treatment.mean - pair.control.mean,
        effect_rel=None if pair.missing or pair.not_relative else pair.treatment.mean / pair.control.mean - 1,
        p_value=p_value,
        ci_low=low,
        ci_high=high,
        scale=pair.scale if not pair.missing else "absolute",
        rope=pair.rope if not pair.missing else None,
        margin=pair.margin if not pair.missing else None,
        prior=prior.id,
        engine=engine,
        note=note,
        **figures,  # type: ignore[arg-type]  # names of optional figures
    )


def _loss(quantity: Quantity, row: int, sign: int) -> float:
    return max(0.0, float((quantity.loss if sign > 0 else quantity.gain)[row]))


def _disagreement(pair: Comparison, prior: Prior) -> str:
    """A sentence when the raw effect is far outside what the prior expected."""
    if prior.family == "flat" or pair.not_relative or pair.treatment.mean <= 0:
        return ""
    ses = standard_errors(pair)
    noise = math.hypot(ses[0] / pair.control.mean, ses[1] / pair.treatment.mean)
    widening = prior.df / (prior.df - 2) if prior.family == "student_t" and prior.df > 2 else 1.0
    distance = abs(math.log(pair.treatment.mean / pair.control.mean)) / math.hypot(
        prior.scale * math.sqrt(widening), noise
    )
    if distance <= DISAGREEMENT_SD:
        return ""
    return f"prior and data disagree: the raw effect lies {distance:.1f} prior-predictive standard deviations from none"


def _small(pair: Comparison) -> str:
    if not pair.metric.is_share and min(pair.control.n, pair.treatment.n) < FEW_UNITS:
        return f"fewer than {FEW_UNITS} units in an arm: the Normal likelihood of the mean is rough"
    return ""
