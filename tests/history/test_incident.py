"""Incident: from the ledger alone, what happened, how many users, how late, and who did what."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.test_workspace import NOW

import expnb as xb
from expnb import errors
from expnb.cli import main
from expnb.decisions.plan import plan_change


def at(ws, hours, actor):
    """The workspace some hours later, in other hands."""
    return replace(ws, clock=lambda: NOW + timedelta(hours=hours), actor=actor)


@pytest.fixture
def rolled_back(demo):
    """The demo ramp that is harmful: decided by ana, closed by ben three hours later, restored by cleo."""
    ana = at(demo, 0, "ana")
    experiment = ana.experiment("gate_position")
    decision = ana.decide(experiment, xb.fit(experiment, ana.load(experiment)))
    receipt = at(demo, 3, "ben").apply(ana.plan(decision))
    at(demo, 5, "cleo").restore(receipt)
    return ana


def test_a_roll_back_is_told_with_users_and_delays(rolled_back):
    told = xb.incident("gate_position", rolled_back)
    assert told.title == "gate_position in production: treatment taken back on 2017-02-20 15:00 UTC"
    assert told.first_served_at == told.at_rung_since == NOW - timedelta(days=2)
    assert (told.decided_at, told.closed_at) == (NOW, NOW + timedelta(hours=3))
    assert told.measured == {"gate_40": 45_489}
    days = (told.closed_at - told.first_served_at) / timedelta(days=1)  # the data end three days earlier
    assert told.estimated["gate_40"] == pytest.approx(45_489 / 14 * days)
    text = str(told)
    assert "2.0 days after the treatment was first served, 2.0 days after the flag reached this share" in text
    assert "Closed: 2017-02-20 15:00 UTC, 3.0 hours after harm was decided." in text
    assert "Measured: 45,489 harmed units of gate_40" in text
    assert "Estimated: about 6,905 more units of gate_40 until it closed, 2.1 days that the data do not cover" in text
    assert told.said[0].startswith("Goal retention_7 under gate_40 is harmed: raw effect -4.31 %")
    did = {"ana": ("decided roll back",), "ben": ("pushed roll back",), "cleo": ("pushed restore",)}
    assert {who: told.did[who] for who in did} == did


def test_the_ledger_is_enough(rolled_back):
    expected = str(xb.incident("gate_position", rolled_back))
    head = rolled_back.ledger.head()
    for gone in ("experiments", "metrics", "decisions", "reports", ".expnb/looks", ".expnb/cells"):
        shutil.rmtree(rolled_back.root / gone, ignore_errors=True)
    for file in ("cookie_cats.parquet", "flags.flagd.json"):
        (rolled_back.root / file).unlink()
    ws = xb.open_workspace(rolled_back.root, clock=rolled_back.clock)
    assert str(xb.incident("gate_position", ws)) == expected
    assert ws.ledger.head() == head


def test_the_timeline_names_everything_that_happened(demo):
    ana, ben = at(demo, 0, "ana"), at(demo, 1, "ben")
    experiment = ana.experiment("email_campaign")
    plan = ana.plan(ana.decide(experiment, xb.fit(experiment, ana.load(experiment))))
    ana.request(plan)
    ben.approve(plan)
    ana.apply(plan)
    ana.forget("email_campaign")
    ben.kill("email_campaign")
    told = xb.incident("email_campaign", ana)
    acts = [(event.who, event.act) for event in told.events if event.act]
    assert acts[1:] == [
        ("ana", "decided ramp up"),
        ("ana", "asked for ramp up"),
        ("ben", "agreed to a plan"),
        ("ana", "pushed ramp up"),
        ("ana", "deleted cached data"),
        ("ben", "killed the flag"),
    ]
    assert told.events[0].act == "registered the experiment"
    assert "Reason: Nothing speaks against the next rung" in str(told)
    assert told.decided_at is None
    assert "Harm was not decided by the policy: a person closed the gate." in str(told)
    assert set(told.measured) == {"Mens E-Mail", "Womens E-Mail"}
    assert "treated units of Mens E-Mail" in str(told)
    assert len(told.said) == 4  # what was judged of both treatments
    assert all("shows no harm" in sentence for sentence in told.said)


def test_harm_that_was_decided_and_not_answered_is_still_served(demo):
    experiment = demo.experiment("gate_position")
    demo.decide(experiment, xb.fit(experiment, demo.load(experiment)))
    told = xb.incident("gate_position", at(demo, 24, "ben"))
    assert told.closed_at is None
    assert told.title.endswith("and the treatment is still served")
    assert "Closed: not yet. Write `expnb rollback` or `expnb kill`." in str(told)
    assert "until now, 3.0 days that the data do not cover" in str(told)


def test_a_look_after_the_gate_was_closed_is_no_new_incident(rolled_back, players):
    at(rolled_back, 6, "ben").kill("gate_position")
    experiment = rolled_back.experiment("gate_position")
    later = at(rolled_back, 8, "ana")
    later.decide(experiment, xb.fit(experiment, xb.load_cohort(experiment, players.iloc[1:])))
    later.kill("gate_position")  # of a flag that serves nobody
    told = xb.incident("gate_position", later)
    assert told.closed_at == NOW + timedelta(hours=6)
    assert told.events[0].kind == "registered"
    assert told.events[1].act == "pushed restore"  # the incident before is told no more


def test_the_pace_of_the_estimate_is_that_since_the_look_before(shop):
    for number in (1, 2):
        shop.day(number, n=400)
    shop.ws.apply(shop.ws.plan(shop.decide()))
    for number in (3, 4):
        shop.day(number, n=4000, lift=-0.6)
    assert shop.decide().action == "roll_back"
    shop.now += timedelta(days=1)
    shop.as_("ben").roll_back(shop.ws.experiment("checkout"), reason="as decided")
    told = xb.incident("checkout", shop.ws)
    assert told.measured == {"new": 4400}
    assert told.estimated == {"new": pytest.approx(2000 * 1.25)}
    assert "1.2 days that the data do not cover, at the pace of their last 2 days" in str(told)
    assert "2.0 days after the flag reached this share" in str(told)


def test_an_arm_that_is_too_small_to_be_shown_is_not_counted(shop):
    shop.day(1, n=30)
    shop.decide()
    shop.as_("ben").kill("checkout")
    told = xb.incident("checkout", shop.ws)
    assert (told.measured, told.estimated) == ({"new": 0}, {})
    assert "Measured: too few to be shown treated units of new" in str(told)


def test_no_incident_is_one_sentence(demo):
    told = xb.incident("email_campaign", demo)
    assert str(told) == told.title
    assert told.title.startswith("email_campaign in production: no incident. The ledger holds no harm")
    with pytest.raises(errors.ReplayError, match="There is nothing to write down"):
        told.write(demo.root)
    with pytest.raises(errors.NameNotFoundError, match="Did you mean 'email_campaign'"):
        xb.incident("email_campain", demo)


def test_names_are_escaped(rolled_back):
    told = replace(xb.incident("gate_position", rolled_back), said=("<b>|*x*|</b>",))
    assert "<b>" not in told._repr_html_()
    assert "- \\<b\\>\\|\\*x\\*\\|\\</b\\>" in told.markdown()


def test_the_command_writes_the_page(rolled_back, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as done:
            main([*arguments, "--workspace", str(rolled_back.root)])
        assert done.value.code == 0
        return capsys.readouterr().out

    page = rolled_back.root / "decisions" / "gate_position" / "2017-02-20.incident.md"
    assert json.loads(call("incident", "gate_position", "--json"))["measured"] == {"gate_40": 45_489}
    assert not page.exists()
    assert f"page: {page}" in call("incident", "gate_position")
    assert page.read_text().startswith("# gate_position in production: treatment taken back on 2017-02-20 15:00 UTC\n")
    assert "no incident" in call("incident", "email_campaign")


# --- what answers harm ------------------------------------------------------------------------------


def harmed(shop):
    """A decision to roll back, which nobody followed yet."""
    for number in (1, 2):
        shop.day(number, n=4000, lift=-0.6)
    assert shop.decide().action == "roll_back"
    shop.now += timedelta(hours=5)


def push(shop, verb, to):
    """A change that somebody asked for."""
    ws = shop.as_("ben")
    experiment = ws.experiment("checkout")
    state = ws.flag(experiment)
    after = replace(state.exposure, **to)
    return ws.apply(plan_change(verb, experiment, state, after, reason="As agreed.", now=shop.now))


@pytest.mark.parametrize(
    ("verb", "to"),
    [
        ("ramp_down", {"enrolled": 0}),
        ("conclude_flat", {"serve": "old"}),
        ("ship", {"serve": "old"}),
    ],
)
def test_harm_is_answered_by_any_change_after_which_it_is_not_served(shop, verb, to):
    harmed(shop)
    push(shop, verb, to)
    told = xb.incident("checkout", shop.ws)
    assert told.title == f"checkout in production: treatment taken back on {shop.now:%Y-%m-%d %H:%M} UTC"
    assert told.closed_at == shop.now
    assert "5.0 hours after harm was decided" in str(told)


def test_a_change_that_leaves_harm_served_is_no_answer(shop):
    shop.open_to(50)
    harmed(shop)
    push(shop, "ramp_down", {"enrolled": 1})
    assert "and the treatment is still served" in xb.incident("checkout", shop.ws).title


def test_without_harm_a_conclusion_is_no_incident(shop):
    shop.day(1)
    shop.decide()
    push(shop, "conclude_flat", {"serve": "old"})
    assert "no incident" in xb.incident("checkout", shop.ws).title
