"""What partial pooling of segments does: how often luck looks like a finding, how often intervals hold the truth, and what one model of all arms would gain.

``python -m bench.segments`` simulates, prints every figure and writes it into docs/segments.md; about three minutes on two idle cores.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.document import filled
from bench.figure import Figure
from expnb.posterior.exact.arms import Binomial
from expnb.posterior.exact.engine import relative_effect
from expnb.posterior.pooling.pool import pool
from expnb.spec.prior import FLAT, Prior

Floats = NDArray[np.float64]

PAGE = Path(__file__).parent.parent / "docs" / "segments.md"
PRIOR = Prior()
MANY = 30  # segments where luck is looked for
FEW = 8  # segments where coverage is
RATES = 0.08, 0.2
USUAL, SMALL = (500, 5000), (40, 150)  # units of a cell
MARGIN = 0.02
LARGEST = 1.5  # log effect: rates stay below 1
REPLICATIONS = {"luck": 400, "coverage": 2000, "arms": 120}
EVEN_BAND = math.sqrt(math.log(2 / 1e-3) / 2)  # Dvoretzky-Kiefer-Wolfowitz: times 1 / sqrt(n), left once in 1,000 times
CORES = 2


def figures() -> Iterator[Figure]:
    """All figures of docs/segments.md."""
    yield from _luck(0.0, USUAL, "null")
    yield from _luck(0.02, USUAL, "two_percent")
    yield from _luck(0.0, SMALL, "small_null")
    yield from _coverage()
    yield from _arms(USUAL, "usual")
    yield from _arms(SMALL, "small")


def repeated(one: Callable[[int], Floats], times: int) -> Floats:
    """``one(seed)`` for every seed below `times`, shape (seed, ...)."""
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as workers:
        return np.stack(list(workers.map(one, range(times), chunksize=20)))


def drawn(
    draw: np.random.Generator, log_effects: Floats, units: tuple[int, int], rates: Floats | None = None
) -> tuple[Binomial, ...]:
    """Control and treatments of one experiment; effects of shape (treatment, segment), control rates of shape (segment,)."""
    arms, segments = len(log_effects) + 1, log_effects.shape[1]
    size = draw.integers(*units, (arms, segments)).astype(float)
    rates = draw.uniform(*RATES, segments) if rates is None else rates
    rate = rates * np.exp(np.vstack([np.zeros(segments), log_effects]))
    return tuple(Binomial(draw.binomial(n.astype(int), p).astype(float), n) for n, p in zip(size, rate, strict=True))


# --- luck -----------------------------------------------------------------------------------------


def looks(log_effect: float, units: tuple[int, int], seed: int) -> Floats:
    """Whether the pooled effect, and any segment, looks like a finding, then P(any harmed) and the pooled effect; one true effect in all segments."""
    draw = np.random.default_rng((1, seed))
    control, treatment = drawn(draw, np.full((1, MANY), log_effect), units)
    pooled = pool(control, treatment, PRIOR, np.zeros(1), margin=MARGIN)
    raw = relative_effect(control, treatment, FLAT, np.zeros(1), chart=False)
    own = pooled.segments
    return np.array(
        [
            _beyond(pooled.effect.p_above).any(),
            _beyond(own.p_above).any(),
            ((own.hdi_low > 0) | (own.hdi_high < 0)).any(),
            ((raw.hdi_low > 0) | (raw.hdi_high < 0)).any(),
            pooled.p_any_harmed,
            pooled.effect.mean[0],
        ],
        dtype=float,
    )


def _beyond(p: Floats) -> NDArray[np.bool_]:
    return (p < 0.025) | (p > 0.975)


def _luck(effect: float, units: tuple[int, int], name: str) -> Iterator[Figure]:
    times = REPLICATIONS["luck"]
    found = repeated(partial(looks, math.log1p(effect), units), times).mean(axis=0)
    said = f"{times} experiments, {MANY} segments of {units[0]} to {units[1]} units, effect {effect:+.0%}"
    for what, share in zip(("whole", "p", "hdi", "raw", "any_harmed", "effect"), found, strict=True):
        yield Figure(f"segments_{name}_{what}", float(share), "share", said)


# --- coverage -------------------------------------------------------------------------------------


def believed(draw: np.random.Generator, treatments: int, segments: int) -> tuple[Floats, Floats, Floats]:
    """Values of mu and tau of each treatment, and its log effects, shape (treatment, segment), drawn from the priors."""
    mu = PRIOR.scale * draw.standard_t(PRIOR.df, treatments)
    tau = np.abs(draw.normal(0.0, PRIOR.scale, treatments))
    effects = mu[:, None] + tau[:, None] * draw.standard_normal((treatments, segments))
    return mu, tau, np.clip(effects, -LARGEST, LARGEST)


def ranks(seed: int) -> Floats:
    """P(effect > truth) of every segment and of mu, whether tau lies in its 95 % interval, and which HDIs of segments hold the truth."""
    draw = np.random.default_rng((2, seed))
    rates, effects = np.ones(FEW), np.zeros((1, FEW))
    while (rates * np.exp(effects) >= 1.0).any():  # no rate above 1
        mu, tau, effects = believed(draw, 1, FEW)
        rates = draw.uniform(size=FEW)
    truth = np.expm1(np.append(effects, mu))
    pooled = pool(*drawn(draw, effects, USUAL, rates), PRIOR, truth)
    own = pooled.segments
    low, _, high = pooled.tau_quantiles
    held = (own.hdi_low <= truth[:-1]) & (truth[:-1] <= own.hdi_high)
    rank = np.append(np.diagonal(own.p_above), pooled.effect.p_above[0, -1])
    return np.concatenate([rank, [low <= tau[0] <= high], held])


def _coverage() -> Iterator[Figure]:
    times = REPLICATIONS["coverage"]
    found = repeated(ranks, times)
    segments, mu = found[:, :FEW], found[:, FEW]
    said = f"{times} experiments of {FEW} segments, everything drawn from the priors"
    yield Figure("segments_coverage_hdi", float(found[:, FEW + 2 :].mean()), "share", said)
    for percent in (50, 80, 95):
        inside = np.abs(segments - 0.5) < 0.005 * percent
        yield Figure(f"segments_coverage_{percent}", float(inside.mean()), "share", said)
        inside_mu = np.abs(mu - 0.5) < 0.005 * percent
        yield Figure(f"segments_coverage_mu_{percent}", float(inside_mu.mean()), "share", said)
    error = inside.mean(axis=1).std() / math.sqrt(times)  # segments of an experiment share their mu
    yield Figure("segments_coverage_error", float(error), "share", said)
    yield Figure("segments_coverage_tau", float(found[:, FEW + 1].mean()), "share", said)
    yield Figure("segments_ranks_mu", uneven(mu), "ratio", f"at most {EVEN_BAND / math.sqrt(times):.3f} is chance")
    yield Figure("segments_ranks_first", uneven(segments[:, 0]), "ratio", "the same, of the first segment")
    yield Figure("segments_ranks_band", EVEN_BAND / math.sqrt(times), "ratio", said)


def uneven(rank: Floats) -> float:
    """Largest distance between the distribution of ranks and the even one."""
    steps = np.arange(len(rank) + 1) / len(rank)
    ordered = np.sort(rank)
    return float(np.maximum(steps[1:] - ordered, ordered - steps[:-1]).max())


# --- one model of all arms ------------------------------------------------------------------------


def all_arms(arms: Sequence[Binomial]) -> tuple[Floats, Floats, Floats]:
    """One linear-Gaussian model of all arms with a shared control and one tau: weights of tau (node,), means and variances (node, treatment, segment + 1); mu comes last."""
    log_rate = np.stack([np.log((arm.successes + 0.5) / (arm.units + 1.0)) for arm in arms])
    var = np.stack([1.0 / (arm.successes + 0.5) - 1.0 / (arm.units + 1.0) for arm in arms])
    gap, one = (log_rate[1:] - log_rate[0]).T[..., None], np.eye(len(arms) - 1)
    noise = var[1:].T[..., None] * one + var[0][:, None, None]
    x, weight = np.polynomial.legendre.leggauss(40)
    tau = 3.0 * PRIOR.scale * (x + 1.0)
    between = tau[:, None, None, None] ** 2
    precision = np.linalg.inv(noise + between * one)
    prior = one / (2.0 * PRIOR.scale**2)  # a Student-t(4) has twice the variance
    known = precision.sum(axis=1) + prior
    cover = np.linalg.inv(known)
    mu = cover @ (precision @ gap).sum(axis=1)
    fit = (gap.swapaxes(1, 2) @ precision @ gap).sum(axis=(1, 2, 3)) - (mu.swapaxes(1, 2) @ known @ mu)[:, 0, 0]
    log_f = 0.5 * (np.linalg.slogdet(precision)[1].sum(axis=1) - np.linalg.slogdet(known)[1] - fit)
    log_f += np.log(weight) - 0.5 * (tau / PRIOR.scale) ** 2
    share = np.exp(log_f - log_f.max())
    own = between * precision
    rest = one - own
    mean = own @ gap + rest @ mu[:, None]
    spread = between * rest + rest @ cover[:, None] @ rest.swapaxes(2, 3)
    means = np.concatenate([mean[..., 0], mu[:, None, :, 0]], axis=1).swapaxes(1, 2)
    variances = np.concatenate(
        [np.diagonal(spread, axis1=2, axis2=3), np.diagonal(cover, axis1=1, axis2=2)[:, None]], axis=1
    )
    return share / share.sum(), means, variances.swapaxes(1, 2)


def compared(units: tuple[int, int], seed: int) -> Floats:
    """Squared errors and whether 95 % intervals hold the truth, shape (2, way, treatment, segment + 1): raw, each treatment by itself, all arms in one, no effect."""
    from scipy.special import ndtr

    draw = np.random.default_rng((3, seed))
    mu, _, effects = believed(draw, 2, MANY)
    control, *treatments = drawn(draw, effects, units)
    truth = np.concatenate([effects, mu[:, None]], axis=1)
    out = np.full((2, 4, *truth.shape), np.nan)
    for place, treatment in enumerate(treatments):
        pooled = pool(control, treatment, PRIOR, np.expm1(truth[place]))
        out[0, 0, place, :-1] = pooled.raw - np.expm1(effects[place])
        out[0, 1, place] = np.append(pooled.segments.mean, pooled.effect.mean) - np.expm1(truth[place])
        rank = np.append(np.diagonal(pooled.segments.p_above), pooled.effect.p_above[0, -1])
        out[1, 1, place] = ~_beyond(rank)
    share, mean, var = all_arms([control, *treatments])
    out[0, 2] = np.tensordot(share, np.expm1(mean + 0.5 * var), 1) - np.expm1(truth)
    out[1, 2] = ~_beyond(np.tensordot(share, ndtr((mean - truth) / np.sqrt(var)), 1))
    out[0, 3] = -np.expm1(truth)
    out[0] **= 2
    return out


def _arms(units: tuple[int, int], name: str) -> Iterator[Figure]:
    times = REPLICATIONS["arms"]
    found = repeated(partial(compared, units), times)
    said = f"{times} experiments of 3 arms x {MANY} segments of {units[0]} to {units[1]} units"
    for way, what in enumerate(("raw", "apart", "together", "none")):
        error, held = found[:, 0, way], found[:, 1, way]
        yield Figure(f"segments_{name}_error_{what}", float(np.sqrt(np.nanmean(error[..., :-1]))), "share", said)
        if what != "raw":
            yield Figure(f"segments_{name}_error_mu_{what}", float(np.sqrt(error[..., -1].mean())), "share", said)
        if what in ("apart", "together"):
            yield Figure(f"segments_{name}_held_{what}", float(held[..., :-1].mean()), "share", said)


def main() -> None:
    """Print every figure, and write it into the page."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    results = {}
    for figure in figures():
        print(f"{figure.name}: {figure.value:.4g} {figure.unit} ({figure.compared_with})", flush=True)
        results[figure.name] = asdict(figure)
    PAGE.write_text(filled(PAGE.read_text(), results))


if __name__ == "__main__":
    sys.exit(main())
