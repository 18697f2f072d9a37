"""What learnt priors are worth: on the headline tests of the Upworthy Research Archive, and in worlds whose truth is known.

The headline tests lie in the folder that EXPNB_DATA names, as `upworthy/upworthy_packages.parquet`; without them their figures are left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.figure import Figure
from expnb.posterior.priors.learn import learn_prior
from expnb.posterior.priors.mixture import shrink
from expnb.posterior.priors.score import PriorScore, score_prior

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

HEADLINES = Path(os.environ.get("EXPNB_DATA", "")) / "upworthy" / "upworthy_packages.parquet"
LEARNT = "learnt from the others"
PAST = (20, 50, 200)
REPEATS = {20: 200, 50: 100, 200: 50}
NEW = 4_000
WINNER_Z = 1.6449  # P(improvement) of 0.95 without a prior
WORLDS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "Normal": lambda rng, n: rng.normal(0, 0.02, n),
    "Student-t(3)": lambda rng, n: rng.standard_t(3, n) * 0.02 / np.sqrt(3),
}


def figures() -> Iterator[Figure]:
    """Real experiments, then made ones."""
    if HEADLINES.is_file():
        yield from of_headlines(score_prior(headlines(), metric="click"))
    else:
        print("left out: EXPNB_DATA names no folder with the headline tests", flush=True)
    yield from of_worlds()


# --- headline tests --------------------------------------------------------------------------------


def headlines() -> pd.DataFrame:
    """Every package against the first one of its test, where both were clicked: logarithm of the ratio of their click rates, and its standard error."""
    import pandas as pd

    arms = pd.read_parquet(HEADLINES).rename(columns={"clickability_test_id": "experiment"})
    arms["variant"] = arms.groupby("experiment").cumcount()
    arms["log_rate"] = np.log(arms.clicks.where(arms.clicks > 0) / arms.impressions)
    arms["error"] = 1 / arms.clicks - 1 / arms.impressions
    first = arms[arms.variant == 0].set_index("experiment")
    past = arms[arms.variant > 0].merge(
        first[["log_rate", "error"]], left_on="experiment", right_index=True, suffixes=("", "_first")
    )
    past = past.assign(
        metric="click",
        kind="conversion",
        log_ratio=past.log_rate - past.log_rate_first,
        se=np.sqrt(past.error + past.error_first),
        randomised=~past.possible_randomisation_problem.astype(bool),
    )
    columns = ["experiment", "metric", "kind", "variant", "log_ratio", "se", "randomised"]
    return past.loc[past.log_ratio.notna(), columns]


def of_headlines(score: PriorScore) -> Iterator[Figure]:
    """Gain over uniform rates, and what becomes of winners."""
    learnt, uniform = score.row(LEARNT), score.row("flat")
    where = f"{score.arms:,} arms of {score.experiments:,} randomised headline tests, learnt from four fifths and scored on the others"
    yield Figure(
        "prior_headlines_log_density_gain",
        learnt.log_density - uniform.log_density,
        "nats",
        f"uniform rates; mean log density per arm, {where}",
    )
    for name, row in (("learnt", learnt), ("raw", uniform)):
        for what, value, unit in (
            ("exaggeration", row.exaggeration, "ratio"),
            ("coverage", row.coverage, "share"),
        ):
            if value is None:
                continue
            aim = (
                "1: what winners promise by what their replications show"
                if unit == "ratio"
                else "0.95: replications of winners inside their interval"
            )
            yield Figure(f"prior_headlines_{what}_{name}", value, unit, f"{aim}; {where}")


# --- worlds ----------------------------------------------------------------------------------------


def of_worlds() -> Iterator[Figure]:
    """The least and the largest exaggeration of winners, raw and under what was learnt, over both worlds and all numbers of past experiments."""
    rng = np.random.default_rng(12)
    found = [exaggeration(draw, past, rng) for draw in WORLDS.values() for past in PAST]
    where = f"1: posterior means of winners by their true effects; effects of 2 % ({' and '.join(WORLDS)}), errors of about 2 %, {', '.join(map(str, PAST))} past experiments"
    for column, name in enumerate(("raw", "learnt")):
        for side, choose in (("min", min), ("max", max)):
            yield Figure(
                f"prior_worlds_exaggeration_{name}_{side}", choose(one[column] for one in found), "ratio", where
            )


def exaggeration(
    draw: Callable[[np.random.Generator, int], Floats], past: int, rng: np.random.Generator
) -> tuple[float, float]:
    """What winners promise by what is true, raw and under a learnt prior."""
    true = raw = shrunk = 0.0
    for _ in range(REPEATS[past]):
        prior = learn_prior(_frame(*_measured(draw, past, rng)[1:]))
        truth, log_ratio, se = _measured(draw, NEW, rng)
        won = log_ratio > WINNER_Z * se
        true += truth[won].sum()
        raw += log_ratio[won].sum()
        shrunk += shrink(prior, log_ratio, se).mean[won].sum()
    return raw / true, shrunk / true


def _measured(
    draw: Callable[[np.random.Generator, int], Floats], n: int, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    truth, se = draw(rng, n), 0.02 * np.exp(0.4 * rng.normal(size=n))
    return truth, rng.normal(truth, se), se


def _frame(log_ratio: Floats, se: Floats) -> pd.DataFrame:
    import pandas as pd

    facts = {"experiment": np.arange(len(se)), "metric": "signup", "kind": "conversion", "variant": "new"}
    return pd.DataFrame(facts | {"log_ratio": log_ratio, "se": se})
