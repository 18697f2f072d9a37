"""Change requests: who asks, who answers, and what an answer is bound to."""

import json
import re
import threading
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.test_workspace import decided, with_roles

import expnb as xb
from expnb import errors
from expnb.spec.workspace_file import ApprovalRule, NotifyTable


def with_rules(ws, actor, *rules):
    """The workspace with other approval rules, under another name; somebody agreed to what was registered late."""
    other = with_roles(ws, actor, need=1)
    table = replace(other.config.environments["production"], approvals=rules)
    return replace(other, config=replace(other.config, environments={"production": table}))


@pytest.fixture
def requested(ana):
    plan = ana.plan(decided(ana, "email_campaign")[1])
    ana.request(plan)
    return plan


def test_a_request_keeps_who_asked_and_every_answer(ana, ben, requested):
    ben.comment(requested, "Is the sample ratio fine?")
    ana.comment(requested, "It is.")
    ben.approve(requested, comment="Go.")
    (asked,) = ana.requests()
    assert (asked.plan, asked.author) == (requested, "ana")
    assert [(one.who, one.text) for one in asked.comments] == [("ben", "Is the sample ratio fine?"), ("ana", "It is.")]
    assert [(one.who, one.text) for one in asked.approvals] == [("ben", "Go.")]
    assert "Is the sample ratio fine?" in str(asked)
    assert "<table>" in asked._repr_html_()


def test_one_decline_stops_a_plan_for_good(demo, ana, ben, requested):
    ben.approve(requested)
    with_roles(demo, "carl", need=1).decline(requested, reason="Not before the holidays.")
    with pytest.raises(errors.ApprovalError, match="carl declined this change"):
        ana.apply(requested)
    for again in (requested, replace(requested, reason="asked once more", created_at=requested.created_at)):
        ana.request(again)
        with pytest.raises(errors.ApprovalError, match="carl declined this change"):
            ben.approve(again)
        with pytest.raises(errors.ApprovalError, match="carl declined this change"):
            ana.apply(again)


@pytest.mark.parametrize("say", [lambda ws, plan: ws.decline(plan, reason=" "), lambda ws, plan: ws.comment(plan, "")])
def test_an_answer_says_something(ben, requested, say):
    with pytest.raises(errors.SpecError, match="Write one sentence"):
        say(ben, requested)
    assert not ben.ledger.entries(kind="declined")


def test_only_what_was_requested_can_be_answered(ana, ben):
    plan = ana.plan(decided(ana, "email_campaign")[1])
    with pytest.raises(errors.FlagError, match="nobody requested"):
        ben.decline(plan, reason="no")


def test_what_was_pushed_or_is_too_old_waits_no_longer(ana, ben, requested):
    late = replace(ana, clock=lambda: requested.expires_at + timedelta(seconds=1))
    assert late.requests() == []
    ben.approve(requested)
    ana.apply(requested)
    assert ana.requests() == []


def test_a_plan_is_void_after_the_age_that_the_environment_allows(demo):
    table = replace(demo.config.environments["production"], max_age_hours=2)
    strict = replace(demo, config=replace(demo.config, environments={"production": table}))
    plan = strict.plan(decided(strict, "email_campaign")[1])
    assert plan.expires_at - plan.created_at == timedelta(hours=2)


def test_a_rule_for_shipping_does_not_hold_for_a_step(demo):
    rule = ApprovalRule(verb="ship", need=2, requires=("guardrail", "sample_ratio"))
    ana = with_rules(demo, "ana", rule)
    plan = ana.plan(decided(ana, "email_campaign")[1])
    assert ana.approvals_needed(plan) == 0
    served = replace(plan, after=replace(plan.after, serve="Mens E-Mail"))
    assert ana.approvals_needed(served) == 2
    assert ana.approvals_needed(replace(served, verb="restore")) == 2


def test_what_the_environment_requires_has_to_be_met_at_the_push(demo, ana):
    rule = ApprovalRule(verb="ramp_up", need=0, requires=("fresh",))
    strict = with_rules(demo, "ana", rule)
    plan = strict.plan(decided(strict, "email_campaign")[1])
    with pytest.raises(errors.ApprovalError, match="asks that the rule 'fresh' is met"):
        strict.apply(plan)
    easy = with_rules(demo, "ana", replace(rule, requires=("min_units",)))
    assert easy.apply(plan).after.exposure.enrolled == 50


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({}, "one of above_treated and verb"),
        ({"above_treated": 5, "verb": "ship"}, "one of above_treated and verb"),
        ({"verb": "shipp"}, "Did you mean 'ship'"),
        ({"above_treated": 500}, "between 0 and 100"),
        ({"verb": "ship", "need": 0}, "need = 0"),
        ({"verb": "ship", "need": -1}, "need = -1"),
        ({"verb": "ship", "requires": ("guardrails",)}, "Did you mean 'guardrail'"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(written, problem):
    with pytest.raises((errors.SpecError, errors.PercentError), match=problem):
        ApprovalRule(**written)


# --- who is told ----------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch):
    """A real web server on loopback, as a chat would be; what was posted to it."""
    heard = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TEAM_CHAT", f"http://127.0.0.1:{server.server_port}/hook")
    yield heard
    server.shutdown()
    server.server_close()


def telling(ws):
    return replace(ws, config=replace(ws.config, notify=NotifyTable(webhook="TEAM_CHAT")))


def test_every_act_is_told_with_the_head_of_the_ledger(ana, ben, told):
    ana, ben = telling(ana), telling(ben)
    plan = ana.plan(decided(ana, "email_campaign")[1])
    ana.request(plan)
    ben.approve(plan)
    ana.apply(plan)
    ana.roll_back(ana.experiment("email_campaign"), reason="a <complaint>")
    ana.kill("email_campaign", reason="another one")
    assert [line.split(":")[0] for line in told] == ["*request*", "*approval*", "*push*", "*roll back*", "*kill*"]
    assert all("unenforced" in text for text in told)
    assert "a &lt;complaint&gt;" in told[3]
    heads = [re.search(r"ledger head (\w+)", text)[1] for text in told]
    assert heads[-1] == ana.ledger.head()
    for head in heads:
        ana.ledger.verify(against=head)


def test_a_roll_back_is_done_whether_or_not_anybody_can_be_told(ana, monkeypatch):
    monkeypatch.setenv("TEAM_CHAT", "http://127.0.0.1:9/hook")
    with pytest.warns(RuntimeWarning, match="Nobody was told of this roll back"):
        receipt = telling(ana).roll_back(ana.experiment("email_campaign"), reason="a doubt")
    assert receipt.after.exposure.enrolled == 0


def test_an_approver_who_lost_the_role_counts_no_longer(demo, ana, ben):
    plan = ana.plan(decided(ana, "email_campaign")[1])
    ana.request(plan)
    ben.approve(plan)
    with pytest.raises(errors.ApprovalError, match="approved this plan already"):
        ben.approve(plan)
    roles = {"analyst": ("ana",), "approver": ("carl",)}
    with pytest.raises(errors.ApprovalError, match="0 given"):
        with_roles(demo, "ana", roles, need=1).apply(plan)


def test_nobody_answers_for_another_environment(demo):
    """An approver of staging alone must not agree to what production does."""
    path = demo.root / "expnb.toml"
    path.write_text(path.read_text() + '[environments.staging]\nflags = "flagd:staging.flagd.json"\n')
    production = xb.open_workspace(demo.root, environment="production", actor="ana", clock=demo.clock)
    plan = production.plan(decided(production, "email_campaign")[1])
    production.request(plan)
    mallory = xb.open_workspace(demo.root, environment="staging", actor="mallory", clock=demo.clock)
    for answer in (mallory.approve, mallory.request):
        with pytest.raises(errors.FlagError, match="the plan is for production"):
            answer(plan)
    assert not production.ledger.entries(kind="approval")


def test_another_verb_on_a_plan_escapes_no_rule(demo):
    rule = ApprovalRule(verb="ramp_up", need=1)
    ana = with_rules(demo, "ana", rule)
    plan = ana.plan(decided(ana, "email_campaign")[1])
    for verb in ("ramp_down", "roll_back", "drop", "conclude_flat"):
        with pytest.raises(errors.ApprovalError, match="0 given"):
            ana.apply(replace(plan, verb=verb))


def test_to_ship_is_to_raise_even_where_no_more_units_are_treated(demo, planned):
    before = replace(planned.before, weights={"No E-Mail": 1, "Mens E-Mail": 1}, enrolled=100)
    shipped = replace(planned, before=before, after=replace(before, serve="Mens E-Mail", holdback=50))
    assert shipped.after.treated == before.treated == 50
    assert shipped.raises_treated


def test_a_plan_claims_no_longer_life_than_the_environment_allows(demo, planned):
    forever = replace(planned, expires_at=planned.expires_at + timedelta(days=3650))
    with pytest.raises(errors.PlanExpiredError):
        replace(demo, clock=lambda: demo.clock() + timedelta(days=400)).apply(forever)


def test_which_request_is_answered_is_never_guessed(run):
    """By the clock of now, as commands are typed: two plans of one decision."""
    plans = [re.search(r"plan (\w{12})", run("request", "email_campaign", "--as", "ana")[1])[1] for _ in range(2)]
    code, _, err = run("comment", "email_campaign", "fine", "--as", "ben")
    assert code == 2
    assert all(f"--plan {plan}" in err for plan in plans)
    assert run("comment", "email_campaign", "fine", "--as", "ben", "--plan", plans[1])[0] == 0
    assert run("requests")[1].count("comment: ben") == 1
