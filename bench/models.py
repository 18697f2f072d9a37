"""The PyMC engine: what fifty fits of one shape cost, how often intervals hold the truth, and whether the exact engine gives the same answers."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.figure import Figure

Floats = NDArray[np.float64]

FITS = 50
THEIR_FITS = 4  # the first compiles; the others are alike, and their median stands for the remaining 49
REPLICATIONS = int(os.environ.get("EXPNB_BENCH_REPLICATIONS", "500"))
DRAWS, CHAINS = 5000, 4  # 20,000 draws to compare answers with
WORST = 4.0  # Monte Carlo errors
COVERAGE = (0.92, 0.98)
SEGMENTS = 8
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
MODELS = ("conversion", "mean", "mean of few", "count", "negative Binomial", "hurdle", "segments", "learnt")
COMPARED = ("conversion", "mean", "mean of few", "count", "segments", "segments of means", "learnt", "flat")


def figures() -> Iterator[Figure]:
    """All figures; every model in a fresh process."""
    yield from _cost()
    worst: dict[str, float] = {}
    for name in COMPARED:
        worst[name] = float(_in_fresh_process("answers", name)["worst"])
        print(f"  {name}: {worst[name]:.2f} Monte Carlo errors", flush=True)
    where = max(worst, key=lambda name: worst[name])
    yield Figure(
        "pymc_worst_difference_to_exact",
        worst[where],
        "Monte Carlo errors",
        f"the exact engine, {DRAWS * CHAINS:,} draws each of {', '.join(COMPARED)}; the largest is that of {where}, at most {WORST:g} is chance",
    )
    for name in MODELS:
        found = _in_fresh_process("coverage", name)
        covered = float(found["covered"])
        if REPLICATIONS >= 500 and not COVERAGE[0] <= covered <= COVERAGE[1]:
            sys.exit(
                f"{name}: 95 % intervals hold the truth {covered:.1%} of the time; {COVERAGE[0]:.0%} to {COVERAGE[1]:.0%} is right."
            )
        yield Figure(
            f"pymc_coverage_{name.replace(' ', '_').lower()}",
            covered,
            "share",
            f"0.95: 95 % HDI of the effect in {REPLICATIONS} experiments whose truth is drawn from the prior; ranks chi2(19) = {found['chi2']:.1f} (at most 30.1 in 19 of 20 runs), {found['refused']} refused by their diagnostics",
            kept=REPLICATIONS >= 500,
        )


def _cost() -> Iterator[Figure]:
    """In a process on a new machine, and in the next one, which finds what both compilers have kept on disk."""
    with tempfile.TemporaryDirectory() as cache:
        runs = [{side: _in_fresh_process(side, cache=cache) for side in ("ours", "theirs")} for _ in range(2)]
    for name, own, other in (
        ("pymc_50_fits_ratio_to_pm_sample_first_process", runs[0]["ours"], runs[0]["theirs"]),
        ("pymc_50_fits_ratio_to_pm_sample", runs[1]["ours"], runs[1]["theirs"]),
    ):
        whole = float(other["first"]) + (FITS - 1) * float(other["later"])
        yield Figure(
            name,
            float(own["seconds"]) / whole,
            "ratio",
            f"CPU of {FITS} calls of pm.sample on the same model with new numbers ({whole:.0f} s: the first {other['first']:.1f} s, {FITS - 1} times the median {other['later']:.1f} s of {THEIR_FITS - 1} more); ours {own['seconds']:.1f} s with {own['compile']:.1f} s to compile",
        )
    ours = runs[1]["ours"]
    for name, run, state in (
        ("pymc_compile_cpu_seconds_first_process", runs[0], "in a process on a new machine"),
        ("pymc_compile_cpu_seconds", runs[1], "in a process that finds what compilers have kept on disk"),
    ):
        yield Figure(
            name, float(run["ours"]["compile"]), "seconds", f"a later fit of the same shape, subtracted; {state}"
        )
    yield Figure(
        "pymc_fit_cpu_seconds",
        float(ours["later"]),
        "seconds",
        "one more fit of a shape that is compiled, diagnostics included",
    )
    yield Figure(
        "pymc_cpu_ratio_10m_to_1k_units",
        float(ours["large"]) / float(ours["small"]),
        "ratio",
        "the same fit with 1,000 units per arm, median of 15",
    )


def _in_fresh_process(*arguments: str, cache: str = "") -> dict:
    with tempfile.TemporaryDirectory() as new:
        made = subprocess.run(
            [sys.executable, "-m", "bench.models", *arguments],
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD, "EXPNB_STATIC": "1", "XDG_CACHE_HOME": cache or new},
        )
    return json.loads(made.stdout.splitlines()[-1])


# --- cost --------------------------------------------------------------------------------------


def experiment():  # noqa: ANN201 - nothing of expnb is imported here
    """Two arms and one conversion."""
    from expnb.spec.experiment import Experiment
    from expnb.spec.metric import Metric
    from expnb.spec.policy import Policy

    return Experiment(
        name="e",
        hypothesis="h",
        owner="o",
        flag="f",
        unit="row",
        variant="arm",
        control="c",
        weights={"c": 1.0, "t": 1.0},
        metrics=(Metric(name="k", kind="conversion", role="goal", rope=0.005),),
        policy=Policy(min_days=0),
    )


def cells(units: int, seed: int):  # noqa: ANN201
    """Conversions of two arms."""
    from expnb.stats.cells import Cells, MetricCells

    hits = np.random.default_rng(seed).binomial(units, [0.1, 0.102]).astype(float)
    n, none = np.array([units, units]), np.zeros(2, dtype=np.int64)
    column = MetricCells(0.0, n, none, none, none, none, hits, hits, np.zeros(2), np.ones(2))
    return Cells(np.array(["c", "t"]), {}, np.full(2, np.datetime64("NaT", "D")), n, {"k": column}, (), "made", {})


def cpu() -> float:
    """Processor seconds of this process and of those that it has started."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def ours() -> dict[str, float]:
    """Fifty fits from a process that has imported everything."""
    from expnb.models import sample
    from expnb.models.environment import prepare

    prepare()
    import nutpie  # noqa: F401
    import pymc  # noqa: F401

    times = [cpu()]
    for fit in range(FITS):
        sample(experiment(), cells(50_000, fit), "k", seed=fit)
        times.append(cpu())
    each = np.diff(times)
    small, large = [], []
    for _ in range(15):
        for units, list_ in ((1_000, small), (10_000_000, large)):
            begin = cpu()
            sample(experiment(), cells(units, 1), "k", seed=1)
            list_.append(cpu() - begin)
    later = float(np.median(each[1:]))
    return {
        "seconds": times[-1] - times[0],
        "later": later,
        "compile": float(each[0]) - later,
        "small": statistics.median(small),
        "large": statistics.median(large),
    }


def theirs() -> dict[str, float]:
    """`pm.sample` as it comes, on the same model: the same draws, chains and acceptance."""
    from expnb.models import build

    model = build(experiment(), cells(50_000, 0), "k")
    import pymc as pm

    each = []
    for fit in range(THEIR_FITS):
        from expnb.models.conversion import conversion_data
        from expnb.posterior.exact.arms import Binomial
        from expnb.spec.prior import Prior

        column = cells(50_000, fit).metrics["k"]
        numbers = conversion_data(Binomial(column.s1, column.n_ok.astype(float)), Prior())
        begin = cpu()
        with model, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pm.set_data(numbers)
            pm.sample(1000, tune=1000, chains=4, target_accept=0.9, random_seed=fit, progressbar=False)
        each.append(cpu() - begin)
    return {"first": each[0], "later": statistics.median(each[1:])}


# --- worlds whose truth is known -----------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """One experiment and its truth.

    Parameters
    ----------
    arms : tuple
        What the functions of the model take before the prior.
    truth : float
        Log ratio of the treatment, or pooled one.
    """

    arms: tuple
    truth: float


def prior():  # noqa: ANN201
    """The prior of all worlds but the learnt one."""
    from expnb.spec.prior import Prior

    return Prior()


def learnt():  # noqa: ANN201
    """Half of all ideas do nothing."""
    from expnb.spec.prior import Prior

    return Prior(family="learnt", scales=(0.02, 0.08), weights=(0.6, 0.4), null_share=0.5)


def log_ratio(rng: np.random.Generator) -> float:
    """From the default prior."""
    return float(0.03 * rng.standard_t(4))


def conversion(rng: np.random.Generator, lam: float | None = None) -> World:
    """The control's rate is uniform, as its reference prior says."""
    from expnb.posterior.exact.arms import Binomial

    while True:
        rate, effect = rng.random(), log_ratio(rng) if lam is None else lam
        if rate * np.exp(effect) < 1:
            break
    units = rng.integers(200, 20_000, 2)
    hits = rng.binomial(units, [rate, rate * np.exp(effect)])
    return World((Binomial(hits.astype(float), units.astype(float)),), effect)


def mean(rng: np.random.Generator) -> World:
    """The control's mean is uniform over far more than its error."""
    from expnb.posterior.exact.arms import NormalMean

    level, effect, se = rng.uniform(5, 50), log_ratio(rng), rng.uniform(0.05, 0.4, 2)
    return World((NormalMean(rng.normal(level * np.array([1.0, np.exp(effect)]), se), se),), effect)


def mean_of_few(rng: np.random.Generator) -> World:
    """Ten to forty Normal values per arm, with a spread of any size."""
    from expnb.posterior.exact.arms import StudentMean

    level, effect, n = rng.uniform(5, 50), log_ratio(rng), rng.integers(10, 40, 2)
    values = [
        rng.normal(level * growth, 0.1 * level, size) for growth, size in zip((1.0, np.exp(effect)), n, strict=True)
    ]
    means, ses = (
        np.array(part) for part in zip(*[(v.mean(), v.std(ddof=1) / np.sqrt(v.size)) for v in values], strict=True)
    )
    return World((StudentMean(means, ses, n - 1.0),), effect)


def count(rng: np.random.Generator) -> World:
    """The control's rate is uniform over far more than its error."""
    from expnb.posterior.exact.arms import Poisson

    rate, effect, units = rng.uniform(0.2, 4), log_ratio(rng), rng.integers(200, 5_000, 2)
    events = rng.poisson(units * rate * np.array([1.0, np.exp(effect)]))
    return World((Poisson(events.astype(float), units.astype(float)),), effect)


def bursts(rng: np.random.Generator) -> World:
    """Overdispersion from its prior."""
    from expnb.models.count import Histogram

    rate, effect = rng.uniform(0.5, 4), log_ratio(rng)
    size = np.abs(rng.normal(0, 1, 2)).clip(0.02) ** -2
    mu = rate * np.array([1.0, np.exp(effect)])
    values = [rng.negative_binomial(k, k / (k + m), 2_000) for k, m in zip(size, mu, strict=True)]
    unique = [np.unique(v, return_counts=True) for v in values]
    arms = Histogram(
        np.array([v.mean() for v in values]),
        np.array([v.std() / np.sqrt(v.size) for v in values]),
        np.repeat([0, 1], [u[0].size for u in unique]),
        np.concatenate([u[0] for u in unique]).astype(float),
        np.concatenate([u[1] for u in unique]).astype(float),
    )
    return World((arms,), effect)


def hurdle(rng: np.random.Generator) -> World:
    """Shares are uniform, levels and spreads too, over far more than their errors."""
    from expnb.models.hurdle import Payers

    units, effect = 3_000, log_ratio(rng)
    share, sd = rng.uniform(0.1, 0.9, 2), rng.uniform(0.4, 1.2, 2)
    log_mean = rng.uniform(0, 3) + np.array([0.0, effect])
    level = log_mean - np.log(share) - sd**2 / 2
    n = rng.binomial(units, share)
    logs = [rng.normal(m, s, k) for m, s, k in zip(level, sd, n, strict=True)]
    arms = Payers(
        np.full(2, float(units)),
        n.astype(float),
        np.array([part.mean() for part in logs]),
        np.array([part.size * part.var() for part in logs]),
        np.array([np.exp(part).mean() for part in logs]),
        np.array([np.exp(part).std() / np.sqrt(part.size) for part in logs]),
    )
    return World((arms,), effect)


def segments(rng: np.random.Generator) -> World:
    """One treatment in eight segments."""
    from expnb.posterior.exact.arms import Binomial

    mu, tau = log_ratio(rng), abs(rng.normal(0, 0.03))
    rate = rng.uniform(0.02, 0.6, SEGMENTS)
    units = rng.integers(200, 5_000, (2, SEGMENTS))
    hits = rng.binomial(units, [rate, rate * np.exp(rng.normal(mu, tau, SEGMENTS))])
    return World(tuple(Binomial(k.astype(float), n.astype(float)) for k, n in zip(hits, units, strict=True)), mu)


def segments_of_means(rng: np.random.Generator) -> World:
    """The same with means."""
    from expnb.posterior.exact.arms import NormalMean

    mu, tau, level = log_ratio(rng), abs(rng.normal(0, 0.03)), rng.uniform(5, 50, SEGMENTS)
    se = 0.03 * level
    growth = np.exp(rng.normal(mu, tau, SEGMENTS))
    return World((NormalMean(rng.normal(level, se), se), NormalMean(rng.normal(level * growth, se), se)), mu)


def works_or_not(rng: np.random.Generator) -> World:
    """A conversion whose effect is exactly none in half of all experiments."""
    none = rng.random() < 0.5
    return conversion(rng, 0.0 if none else float(rng.choice([0.02, 0.08], p=[0.6, 0.4]) * rng.standard_t(4)))


WORLDS: dict[str, Callable[[np.random.Generator], World]] = {
    "conversion": conversion,
    "mean": mean,
    "mean of few": mean_of_few,
    "count": count,
    "negative Binomial": bursts,
    "hurdle": hurdle,
    "segments": segments,
    "segments of means": segments_of_means,
    "learnt": works_or_not,
    "flat": conversion,
}


def sampled(name: str, world: World, seed: int, *, draws: int, tune: int, chains: int):  # noqa: ANN201
    """Draws of one world, by the model of that name."""
    from expnb.models import conversion as shares
    from expnb.models import count as counts
    from expnb.models import hurdle as hurdles
    from expnb.models import mean as means
    from expnb.models import segments as pooled
    from expnb.models.sampler import draw
    from expnb.models.sampling import Sampling

    own, ratio = belief(name), ("effect_rel",)
    model, data, labels, monitored = {
        "mean": (means.mean_model, means.mean_data, 2, ratio),
        "mean of few": (means.mean_model, means.mean_data, 2, ratio),
        "count": (counts.count_model, counts.count_data, 2, ratio),
        "negative Binomial": (counts.negative_binomial_model, counts.negative_binomial_data, 2, ratio),
        "hurdle": (hurdles.hurdle_model, hurdles.hurdle_data, 2, ratio),
        "segments": (pooled.segments_model, pooled.segments_data, SEGMENTS, ("mu", "tau")),
        "segments of means": (pooled.segments_model, pooled.segments_data, SEGMENTS, ("mu", "tau")),
    }.get(name, (shares.conversion_model, shares.conversion_data, 2, ratio))
    return draw(
        (name, labels),
        lambda: model(*world.arms, own, [str(label) for label in range(labels)]),
        data(*world.arms, own),
        monitored,
        seed=seed,
        sampling=Sampling(draws=draws, tune=tune, chains=chains, progress=False),
        about=name,
    )


def belief(name: str):  # noqa: ANN201
    """The prior of one world."""
    from expnb.spec.prior import FLAT

    return {"learnt": learnt(), "flat": FLAT}.get(name) or prior()


def coverage(name: str) -> dict[str, float]:
    """How often the 95 % HDI holds the truth, and how even its rank among the draws is [1]_.

    References
    ----------
    .. [1] Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based calibration.
    """
    from expnb.errors import EngineError
    from expnb.models.arviz_bridge import draws
    from expnb.models.summary import hdi

    rng = np.random.default_rng(7)
    covered, ranks, refused = [], [], 0
    for seed in range(REPLICATIONS):
        world = WORLDS[name](rng)
        try:
            raw = sampled(name, world, seed, draws=500, tune=500, chains=4).raw
        except EngineError:
            refused += 1
            continue
        values = draws(raw, "mu" if name == "segments" else "log_ratio").ravel()
        low, high = hdi(values)
        covered.append(low <= world.truth <= high)
        # Where the truth and some draws are exactly no effect, the rank is anywhere among those.
        ranks.append((values < world.truth).mean() + rng.random() * (values == world.truth).mean())
    seen = np.histogram(ranks, 20, (0, 1))[0]
    expected = len(ranks) / 20
    return {
        "covered": float(np.mean(covered)),
        "chi2": float(((seen - expected) ** 2 / expected).sum()),
        "refused": refused,
    }


# --- answers -------------------------------------------------------------------------------------


def errors(values: Floats, exact: float) -> float:
    """Difference of a mean of draws in Monte Carlo errors."""
    from expnb.models.summary import share_ess

    if set(np.unique(values)) <= {0.0, 1.0}:
        size = share_ess(values)
        return float(abs(values.mean() - exact) / np.sqrt(max(exact * (1 - exact), 1 / size) / size))
    from expnb.models.arviz_bridge import ess

    return float(abs(values.mean() - exact) / (values.std() / np.sqrt(ess(values, "mean"))))


def answers(name: str) -> dict[str, float]:
    """The largest difference to the exact engine, in five worlds."""
    rng = np.random.default_rng(11)
    found = []
    for seed in range(5):
        world = WORLDS[name](rng)
        raw = sampled(name, world, seed, draws=DRAWS, tune=1000, chains=CHAINS).raw
        found += (
            _pooled(world, raw, belief(name)) if name.startswith("segments") else _two_arms(world, raw, belief(name))
        )
    return {"worst": max(found), "compared": len(found)}


def _two_arms(world: World, raw, own) -> list[float]:  # noqa: ANN001
    from expnb.models.arviz_bridge import draws
    from expnb.posterior.exact.engine import absolute_effect, relative_effect

    (arms,) = world.arms
    control, treatment = arms.take(np.array([0])), arms.take(np.array([1]))
    rel, diff = draws(raw, "effect_rel")[..., 0], draws(raw, "effect_abs")[..., 0]
    cuts = np.array([0.0, 0.01, -0.01])
    relative = relative_effect(control, treatment, own, cuts)
    absolute = absolute_effect(control, treatment, own, np.zeros(1))
    return [
        errors(rel, relative.mean[0]),
        errors(diff, absolute.mean[0]),
        errors(np.maximum(-rel, 0.0), relative.loss[0]),
        *(errors((rel > cut).astype(float), above) for cut, above in zip(cuts, relative.p_above[0], strict=True)),
        errors((diff > 0).astype(float), absolute.p_above[0, 0]),
    ]


def _pooled(world: World, raw, own) -> list[float]:  # noqa: ANN001
    from expnb.models.arviz_bridge import draws
    from expnb.posterior.pooling.pool import pool

    exact = pool(*world.arms, own, np.zeros(1), margin=0.02)
    mu, tau, delta = (draws(raw, variable) for variable in ("mu", "tau", "log_ratio"))
    return [
        errors(np.expm1(mu), exact.effect.mean[0]),
        errors((mu > 0).astype(float), exact.effect.p_above[0, 0]),
        errors(tau, exact.tau_mean),
        errors((np.expm1(delta) < -0.02).any(axis=2).astype(float), float(exact.p_any_harmed or 0.0)),
        *(errors(np.expm1(delta[..., s]), exact.segments.mean[s]) for s in range(SEGMENTS)),
        *(errors((delta[..., s] > 0).astype(float), exact.segments.p_above[s, 0]) for s in range(SEGMENTS)),
    ]


def main(side: str, name: str = "") -> None:
    """One measurement, printed as JSON."""
    begin = time.process_time()
    made = (
        {"ours": ours, "theirs": theirs}[side]() if not name else {"coverage": coverage, "answers": answers}[side](name)
    )
    print(json.dumps({**made, "cpu": time.process_time() - begin}))


if __name__ == "__main__":
    main(*sys.argv[1:])
