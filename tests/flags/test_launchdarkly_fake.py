"""The fake keeps to what LaunchDarkly documents of its API."""

import json
import subprocess
import sys
from copy import deepcopy

import httpx
import pytest

from expnb.flags.address import connect
from expnb.flags.fake_launchdarkly import FakeLaunchDarkly, Member
from expnb.spec.flag import FlagRef, FlagSpec

SEMANTIC = "application/json; domain-model=launchdarkly.semanticpatch"
FLAG = "/api/v2/flags/shop/color"
APPROVALS = "/api/v2/projects/shop/flags/color/environments/production/approval-requests"


@pytest.fixture
def fake():
    with FakeLaunchDarkly() as fake:
        body = {"key": "color", "name": "Color", "variations": [{"value": name} for name in ("red", "off", "blue")]}
        assert ask(fake, "POST", "/api/v2/flags/shop", body).status_code == 201
        yield fake


def ask(fake, method, path, body=None, who="ana", kind="application/json"):
    url = f"http://127.0.0.1:{fake.server.server_address[1]}{path}"
    headers = {"Authorization": f"fake-{who}", "Content-Type": kind}
    return httpx.request(method, url, content=json.dumps(body), headers=headers, trust_env=False)


def patch(fake, *operations, **options):
    return ask(fake, "PATCH", FLAG, {"patch": list(operations), "comment": "why"}, **options)


def instruct(fake, *instructions, **options):
    body = {"environmentKey": "production", "instructions": list(instructions), "comment": "why"}
    return ask(fake, "PATCH", FLAG, body, kind=SEMANTIC, **options)


ON = {"op": "replace", "path": "/environments/production/on", "value": True}


@pytest.mark.parametrize(
    ("path", "value"), [("/version", 7), ("/environments/production/version", 7), ("/name", "Colour")]
)
def test_a_failed_test_is_a_conflict_and_changes_nothing(fake, path, value):
    before = deepcopy(fake.flags)
    answer = patch(fake, ON, {"op": "test", "path": path, "value": value})
    assert answer.status_code == 409
    assert set(answer.json()) == {"code", "message", "id"}
    assert fake.flags == before


def test_a_test_that_holds_lets_the_patch_through_and_the_version_rises(fake):
    answer = patch(fake, {"op": "test", "path": "/version", "value": 1}, ON)
    assert answer.status_code == 200
    assert answer.json()["_version"] == 2
    assert answer.json()["environments"]["production"]["version"] == 2
    assert answer.json()["environments"]["staging"]["version"] == 1
    assert patch(fake, ON).json()["_version"] == 2  # nothing changed


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/environments/production/gone", "value": 1},
        {"op": "replace", "path": "/_version", "value": 1},
        {"op": "replace", "path": "/environments/production/salt", "value": "mine"},
        {"op": "replace", "path": "/environments/production/fallthrough", "value": {"variation": 3}},
        {
            "op": "replace",
            "path": "/environments/production/fallthrough",
            "value": {"rollout": {"variations": [{"variation": 0, "weight": 99_999}]}},
        },
        {"op": "turn", "path": "/environments/production/on"},
    ],
)
def test_a_patch_that_cannot_be_made_is_refused_whole(fake, operation):
    before = deepcopy(fake.flags)
    assert patch(fake, ON, operation).status_code == 400
    assert fake.flags == before


def test_a_semantic_patch_is_all_or_nothing(fake):
    before = deepcopy(fake.flags)
    assert (
        instruct(fake, {"kind": "turnFlagOn"}, {"kind": "updateOffVariation", "variationId": "gone"}).status_code == 400
    )
    assert instruct(fake, {"kind": "turnFlagOn"}, {"kind": "dance"}).status_code == 400
    assert fake.flags == before


def test_a_semantic_patch_without_its_content_type_is_taken_for_a_json_patch(fake):
    body = {"environmentKey": "production", "instructions": [{"kind": "turnFlagOn"}]}
    assert ask(fake, "PATCH", FLAG, body).status_code == 400
    assert instruct(fake, {"kind": "turnFlagOn"}).json()["environments"]["production"]["on"]


def test_a_rollout_by_weights_names_each_variation_once(fake):
    red, _, blue = (variation["_id"] for variation in fake.flags["color"]["variations"])
    weights = {"kind": "updateFallthroughVariationOrRollout", "rolloutWeights": {blue: 40_000, red: 60_000}}
    parts = instruct(fake, weights).json()["environments"]["production"]["fallthrough"]["rollout"]["variations"]
    assert [(part["variation"], part["weight"]) for part in parts] == [(0, 60_000), (2, 40_000)]


@pytest.mark.parametrize(
    ("method", "path", "who", "status"),
    [
        ("GET", FLAG, "nobody", 401),
        ("GET", "/api/v2/flags/shop/gone", "ana", 404),
        ("GET", "/api/v2/flags/other/color", "ana", 404),
        ("GET", "/api/v2/projects/shop/environments/gone", "ana", 404),
        ("PATCH", FLAG, "eve", 403),
        ("PATCH", FLAG, "sam", 403),
    ],
)
def test_who_may_not_or_asks_for_nothing_there_is_refused(fake, method, path, who, status):
    fake.tokens["fake-sam"] = Member("sam", writes=("staging",))
    assert ask(fake, method, path, {"patch": [ON]}, who).status_code == status


def test_a_key_that_exists_is_a_conflict_and_values_are_unique(fake):
    body = {"key": "color", "name": "Color", "variations": [{"value": "red"}, {"value": "off"}]}
    assert ask(fake, "POST", "/api/v2/flags/shop", body).status_code == 409
    twice = {"key": "new", "name": "New", "variations": [{"value": "red"}, {"value": "red"}]}
    assert ask(fake, "POST", "/api/v2/flags/shop", twice).status_code == 400


def test_the_history_says_who_changed_what_where_and_why(fake):
    patch(fake, ON, who="ben")
    (entry,) = ask(fake, "GET", "/api/v2/auditlog?limit=1").json()["items"]
    assert entry["comment"] == "why"
    assert entry["member"]["email"] == "ben@example.com"
    assert entry["accesses"][0]["resource"] == "proj/shop:env/production:flag/color"


def test_only_the_environment_that_is_asked_for_is_shown(fake):
    assert list(ask(fake, "GET", f"{FLAG}?env=staging").json()["environments"]) == ["staging"]


def test_where_approvals_are_required_every_change_of_what_is_served_is_refused_and_a_note_is_not(fake):
    fake.require_approvals("production")
    assert patch(fake, ON).status_code == 405
    assert instruct(fake, {"kind": "turnFlagOff"}).status_code == 200  # it is off: nothing would change
    assert instruct(fake, {"kind": "turnFlagOn"}).status_code == 405
    assert patch(fake, {"op": "replace", "path": "/environments/staging/on", "value": True}).status_code == 200
    assert (
        patch(
            fake, {"op": "add", "path": "/customProperties/note", "value": {"name": "Note", "value": ["x"]}}
        ).status_code
        == 200
    )


def test_a_request_is_reviewed_by_others_and_applied_once(fake):
    fake.require_approvals("production", minNumApprovals=2)
    fake.tokens["fake-zoe"] = Member("zoe")
    body = {"description": "please", "instructions": [{"kind": "turnFlagOn"}]}
    asked = ask(fake, "POST", APPROVALS, body)
    assert asked.status_code == 201
    one = f"{APPROVALS}/{asked.json()['_id']}"
    assert ask(fake, "POST", f"{one}/reviews", {"kind": "approve"}, "ana").status_code == 403
    assert ask(fake, "POST", f"{one}/reviews", {"kind": "approve"}, "ben").json()["reviewStatus"] == "pending"
    assert ask(fake, "POST", f"{one}/apply", {}).status_code == 400
    assert ask(fake, "POST", f"{one}/reviews", {"kind": "approve"}, "zoe").json()["reviewStatus"] == "approved"
    assert ask(fake, "POST", f"{one}/apply", {}).json()["status"] == "completed"
    assert ask(fake, "POST", f"{one}/apply", {}).status_code == 400
    assert fake.config("color", "production")["on"]
    assert ask(fake, "GET", APPROVALS).json()["items"][0]["appliedByMemberId"] == "ana"


def test_one_decline_is_enough(fake):
    fake.require_approvals("production")
    one = ask(fake, "POST", APPROVALS, {"description": "please", "instructions": [{"kind": "turnFlagOn"}]}).json()[
        "_id"
    ]
    ask(fake, "POST", f"{APPROVALS}/{one}/reviews", {"kind": "decline"}, "ben")
    assert (
        ask(fake, "POST", f"{APPROVALS}/{one}/reviews", {"kind": "approve"}, "ben").json()["reviewStatus"] == "declined"
    )


def test_the_command_prints_an_address_that_works(monkeypatch):
    command = [sys.executable, "-m", "expnb.flags.fake_launchdarkly", "--require-approvals", "staging"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().partition('"')[2].strip().strip('"')
            assert "fake-ana (ana)" in process.stdout.readline()
            monkeypatch.setenv("SHOP", "fake-ana")
            backend = connect(address, token="SHOP")  # noqa: S106 - its name
            assert backend.create(FlagSpec(FlagRef("color", "production"), {"red": 1, "blue": 1}, "red")).enabled
            staging = connect(address, environment="staging", token="SHOP")  # noqa: S106
            assert staging.capabilities.approvals
        finally:
            process.terminate()
