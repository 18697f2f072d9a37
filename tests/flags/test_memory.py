"""Flags in memory: one process, several names, several threads."""

import threading
from datetime import UTC, datetime

import pytest

from expnb.errors import FlagConflictError, FlagError, NameNotFoundError
from expnb.flags.memory import InMemoryFlags
from expnb.spec.flag import Eligibility, FlagRef, FlagSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = FlagRef("gate-position", "production")
WEIGHTS = {"a": 50.0, "b": 50.0}


@pytest.fixture
def flags(tmp_path):
    backend = InMemoryFlags(f"memory://{tmp_path}", "production")
    backend.create(FlagSpec(REF, WEIGHTS, "a"), now=NOW)
    return backend


def test_a_name_and_an_environment_are_one_store(flags):
    assert InMemoryFlags(flags.name, "production").read(REF) == flags.read(REF)
    for name, environment in (
        (flags.name, "staging"),
        (f"{flags.name} production", ""),
        ("memory://other", "production"),
    ):
        with pytest.raises(NameNotFoundError):
            InMemoryFlags(name, environment).read(FlagRef(REF.flag, environment))


def test_of_many_threads_that_push_on_one_version_one_wins(flags, make_plan):
    state, start, outcomes = flags.read(REF), threading.Barrier(8), []

    def push(percent):
        start.wait()
        try:
            outcomes.append(flags.apply(make_plan(state, enrolled=percent), now=NOW).after)
        except FlagConflictError as error:
            outcomes.append(error.found)

    threads = [threading.Thread(target=push, args=(percent,)) for percent in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    assert flags.read(REF) == winner
    assert outcomes.count(winner.version) == 7


def test_preview_shows_both_exposures_and_changes_nothing(flags, make_plan):
    state = flags.read(REF)
    assert (
        flags.preview(make_plan(state, enrolled=25), now=NOW)
        == "- enrolled 0 %, treated 0 %\n+ enrolled 25 %, treated 12.5 %"
    )
    assert flags.read(REF) == state


def test_an_audience_a_layer_and_a_holdout_keep_units_out(flags, make_plan):
    ref = FlagRef("narrow", "production")
    who = Eligibility(audience={"country": ("DE",)}, layer="checkout", slice=(0.0, 50.0), holdout=10.0)
    state = flags.create(FlagSpec(ref, WEIGHTS, "a", who), now=NOW)
    flags.apply(make_plan(state, enrolled=100), now=NOW)
    units = [f"user-{number}" for number in range(4000)]
    served = flags.evaluate(ref, units, {"country": ["DE", "FR"] * 2000})
    inside = sum(name != "off" for name in served)
    assert set(served[1::2]) == {"off"}
    assert inside == pytest.approx(2000 * 0.5 * 0.9, abs=90)  # 4 standard deviations


def test_memory_has_no_approvals_of_its_own(flags, make_plan):
    with pytest.raises(FlagError, match="no approvals"):
        flags.request(make_plan(flags.read(REF), enrolled=5))
