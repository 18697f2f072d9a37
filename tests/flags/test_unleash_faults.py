"""A real Unleash behind a wire that breaks: what a push says, and what is true afterwards."""

import pytest
from tests.flags.fault_proxy import FaultProxy
from tests.flags.unleash_flag import NOW, REF, UnleashFlag

from expnb.errors import AnswerLostError, FlagConflictError, FlagError, FlagServerError, PushUncertainError
from expnb.flags.aftermath import HalfMadeError

UNITS = [f"user-{number}" for number in range(200)]


@pytest.fixture
def server(unleash, monkeypatch):
    unleash.clear()
    monkeypatch.setenv("UNLEASH_ANA", unleash.person("ana"))
    return unleash


@pytest.fixture
def proxy(server):
    with FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def flag(server, proxy):
    """A flag whose backend goes through the proxy and gives up early; its `events` come straight from the server."""
    flag = UnleashFlag(server, proxy.url.replace("http", "unleash+http") + "/default")
    flag.backend._api.server.seconds = 0.5
    flag.backend._pause = lambda _: None
    flag.create()
    proxy.seen.clear()
    return flag


@pytest.mark.parametrize("fault", ["drop-after", "hang-after", "502-after"])
def test_a_change_whose_answer_was_lost_is_found_by_reading_and_written_once(flag, proxy, fault):
    plan, events = flag.plan(enrolled=5), len(flag.events)
    proxy.hurt(fault, times=1)
    receipt = flag.backend.apply(plan, now=NOW)
    assert "answer was lost" in receipt.note
    assert receipt.after == flag.read()
    assert receipt.after.exposure.enrolled == 5
    assert len(proxy.writes) == 1
    assert len(flag.events) == events + 1


def test_a_change_that_never_reached_the_server_is_said_to_have_changed_nothing(flag, proxy):
    plan, before = flag.plan(enrolled=5), flag.read()
    proxy.hurt("drop-before")
    with pytest.raises(FlagServerError, match="nothing was changed") as caught:
        flag.backend.apply(plan, now=NOW)
    assert not isinstance(caught.value, PushUncertainError)
    assert len(proxy.writes) == 1
    proxy.heal()
    assert flag.read() == before


def test_a_change_that_may_still_be_under_way_stays_uncertain(flag, proxy):
    plan, before = flag.plan(enrolled=5), flag.read()
    proxy.hurt("hang-before")
    with pytest.raises(AnswerLostError, match="may be done"):
        flag.backend.apply(plan, now=NOW)
    assert len(proxy.writes) == 1
    proxy.heal()
    assert flag.read() == before


def test_a_lost_answer_with_nothing_to_read_stays_uncertain_and_is_told_at_the_next_push(flag, proxy):
    plan = flag.plan(enrolled=5)
    proxy.hurt("drop-after", methods=("PATCH",), times=1)
    original = proxy._fault

    def fault(method, path):
        found = original(method, path)
        return "500" if method == "GET" and proxy.writes else found

    proxy._fault = fault
    with pytest.raises(PushUncertainError):
        flag.backend.apply(plan, now=NOW)
    proxy._fault = original
    with pytest.raises(FlagConflictError, match="this very plan was pushed already"):
        flag.backend.apply(plan, now=NOW)
    assert flag.read().exposure.enrolled == 5


def test_a_server_that_is_asked_too_often_is_waited_for_once(flag, proxy):
    pauses = []
    flag.backend._api.server.pause = pauses.append
    plan = flag.plan(enrolled=5)
    proxy.hurt("429", times=1)
    assert flag.backend.apply(plan, now=NOW).after.exposure.enrolled == 5
    assert pauses == [1.0]


@pytest.mark.parametrize(("fault", "match"), [("429", "too often"), ("409", "409: injected")])
def test_a_refusal_changes_nothing_and_is_not_tried_blindly(flag, proxy, fault, match):
    flag.backend._api.server.pause = lambda _: None
    plan, before = flag.plan(enrolled=5), flag.read()
    proxy.hurt(fault)
    with pytest.raises(FlagError, match=match) as caught:
        flag.backend.apply(plan, now=NOW)
    assert not isinstance(caught.value, PushUncertainError)
    proxy.heal()
    assert flag.read() == before


@pytest.mark.parametrize("fault", ["drop-after", "hang-after", "502-after", "drop-before"])
def test_a_kill_goes_through_a_wire_that_breaks_once(flag, proxy, fault):
    flag.push(enrolled=50)
    proxy.hurt(fault, path="/off", times=1)
    assert not flag.kill().after.enabled
    assert not flag.environment["enabled"]
    assert flag.strategy["parameters"]["rollout"] == "0"


def test_a_kill_that_cannot_close_the_rollout_is_still_a_kill_and_says_so(flag, proxy):
    flag.push(enrolled=50)
    proxy.hurt("409", methods=("PATCH",))
    receipt = flag.kill()
    assert "not closed" in receipt.note
    assert "Nothing was changed" not in receipt.note
    assert not flag.environment["enabled"]
    assert set(flag.backend.evaluate(REF, UNITS)) == {""}


def test_a_restore_whose_last_step_is_lost_is_resolved_by_reading(flag, proxy):
    flag.push(enrolled=50)
    flag.kill()
    proxy.hurt("drop-after", path="/on", times=1)
    assert flag.push("restore", enrolled=50).after.enabled


def test_a_restore_whose_last_step_is_refused_is_not_said_to_be_done(flag, proxy):
    flag.push(enrolled=50)
    flag.kill()
    proxy.hurt("409", path="/on")
    with pytest.raises(PushUncertainError, match="not switched on"):
        flag.push("restore", enrolled=50)


@pytest.mark.parametrize("fault", ["drop-after", "502-after"])
@pytest.mark.parametrize("step", ["/features", "/strategies"])
def test_a_flag_whose_creation_lost_an_answer_is_whole(server, proxy, fault, step):
    flag = UnleashFlag(server, proxy.url.replace("http", "unleash+http") + "/default")
    proxy.hurt(fault, methods=("POST",), path=step, times=1)
    assert flag.create().exposure.enrolled == 0
    assert flag.environment["enabled"]


def test_a_creation_whose_last_step_is_refused_says_what_stands_and_the_first_push_ends_it(server, proxy):
    flag = UnleashFlag(server, proxy.url.replace("http", "unleash+http") + "/default")
    proxy.hurt("409", methods=("POST",), path="/on")
    with pytest.raises(HalfMadeError, match="409: injected.*serves nobody.*first push switches it on") as caught:
        flag.create()
    assert "Nothing was changed" not in str(caught.value)
    proxy.heal()
    assert not flag.read().enabled
    assert flag.push(enrolled=5).after.enabled


def test_a_creation_that_cannot_be_read_back_does_not_say_that_nothing_was_changed(server, proxy):
    flag = UnleashFlag(server, proxy.url.replace("http", "unleash+http") + "/default")
    proxy.hurt("500", methods=("GET",), path="/features/")
    with pytest.raises(HalfMadeError) as caught:
        flag.create()
    assert "Nothing was changed" not in str(caught.value)
    assert flag.strategy["parameters"]["rollout"] == "0"


def test_a_server_without_its_database_is_not_waited_for_and_serves_again_when_it_is_back(flag, server):
    """Its health check still says GOOD meanwhile."""
    plan = flag.plan(enrolled=5)
    server.database.stop()
    try:
        assert server.call("GET", "/health").json()["health"] == "GOOD"
        with pytest.raises(FlagServerError) as caught:
            flag.backend.apply(plan, now=NOW)
        assert caught.value.runbook == "server-hangs"
    finally:
        server.database.start()
    until_it_answers(flag)
    assert flag.backend.apply(plan, now=NOW).after.exposure.enrolled == 5


def test_a_kill_that_hangs_is_uncertain_and_can_be_done_again(flag, server):
    """The server does what it was asked when its database is back: what hung may still be under way."""
    flag.push(enrolled=50)
    server.database.stop()
    try:
        with pytest.raises(PushUncertainError, match="may be done"):
            flag.kill()
    finally:
        server.database.start()
    until_it_answers(flag)
    assert not flag.kill().after.enabled
    assert flag.strategy["parameters"]["rollout"] == "0"


def until_it_answers(flag):
    for _ in range(100):
        if flag.server.call("GET", flag.path).status_code == 200:
            return
