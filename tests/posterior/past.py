"""Worlds of past experiments, with their truth."""

from __future__ import annotations

import numpy as np
import pandas as pd

WORLDS = {
    "normal": lambda rng, n: rng.normal(0, 0.02, n),
    "student_t(3)": lambda rng, n: rng.standard_t(3, n) * 0.02 / np.sqrt(3),
    "80 % null": lambda rng, n: np.where(rng.random(n) < 0.8, 0.0, rng.normal(0, 0.05, n)),
    "large": lambda rng, n: rng.normal(0, 0.25, n),
}


def sample(world: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True log ratios, estimates, and standard errors of about 2 %."""
    truth, se = WORLDS[world](rng, n), 0.02 * np.exp(0.4 * rng.normal(size=n))
    return truth, rng.normal(truth, se), se


def frame(log_ratio: np.ndarray, se: np.ndarray, **facts: object) -> pd.DataFrame:
    """As `learn_prior` takes it; one arm per experiment unless `facts` say otherwise."""
    given = {"experiment": np.arange(len(se)), "metric": "signup", "kind": "conversion", "variant": "b"}
    return pd.DataFrame(given | {"log_ratio": log_ratio, "se": se} | facts)
