"""Experiments and cells made by hand: counts are all that a model sees."""

import numpy as np
import pytest

from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.policy import Policy
from expnb.stats.bins import LOG_BASE, OFFSET, Bins
from expnb.stats.cells import Cells, Logs, MetricCells

GOAL = Metric(name="retention_7", kind="conversion", role="goal", rope=0.005)


@pytest.fixture(scope="session")
def experiment_of():
    def make(*arms, metrics=(GOAL,), **options):
        return Experiment(
            name="gate_position",
            hypothesis="Moving the first gate raises 7-day retention.",
            owner="games-growth",
            flag="gate-position",
            unit="row",
            variant="version",
            control=arms[0],
            weights=dict.fromkeys(arms, 1.0),
            metrics=metrics,
            policy=Policy(min_days=0),
            **options,
        )

    return make


@pytest.fixture(scope="session")
def cells_of():
    def make(counts, metrics=("retention_7",)):
        """`counts`: arm -> (units, conversions)."""
        n, k = (np.array(column, dtype=np.int64) for column in zip(*counts.values(), strict=True))
        none = np.zeros_like(n)
        sums, zeros = k.astype(float), none.astype(float)
        column = MetricCells(0.0, n, none, none, none, none, sums, sums, zeros, zeros + 1.0)
        return Cells(
            np.array(list(counts)),
            {},
            np.full(n.size, np.datetime64("NaT", "D")),
            n,
            dict.fromkeys(metrics, column),
            (),
            "by hand",
            {},
        )

    return make


def column_of(arms):
    """Statistics of raw values, one cell per entry of `arms`, with logarithms and a histogram."""
    arms = [np.asarray(values, dtype=float) for values in arms]
    n = np.array([values.size for values in arms], dtype=np.int64)
    none = np.zeros_like(n)
    logs = [np.log(values[values > 0]) for values in arms]
    entries = []
    for cell, values in enumerate(arms):
        with np.errstate(divide="ignore"):
            places = np.where(values > 0, np.floor(np.log(values) / LOG_BASE + 1e-9) + OFFSET, 0).astype(np.int64)
        for place in np.unique(places):
            own = values[places == place]
            entries.append((cell, place, own.size, own.sum(), (own**2).sum()))
    cell, place, size, s1, s2 = (np.array(part) for part in zip(*entries, strict=True))
    return MetricCells(
        0.0,
        n,
        none,
        none,
        none,
        none,
        np.array([values.sum() for values in arms]),
        np.array([(values**2).sum() for values in arms]),
        np.array([values.min() for values in arms]),
        np.array([values.max() for values in arms]),
        logs=Logs(
            np.array([part.size for part in logs]),
            np.array([part.sum() for part in logs]),
            np.array([(part**2).sum() for part in logs]),
        ),
        bins=Bins(cell, place, size, s1.astype(float), s2.astype(float)),
    )


@pytest.fixture(scope="session")
def cells_from():
    def make(metrics, variants, segments=None):
        """`metrics`: name -> raw values per cell; `variants` and `segments` say whose each cell is."""
        columns = {name: column_of(arms) for name, arms in metrics.items()}
        n = next(iter(columns.values())).n_ok
        return Cells(
            np.array(variants),
            {name: np.array(values) for name, values in (segments or {}).items()},
            np.full(n.size, np.datetime64("NaT", "D")),
            n,
            columns,
            (),
            "by hand",
            {},
        )

    return make


# Cookie Cats, Kaggle "Mobile Games A/B Testing": players by gate, and those who came back on day 7.
COOKIE_CATS = {"gate_30": (44_700, 8_502), "gate_40": (45_489, 8_279)}


@pytest.fixture(scope="session")
def cookie_cats(experiment_of, cells_of):
    return experiment_of(*COOKIE_CATS), cells_of(COOKIE_CATS)


@pytest.fixture(scope="session")
def three_arms(experiment_of, cells_of):
    """Few units and a strong prior: what another treatment says about control would show."""
    counts = {"control": (1_500, 210), "a": (1_500, 216), "b": (1_500, 262)}
    return experiment_of(*counts), cells_of(counts)
