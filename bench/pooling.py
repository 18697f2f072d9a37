"""Partial pooling of 3 arms x 30 segments: processor seconds against nutpie on the same model, and that both give the same answers."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.figure import Figure

Floats = NDArray[np.float64]

SEGMENTS = 30
MARGIN = 0.02
RUNS = 5
DRAWS, TUNE, CHAINS = 5000, 1000, 4  # 20,000 draws to compare answers with
USUAL_DRAWS, USUAL_TUNE = 1000, 1000  # and what people ask for, to compare the time with
WORST = 4.0  # Monte Carlo errors
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Counts:
    """Units and conversions, shape (arm, segment); control first."""

    units: Floats
    conversions: Floats


def counts(seed: int = 4) -> Counts:
    """Three arms in 30 segments of 200 to 5,000 units each."""
    draw = np.random.default_rng(seed)
    units = draw.integers(200, 5000, (3, SEGMENTS))
    base = draw.normal(-2.2, 0.5, SEGMENTS)
    effect = np.array([0.0, 0.02, 0.04])[:, None] + np.vstack([np.zeros(SEGMENTS), draw.normal(0, 0.03, (2, SEGMENTS))])
    rate = np.exp(effect) / (1 + np.exp(-base))
    return Counts(units.astype(float), draw.binomial(units, rate).astype(float))


def figures() -> Iterator[Figure]:
    """The figure of partial pooling; each side in a fresh process with one BLAS thread."""
    ours = [_in_fresh_process("ours") for _ in range(RUNS)]
    theirs = [_in_fresh_process("theirs") for _ in range(2)]
    ratio = statistics.median(float(run["seconds"]) for run in theirs) / statistics.median(
        float(run["seconds"]) for run in ours
    )
    worst = float(_in_fresh_process("answers")["worst"])
    if worst > WORST:
        sys.exit(f"pooling differs from 20,000 draws by {worst:.2f} Monte Carlo errors; at most {WORST:g} is chance.")
    yield Figure(
        "pooling_cpu_speedup_over_nutpie",
        ratio,
        "ratio",
        f"nutpie on the same model, compiling ({USUAL_DRAWS} draws x {CHAINS} chains); answers within {worst:.1f} Monte Carlo errors of 20,000 draws",
    )
    yield Figure(
        "pooling_cpu_seconds",
        statistics.median(float(run["seconds"]) for run in ours),
        "seconds",
        "2 treatments x 30 segments, second call in a process",
    )


def _in_fresh_process(side: str) -> dict[str, object]:
    made = subprocess.run(
        [sys.executable, "-m", "bench.pooling", side],
        check=True,
        capture_output=True,
        env={**os.environ, **ONE_THREAD},
    )
    result: dict[str, object] = json.loads(made.stdout.splitlines()[-1])
    return result


# --- ours --------------------------------------------------------------------------------------


def pooled(data: Counts) -> list:
    """Both treatments."""
    from expnb.posterior.exact.arms import Binomial
    from expnb.posterior.pooling.pool import pool
    from expnb.spec.prior import Prior

    control, *treatments = (Binomial(k, n) for k, n in zip(data.conversions, data.units, strict=True))
    return [pool(control, arm, Prior(), np.array([0.0]), margin=MARGIN) for arm in treatments]


# --- theirs ------------------------------------------------------------------------------------


def model(data: Counts):  # noqa: ANN201 - PyMC is not imported here
    """The same model: for each treatment a pooled effect and a spread, each segment with a control rate of its own."""
    from expnb.models.environment import prepare

    prepare()
    import pymc as pm
    import pytensor.tensor as pt

    units, hits = data.units, data.conversions
    with pm.Model() as made:
        mu = pm.StudentT("mu", nu=4, mu=0, sigma=0.03, shape=(2, 1))
        tau = pm.HalfNormal("tau", 0.03, shape=(2, 1))
        z = pm.Normal("z", 0, 1, shape=(2, SEGMENTS))
        delta = pm.Deterministic("delta", mu + tau * z)
        centre, spread = np.log(hits[0] / (units[0] - hits[0])), 1 / np.sqrt(hits[0] * (1 - hits[0] / units[0]))
        odds = centre + spread * pm.Flat("standardised", shape=(2, SEGMENTS))
        rate = pt.sigmoid(odds)
        # Beta(1, 1) on the rate, in log odds
        pm.Potential("change_of_variables", (pt.log(rate) + pt.log1p(-rate)).sum())
        pm.Binomial("control", n=np.stack([units[0]] * 2), p=rate, observed=np.stack([hits[0]] * 2))
        pm.Binomial("treated", n=units[1:], p=pt.minimum(rate * pt.exp(delta), 1 - 1e-12), observed=hits[1:])
    return made


def sampled(data: Counts, draws: int, tune: int, seed: int = 1) -> dict[str, Floats]:
    """Draws of mu, tau and delta, shape (chain, draw, treatment[, segment])."""
    made = model(data)
    import nutpie

    trace = nutpie.sample(
        nutpie.compile_pymc_model(made),
        draws=draws,
        tune=tune,
        chains=CHAINS,
        seed=seed,
        target_accept=0.9,
        progress_bar=False,
    )
    return {name: np.asarray(trace.posterior[name]) for name in ("mu", "tau", "delta")}


def differences(data: Counts) -> list[tuple[str, float]]:
    """Each answer minus that of 20,000 draws, in Monte Carlo errors."""
    from expnb.models.arviz_bridge import ess

    draws, ours = sampled(data, DRAWS, TUNE), pooled(data)
    out = []

    def compare(name: str, mine: float, theirs: Floats) -> None:
        size = ess(theirs, "bulk") if theirs.std() > 0 else theirs.size
        if set(np.unique(theirs)) <= {0.0, 1.0}:
            p = theirs.mean()
            error = np.sqrt(max(p * (1 - p), 1 / size) / size)
        else:
            error = theirs.std() / np.sqrt(size)
        out.append((name, float((mine - theirs.mean()) / error)))

    for v, post in enumerate(ours):
        mu, tau, delta = draws["mu"][:, :, v, 0], draws["tau"][:, :, v, 0], draws["delta"][:, :, v]
        compare("mu", post.effect.mean[0], np.expm1(mu))
        compare("p mu", post.effect.p_above[0, 0], (mu > 0).astype(float))
        compare("tau", post.tau_mean, tau)
        compare("any harmed", post.p_any_harmed, (np.expm1(delta) < -MARGIN).any(axis=2).astype(float))
        compare("all improve", post.p_all_improve, (delta > 0).all(axis=2).astype(float))
        for s in range(SEGMENTS):
            compare(f"segment {s}", post.segments.mean[s], np.expm1(delta[..., s]))
            compare(f"p {s}", post.segments.p_above[s, 0], (delta[..., s] > 0).astype(float))
            compare(f"loss {s}", post.segments.loss[s], np.maximum(-np.expm1(delta[..., s]), 0))
            compare(f"sd {s}", post.segments.sd[s] ** 2, (np.expm1(delta[..., s]) - post.segments.mean[s]) ** 2)
    return out


def main(side: str) -> None:
    """One measurement, printed as JSON."""
    data = counts()
    if side == "answers":
        found = differences(data)
        print(json.dumps({"worst": max(abs(size) for _, size in found), "compared": len(found)}))
        return
    if side == "ours":
        pooled(data)
    else:
        import nutpie  # noqa: F401
        import pymc  # noqa: F401
    begin = time.process_time()
    _ = pooled(data) if side == "ours" else sampled(data, USUAL_DRAWS, USUAL_TUNE)
    print(json.dumps({"seconds": time.process_time() - begin}))


if __name__ == "__main__":
    main(sys.argv[1])
