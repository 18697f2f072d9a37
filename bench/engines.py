"""1,000 experiments x 20 metrics x 3 arms: `xb.compare` against loops of gbstats and bayesian-testing on the same numbers, and what its answers are worth.

The others run in an environment of their own, because gbstats pins an old pandas; they are timed on some hundred experiments and scaled. Processor seconds, one BLAS thread on both sides.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.figure import Figure

EXPERIMENTS, METRICS, ARMS = 1000, 20, 3
HALF = EXPERIMENTS * METRICS // 2  # of the metrics are conversions, the others means
TIMED = 150  # of each, by the others
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
ROOT = Path(__file__).parents[1]
Numbers = dict[str, np.ndarray]


def numbers(seed: int = 0) -> Numbers:
    """Units, conversions, means and variances, shape (metric, arm): 400 to 200,000 units per arm, effects of about 3 %."""
    draw = np.random.default_rng(seed)
    units = np.round(np.exp(draw.uniform(np.log(400), np.log(200_000), (2 * HALF, 1))) * np.ones((1, ARMS)))
    base = np.exp(draw.uniform(np.log(0.02), np.log(0.5), (HALF, 1)))
    lift = np.concatenate([np.zeros((2 * HALF, 1)), draw.normal(0, 0.03, (2 * HALF, ARMS - 1))], axis=1)
    hits = draw.binomial(units[:HALF].astype(int), np.clip(base * (1 + lift[:HALF]), 0, 1)).astype(float)
    mean = draw.uniform(5, 50, (HALF, 1))
    sd = 1.5 * mean
    means = mean * (1 + lift[HALF:]) + sd / np.sqrt(units[HALF:]) * draw.standard_normal((HALF, ARMS))
    variance = np.broadcast_to(sd**2, means.shape) * (1 + draw.normal(0, 0.01, means.shape))
    return {"units": units, "hits": hits, "means": means, "variance": variance}


def figures() -> Iterator[Figure]:
    """The figures of the exact engine at scale."""
    ours = {prior: [_run(sys.executable, "ours", prior) for _ in range(3)] for prior in ("flat", "student_t")}
    for prior, name in (("flat", "exact_40000_flat_seconds"), ("student_t", "exact_40000_prior_seconds")):
        yield Figure(
            name,
            statistics.median(run["wall"] for run in ours[prior]),
            "seconds",
            f"nothing; xb.compare of {EXPERIMENTS * METRICS * ARMS:,} rows, wall after imports, median of 3",
        )
    with tempfile.TemporaryDirectory(prefix="expnb-bench-") as folder:
        try:
            python = _environment(Path(folder))
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"left out: gbstats and bayesian-testing cannot be installed here ({error})", flush=True)
            return
        cpu = {prior: statistics.median(run["cpu"] for run in runs) for prior, runs in ours.items()}
        for kind, words in (
            ("gbstats", "gbstats 0.8.0"),
            ("bayesian_testing", "bayesian-testing 0.10.0, 20,000 draws"),
        ):
            theirs = statistics.median(_run(python, kind)["cpu"] for _ in range(3))
            yield Figure(
                f"exact_cpu_speedup_over_{kind}",
                theirs / cpu["flat"],
                "ratio",
                f"a loop of {words} on the same numbers, {2 * TIMED} of {2 * HALF:,} metrics scaled up; CPU, medians of 3",
            )
            yield Figure(
                f"exact_prior_cpu_speedup_over_{kind}",
                theirs / cpu["student_t"],
                "ratio",
                f"a loop of {words}, as before, which has no such prior; ours with the default one",
            )


def _run(python: str, kind: str, *more: str) -> dict[str, float]:
    done = subprocess.run(
        [python, "-m", "bench.engines", kind, *more],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {kind} {' '.join(more)}: {found}", flush=True)
    return found


def _environment(folder: Path) -> str:
    uv, place = Path(sys.executable).with_name("uv"), folder / "others"
    python = str(place / "bin" / "python")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, place], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, "--no-deps", "gbstats==0.8.0"], check=True)
    subprocess.run(
        [*install, "numpy", "pandas", "scipy", "packaging", "pydantic", "nevergrad", "bayesian-testing==0.10.0"],
        check=True,
    )
    return python


def ours(prior: str) -> Callable[[], object]:
    """One call for all."""
    import pandas as pd

    import expnb as xb

    found = numbers()
    mean = np.concatenate([found["hits"] / found["units"][:HALF], found["means"]])
    variance = np.concatenate([np.full((HALF, ARMS), np.nan), found["variance"]])
    metric = np.repeat(np.arange(2 * HALF), ARMS)
    frame = pd.DataFrame(
        {
            "experiment": metric % EXPERIMENTS,
            "metric": metric // EXPERIMENTS,
            "kind": np.where(metric < HALF, "conversion", "mean"),
            "variant": np.tile(["control", "a", "b"], 2 * HALF),
            "n": found["units"].ravel(),
            "mean": mean.ravel(),
            "variance": variance.ravel(),
            "rope": 0.01,
            "margin": 0.02,
        }
    )
    chosen = xb.Prior(family="flat") if prior == "flat" else xb.Prior()
    xb.compare(frame.head(60), prior=chosen)
    xb.compare(frame.tail(60), prior=chosen)
    return lambda: xb.compare(frame, prior=chosen)


def gbstats() -> Callable[[], object]:
    """Bayesian tests of relative effects, one at a time."""
    from gbstats.bayesian.tests import EffectBayesianABTest, EffectBayesianConfig
    from gbstats.models.statistics import ProportionStatistic, SampleMeanStatistic

    found, config = numbers(), EffectBayesianConfig(difference_type="relative")

    def statistics_of(metric: int, arm: int, *, share: bool) -> object:
        if share:
            return ProportionStatistic(n=int(found["units"][metric, arm]), sum=float(found["hits"][metric, arm]))
        n, mean, variance = (
            found["units"][HALF + metric, arm],
            found["means"][metric, arm],
            found["variance"][metric, arm],
        )
        squares = float((n - 1) * variance + n * mean**2)
        return SampleMeanStatistic(n=int(n), sum=float(n * mean), sum_squares=squares)

    def work() -> None:
        for metric in range(TIMED):
            for share in (True, False):
                arms = [statistics_of(metric, arm, share=share) for arm in range(ARMS)]
                for arm in arms[1:]:
                    EffectBayesianABTest(arms[0], arm, config).compute_result()

    return work


def bayesian_testing() -> Callable[[], object]:
    """Its own tests, all arms of a metric together."""
    from bayesian_testing.experiments import BinaryDataTest, NormalDataTest

    found = numbers()

    def work() -> None:
        for metric in range(TIMED):
            shares, means = BinaryDataTest(), NormalDataTest()
            for arm in range(ARMS):
                n, mean, variance = (
                    found["units"][HALF + metric, arm],
                    found["means"][metric, arm],
                    found["variance"][metric, arm],
                )
                shares.add_variant_data_agg(
                    str(arm), totals=int(found["units"][metric, arm]), positives=int(found["hits"][metric, arm])
                )
                means.add_variant_data_agg(
                    str(arm),
                    totals=int(n),
                    sum_values=float(n * mean),
                    sum_values_2=float((n - 1) * variance + n * mean**2),
                )
            shares.evaluate(sim_count=20_000, seed=1)
            means.evaluate(sim_count=20_000, seed=1)

    return work


def main(kind: str, *more: str) -> None:
    """One measurement in this process: once to warm up, once measured."""
    makers: dict[str, Callable[..., Callable[[], object]]] = {
        "ours": ours,
        "gbstats": gbstats,
        "bayesian_testing": bayesian_testing,
    }
    work = makers[kind](*more)
    if kind != "ours":
        work()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    scale = 1.0 if kind == "ours" else HALF / TIMED
    print(json.dumps({"wall": wall * scale, "cpu": cpu * scale}))


if __name__ == "__main__":
    main(*sys.argv[1:])
