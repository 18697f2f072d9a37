"""Change requests of Unleash Enterprise, which only an imitation of their routes stands for: open source has none."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from tests.flags.unleash_flag import NOW, REF, UnleashFlag

from expnb.errors import ApprovalError, FlagError
from expnb.flags.base import VendorRequest


class Enterprise:
    """A real open-source server, with the routes of change requests put in front."""

    def __init__(self, target):
        self.target, self.needs, self.opened, self.states = target, {"production"}, [], []

    def answer(self, method, path, body):
        if path.endswith("/change-requests/config"):
            return 200, [
                {"environment": one, "type": one, "changeRequestEnabled": one in self.needs, "requiredApprovals": 1}
                for one in ("development", "production")
            ]
        if method == "POST" and path.endswith("/environments/production/change-requests"):
            self.opened.append(json.loads(body))
            return 200, {"id": 41 + len(self.opened), "state": "Draft"}
        if method == "PUT" and (found := re.search(r"change-requests/(\d+)/state$", path)):
            self.states.append((int(found[1]), json.loads(body)))
            return 200, {"id": int(found[1]), "state": "In review"}
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        enterprise = self.server.enterprise
        own = enterprise.answer(self.command, self.path.partition("?")[0], body)
        if own:
            status, raw = own[0], json.dumps(own[1]).encode()
        else:
            kept = {
                name: value for name, value in self.headers.items() if name.lower() in ("authorization", "content-type")
            }
            found = httpx.request(self.command, enterprise.target + self.path, content=body, headers=kept, timeout=20)
            status, raw = found.status_code, found.content
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


for _method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.handle_any)


@pytest.fixture
def enterprise(unleash, monkeypatch):
    unleash.clear()
    monkeypatch.setenv("UNLEASH_ANA", unleash.person("ana"))
    UnleashFlag(unleash).create()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.enterprise = Enterprise(unleash.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        server.enterprise.flag = UnleashFlag(unleash, f"unleash+http://127.0.0.1:{server.server_port}/default")
        yield server.enterprise
        server.shutdown()
        thread.join()


def test_the_capabilities_say_whether_the_environment_has_change_requests(enterprise):
    assert enterprise.flag.backend.capabilities.approvals
    enterprise.needs = {"development"}
    fresh = UnleashFlag(enterprise.flag.server, enterprise.flag.backend.name)
    assert not fresh.backend.capabilities.approvals


def test_a_plan_is_handed_over_as_one_change_in_review_and_nothing_is_pushed(enterprise):
    flag, plan = enterprise.flag, enterprise.flag.plan(enrolled=5)
    events = flag.events
    asked = flag.backend.request(plan)
    assert isinstance(asked, VendorRequest)
    assert (asked.request_id, asked.plan_id, asked.ref) == ("42", plan.id, REF)
    assert asked.url.endswith("/projects/default/change-requests/42")
    ((change,),) = enterprise.opened
    assert (change["feature"], change["action"]) == (REF.flag, "updateStrategy")
    assert change["payload"]["id"] == flag.strategy["id"]
    assert change["payload"]["parameters"]["rollout"] == "5"
    assert change["payload"]["variants"] == flag.strategy["variants"]
    assert enterprise.states == [(42, {"state": "In review", "comment": plan.reason})]
    assert flag.events == events


def test_a_request_that_the_vendor_applied_reads_as_the_plan(enterprise):
    """What the vendor applies is the payload: it has to be a strategy that `read` understands."""
    flag, plan = enterprise.flag, enterprise.flag.plan(enrolled=5)
    flag.backend.request(plan)
    payload = enterprise.opened[0][0]["payload"]
    place = f"{flag.path}/environments/production/strategies/{payload.pop('id')}"
    flag.server.call("PUT", place, payload).raise_for_status()
    assert flag.read().exposure == plan.after
    assert flag.read().plan_id == plan.id


def test_apply_does_not_walk_around_the_vendors_approvals_and_names_their_place(enterprise):
    flag, plan = enterprise.flag, enterprise.flag.plan(enrolled=5)
    events = flag.events
    with pytest.raises(ApprovalError, match=r"Nothing was pushed.*/projects/default/change-requests\.") as caught:
        flag.backend.apply(plan, now=NOW)
    assert caught.value.runbook == "approvals"
    assert flag.events == events


def test_a_killed_flag_is_asked_to_be_switched_on_in_the_same_request(enterprise):
    enterprise.flag.kill()
    enterprise.flag.backend.request(enterprise.flag.plan("restore", enrolled=5))
    assert [one["action"] for one in enterprise.opened[0]] == ["updateStrategy", "updateEnabled"]


def test_open_source_refuses_a_request_in_the_users_words(unleash, enterprise):
    flag = UnleashFlag(unleash)
    with pytest.raises(FlagError, match="no approvals of its own"):
        flag.backend.request(flag.plan(enrolled=5))
