"""Flags in a real Unleash: what is written, what is refused, and what its history says."""

import json
from dataclasses import replace

import pytest
from tests.flags.fault_proxy import FaultProxy
from tests.flags.unleash_flag import NOW, REF, UnleashFlag, plan_of
from tests.flags.unleash_server import ADMIN, CLIENTS

from expnb.errors import (
    FlagConflictError,
    FlagEditedError,
    FlagError,
    FlagServerError,
    NameNotFoundError,
    PercentError,
)
from expnb.flags.address import connect
from expnb.flags.aftermath import HalfMadeError
from expnb.spec.flag import Eligibility, FlagRef, FlagSpec

ANA, ADMIN_NAME, VERA, WRONG = (f"UNLEASH_{name}" for name in ("ANA", "ADMIN", "VERA", "WRONG"))  # names of tokens
UNITS = [f"user-{number}" for number in range(500)]


@pytest.fixture
def server(unleash, monkeypatch):
    unleash.clear()
    monkeypatch.setenv("UNLEASH_ANA", unleash.person("ana"))
    monkeypatch.setenv("UNLEASH_ADMIN", ADMIN)
    monkeypatch.setenv("UNLEASH_VERA", unleash.person("vera", "Viewer"))
    return unleash


@pytest.fixture
def flag(server):
    flag = UnleashFlag(server)
    flag.create()
    return flag


# --- what is written -----------------------------------------------------------------------------


def test_a_new_flag_is_one_experiment_with_one_closed_strategy_that_is_switched_on(flag):
    feature = flag.server.call("GET", flag.path).json()
    assert feature["type"] == "experiment"
    assert flag.environment["enabled"]
    strategy = flag.strategy
    assert strategy["name"] == "flexibleRollout"
    assert strategy["parameters"] == {"rollout": "0", "stickiness": "userId", "groupId": REF.flag}
    assert [(one["name"], one["weight"], one["stickiness"]) for one in strategy["variants"]] == [
        ("gate_30", 500, "userId"),
        ("gate_40", 500, "userId"),
    ]


def test_a_ramp_is_one_event_that_changes_nothing_but_rollout_and_title(flag):
    before, events = flag.strategy, flag.events
    flag.push(enrolled=25)
    after = flag.strategy
    assert after["parameters"].pop("rollout") == "25"
    assert before["parameters"].pop("rollout") == "0"
    assert before.pop("title") != after.pop("title")
    assert json.dumps(after) == json.dumps(before)
    (event,) = flag.events[len(events) :]
    assert event["type"] == "feature-strategy-update"


@pytest.mark.parametrize(
    "step", [{"serve": "gate_40", "holdback": 5}, {"enrolled": 0}, {"enrolled": 100}], ids=["ship", "close", "open"]
)
def test_every_change_is_one_event(flag, step):
    flag.push(enrolled=50)
    events = flag.events
    flag.push("ship", **step)
    assert len(flag.events) == len(events) + 1


def test_shipping_serves_the_winner_and_the_holdback_at_a_rollout_of_100(flag):
    flag.push(enrolled=50)
    flag.push("ship", serve="gate_40", holdback=7)
    assert flag.strategy["parameters"]["rollout"] == "100"
    assert {one["name"]: one["weight"] for one in flag.strategy["variants"]} == {"gate_30": 70, "gate_40": 930}


def test_the_ledger_head_stands_in_the_title_and_stays_until_the_next(flag):
    plan = flag.plan(enrolled=5)
    flag.backend.apply(plan, now=NOW, ledger_head="h" * 64)
    assert "h" * 64 in flag.strategy["title"]
    flag.push(enrolled=25)
    assert "h" * 64 in flag.strategy["title"]
    flag.kill()
    assert "h" * 64 in flag.strategy["title"]


def test_the_state_carries_the_plan_that_was_pushed_last(flag):
    plan = flag.plan(enrolled=5)
    assert flag.backend.apply(plan, now=NOW).after.plan_id == plan.id
    assert flag.kill().after.plan_id == ""


def test_preview_shows_the_parts_that_apply_changes_and_changes_nothing(flag):
    events = flag.events
    shown = flag.backend.preview(flag.plan(enrolled=5), now=NOW).splitlines()
    assert '- parameters/rollout: "0"' in shown
    assert '+ parameters/rollout: "5"' in shown
    assert not [line for line in shown if "variants" in line or "groupId" in line]
    assert flag.events == events


def test_a_flag_is_known_in_each_environment_for_itself(flag, server):
    ref = FlagRef(REF.flag, "development")
    other = UnleashFlag(server, ref=ref)
    other.create()
    other.push(enrolled=50)
    version = flag.read().version
    other.push(enrolled=100)
    assert flag.read().exposure.enrolled == 0
    assert flag.read().version == version  # what happens elsewhere voids no plan here


def test_the_address_may_say_what_unleash_calls_the_environment(server):
    backend = connect(f"{server.address}?environment=development", environment="staging", token=ANA)
    ref = FlagRef("elsewhere", "staging")
    backend.create(FlagSpec(ref, {"a": 1, "b": 1}, "a"), now=NOW)
    assert backend.read(ref).ref == ref
    with pytest.raises(FlagError, match=r"no environment 'staging'.*\['development', 'production'\].*\?environment="):
        connect(server.address, environment="staging", token=ANA).read(ref)


def test_names_are_those_of_the_project(flag):
    assert flag.backend.names() == [REF.flag]


# --- who did it ----------------------------------------------------------------------------------


def test_a_personal_token_makes_the_history_name_the_person_and_the_receipt_says_so(flag):
    receipt = flag.push(enrolled=5)
    assert flag.events[-1]["createdBy"] == "ana"
    assert "'ana'" in receipt.note


def test_an_admin_token_is_named_as_nobody_and_the_receipt_recommends_a_personal_one(server):
    flag = UnleashFlag(server, token=ADMIN_NAME)
    flag.create()
    note = flag.push(enrolled=5).note
    assert "'admin'" in note
    assert "personal access token" in note


def test_a_viewer_is_told_that_the_role_is_missing_and_nothing_changes(flag, server):
    viewer = UnleashFlag(server, token=VERA)
    before = viewer.read()  # reading is allowed
    for call in (
        lambda: viewer.push(enrolled=5),
        viewer.kill,
        lambda: UnleashFlag(server, token=VERA, ref=replace(REF, flag="b")).create(),
    ):
        with pytest.raises(
            FlagServerError, match=r"'UNLEASH_VERA' \(403: .*Nothing was changed.*Ask for a role"
        ) as caught:
            call()
        assert caught.value.runbook == "no-permission"
    assert flag.read() == before


@pytest.mark.parametrize(("token", "runbook"), [("nobody", "token-refused"), (CLIENTS["production"], "no-permission")])
def test_a_wrong_token_is_named_and_not_shown(flag, server, monkeypatch, token, runbook):
    monkeypatch.setenv("UNLEASH_WRONG", token)
    with pytest.raises(FlagServerError, match="'UNLEASH_WRONG'") as caught:
        UnleashFlag(server, token=WRONG).read()
    assert caught.value.runbook == runbook
    assert token not in str(caught.value)


# --- what others did -----------------------------------------------------------------------------


def test_every_change_in_the_interface_moves_the_version_and_a_plan_names_who_made_it(flag):
    plan = flag.plan(enrolled=5)
    flag.post("off")
    flag.post("on")
    with pytest.raises(FlagConflictError, match="written again.* by ben"):
        flag.backend.apply(plan, now=NOW)


EDITS = {
    "rollout": [("/parameters/rollout", "40")],
    "weights": [("/variants/0/weight", 300), ("/variants/0/weightType", "fix"), ("/variants/1/weightType", "variable")],
    "variant": [("/variants", [{"name": "gate_30", "weight": 1000, "weightType": "variable", "stickiness": "userId"}])],
    "payload": [("/variants/0/payload", {"type": "string", "value": "x"})],
    "constraint": [("/constraints", [{"contextName": "country", "operator": "IN", "values": ["DE"]}])],
    "inverted": [("/constraints", [{"contextName": "country", "operator": "IN", "values": ["DE"], "inverted": True}])],
    "title": [("/title", "hello")],
    "torn title": [("/title", 'expnb {"weights": ')],
    "disabled": [("/disabled", True)],
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_in_the_interface_is_noticed_survived_by_kill_and_undone_by_restore(flag, what):
    flag.push(enrolled=50)
    exposed = flag.backend.evaluate(REF, UNITS)
    good = flag.read()
    flag.edit(*EDITS[what])
    with pytest.raises(FlagError, match="edited outside expnb|not made by expnb"):
        flag.read()
    receipt = flag.kill()
    assert receipt.before is None
    assert receipt.note
    assert not receipt.after.enabled
    assert flag.strategy["parameters"]["rollout"] == "0"
    killed = flag.read()
    flag.backend.apply(replace(plan_of(killed, "restore"), after=good.exposure), now=NOW)
    assert flag.read().exposure == good.exposure
    assert flag.backend.evaluate(REF, UNITS) == exposed


def test_a_second_strategy_is_noticed_and_disabled_by_a_kill(flag):
    flag.push(enrolled=50)
    body = {"name": "flexibleRollout", "parameters": {"rollout": "100", "stickiness": "userId", "groupId": "x"}}
    flag.post("strategies", body)
    with pytest.raises(FlagEditedError, match="2 strategies"):
        flag.read()
    assert not flag.kill().after.enabled
    assert sorted(one["disabled"] for one in flag.environment["strategies"]) == [False, True]
    flag.push("restore", enrolled=50)
    assert set(flag.backend.evaluate(REF, UNITS)) == {"off", "gate_30", "gate_40"}


def test_a_deleted_strategy_is_noticed_and_a_kill_leaves_a_closed_one(flag):
    sid = flag.strategy["id"]
    flag.server.call("DELETE", f"{flag.path}/environments/production/strategies/{sid}").raise_for_status()
    with pytest.raises(FlagEditedError, match="no strategy"):
        flag.read()
    flag.kill()
    assert flag.strategy["parameters"]["rollout"] == "0"
    assert not flag.environment["enabled"]


def test_a_segment_is_noticed(flag):
    body = {"name": "s", "constraints": []}
    segment = flag.server.call("POST", "/api/admin/segments", body).raise_for_status().json()["id"]
    flag.edit(("/segments", [segment]))
    with pytest.raises(FlagEditedError, match="segments"):
        flag.read()
    flag.kill()
    assert flag.read().exposure.enrolled == 0
    flag.server.call("DELETE", f"/api/admin/segments/{segment}")


def test_a_flag_that_was_made_to_depend_on_another_is_noticed(flag, server):
    UnleashFlag(server, ref=replace(REF, flag="parent")).create()
    server.call("POST", f"{flag.path}/dependencies", {"feature": "parent"}).raise_for_status()
    with pytest.raises(FlagEditedError, match="depend"):
        flag.read()
    server.call("DELETE", f"{flag.path}/dependencies").raise_for_status()


def test_a_changed_salt_shows_in_the_bucketing_and_a_ramp_does_not_touch_it(flag):
    """The one who pushes compares it with the last audited state."""
    before = flag.read().bucketing
    flag.edit(("/parameters/groupId", "another"))
    assert flag.read().bucketing != before
    flag.push(enrolled=5)
    assert flag.strategy["parameters"]["groupId"] == "another"


@pytest.mark.parametrize("path", ["/parameters/stickiness", "/variants/0/stickiness"])
def test_a_changed_stickiness_is_noticed(flag, path):
    before = flag.read().bucketing
    changes = [(path, "sessionId")]
    if "variants" in path:
        changes.append(("/variants/1/stickiness", "sessionId"))
    flag.edit(*changes)
    assert flag.read().bucketing != before
    with pytest.raises(FlagEditedError, match="sessionId"):
        flag.backend.evaluate(REF, UNITS)


def test_variants_of_the_environment_cannot_be_set_any_more(flag):
    """What a strategy has its own variants for is closed by the server itself, so there is nothing to notice."""
    body = [{"name": "z", "weight": 1000, "weightType": "variable", "stickiness": "userId"}]
    answer = flag.server.call("PUT", f"{flag.path}/environments/production/variants", body)
    assert answer.status_code >= 400


def test_kill_needs_no_history(flag, server):
    flag.push(enrolled=50)
    with FaultProxy(server.url) as proxy:
        proxy.hurt("500", methods=("GET",), path="/search/events")
        receipt = UnleashFlag(server, proxy.url.replace("http", "unleash+http") + "/default").kill()
    assert not receipt.after.enabled
    assert "cannot be read back" in receipt.note
    assert "Nothing was changed" not in receipt.note
    assert not flag.environment["enabled"]
    assert flag.strategy["parameters"]["rollout"] == "0"


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [12.5, 0.1, 99.9])
def test_a_percentage_between_is_refused_before_the_call(flag, percent):
    events = flag.events
    with pytest.raises(PercentError, match="steps of 1 %"):
        flag.push(enrolled=percent)
    assert flag.events == events


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"a": 1, "b": 1, "c": 1}, r"thousandths.*\{'a': 334, 'b': 333, 'c': 333\}"),
        ({"a": 50, "A": 50}, "capitals"),
        ({"a": 50, "disabled": 50}, "'disabled'"),
        ({"a": 50, "größer": 50}, "'größer'"),
        ({"a": 50, "b" * 91: 50}, "90 letters"),
        ({"a": 50, "b c": 50}, "'b c'"),
    ],
)
def test_weights_and_names_that_unleash_cannot_serve_are_refused_and_nothing_is_made(server, weights, match):
    with pytest.raises(FlagError, match=match):
        UnleashFlag(server).create(weights, "a")
    assert connect(server.address, environment="production", token=ANA).names() == []


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "größe"])
def test_a_flag_that_unleash_cannot_name_is_refused(server, name):
    with pytest.raises(FlagError, match="Rename it"):
        UnleashFlag(server, ref=replace(REF, flag=name)).create()


@pytest.mark.parametrize("name", ["", "a/b", "größe", "a?b=c#d", "%2e%2e"])
def test_a_strange_name_is_an_unknown_flag(flag, name):
    for call in (flag.backend.read, lambda ref: flag.backend.kill(ref, now=NOW)):
        with pytest.raises(NameNotFoundError):
            call(replace(REF, flag=name))
    assert flag.environment["enabled"]


def test_an_archived_flag_keeps_its_name_and_cannot_be_read(flag, server):
    server.call("DELETE", flag.path).raise_for_status()
    with pytest.raises(NameNotFoundError):
        flag.read()
    with pytest.raises(FlagError, match="archived"):
        flag.create()


def test_an_unknown_project_is_named(server):
    backend = connect(server.url.replace("http", "unleash+http") + "/nowhere", environment="production", token=ANA)
    calls = [
        backend.names,
        lambda: backend.read(REF),
        lambda: backend.create(FlagSpec(REF, {"a": 1, "b": 1}, "a"), now=NOW),
        lambda: backend.kill(REF, now=NOW),
    ]
    for call in calls:
        with pytest.raises(
            FlagError, match=r"no project 'nowhere'.*\['default'\].*Nothing was changed\. Correct the address"
        ):
            call()


@pytest.mark.parametrize("token", [ANA, "UNLEASH_ADMIN"])
def test_an_unknown_environment_is_named_with_the_known_ones_before_anything_is_made(server, token):
    flag = UnleashFlag(server, f"{server.address}?environment=prod", token=token)
    known = r"no environment 'prod' for project 'default'; it has \['development', 'production'\]\. Nothing was changed.*\?environment="
    with pytest.raises(FlagError, match=known):
        flag.create()
    assert flag.backend.names() == []


def test_an_environment_that_the_project_does_not_use_is_refused_before_anything_is_made(server):
    place = "/api/admin/projects/default/environments"
    server.call("DELETE", f"{place}/development").raise_for_status()
    try:
        flag = UnleashFlag(server, ref=replace(REF, environment="development"))
        with pytest.raises(FlagError, match=r"it has \['production'\]"):
            flag.create()
    finally:
        server.call("POST", place, {"environment": "development"}).raise_for_status()
    assert flag.backend.names() == []


def test_a_kill_in_an_unknown_environment_names_the_known_ones(flag, server):
    lost = UnleashFlag(server, f"{server.address}?environment=prod")
    with pytest.raises(FlagError, match=r"no environment 'prod'.*'production'"):
        lost.kill()
    assert flag.environment["enabled"]


@pytest.mark.parametrize(
    "eligibility", [Eligibility(holdout=5), Eligibility(layer="checkout", slice=(0, 50))], ids=["holdout", "layer"]
)
def test_a_layer_and_a_holdout_are_refused_before_anything_is_made(server, eligibility):
    with pytest.raises(FlagError, match="cannot serve"):
        UnleashFlag(server).create(eligibility=eligibility)
    assert connect(server.address, environment="production", token=ANA).names() == []


def test_the_servers_own_refusal_is_told_in_its_words(server):
    with pytest.raises(FlagError, match=r"400: .*100 characters"):
        UnleashFlag(server).create(eligibility=Eligibility({"country": ("x" * 101,)}))


def test_a_flag_whose_strategy_is_refused_is_said_to_be_there_and_is_finished_by_creating_again(server):
    flag = UnleashFlag(server)
    with pytest.raises(HalfMadeError, match="without a strategy, so it serves nobody.*create it again") as caught:
        flag.create(eligibility=Eligibility({"country": ("x" * 101,)}))
    assert "Nothing was changed" not in str(caught.value)
    assert flag.backend.names() == [REF.flag]
    assert flag.environment["strategies"] == []
    assert flag.create().exposure.enrolled == 0


def test_a_creation_that_was_interrupted_can_be_done_again(server):
    flag = UnleashFlag(server)
    server.call("POST", server.flag("").rstrip("/"), {"name": REF.flag, "type": "experiment"}).raise_for_status()
    assert flag.create().exposure.enrolled == 0


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("unleash+https://host", "names no project"),
        ("unleash+http://flags.example.org/default", "in clear"),
        ("unleash+http://127.0.0.1.example.org/default", "in clear"),
        ("unleash+https://host/default?env=x", "known are environment"),
        ("unleash+https://host/default?stickiness=random", "context field"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url, match):
    with pytest.raises(FlagError, match=match):
        connect(url, token=ANA)


def test_a_hosted_server_with_a_path_of_its_own_can_be_addressed():
    backend = connect("unleash+https://eu.example.org/acme/default", token=ANA)
    assert backend._api.server.base == "https://eu.example.org/acme"
    assert backend._api.project == "default"
