"""Events: kinds that never occur, units that nobody sees again, and who was never exposed."""

import pandas as pd
import pytest
from tests.cohorts.test_kinds import experiment_of
from tests.cohorts.test_shapes import AS_OF, METRICS, SPEC, named, world

import expnb as xb
from expnb.cohorts.cohort import load_cohort
from expnb.errors import CohortError, UnitError
from expnb.spec.experiment import Events

GOAL = METRICS[0]


def loaded(people, events, *metrics, exposed_at="seen", fields=None, **spec):
    given = {"shape": "events", "exposed_at": exposed_at, "events": Events(**{**SPEC, **spec}), **(fields or {})}
    return load_cohort(experiment_of(*(metrics or (GOAL,)), **given), people, events=events, as_of=AS_OF)


@pytest.mark.parametrize(("event", "outcome", "hint"), [("bui", "block", " Did you mean 'buy'?"), ("xyz", "warn", "")])
def test_a_kind_of_event_that_never_occurs_is_said_with_those_that_do(event, outcome, hint):
    people, events = world()
    check = named(loaded(people, events, GOAL, xb.Metric(name="m", kind="conversion", event=event)), f"kind:{event}")
    assert check.outcome == outcome
    assert check.sentence == (
        f"Event {event!r}, which metric 'm' reads, never occurs; there are 'buy', 'load', 'open', 'view'.{hint}"
    )


@pytest.mark.parametrize("exposed_at", ["seen", ""])
def test_an_exposure_that_never_occurs_is_refused_by_name(exposed_at):
    with pytest.raises(CohortError, match="Event 'opne', which the exposure reads, never occurs.* mean 'open'"):
        loaded(*world(), exposed_at=exposed_at, exposure="opne")


def test_events_of_which_none_is_read_are_refused_by_name():
    metric = xb.Metric(name="m", kind="conversion", event="byu", role="goal", rope=0.01, window_days=3)
    with pytest.raises(CohortError, match="Event 'byu', which metric 'm' reads, never occurs.* mean 'buy'"):
        loaded(*world(), metric)


def test_ids_of_two_kinds_are_refused():
    people, events = world()
    with pytest.raises(UnitError, match="holds numbers in the assignments .* and text in the events"):
        loaded(people, events.assign(user=events.user.astype(str)))


@pytest.mark.parametrize("exposure", ["", "open"])
def test_events_of_other_units_are_refused(exposure):
    people, events = world()
    with pytest.raises(CohortError, match="no unit of the events is among the assignments"):
        loaded(people, events.assign(user=events.user + 10_000), exposure=exposure)


def test_units_that_were_never_exposed_are_said_by_arm():
    people, events = world()
    shown = events[(events.what != "open") | (events.user % 2 == 0) | (events.user % 5 == 0)]
    found = named(loaded(people, shown, exposure="open"), "exposure")
    reached = shown[shown.what == "open"].merge(people.groupby("user").seen.min().rename("first"), on="user")
    lost = 600 - reached[reached["at"] >= reached["first"]].user.nunique()
    assert f"{lost} of 600 assigned units have no exposure ('open')" in found.sentence
    assert "unevenly by arm" in found.sentence
    even = named(loaded(people, events, exposure="open"), "exposure")
    assert (found.outcome, even.outcome) == ("warn", "ok")


def test_assignments_outside_of_the_agreed_days_are_said():
    people, events = world()
    days = {"start": pd.Timestamp("2026-03-03").date(), "end": pd.Timestamp("2026-03-06").date()}
    check = named(loaded(people, events, fields=days), "outside")
    inside = people.seen.between("2026-03-03", "2026-03-07", inclusive="left")
    assert check.sentence.startswith(f"{(~inside).sum():,} rows are dated outside of 2026-03-03 to 2026-03-06")


@pytest.mark.parametrize("role", ["info", "guardrail"])
def test_values_of_those_alone_who_have_the_event_are_no_lost_ones(role):
    people, events = world(n=4000)
    fewer = events[(events.what != "load") | (events.user % 2 == 0) | (events.user % 3 == 0)]
    fields = {"margin": 0.1} if role == "guardrail" else {}
    metric = xb.Metric(name="m", kind="duration", event="load", role=role, **fields)
    check = named(loaded(people, fewer, GOAL, metric), "lost:m")
    assert check.outcome == "warn"
    assert "only units with the event have a value" in check.sentence
