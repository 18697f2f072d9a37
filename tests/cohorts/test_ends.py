"""Up to when data are complete: no unit counts whose window may be open, and no stray time closes all of them."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.cohorts.test_kinds import experiment_of
from tests.cohorts.test_shapes import AS_OF, METRICS, SPEC, WINDOW, named, visits, world

import expnb as xb
from expnb.cohorts.cohort import load_cohort
from expnb.cohorts.sources import bind
from expnb.cohorts.units import units_of
from expnb.spec.experiment import Events

COUNTED = xb.Metric(name="m", kind="count", column="y", window_days=8)


def undated(frame, where):
    return frame.assign(seen=frame.seen.where(~where))


@pytest.mark.parametrize("shape", ["unit", "rows"])
@pytest.mark.parametrize("as_of", [None, datetime(2026, 5, 1, tzinfo=UTC)])
def test_a_unit_without_a_date_is_left_out_of_metrics_with_a_window(shape, as_of):
    frame = visits("timestamp")
    gone = frame.user.isin(range(0, 60, 3))
    frame = undated(frame, gone).assign(y=lambda f: f.y.where(~gone, 5))
    experiment = experiment_of(COUNTED, exposed_at="seen", shape=shape, min_cell=1)
    cohort = load_cohort(experiment, frame, as_of=as_of)
    column, end = cohort.cells.metrics["m"], frame.seen.max() if as_of is None else pd.Timestamp(2026, 5, 1)
    closed = (frame.seen + pd.Timedelta(days=8) <= end).sum()
    assert (column.n_ok.sum(), column.n_immature.sum(), column.n_null.sum()) == (closed, 60 - closed, 0)
    assert cohort.cells.metrics["goal"].n_ok.sum() == 60
    assert np.nanmax(column.high) == 1
    assert (
        "20 units have no value in 'seen' and belong to no day; metrics with a window"
        in named(cohort, "exposed_at").sentence
    )
    late = named(cohort, "immature:m")
    assert late is None if as_of else f"the window of {40 - closed} of 40 units is not over" in late.sentence


def test_an_assignment_without_a_date_does_not_count_as_0():
    people, events = world()
    spoilt = people.assign(seen=people.seen.where(people.user >= 100))
    metrics = (xb.Metric(name="ever", kind="conversion", role="goal", rope=0.01, event="buy"), METRICS[1])
    experiment = experiment_of(*metrics, shape="events", exposed_at="seen", events=Events(**SPEC))
    cohort = load_cohort(experiment, spoilt, events=events, as_of=AS_OF)
    dated = load_cohort(experiment, people[people.user >= 100], events=events, as_of=AS_OF)
    assert cohort.cells.units == 600
    for name in ("ever", "buys"):
        for arm in ("a", "b"):
            found, wanted = cohort.cells.moments(name, arm), dated.cells.moments(name, arm)
            assert (found.n, found.mean) == (wanted.n, pytest.approx(wanted.mean, rel=1e-12))
    assert "100 units have no value in 'seen'" in named(cohort, "exposed_at").sentence


def test_a_time_in_the_future_closes_no_window():
    frame = visits("timestamp")
    stray = pd.concat(
        [frame, pd.DataFrame({"user": [60], "arm": ["a"], "yes": [0], "y": [1], "seen": [pd.Timestamp("2199-01-01")]})]
    )
    experiment = experiment_of(WINDOW, exposed_at="seen")
    wanted, found = load_cohort(experiment, frame), load_cohort(experiment, stray)
    assert found.cells.metrics["m"].n_ok.sum() == wanted.cells.metrics["m"].n_ok.sum() == 44
    assert "have a time in 'seen' that lies in the future" in named(found, "future:seen").sentence
    assert named(wanted, "future:seen") is None
    assert "is not over on 2026-03-30 12:00 UTC" in named(found, "immature:m").sentence


def test_now_is_the_last_time_of_all():
    experiment = experiment_of(WINDOW, exposed_at="seen")
    for kind, as_of in (("timestamp", "2026-03-20 12:00"), ("date", "2026-03-21 10:00")):
        now = datetime(2026, 3, 21, 10, tzinfo=UTC)
        units = units_of(experiment, bind(pa.Table.from_pandas(visits(kind)), timezone="UTC"), now=now)
        assert f"{units.as_of:%Y-%m-%d %H:%M}" == as_of


def test_events_that_no_metric_reads_do_not_say_until_when_the_data_are_complete():
    people, events = world()
    events = events[events["at"] < pd.Timestamp("2026-03-15")]
    experiment = experiment_of(METRICS[0], shape="events", exposed_at="seen", events=Events(**SPEC))
    beat = events.head(5).assign(what="heartbeat", at=pd.Timestamp("2026-06-01"))
    wanted = load_cohort(experiment, people, events=events).cells
    assert wanted.metrics["converted"].n_immature.any()
    assert load_cohort(experiment, people, events=pd.concat([events, beat])).cells.fingerprint == wanted.fingerprint


def test_a_last_event_that_stands_alone_is_said():
    people, events = world()
    stray = pd.concat([events, events[events.what == "buy"].head(1).assign(at=pd.Timestamp("2026-06-01"))])
    experiment = experiment_of(METRICS[0], shape="events", exposed_at="seen", events=Events(**SPEC))
    check = named(load_cohort(experiment, people, events=stray), "end:at")
    assert check.outcome == "warn"
    assert "(2026-06-01 00:00 UTC) stands alone" in check.sentence
    assert named(load_cohort(experiment, people, events=events), "end:at") is None
