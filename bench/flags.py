"""Flags: evaluations against the Python provider, a check of a million units, and the time of a push."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import expnb as xb
from bench.figure import Figure
from expnb.flags.bucketing import assign_all, assigner
from expnb.flags.flagd import FlagdFile
from expnb.spec.flag import Exposure, FlagRef, FlagSpec

RUNS = 5
UNITS = 1_000_000
PROVIDER_UNITS = 20_000
PUSHES = 15
FLAG = "checkout-button"
EXPOSURE = Exposure({"control": 50, "new": 50}, "control", 50)

WORKSPACE = """
schema = 1
[environments.production]
flags = "flagd:flags.flagd.json"
"""
EXPERIMENT = """
schema = 1
[experiment]
name = "{name}"
hypothesis = "A new button raises the share of visitors who buy."
owner = "bench"
flag = "{name}"
unit = "visitor"
variant = "variant"
control = "control"
weights = {{ control = 50, new = 50 }}
start = 2026-03-01
end = 2026-03-14
source = "cohort.parquet"

[[metrics]]
name = "bought"
kind = "conversion"
role = "goal"
rope = 0.01

[policy]
ladder = [1, 5, 25, 50, 100]
learn_at = 100
min_days = 7
min_units = 1000
"""


def figures() -> Iterator[Figure]:
    """All of them."""
    with tempfile.TemporaryDirectory() as folder:
        yield from evaluation_figures(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from push_figures(Path(folder))


def evaluation_figures(folder: Path) -> Iterator[Figure]:
    """One flag at 50 %, asked for many units by the provider, by our evaluator one by one, and all at once."""
    units = [f"user-{number}" for number in range(UNITS)]
    with provider(folder) as ask:
        seconds = timed_in_turn(units, ask)
    took = {name: statistics.median(times) for name, times in seconds.items()}
    each = took["provider"] / PROVIDER_UNITS
    provided = f"openfeature-provider-flagd in file mode, {1e6 * each:.0f} us per evaluation of the same flag, median of {RUNS} in turn"
    yield Figure(
        "flag_evaluator_speedup_over_provider",
        each / (took["at once"] / UNITS),
        "ratio",
        f"{provided}; ours evaluates {UNITS:,} units in one call",
    )
    yield Figure(
        "flag_evaluator_scalar_speedup_over_provider",
        took["provider"] / took["one by one"],
        "ratio",
        f"{provided}; ours evaluates unit by unit in pure Python",
    )
    yield Figure(
        "flag_million_units_seconds",
        took["at once"] * 1_000_000 / UNITS,
        "seconds",
        f"nothing; variants of {UNITS:,} units as a list, gate and split, median of {RUNS}",
    )


def timed_in_turn(units: Sequence[str], ask: Callable[[str], str]) -> dict[str, list[float]]:
    """Seconds of each way to evaluate, in turn, so that a drift of the machine meets all of them."""
    some, one = units[:PROVIDER_UNITS], assigner(FLAG, EXPOSURE)
    ways: dict[str, Callable[[], object]] = {
        "provider": lambda: [ask(unit) for unit in some],
        "one by one": lambda: [one(unit, {}) for unit in some],
        "at once": lambda: assign_all(FLAG, EXPOSURE, units),
    }
    if ways["provider"]() != ways["one by one"]() or ways["provider"]() != assign_all(FLAG, EXPOSURE, some):
        raise AssertionError("the provider and expnb differ, so their speeds cannot be compared")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(RUNS):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    return seconds


@contextmanager
def provider(folder: Path) -> Iterator[Callable[[str], str]]:
    """The Python provider on a flag file at 50 %, as a function from unit to variant."""
    from openfeature.contrib.provider.flagd import FlagdProvider
    from openfeature.contrib.provider.flagd.config import ResolverType
    from openfeature.evaluation_context import EvaluationContext

    from expnb.decisions.plan import RampPlan

    now, path = datetime.now(UTC), folder / "flags.flagd.json"
    backend, ref = FlagdFile(path, "production"), FlagRef(FLAG, "production")
    state = backend.create(FlagSpec(ref, EXPOSURE.weights, EXPOSURE.control), now=now)
    plan = RampPlan(
        "ramp_up",
        "bench",
        ref,
        state.version,
        state.exposure,
        EXPOSURE,
        "bench",
        "p",
        "e",
        created_at=now,
        expires_at=now,
    )
    backend.apply(plan, now=now)
    asked = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(path))
    asked.initialize(EvaluationContext())
    yield lambda unit: asked.resolve_string_details(FLAG, "code default", EvaluationContext(unit)).value
    asked.shutdown()
    time.sleep(1.0)  # its watcher looks once more, every half second


def push_figures(folder: Path) -> Iterator[Figure]:
    """The first rung of several experiments in one workspace, and their roll back."""
    (folder / "expnb.toml").write_text(WORKSPACE)
    (folder / "experiments").mkdir()
    ws = xb.open_workspace(folder, actor="bench")
    pushes, closings = [], []
    for number in range(PUSHES + 1):
        name = f"button_{number}"
        (folder / "experiments" / f"{name}.toml").write_text(EXPERIMENT.format(name=name))
        experiment = ws.experiment(name)
        ws.register(experiment)
        ws.create_flag(experiment)
        plan = ws.start(experiment)
        pushes.append(timed(lambda plan=plan: ws.apply(plan)))
        closings.append(timed(lambda experiment=experiment: ws.roll_back(experiment, reason="Measured.")))
    first, *later = pushes  # the first loads what a push needs
    yield Figure(
        "flag_push_ms_median",
        1e3 * statistics.median(later),
        "ms",
        f"nothing; Workspace.apply of a first rung on a flagd file, intent and outcome in the ledger, read-back and 200 sample units, median of {PUSHES} after a first one of {1e3 * first:.0f} ms; roll back {1e3 * statistics.median(closings[1:]):.1f} ms",
    )


def timed(do: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    begin = time.perf_counter()
    do()
    return time.perf_counter() - begin
