"""Many experiments on one table: the cells of each, for one scan."""

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cohorts.test_kinds import experiment_of, metric_of

import expnb as xb
from expnb.cohorts import reduce as reduction
from expnb.cohorts.cohort import load_cohort, load_cohorts
from expnb.errors import EmptyCohortError, SpecError, UnitError

NAMES = ("checkout", "search", "it's")


def table(n=900):
    """Three experiments in one table; units take part in several, in arms of their own."""
    parts = []
    for number, name in enumerate((*NAMES, "not asked")):
        rng = np.random.default_rng(number)
        user = np.arange(n) + 100 * number
        frame = pd.DataFrame(
            {"user": user, "arm": rng.choice(["a", "b"], n), "test": name, "yes": rng.integers(0, 2, n)}
        )
        frame["y"] = np.where(rng.random(n) < 0.5, rng.lognormal(number, 1, n), 0.0)
        frame["x"] = rng.normal(5, 1, n)
        frame["seen"] = pd.Timestamp("2026-03-01") + pd.to_timedelta(rng.integers(0, 9, n), unit="D")
        parts.append(frame.assign(city=rng.choice(["de", "fr"], n)))
    return pd.concat(parts).sample(frac=1, random_state=1)


def three(**fields):
    fields = {"experiment_column": "test", "segments": ("city",), "exposed_at": "seen", **fields}
    first = experiment_of(metric_of("revenue", cap=0.9), name=NAMES[0], **fields)
    second = experiment_of(metric_of("revenue", cap=0.9), xb.Metric(name="x", kind="mean"), name=NAMES[1], **fields)
    goal = metric_of("revenue", cap=0.9, role="goal", rope=0.02)
    third = experiment_of(goal, name=NAMES[2], **{**fields, "start": date(2026, 3, 2), "end": date(2026, 3, 5)})
    return first, second, third


def count_statements(monkeypatch):
    asked = []
    for name in ("cells_statement", "bins_statement"):
        real = getattr(reduction, name)
        monkeypatch.setattr(
            reduction, name, lambda *args, _real=real, _name=name: (asked.append(_name), _real(*args))[1]
        )
    return asked


def sentences(cohort):
    return [check.sentence for check in cohort.checks]


def test_three_experiments_give_the_same_as_one_by_one_for_one_statement(monkeypatch, tmp_path):
    frame = table()
    frame.to_parquet(tmp_path / "all.parquet")
    experiments = three()
    wanted = {one.name: load_cohort(one, frame) for one in experiments}
    asked = count_statements(monkeypatch)
    found = load_cohorts(experiments, tmp_path / "all.parquet")
    assert sorted(asked) == ["bins_statement", "cells_statement"]
    assert list(found) == list(NAMES)
    for name in NAMES:
        assert found[name].cells.fingerprint == wanted[name].cells.fingerprint
        assert sentences(found[name]) == sentences(wanted[name])
        for metric in wanted[name].cells.metrics:
            for arm in ("a", "b"):
                one, other = found[name].cells.moments(metric, arm), wanted[name].cells.moments(metric, arm)
                assert one.mean == pytest.approx(other.mean, rel=1e-11)
                assert one.m2 == pytest.approx(other.m2, rel=1e-9)
        own = frame[frame.test == name]
        if name == NAMES[2]:
            own = own[own.seen.between("2026-03-02", "2026-03-05")]
        assert found[name].cells.units == len(own)


def test_rows_of_a_unit_in_many_experiments_are_not_added_up():
    frame = pd.concat([table(), table().assign(y=2.0)])
    experiments = [
        replace(
            one,
            metrics=one.metrics[:1] if one.goal.name == "m" else (replace(one.metrics[0], cap=None), *one.metrics[1:]),
        )
        for one in three(shape="rows", segments=())
    ]
    experiments = experiments[:2]
    found = load_cohorts(experiments, frame)
    for one in experiments:
        own = frame[frame.test == one.name]
        totals = own[own.arm == "a"].groupby("user").y.sum()
        assert found[one.name].cells.units == own.user.nunique()
        assert found[one.name].cells.moments("m", "a").mean == pytest.approx(totals.mean(), rel=1e-12)
        assert found[one.name].cells.fingerprint == load_cohort(one, frame).cells.fingerprint


def test_experiments_that_read_other_columns_have_a_scan_of_their_own(monkeypatch):
    first, second, _ = three()
    asked = count_statements(monkeypatch)
    found = load_cohorts([first, replace(second, segments=())], table())
    assert asked.count("cells_statement") == 2
    assert list(found) == [first.name, second.name]


def test_a_name_with_two_meanings_is_refused():
    first, second, _ = three()
    other = replace(second, metrics=(replace(second.metrics[0], column="x"), *second.metrics[1:]))
    with pytest.raises(SpecError, match="metric 'm' means one thing in experiment 'checkout' and another in 'search'"):
        load_cohorts([first, other], table())


def test_an_experiment_without_rows_is_refused_by_name():
    first, second, _ = three()
    with pytest.raises(EmptyCohortError, match="for experiment 'nowhere' has no rows"):
        load_cohorts([first, replace(second, name="nowhere")], table())


def test_a_unit_that_occurs_twice_in_one_experiment_is_refused():
    frame = table()
    with pytest.raises(UnitError, match="4 units of column 'user' occur more than once"):
        load_cohorts(three(), pd.concat([frame, frame[frame.test == "search"].head(4)]))


def test_an_experiment_without_a_column_for_its_name_is_refused():
    with pytest.raises(SpecError, match='Write experiment_column = "experiment"'):
        load_cohorts([experiment_of()], table())


def alike(found, wanted):
    """Whether two cohorts hold the same, and say the same."""
    assert sentences(found) == sentences(wanted)
    assert found.cells.units == wanted.cells.units
    for name, column in wanted.cells.metrics.items():
        other = found.cells.metrics[name]
        assert other.n_immature.sum() == column.n_immature.sum()
        for arm in ("a", "b"):
            one, two = found.cells.moments(name, arm), wanted.cells.moments(name, arm)
            assert (one.n, one.mean) == (two.n, pytest.approx(two.mean, rel=1e-11))


@pytest.mark.parametrize("as_of", [None, datetime(2026, 3, 20, tzinfo=UTC)])
@pytest.mark.parametrize("window", [None, 3.0])
@pytest.mark.parametrize("shape", ["unit", "rows"])
@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_many_at_once_are_as_each_by_itself(shape, window, as_of, seed):
    rng = np.random.default_rng(seed)
    n = 1_200
    user = rng.integers(0, 250, n) if shape == "rows" else np.arange(n)
    frame = pd.DataFrame({"user": user, "arm": np.where(user % 2, "b", "a"), "yes": rng.integers(0, 2, n)})
    frame["y"] = rng.poisson(2, n)
    frame["test"] = rng.choice([*NAMES, "not asked"], n)
    frame["seen"] = pd.Timestamp("2026-03-01") + pd.to_timedelta(rng.integers(0, 15 * 86_400, n), unit="s")
    frame.loc[frame.test == "not asked", "seen"] += pd.Timedelta(days=30)
    frame.loc[rng.random(n) < 0.02, "seen"] = pd.NaT
    metric = xb.Metric(name="m", kind="count", column="y", window_days=window)
    fields = {"experiment_column": "test", "exposed_at": "seen", "shape": shape}
    days = [{}, *({"start": date(2026, 3, first), "end": date(2026, 3, last)} for first, last in ((2, 9), (5, 12)))]
    experiments = [experiment_of(metric, name=name, **fields, **own) for name, own in zip(NAMES, days, strict=True)]
    together = load_cohorts(experiments, frame, as_of=as_of)
    for one in experiments:
        alike(together[one.name], load_cohort(one, frame, as_of=as_of))
