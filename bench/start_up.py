"""How long until something happens: importing, and from a file to the first summary, in fresh processes."""

from __future__ import annotations

import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import expnb as xb
from bench.figure import Figure

RUNS = 7
PYTHON_START = "pass"
IMPORT_EXPNB = "import expnb"
IMPORT_PYMC = "import pymc"

EXPNB = """
import sys
import expnb as xb
exp = xb.open_workspace(sys.argv[1]).experiment("gate_position")
print(xb.fit(exp, xb.load_cohort(exp, sys.argv[1] + "/cookie_cats.parquet")).summary())
"""

FROM_CELLS = """
import pickle
import sys
import expnb as xb
with open(sys.argv[1] + "/cells.pickle", "rb") as file:
    exp, cells = pickle.load(file)
print(xb.fit(exp, cells).effect("retention_7", "gate_40").p_improvement)
"""

FROM_WORKSPACE = """
import sys
import expnb as xb
ws = xb.open_workspace(sys.argv[1])
exp = ws.experiment("gate_position")
print(xb.fit(exp, ws.load(exp)).effect("retention_7", "gate_40").p_improvement)
"""

USUAL = """
import sys
import pandas as pd
import pymc as pm
players = pd.read_parquet(sys.argv[1] + "/cookie_cats.parquet")
counts = players.groupby("version")["retention_7"].agg(["sum", "count"])
with pm.Model(coords={"version": list(counts.index)}):
    rate = pm.Beta("rate", 1, 1, dims="version")
    pm.Deterministic("effect_rel", rate[1] / rate[0] - 1)
    pm.Binomial("retained", n=counts["count"].to_numpy(), p=rate, observed=counts["sum"].to_numpy(), dims="version")
    trace = pm.sample(draws=1000, tune=1000, chains=4, random_seed=20, progressbar=False)
effect = trace.posterior["effect_rel"].to_numpy().ravel()
print(effect.mean(), (effect > 0).mean())
"""


def figures() -> Iterator[Figure]:
    """All of them."""
    yield from import_figures()
    with tempfile.TemporaryDirectory() as folder:
        xb.demo.make_workspace(Path(folder) / "demo")
        yield from posterior_figures(Path(folder) / "demo")
        yield from summary_figures(Path(folder))


def import_figures() -> Iterator[Figure]:
    """What importing adds to a bare start of Python."""
    times: dict[str, list[float]] = {code: [] for code in (PYTHON_START, IMPORT_EXPNB, IMPORT_PYMC)}
    for _ in range(RUNS):  # in turn, so that a drift of the machine meets all of them
        for code, seconds in times.items():
            seconds.append(timed(code))
    bare, ours, pymc = (statistics.median(seconds) for seconds in times.values())
    yield Figure("import_seconds_over_python", ours - bare, "seconds", "a bare start of Python, median of 7 in turn")
    yield Figure(
        "import_ratio_to_pymc", (ours - bare) / (pymc - bare), "ratio", "what `import pymc` adds, median of 7 in turn"
    )


def posterior_figures(workspace: Path) -> Iterator[Figure]:
    """From cells on disk to the first exact posterior, over a bare start of Python."""
    ws = xb.open_workspace(workspace)
    experiment = ws.experiment("gate_position")
    goal = replace(experiment, metrics=(experiment.goal,))
    cells = ws.load(experiment).cells  # the workspace keeps them from here on
    (workspace / "cells.pickle").write_bytes(pickle.dumps((goal, cells)))
    times: dict[str, list[float]] = {code: [] for code in (PYTHON_START, FROM_CELLS, FROM_WORKSPACE)}
    for _ in range(RUNS):
        for code, seconds in times.items():
            seconds.append(timed(code, workspace))
    bare, from_cells, from_workspace = (statistics.median(seconds) for seconds in times.values())
    yield Figure(
        "first_posterior_seconds_over_python",
        from_cells - bare,
        "seconds",
        "a bare start of Python; a fresh process that unpickles an experiment and its cells and states the posterior of one conversion, wall, median of 7 in turn",
    )
    yield Figure(
        "first_posterior_from_workspace_seconds_over_python",
        from_workspace - bare,
        "seconds",
        "a bare start of Python; a fresh process that opens a workspace whose cells are cached, loads them and states the posteriors of two conversions, wall, median of 7 in turn",
    )


def summary_figures(folder: Path) -> Iterator[Figure]:
    """From a parquet file to a summary, against pandas and pm.sample on the aggregated counts."""
    for name, runs, cache in (("warm", 5, folder / "cache"), ("cold", 3, None)):
        if cache:
            timed(USUAL, folder / "demo", cache=cache)  # fills the cache
        pairs = []
        for run in range(runs):
            usual = timed(USUAL, folder / "demo", cache=cache or folder / f"cold-{run}")
            pairs.append(usual / timed(EXPNB, folder / "demo"))
        state = "warm compile cache" if cache else "empty compile cache"
        yield Figure(
            f"first_summary_speedup_{name}",
            statistics.median(pairs),
            "ratio",
            f"pandas + pm.sample in a fresh process, {state}, median of {runs} pairs",
        )


def timed(code: str, *arguments: Path, cache: Path | None = None) -> float:
    """Wall seconds of a fresh Python process."""
    # as people start Python: compiled modules are kept, by the first of several runs at the latest
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if cache is not None:
        environment["PYTENSOR_FLAGS"] = f"base_compiledir={cache}"
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    return time.perf_counter() - begin
