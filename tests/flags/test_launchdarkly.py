"""Flags in LaunchDarkly, against the fake: faults, conflicts, approvals, other environments."""

import hashlib
import json
import pickle
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from expnb.errors import (
    ApprovalError,
    CredentialError,
    FlagConflictError,
    FlagEditedError,
    FlagError,
    FlagServerError,
    NameNotFoundError,
    PercentError,
    PushUncertainError,
)
from expnb.flags.address import connect
from expnb.flags.aftermath import HalfMadeError
from expnb.flags.fake_launchdarkly import FakeLaunchDarkly, Member, Refused
from expnb.spec.flag import Eligibility, FlagRef, FlagSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = FlagRef("gate-position", "production")
WEIGHTS = {"gate_30": 50.0, "gate_40": 50.0}
UNITS = [f"user-{number}" for number in range(2000)]
FLAG_PATH = "/api/v2/flags/shop/gate-position"


class Shop:
    """A fake with one flag, seen by several people."""

    def __init__(self, fake, make_plan, monkeypatch):
        self.fake, self.make_plan, self.monkeypatch = fake, make_plan, monkeypatch
        self.ana, self.ben = self.enter("ana"), self.enter("ben")

    def enter(self, who, environment="production", address=""):
        self.monkeypatch.setenv(f"LD_{who.upper()}", f"fake-{who}")
        backend = connect(address or self.fake.address, environment=environment, token=f"LD_{who.upper()}")
        backend.server.pause = self.paused.append
        return backend

    paused: list[float]

    def plan(self, verb="ramp_up", **changes):
        return self.make_plan(self.ana.read(REF), verb, **changes)

    def push(self, verb="ramp_up", **changes):
        return self.ana.apply(self.plan(verb, **changes), now=NOW)

    def call(self, method, path, body=None, who="ben", content_type="application/json"):
        """A call of the API by somebody who does not use expnb."""
        base = self.ana.server.base
        headers = {"Authorization": f"fake-{who}", "Content-Type": content_type}
        answer = httpx.request(method, base + path, content=json.dumps(body), headers=headers, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def edit(self, *operations):
        return self.call("PATCH", FLAG_PATH, list(operations))

    def approval(self, request, action="", body=None, who="ben"):
        path = (
            f"/api/v2/projects/shop/flags/gate-position/environments/production/approval-requests/{request.request_id}"
        )
        return self.call("POST", f"{path}/{action}", body or {}, who)

    @property
    def patches(self):
        return [path for method, path in self.fake.requests if method == "PATCH"]


@pytest.fixture
def shop(make_plan, monkeypatch):
    Shop.paused = []
    with FakeLaunchDarkly() as fake:
        shop = Shop(fake, make_plan, monkeypatch)
        shop.ana.create(FlagSpec(REF, WEIGHTS, "gate_30"), now=NOW)
        fake.requests.clear()
        yield shop


@pytest.fixture
def guarded(shop):
    """The same, where production requires approvals."""
    shop.fake.require_approvals("production")
    return shop


def sdk_answer(flag, environment, unit, attributes=None):
    """What an SDK serves, written from the vendor's documentation and not from our evaluator."""
    config, values = flag["environments"][environment], [part["value"] for part in flag["variations"]]
    if not config["on"]:
        return values[config["offVariation"]]
    matching = (
        rule
        for rule in config["rules"]
        if all((attributes or {}).get(clause["attribute"]) in clause["values"] for clause in rule["clauses"])
    )
    served = next(matching, config["fallthrough"])
    if "variation" in served:
        return values[served["variation"]]
    digest = hashlib.sha1(f"{flag['key']}.{config['salt']}.{unit}".encode(), usedforsecurity=False).hexdigest()
    at, border = int(digest[:15], 16) / 0xFFFFFFFFFFFFFFF, 0.0
    for part in served["rollout"]["variations"]:
        border += part["weight"] / 100_000
        if at < border:
            return values[part["variation"]]
    return values[served["rollout"]["variations"][-1]["variation"]]


def test_evaluate_says_what_an_sdk_serves(shop):
    for verb, changes in (("ramp_up", {"enrolled": 25}), ("ship", {"serve": "gate_40", "holdback": 10})):
        shop.push(verb, **changes)
        flag = shop.fake.flags[REF.flag]
        assert list(shop.ana.evaluate(REF, UNITS)) == [sdk_answer(flag, "production", unit) for unit in UNITS]


def test_only_the_planned_environment_moves(shop):
    before = json.dumps(shop.fake.flags[REF.flag])
    shop.push(enrolled=25)
    shop.ana.kill(REF, now=NOW)
    after, flag = json.loads(before), json.loads(json.dumps(shop.fake.flags[REF.flag]))
    for side in (after, flag):
        side.pop("_version")
        side["environments"].pop("production")
        side["customProperties"].pop("expnb-production")
    assert flag == after


def test_a_push_leaves_salt_targets_and_all_else_of_the_environment_as_they_are(shop):
    before = shop.fake.config(REF.flag, "production")
    shop.push(enrolled=25)
    after = shop.fake.config(REF.flag, "production")
    assert {key for key in before if before[key] != after[key]} <= {"fallthrough", "version", "lastModified"}


def test_a_write_tests_the_version_that_was_read_and_says_why_it_is_made(shop):
    plan = shop.plan(enrolled=25)
    shop.ana.apply(plan, now=NOW)
    entry = shop.fake.audit[-1]
    assert plan.reason in entry["comment"]
    assert plan.id[:12] in entry["comment"]
    assert entry["member"]["email"] == "ana@example.com"
    assert shop.fake.headers[-1]["Authorization"] == "fake-ana"
    assert shop.fake.headers[-1]["LD-API-Version"] == "20240415"


def test_of_two_notebooks_that_push_at_once_one_wins_and_the_other_is_told(shop):
    for _ in range(10):
        plan, start, outcomes = (
            shop.plan(enrolled=50 if shop.ana.read(REF).exposure.enrolled != 50 else 5),
            threading.Barrier(2),
            [],
        )
        plans = [plan, replace(plan, reason="Another one.")]

        def push(backend, plan, start=start, outcomes=outcomes):
            start.wait()
            try:
                backend.apply(plan, now=NOW)
                outcomes.append("won")
            except FlagConflictError:
                outcomes.append("told")

        threads = [threading.Thread(target=push, args=pair) for pair in zip((shop.ana, shop.ben), plans, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["told", "won"]


def test_a_change_between_reading_and_writing_is_found_by_the_server_and_shown(shop):
    plan, other = shop.plan(enrolled=25), shop.plan(enrolled=50)
    shop.fake.faults = ["rate_limit"]  # Ana's write waits, and Ben's comes first
    shop.ana.server.pause = lambda _: shop.ben.apply(other, now=NOW)
    with pytest.raises(FlagConflictError, match=r"enrolled 0 %.* -> enrolled 50 %"):
        shop.ana.apply(plan, now=NOW)
    assert shop.ana.read(REF).exposure.enrolled == 50
    assert len(shop.patches) == 3  # Ana's two, Ben's one


def test_a_conflict_is_never_answered_with_a_second_write(shop):
    plan = shop.plan(enrolled=25)
    shop.fake.faults = ["conflict"]
    with pytest.raises(FlagConflictError, match="another change under way"):
        shop.ana.apply(plan, now=NOW)
    assert len(shop.patches) == 1
    assert shop.ana.read(REF).exposure.enrolled == 0


@pytest.mark.parametrize("fault", ["drop_after", "hang_after", "error_after"])
def test_a_lost_answer_is_looked_up_and_nothing_is_sent_twice(shop, fault):
    plan = shop.plan(enrolled=25)
    shop.ana.server.seconds = 0.3
    shop.fake.faults = [fault]
    receipt = shop.ana.apply(plan, now=NOW)
    assert receipt.after.exposure.enrolled == 25
    assert "It was read: the change is there" in receipt.note
    assert len(shop.patches) == 1
    assert [entry["comment"] for entry in shop.fake.audit].count(shop.fake.audit[-1]["comment"]) == 1


def test_a_write_that_never_arrived_is_not_called_done(shop):
    plan = shop.plan(enrolled=25)
    shop.fake.faults = ["drop_before"]
    with pytest.raises(PushUncertainError, match="may still arrive"):
        shop.ana.apply(plan, now=NOW)
    assert len(shop.patches) == 1
    assert shop.ana.read(REF).exposure.enrolled == 0


def test_too_many_requests_are_waited_for_once_as_long_as_asked(shop):
    shop.fake.faults, shop.fake.retry_after = ["rate_limit"], "3"
    assert shop.push(enrolled=25).after.exposure.enrolled == 25
    assert shop.paused == [3.0]


def test_too_many_requests_twice_or_for_long_are_refused_and_nothing_changed(shop):
    shop.fake.faults = ["rate_limit", "rate_limit"]
    with pytest.raises(FlagServerError, match="too often"):
        shop.push(enrolled=25)
    shop.fake.faults, shop.fake.retry_after = ["rate_limit"], "60"
    with pytest.raises(FlagServerError, match="60 s"):
        shop.push(enrolled=25)
    assert shop.ana.read(REF).exposure.enrolled == 0


def test_a_token_that_only_reads_gets_a_clear_refusal(shop):
    eve = shop.enter("eve")
    with pytest.raises(FlagServerError, match=r"'LD_EVE'.*403.*Nothing was changed"):
        eve.apply(shop.plan(enrolled=25), now=NOW)
    assert eve.read(REF).exposure.enrolled == 0


def test_a_token_that_may_write_one_environment_only_changes_no_other(shop):
    shop.fake.tokens["fake-sam"] = Member("sam", writes=("staging",))
    staging = FlagRef(REF.flag, "staging")
    sam = shop.enter("sam", "staging")
    sam.create(FlagSpec(staging, WEIGHTS, "gate_30"), now=NOW)
    assert sam.apply(shop.make_plan(sam.read(staging), enrolled=50), now=NOW).after.exposure.enrolled == 50
    with pytest.raises(FlagServerError, match="403"):
        shop.enter("sam").apply(shop.plan(enrolled=25), now=NOW)
    assert shop.ana.read(REF).exposure.enrolled == 0


def test_an_unknown_token_and_a_missing_one_are_named_by_their_names(shop, monkeypatch):
    backend = shop.enter("mallory")
    with pytest.raises(FlagServerError, match=r"'LD_MALLORY' \(401\)"):
        backend.read(REF)
    monkeypatch.delenv("LD_MALLORY")
    with pytest.raises(CredentialError, match="LD_MALLORY"):
        backend.read(REF)


def test_an_unknown_project_or_environment_says_where_to_correct_it(shop):
    address = shop.fake.address
    with pytest.raises(FlagError, match="no project 'shoop'"):
        shop.enter("ana", address=address.replace("/shop", "/shoop")).read(REF)
    with pytest.raises(FlagError, match=r"no environment 'prod'.*\?environment=KEY"):
        shop.enter("ana", address=f"{address}?environment=prod").read(REF)


@pytest.fixture
def login_page():
    """A server that answers everything with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Log in</html>")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"launchdarkly+http://127.0.0.1:{server.server_address[1]}/shop"
        server.shutdown()
        thread.join()


def test_a_login_page_in_place_of_the_api_is_not_taken_for_an_answer(login_page, monkeypatch):
    monkeypatch.setenv("LD_ANA", "fake-ana")
    with pytest.raises(FlagServerError, match="login page"):
        connect(login_page, token="LD_ANA").read(REF)  # noqa: S106 - its name


def test_the_environment_may_have_another_key_there(make_plan, monkeypatch):
    Shop.paused = []
    with FakeLaunchDarkly(environments=("prod-eu", "production")) as fake:
        shop = Shop(fake, make_plan, monkeypatch)
        backend = shop.enter("ana", address=f"{fake.address}?environment=prod-eu")
        backend.create(FlagSpec(REF, WEIGHTS, "gate_30"), now=NOW)
        backend.apply(make_plan(backend.read(REF), enrolled=100), now=NOW)
        assert "off" not in backend.evaluate(REF, UNITS)
        assert not fake.config(REF.flag, "production")["on"]


def test_a_second_environment_begins_the_same_flag_at_nobody(shop):
    shop.push(enrolled=50)
    staging, before = FlagRef(REF.flag, "staging"), shop.fake.config(REF.flag, "production")
    backend = shop.enter("ana", "staging")
    with pytest.raises(FlagError, match=r"not begun by expnb in environment 'staging'"):
        backend.read(staging)
    state = backend.create(FlagSpec(staging, WEIGHTS, "gate_30"), now=NOW)
    assert state.enabled
    assert set(backend.evaluate(staging, UNITS)) == {"off"}
    assert shop.fake.config(REF.flag, "production") == before


def test_a_flag_that_somebody_made_for_another_purpose_is_not_taken_over(shop):
    variations = [{"value": "gate_30"}, {"value": "off"}, {"value": "gate_40"}]
    body = {
        "key": "theirs",
        "name": "theirs",
        "variations": variations,
        "defaults": {"onVariation": 2, "offVariation": 1},
    }
    shop.call("POST", "/api/v2/flags/shop", body)
    with pytest.raises(FlagError, match="exists already"):
        shop.ana.create(FlagSpec(FlagRef("theirs", "production"), WEIGHTS, "gate_30"), now=NOW)
    with pytest.raises(FlagError, match="not begun by expnb"):
        shop.ana.read(FlagRef("theirs", "production"))


@pytest.mark.parametrize("fault", ["drop_after", "error_after"])
def test_a_flag_whose_making_was_not_answered_is_there_once(shop, fault):
    ref = FlagRef("second", "production")
    shop.fake.faults = [fault, fault]
    assert shop.ana.create(FlagSpec(ref, WEIGHTS, "gate_30"), now=NOW).enabled
    assert [method for method, _ in shop.fake.requests].count("POST") == 1


def test_a_flag_that_was_made_and_may_not_be_begun_is_said_to_be_there_and_is_begun_later(shop):
    ref = FlagRef("second", "production")
    shop.fake.tokens["fake-sam"] = Member("sam", writes=("staging",))
    with pytest.raises(HalfMadeError, match=r"\(403\)\. It is there and off.*create it again") as caught:
        shop.enter("sam").create(FlagSpec(ref, WEIGHTS, "gate_30"), now=NOW)
    assert "Nothing was changed" not in str(caught.value)
    assert caught.value.runbook == "no-permission"
    assert not shop.fake.config(ref.flag, "production")["on"]
    assert pickle.loads(pickle.dumps(caught.value)).runbook == "no-permission"
    assert shop.ana.create(FlagSpec(ref, WEIGHTS, "gate_30"), now=NOW).enabled


def test_a_flag_for_an_unknown_environment_is_refused_before_anything_is_made(shop):
    ref = FlagRef("second", "production")
    with pytest.raises(FlagError, match=r"no environment 'prod'.*Nothing was changed"):
        shop.enter("ana", address=f"{shop.fake.address}?environment=prod").create(FlagSpec(ref, WEIGHTS, "gate_30"))
    assert ref.flag not in shop.fake.flags


@pytest.mark.parametrize("name", ["two words", "a/b", "", "ü"])
def test_a_name_that_launchdarkly_does_not_take_is_refused(shop, name):
    with pytest.raises(FlagError, match=r"letters, digits"):
        shop.ana.create(FlagSpec(FlagRef(name, "production"), WEIGHTS, "gate_30"), now=NOW)


# --- what others do there ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("/environments/production/fallthrough", {"variation": 2}, "does not serve what its record says"),
        ("/environments/production/targets", [{"variation": 2, "values": ["ceo"]}], "one by one"),
        ("/environments/production/prerequisites", [{"key": "other", "variation": 0}], "prerequisite"),
        ("/environments/production/offVariation", 2, "off variation"),
        ("/archived", True, "archived"),
        ("/customProperties/expnb-production/value", ["{}"], "record"),
    ],
)
def test_an_edit_past_expnb_is_seen_and_never_ramped_upon(shop, path, value, said):
    shop.push(enrolled=25)
    plan = shop.plan(enrolled=50)
    shop.edit({"op": "replace", "path": path, "value": value})
    with pytest.raises(FlagEditedError, match=said):
        shop.ana.apply(plan, now=NOW)
    assert shop.fake.audit[-1]["member"]["email"] == "ben@example.com"


def test_an_edit_that_serves_the_same_is_a_conflict(shop):
    plan = shop.plan(enrolled=25)
    shop.edit({"op": "replace", "path": "/environments/production/trackEvents", "value": True})
    with pytest.raises(FlagConflictError, match="written again"):
        shop.ana.apply(plan, now=NOW)


def test_a_record_changed_by_hand_is_a_conflict_though_it_says_the_same(shop):
    plan, path = shop.plan(enrolled=25), "/customProperties/expnb-production/value"
    (text,) = shop.fake.flags[REF.flag]["customProperties"]["expnb-production"]["value"]
    shop.edit({"op": "replace", "path": path, "value": [text.replace("2026-03-01", "2026-03-02")]})
    with pytest.raises(FlagConflictError, match="written again"):
        shop.ana.apply(plan, now=NOW)


def test_a_seed_set_by_hand_would_expose_others_and_is_seen(shop):
    shop.push(enrolled=25)
    shop.edit({"op": "add", "path": "/environments/production/fallthrough/rollout/seed", "value": 61})
    with pytest.raises(FlagEditedError):
        shop.ana.read(REF)


def test_the_state_says_how_units_get_their_places(shop):
    salt = shop.fake.config(REF.flag, "production")["salt"]
    assert f"{REF.flag}.{salt}." in shop.ana.read(REF).bucketing


def test_the_ledgers_head_is_kept_beside_the_flag_until_the_next_push(shop):
    assert shop.ana.ledger_head(REF) == ""
    shop.ana.apply(shop.plan(enrolled=25), now=NOW, ledger_head="h" * 64)
    shop.push(enrolled=50)
    assert shop.ben.ledger_head(REF) == "h" * 64


def test_preview_shows_what_would_change_and_changes_nothing(shop):
    before = shop.fake.config(REF.flag, "production")
    shown = shop.ana.preview(shop.plan(enrolled=25), now=NOW)
    assert '+          "weight": 12500' in shown.replace("+            ", "+          ")
    assert shop.fake.config(REF.flag, "production") == before
    with pytest.raises(PercentError):
        shop.ana.preview(shop.plan(enrolled=25.005), now=NOW)


# --- audience ----------------------------------------------------------------------------------


def test_an_audience_is_a_rule_of_which_only_the_rollout_moves(shop):
    ref = FlagRef("in-germany", "production")
    who = Eligibility(audience={"country": ("AT", "DE"), "targetingKey": tuple(UNITS[:1000])})
    shop.ana.create(FlagSpec(ref, WEIGHTS, "gate_30", who), now=NOW)
    before = shop.fake.config(ref.flag, "production")["rules"][0]
    shop.ana.apply(shop.make_plan(shop.ana.read(ref), enrolled=50), now=NOW)
    after = shop.fake.config(ref.flag, "production")["rules"][0]
    assert {key for key in before | after if before.get(key) != after.get(key)} == {"variation", "rollout"}

    countries = ["DE" if number % 2 else "FR" for number in range(len(UNITS))]
    found = list(shop.ana.evaluate(ref, UNITS, {"country": countries}))
    flag = shop.fake.flags[ref.flag]
    rows = [{"country": country, "key": unit} for unit, country in zip(UNITS, countries, strict=True)]
    assert found == [sdk_answer(flag, "production", row["key"], row) for row in rows]
    assert {name for name, row in zip(found, rows, strict=True) if row["country"] == "FR"} == {"off"}
    assert set(found[1000:]) == {"off"}
    assert 150 < sum(name != "off" for name in found) < 350  # half of 500; 9 standard deviations


@pytest.mark.parametrize(
    "who", [Eligibility(layer="checkout", slice=(0, 50)), Eligibility(holdout=5)], ids=["layer", "holdout"]
)
def test_a_layer_and_a_holdout_are_refused(shop, who):
    with pytest.raises(FlagError, match="cannot serve"):
        shop.ana.create(FlagSpec(FlagRef("other", "production"), WEIGHTS, "gate_30", who), now=NOW)
    with pytest.raises(NameNotFoundError):
        shop.ana.read(FlagRef("other", "production"))


# --- approvals of the vendor -------------------------------------------------------------------


def test_capabilities_say_whether_the_environment_requires_approvals(shop):
    assert not shop.ana.capabilities.approvals
    assert shop.ana.capabilities.concurrency == "native"
    shop.fake.require_approvals("production")
    assert shop.ana.capabilities.approvals
    assert shop.ana.capabilities.concurrency == "none"
    assert not shop.enter("ana", "staging").capabilities.approvals


def test_an_approved_request_of_the_plan_is_applied_by_the_vendor(guarded):
    plan = guarded.plan(enrolled=25)
    with pytest.raises(ApprovalError, match="none was requested"):
        guarded.ana.apply(plan, now=NOW)
    request = guarded.ana.request(plan)
    assert request.plan_id == plan.id
    with pytest.raises(ApprovalError, match=f"waits.*{request.url}"):
        guarded.ana.apply(plan, now=NOW)
    guarded.approval(request, "reviews", {"kind": "approve"})
    assert guarded.ana.read(REF).exposure.enrolled == 0

    receipt = guarded.ana.apply(plan, now=NOW, ledger_head="h" * 64)
    assert receipt.after.exposure.enrolled == 25
    assert request.request_id in receipt.note
    assert guarded.ben.ledger_head(REF) == "h" * 64
    flag = guarded.fake.flags[REF.flag]
    assert list(guarded.ana.evaluate(REF, UNITS)) == [sdk_answer(flag, "production", unit) for unit in UNITS]


def test_a_request_says_what_changes_why_and_in_which_plan(guarded):
    plan = guarded.plan(enrolled=25)
    guarded.ana.request(plan)
    text = guarded.fake.approvals[0]["description"]
    assert plan.reason in text
    assert plan.id[:12] in text
    assert "enrolled 0 %" in text
    assert "enrolled 25 %" in text


def test_a_plan_asked_for_twice_waits_once(guarded):
    plan = guarded.plan(enrolled=25)
    assert guarded.ana.request(plan) == guarded.ben.request(plan)
    assert len(guarded.fake.approvals) == 1


def test_a_declined_request_is_not_applied_and_its_page_is_named(guarded):
    plan = guarded.plan(enrolled=25)
    request = guarded.ana.request(plan)
    guarded.approval(request, "reviews", {"kind": "decline", "comment": "Not on a Friday."})
    with pytest.raises(ApprovalError, match=f"was declined.*{request.url}"):
        guarded.ana.apply(plan, now=NOW)
    assert guarded.ana.read(REF).exposure.enrolled == 0


def test_nobody_approves_what_they_asked_for(guarded):
    request = guarded.ana.request(guarded.plan(enrolled=25))
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        guarded.approval(request, "reviews", {"kind": "approve"}, who="ana")


def test_an_approval_of_one_plan_carries_no_other(guarded):
    low, high = guarded.plan(enrolled=25), guarded.plan(enrolled=100)
    guarded.approval(guarded.ana.request(low), "reviews", {"kind": "approve"})
    with pytest.raises(ApprovalError, match="none was requested"):
        guarded.ana.apply(high, now=NOW)


def test_a_request_changed_after_it_was_made_is_not_applied(guarded):
    plan = guarded.plan(enrolled=5)
    request = guarded.ana.request(plan)
    weights = guarded.fake.approvals[0]["instructions"][0]["rolloutWeights"]
    for name, weight in zip(weights, (50_000, 0, 50_000), strict=True):
        weights[name] = weight
    guarded.approval(request, "reviews", {"kind": "approve"})
    with pytest.raises(ApprovalError, match="was changed since"):
        guarded.ana.apply(plan, now=NOW)
    assert guarded.ana.read(REF).exposure.enrolled == 0


def test_an_approved_request_for_a_flag_that_moved_is_a_conflict(guarded):
    plan = guarded.plan(enrolled=25)
    guarded.approval(guarded.ana.request(plan), "reviews", {"kind": "approve"})
    other = guarded.plan(enrolled=50)
    guarded.approval(guarded.ana.request(other), "reviews", {"kind": "approve"})
    guarded.ana.apply(other, now=NOW)
    with pytest.raises(FlagConflictError, match="enrolled 50 %"):
        guarded.ana.apply(plan, now=NOW)
    assert guarded.ana.read(REF).exposure.enrolled == 50


def test_a_request_that_somebody_applied_on_the_vendors_page_is_read_as_its_plan(guarded):
    first = guarded.plan(enrolled=25)
    request = guarded.ana.request(first)
    guarded.approval(request, "reviews", {"kind": "approve"})
    guarded.approval(request, "apply", {})
    assert guarded.ana.read(REF).exposure.enrolled == 25
    with pytest.raises(FlagConflictError, match="this very plan was pushed already"):
        guarded.ana.apply(first, now=NOW)

    second = guarded.ana.request(guarded.plan(enrolled=50))
    guarded.approval(second, "reviews", {"kind": "approve"})
    guarded.approval(second, "apply", {})
    assert guarded.ana.read(REF).exposure.enrolled == 50


@pytest.mark.parametrize("fault", ["drop_after", "error_after"])
def test_a_lost_answer_to_an_approved_push_is_looked_up_and_nothing_is_sent_twice(guarded, fault):
    plan = guarded.plan(enrolled=25)
    guarded.approval(guarded.ana.request(plan), "reviews", {"kind": "approve"})
    guarded.fake.faults = [fault]
    assert guarded.ana.apply(plan, now=NOW).after.exposure.enrolled == 25
    assert sum(path.endswith("/apply") for _, path in guarded.fake.requests) == 1


def test_a_flag_made_where_approvals_are_required_stays_off_until_the_first_is_given(guarded):
    ref = FlagRef("second", "production")
    for who in (Eligibility(), Eligibility(audience={"country": ("DE",)})):
        ref = FlagRef(f"flag-{len(who.needs)}", "production")
        state = guarded.ana.create(FlagSpec(ref, WEIGHTS, "gate_30", who), now=NOW)
        assert not state.enabled
        plan = guarded.make_plan(state, "start", enrolled=50)
        request = guarded.ana.request(plan)
        path = f"/api/v2/projects/shop/flags/{ref.flag}/environments/production/approval-requests/{request.request_id}"
        guarded.call("POST", f"{path}/reviews", {"kind": "approve"})
        after = guarded.ana.apply(plan, now=NOW).after
        assert after.enabled
        assert after.exposure == plan.after


def test_a_rollout_that_a_request_cannot_say_is_refused_before_it_is_made(guarded):
    ref = FlagRef("three-arms", "production")
    state = guarded.ana.create(FlagSpec(ref, {"a": 1, "b": 1, "c": 1}, "a"), now=NOW)
    with pytest.raises(FlagError, match="names each variation once"):
        guarded.ana.request(guarded.make_plan(state, enrolled=25))
    assert not guarded.fake.approvals
    assert guarded.ana.request(guarded.make_plan(state, enrolled=100)).plan_id


def test_approvals_that_began_after_the_settings_were_read_are_not_walked_around(shop):
    plan = shop.plan(enrolled=25)
    opened = shop.ana._open(REF)
    shop.fake.require_approvals("production")
    with pytest.raises(ApprovalError, match="approval request only"):
        shop.ana._patch(
            opened, REF.flag, [{"op": "replace", "path": "/environments/production/on", "value": False}], plan.reason
        )
    assert shop.fake.config(REF.flag, "production")["on"]


def test_a_change_that_would_break_a_waiting_request_is_refused_with_the_vendors_words(shop):
    ref = FlagRef("in-germany", "production")
    shop.ana.create(FlagSpec(ref, WEIGHTS, "gate_30", Eligibility(audience={"country": ("DE",)})), now=NOW)
    rule = shop.fake.config(ref.flag, "production")["rules"][0]["_id"]
    off = shop.fake.flags[ref.flag]["variations"][1]["_id"]
    instruction = {"kind": "updateRuleVariationOrRollout", "ruleId": rule, "variationId": off}
    path = f"/api/v2/projects/shop/flags/{ref.flag}/environments/production/approval-requests"
    shop.call("POST", path, {"description": "theirs", "instructions": [instruction]})
    note = shop.ana.kill(ref, now=NOW).note
    assert "pending approval request" in note
    says_no_opposite(note)
    assert not shop.ana.read(ref).enabled


# --- kill --------------------------------------------------------------------------------------


def test_kill_where_approvals_are_required_says_loudly_that_it_did_not_happen(guarded):
    with pytest.raises(ApprovalError, match=r"NOT turned off.*bypassRequiredApproval.*http://127"):
        guarded.ana.kill(REF, now=NOW)
    assert guarded.fake.config(REF.flag, "production")["on"]


def test_kill_works_with_a_token_that_may_pass_approvals_by(guarded):
    guarded.fake.tokens["fake-oncall"] = Member("oncall", bypasses_approvals=True)
    receipt = guarded.enter("oncall").kill(REF, now=NOW)
    assert not receipt.after.enabled
    assert not guarded.fake.config(REF.flag, "production")["on"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/environments/production/fallthrough", {"variation": 2}),
        ("/environments/production/targets", [{"variation": 2, "values": ["ceo"]}]),
        ("/environments/production/offVariation", 2),
        ("/customProperties/expnb-production/value", ["nonsense"]),
        ("/customProperties", {}),
    ],
)
def test_kill_stops_a_flag_that_was_edited_and_cannot_be_read(shop, path, value):
    shop.push(enrolled=25)
    shop.edit({"op": "replace", "path": path, "value": value})
    receipt = shop.ana.kill(REF, now=NOW)
    assert receipt.before is None
    assert "not known" in receipt.note
    says_no_opposite(receipt.note)
    assert not receipt.after.enabled
    assert receipt.after.exposure.treated == 0
    assert {sdk_answer(shop.fake.flags[REF.flag], "production", unit) for unit in UNITS} == {"off"}


def says_no_opposite(note):
    """A note of what was done holds no sentence of an error after which nothing was."""
    for opposite in ("Nothing was", "Runbook", "plan again", "Request approval", "or kill the flag"):
        assert opposite not in note


def test_a_kill_whose_tidying_asks_for_approval_says_no_more_than_that(shop):
    """The role may turn flags off past approvals, and may not change rules."""
    shop.push(enrolled=50)
    original = shop.fake._update

    def update(flag, body, kind, query, member):
        if "semanticpatch" not in kind:
            raise Refused(405, "method_not_allowed", "Approval is required")
        return original(flag, body, kind, query, member)

    shop.fake._update = update
    receipt = shop.ana.kill(REF, now=NOW)
    assert not receipt.after.enabled
    assert "through an approval request only (Approval is required)" in receipt.note
    says_no_opposite(receipt.note)


def test_kill_serves_off_before_it_tidies_up(shop):
    shop.push(enrolled=50)
    shop.fake.faults = [None, "conflict"]
    receipt = shop.ana.kill(REF, now=NOW)
    assert "could not be closed" in receipt.note
    says_no_opposite(receipt.note)
    assert not receipt.after.enabled
    assert {sdk_answer(shop.fake.flags[REF.flag], "production", unit) for unit in UNITS} == {"off"}


def test_a_kill_whose_answer_was_lost_is_looked_up(shop):
    shop.push(enrolled=50)
    shop.fake.faults = ["drop_after"]
    assert not shop.ana.kill(REF, now=NOW).after.enabled
    shop.ana.apply(shop.plan("restore", enrolled=50), now=NOW)
    shop.fake.faults = ["drop_before"]
    with pytest.raises(PushUncertainError, match="still on"):
        shop.ana.kill(REF, now=NOW)


def test_a_killed_flag_is_restored_to_the_same_people(shop):
    before = shop.push(enrolled=25).after
    served = list(shop.ana.evaluate(REF, UNITS))
    shop.ana.kill(REF, now=NOW + timedelta(minutes=1))
    shop.ana.apply(replace(shop.plan("restore"), after=before.exposure), now=NOW)
    assert list(shop.ana.evaluate(REF, UNITS)) == served
