"""What every flag backend promises; a new backend is one row in BACKENDS."""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from expnb.decisions.plan import RampPlan
from expnb.errors import FlagConflictError, FlagError, NameNotFoundError, PercentError, PlanExpiredError, SpecError
from expnb.flags.address import connect
from expnb.flags.base import FlagBackend, VendorRequest
from expnb.flags.fake_launchdarkly import FakeLaunchDarkly
from expnb.spec.flag import Exposure, FlagRef, FlagSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = FlagRef("gate-position", "production")
WEIGHTS = {"gate_30": 50.0, "gate_40": 50.0}
UNITS = [f"user-{number}" for number in range(2000)]


@dataclass(frozen=True)
class Place:
    """A backend, and a second way into the same store: another person's notebook."""

    backend: FlagBackend
    other: FlagBackend


def flagd(folder, _):
    url = "flagd:flags.flagd.json"
    return Place(*(connect(url, root=folder, environment="production") for _ in range(2)))


def memory(folder, _):
    return Place(*(connect(f"memory://{folder}", environment="production") for _ in range(2)))


@pytest.fixture
def fake_launchdarkly(monkeypatch):
    monkeypatch.setenv("LAUNCHDARKLY_ANA", "fake-ana")
    monkeypatch.setenv("LAUNCHDARKLY_BEN", "fake-ben")
    with FakeLaunchDarkly() as fake:
        yield fake


def launchdarkly(_, fixture):
    fake = fixture("fake_launchdarkly")
    return Place(
        *(connect(fake.address, environment="production", token=f"LAUNCHDARKLY_{who}") for who in ("ANA", "BEN"))
    )


@pytest.fixture
def clear_unleash(unleash, monkeypatch):
    unleash.clear()
    for who in ("ana", "ben"):
        monkeypatch.setenv(f"UNLEASH_{who.upper()}", unleash.person(who))
    return unleash


def unleash(_, fixture):
    address = fixture("clear_unleash").address
    return Place(*(connect(address, environment="production", token=f"UNLEASH_{who}") for who in ("ANA", "BEN")))


BACKENDS = [flagd, memory, launchdarkly, unleash]


@pytest.fixture(params=BACKENDS, ids=lambda factory: factory.__name__)
def place(request, tmp_path):
    place = request.param(tmp_path, request.getfixturevalue)
    place.backend.create(FlagSpec(REF, WEIGHTS, "gate_30"), now=NOW)
    return place


@pytest.fixture
def backend(place):
    return place.backend


def plan_to(state, verb="ramp_up", **changes):
    return RampPlan(
        verb=verb,
        experiment="gate_position",
        ref=state.ref,
        base_version=state.version,
        before=state.exposure,
        after=replace(state.exposure, **changes),
        reason="All guardrails are met.",
        policy_hash="p" * 64,
        evidence_hash="e" * 64,
        created_at=NOW,
        expires_at=NOW + timedelta(hours=1),
    )


def push(backend, verb="ramp_up", **changes):
    return backend.apply(plan_to(backend.read(REF), verb, **changes), now=NOW)


def shares(backend):
    return Counter(backend.evaluate(REF, UNITS))


def test_create_makes_a_flag_that_is_on_and_exposes_nobody(backend):
    state = backend.read(REF)
    assert state.ref == REF
    assert state.enabled
    assert state.exposure == Exposure(WEIGHTS, "gate_30")
    assert shares(backend) == {"off": len(UNITS)}


def test_create_refuses_a_flag_that_exists_and_leaves_it_as_it_is(backend):
    push(backend, enrolled=5)
    before = backend.read(REF)
    with pytest.raises(FlagError, match="exists already"):
        backend.create(FlagSpec(REF, {"a": 1, "b": 1}, "a"), now=NOW)
    assert backend.read(REF) == before


@pytest.mark.parametrize("weights", [{"off": 1.0, "b": 1.0}, {"": 1.0, "b": 1.0}], ids=["off", "no name"])
def test_create_refuses_a_variant_named_like_the_answer_outside_the_gate(backend, weights):
    with pytest.raises(FlagError, match="outside the gate"):
        backend.create(FlagSpec(FlagRef("other", "production"), weights, "b"), now=NOW)


def test_create_refuses_a_control_without_weight_entry(backend):
    with pytest.raises(SpecError, match="no weight"):
        backend.create(FlagSpec(FlagRef("other", "production"), WEIGHTS, "gate_50"), now=NOW)


def test_an_unknown_flag_is_named_with_the_nearest_known_one(backend):
    for call in (backend.read, lambda ref: backend.evaluate(ref, UNITS), lambda ref: backend.kill(ref, now=NOW)):
        with pytest.raises(NameNotFoundError, match="Did you mean 'gate-position'"):
            call(FlagRef("gate-positon", "production"))


def test_every_verb_refuses_a_flag_of_another_environment(backend):
    ref = FlagRef(REF.flag, "staging")
    plan = replace(plan_to(backend.read(REF), enrolled=5), ref=ref)
    for call in (
        lambda: backend.read(ref),
        lambda: backend.evaluate(ref, UNITS),
        lambda: backend.kill(ref, now=NOW),
        lambda: backend.apply(plan, now=NOW),
        lambda: backend.create(FlagSpec(ref, WEIGHTS, "gate_30"), now=NOW),
    ):
        with pytest.raises(FlagError, match="production"):
            call()
    assert shares(backend) == {"off": len(UNITS)}


def test_apply_sets_the_planned_exposure_and_the_receipt_says_what_was_read_back(backend):
    before = backend.read(REF)
    receipt = push(backend, enrolled=25)
    assert receipt.ref == REF
    assert receipt.verb == "ramp_up"
    assert receipt.before == before
    assert receipt.after == backend.read(REF)
    assert receipt.after.exposure.enrolled == 25
    assert receipt.after.version != before.version
    assert receipt.applied_at == NOW
    assert "<table>" in receipt._repr_html_()


def test_a_quarter_enrolled_serves_a_quarter_split_by_the_weights(backend):
    push(backend, enrolled=25)
    found = shares(backend)
    assert found["gate_30"] + found["gate_40"] == pytest.approx(500, abs=80)  # 4 standard deviations
    assert found["gate_30"] == pytest.approx(found["gate_40"], abs=90)


def test_apply_refuses_a_flag_that_changed_since_the_plan_and_says_how(place):
    stale = plan_to(place.backend.read(REF), enrolled=5)
    winner = push(place.other, enrolled=50)
    with pytest.raises(FlagConflictError, match=r"enrolled 0 %.* -> enrolled 50 %") as caught:
        place.backend.apply(stale, now=NOW)
    assert caught.value.found == winner.after.version
    if place.backend.capabilities.concurrency == "native":
        assert place.backend.read(REF) == winner.after


def test_apply_refuses_a_flag_that_went_away_and_came_back(place):
    stale = plan_to(place.backend.read(REF), enrolled=5)
    push(place.other, enrolled=50)
    push(place.other, "roll_back", enrolled=0)
    with pytest.raises(FlagConflictError, match="written again"):
        place.backend.apply(stale, now=NOW)


def test_a_plan_pushed_twice_is_refused_and_told_that_it_is_there(backend):
    plan = plan_to(backend.read(REF), enrolled=5)
    receipt = backend.apply(plan, now=NOW)
    with pytest.raises(FlagConflictError, match="this very plan was pushed already"):
        backend.apply(plan, now=NOW)
    assert backend.read(REF) == receipt.after


def test_apply_refuses_an_expired_plan(backend):
    plan = plan_to(backend.read(REF), enrolled=5)
    with pytest.raises(PlanExpiredError):
        backend.apply(plan, now=NOW + timedelta(hours=1, seconds=1))
    assert backend.read(REF).version == plan.base_version


def test_apply_refuses_a_plan_that_changes_nothing(backend):
    push(backend, enrolled=5)
    state = backend.read(REF)
    with pytest.raises(FlagError, match="changes nothing"):
        backend.apply(plan_to(state, enrolled=5), now=NOW)
    assert backend.read(REF) == state


def test_apply_refuses_a_plan_whose_start_is_not_what_its_version_was(backend):
    state = backend.read(REF)
    forged = replace(plan_to(state, enrolled=100), before=replace(state.exposure, enrolled=50))
    with pytest.raises(FlagError, match="starts from"):
        backend.apply(forged, now=NOW)
    assert backend.read(REF) == state


def test_apply_refuses_a_time_without_a_zone(backend):
    with pytest.raises(FlagError, match="time zone"):
        backend.apply(plan_to(backend.read(REF), enrolled=5), now=datetime(2026, 3, 1))


@pytest.mark.parametrize("what", ["enrolled", "holdback"])
def test_a_percentage_between_two_steps_is_refused_and_never_rounded(backend, what):
    state = backend.read(REF)
    percent = 12 + backend.capabilities.granularity * 1.5
    with pytest.raises(PercentError, match=f"{what} is {percent:g} %"):
        push(backend, **{what: percent})
    assert backend.read(REF) == state


def test_apply_refuses_to_change_the_split_or_the_control(backend):
    state = backend.read(REF)
    for changes in ({"weights": {"gate_30": 10.0, "gate_40": 90.0}}, {"control": "gate_40"}):
        with pytest.raises(FlagError, match="changes its split"):
            push(backend, enrolled=5, **changes)
    assert backend.read(REF) == state


def test_raising_keeps_everybody_and_lowering_and_raising_brings_the_same_people_back(backend):
    seen = []
    for percent in (5, 25, 50, 5, 50):
        push(backend, enrolled=percent)
        seen.append(list(backend.evaluate(REF, UNITS)))
    for low, high in ((0, 1), (1, 2)):
        assert all(was in ("off", now) for was, now in zip(seen[low], seen[high], strict=True))
    assert seen[3] == seen[0]
    assert seen[4] == seen[2]


def test_a_dropped_treatment_is_served_to_nobody_and_comes_back_to_the_same_people(backend):
    ref = FlagRef("three-arms", "production")
    state = backend.create(FlagSpec(ref, {"a": 50, "b": 30, "c": 20}, "a"), now=NOW)
    opened = backend.apply(plan_to(state, enrolled=50), now=NOW).after
    served = list(backend.evaluate(ref, UNITS))
    dropped = backend.apply(plan_to(opened, "drop", dropped=("c",)), now=NOW).after
    assert dropped.exposure.dropped == ("c",)
    assert list(backend.evaluate(ref, UNITS)) == ["off" if name == "c" else name for name in served]
    backend.apply(plan_to(dropped, "restore", dropped=()), now=NOW)
    assert list(backend.evaluate(ref, UNITS)) == served


def test_ship_serves_everybody_the_winner_less_the_holdback_and_can_be_undone(backend):
    push(backend, enrolled=50)
    split = list(backend.evaluate(REF, UNITS))
    receipt = push(backend, "ship", serve="gate_40", holdback=10)
    found = shares(backend)
    assert set(found) == {"gate_30", "gate_40"}
    assert found["gate_30"] == pytest.approx(200, abs=60)
    plan = replace(plan_to(receipt.after, "restore"), after=receipt.before.exposure)
    backend.apply(plan, now=NOW)
    assert list(backend.evaluate(REF, UNITS)) == split


def test_kill_needs_no_version_closes_the_flag_and_its_receipt_restores_the_same_people(place):
    push(place.backend, enrolled=50)
    exposed = list(place.backend.evaluate(REF, UNITS))
    receipt = place.other.kill(REF, now=NOW)
    assert receipt.verb == "kill"
    assert receipt.before.exposure.enrolled == 50
    assert not receipt.after.enabled
    assert receipt.after.exposure.treated == 0
    assert shares(place.backend) == {"": len(UNITS)}

    plan = replace(plan_to(place.backend.read(REF), "restore"), after=receipt.before.exposure)
    restored = place.backend.apply(plan, now=NOW)
    assert restored.after.enabled
    assert list(place.backend.evaluate(REF, UNITS)) == exposed


def test_kill_of_a_shipped_flag_serves_nobody_when_it_is_enabled_again(backend):
    push(backend, "ship", serve="gate_40")
    assert backend.kill(REF, now=NOW).after.exposure.serve == ""


def test_kill_works_twice(backend):
    push(backend, enrolled=50)
    backend.kill(REF, now=NOW)
    assert not backend.kill(REF, now=NOW).after.enabled


def test_a_killed_flag_can_be_enabled_at_the_percentage_it_already_has(backend):
    receipt = backend.kill(REF, now=NOW)
    plan = replace(plan_to(receipt.after, "restore"), after=receipt.before.exposure)
    assert backend.apply(plan, now=NOW).after.enabled


def test_conflict_with_a_kill_says_that_the_flag_is_disabled(place):
    push(place.backend, enrolled=5)
    stale = plan_to(place.backend.read(REF), enrolled=25)
    place.other.kill(REF, now=NOW)
    with pytest.raises(FlagConflictError, match="disabled"):
        place.backend.apply(stale, now=NOW)


def test_evaluate_answers_in_order_and_never_exposes_a_unit_without_a_name(backend):
    push(backend, enrolled=100)
    units = ["user-1", "", "user-2", "ü-💶", "user-1"]
    found = backend.evaluate(REF, units)
    assert [variant == "off" for variant in found] == [False, True, False, False, False]
    assert found[0] == found[4]
    assert list(backend.evaluate(REF, [])) == []


def test_request_goes_to_the_vendor_or_is_refused_as_the_capabilities_say(backend):
    plan = plan_to(backend.read(REF), enrolled=5)
    if backend.capabilities.approvals:
        assert isinstance(backend.request(plan), VendorRequest)
    else:
        with pytest.raises(FlagError, match="approvals"):
            backend.request(plan)
    assert shares(backend) == {"off": len(UNITS)}
