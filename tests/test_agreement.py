"""What is agreed before the data, what is loosened after the first look, and the first rung."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb import errors
from expnb.spec.workspace_file import ApprovalRule

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
EXPERIMENT = """
schema = 1
[experiment]
name = "button"
hypothesis = "A green button sells more."
owner = "shop"
flag = "button"
unit = "user"
variant = "arm"
control = "grey"
weights = { grey = 50, green = 50 }
exposed_at = "ts"
source = "cohort.parquet"
[[metrics]]
name = "bought"
kind = "conversion"
role = "goal"
rope = 0.005
[[metrics]]
name = "crashed"
kind = "conversion"
role = "guardrail"
direction = "decrease"
margin = 0.2
[policy]
ladder = [5, 25, 100]
[traffic]
units_per_day = 6000
"""


@pytest.fixture
def ws(tmp_path):
    """A workspace with one experiment that is neither registered nor looked at; somebody called ana is at work."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "expnb.toml").write_text('schema = 1\n[environments.production]\nflags = "flagd:flags.flagd.json"\n')
    (tmp_path / "experiments" / "button.toml").write_text(EXPERIMENT)
    return opened(tmp_path)


def opened(folder, actor="ana", days=0):
    return xb.open_workspace(folder, actor=actor, clock=lambda: NOW + timedelta(days=days))


def edit(ws, old, new):
    path = ws.root / "experiments" / "button.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def cohort(ws, days=5, first=date(2026, 3, 6), effect=0.0):
    """Units that came in day by day, the same number each day."""
    return pd.DataFrame(
        {
            "user": f"{day}-{arm}-{number}",
            "arm": arm,
            "ts": pd.Timestamp(first) + pd.Timedelta(days=day, hours=3),
            "bought": number < round(400 * share),
            "crashed": number % 50 == 0,
        }
        for day in range(days)
        for arm, share in (("grey", 0.1), ("green", 0.1 * (1 + effect)))
        for number in range(400)
    )


def fitted(exp, frame):
    return xb.fit(exp, xb.load_cohort(exp, frame))


def look(ws, **data):
    exp = ws.experiment("button")
    return ws.decide(exp, xb.fit(exp, xb.load_cohort(exp, cohort(ws, **data))))


@pytest.fixture
def running(ws):
    """Registered four days before the data, the flag at its first rung, and looked at once."""
    before = opened(ws.root, days=-9)
    before.create_flag(ws.experiment("button"))
    before.register(ws.experiment("button"))
    started = opened(ws.root, days=-4)
    started.apply(started.start(ws.experiment("button")))
    assert look(ws, days=4).action == "ramp_up"
    return ws


def looser(ws):
    edit(ws, "margin = 0.2", "margin = 0.4")
    return ws.experiment("button")


# --- the first rung ---------------------------------------------------------------------------------


def test_the_first_rung_needs_no_data_but_a_registration(ws):
    exp = ws.experiment("button")
    ws.create_flag(exp)
    with pytest.raises(errors.FlagError, match="is not registered as it stands now.*expnb register button"):
        ws.start(exp)
    ws.register(exp)
    plan = ws.start(exp)
    assert (plan.verb, plan.after.enrolled) == ("start", 5)
    assert ws.apply(plan).after.exposure.enrolled == 5


def test_what_was_open_before_is_not_started_again(running):
    exp = running.experiment("button")
    running.roll_back(exp, reason="a fire elsewhere")
    with pytest.raises(errors.FlagError, match="was open in production before"):
        running.start(exp)


def test_a_start_is_no_way_round_the_first_rung(ws):
    exp = ws.experiment("button")
    ws.create_flag(exp)
    ws.register(exp)
    plan = ws.start(exp)
    with pytest.raises(errors.FlagError, match="is not the first rung"):
        ws.apply(replace(plan, after=replace(plan.after, enrolled=25)))
    edit(ws, "ladder = [5, 25, 100]", "ladder = [5, 50, 100]")
    with pytest.raises(errors.FlagError, match="is not registered as it stands now"):
        ws.apply(plan)
    assert ws.flag(exp).exposure.enrolled == 0


@pytest.mark.parametrize("more", [{"serve": "green"}, {"holdback": 5}, {"enrolled": 100}], ids=str)
def test_a_forged_start_opens_nothing(ws, more):
    exp = ws.experiment("button")
    ws.create_flag(exp)
    ws.register(exp)
    plan = ws.start(exp)
    with pytest.raises(errors.FlagError, match="is not the first rung"):
        ws.apply(replace(plan, after=replace(plan.after, **more)))
    assert ws.flag(exp).exposure.treated == 0


def test_nobody_is_exposed_to_what_was_decided_to_be_harmful(ws):
    ws.register(ws.experiment("button"))
    exp = ws.experiment("button")
    ws.create_flag(exp)
    frame = cohort(ws)
    frame.loc[frame["arm"] == "green", "crashed"] = frame.index[frame["arm"] == "green"] % 10 == 0
    assert ws.decide(exp, fitted(exp, frame)).action == "roll_back"
    with pytest.raises(errors.FlagError, match="the newest decision on 'button' is to roll back"):
        ws.start(exp)


def test_a_start_needs_the_approvals_of_any_plan(ws):
    exp = ws.experiment("button")
    table = ws.config.environments["production"]
    asked = replace(
        ws.config, environments={"production": replace(table, approvals=(ApprovalRule(above_treated=1, need=1),))}
    )
    ana, ben = replace(ws, config=asked), replace(ws, config=asked, actor="ben")
    ana.create_flag(exp)
    ana.register(exp)
    plan = ana.start(exp)
    with pytest.raises(errors.ApprovalError, match="needs 1 approval"):
        ana.apply(plan)
    ana.request(plan)
    ben.approve(plan)
    assert ana.apply(plan).after.exposure.enrolled == 5


# --- agreed before the data ---------------------------------------------------------------------------


def test_what_was_registered_before_its_data_says_so(running):
    decision = look(running)
    assert "Registered on 2026-03-01, before the first exposure." in decision.notes
    assert not [rule for rule in decision.rules if rule.name == "agreement"]


def test_loosening_after_the_first_look_holds_until_somebody_else_agrees(running):
    exp = looser(running)
    decision = look(running)
    assert decision.action == "hold"
    assert "was loosened after the first look and is not registered" in decision.reasons[0]
    assert "metric 'crashed': margin went from 0.2 to 0.4." in decision.reasons[0]
    with pytest.raises(errors.SpecError, match="Say why"):
        running.register(exp)
    running.register(exp, reason="crashes are rarer than we thought")
    assert "Nobody else has agreed" in look(running).reasons[0]
    with pytest.raises(errors.ApprovalError, match="'ana' registered this specification"):
        running.agree(exp)
    opened(running.root, "ben").agree(exp)
    agreed = look(running)
    assert agreed.action == "ramp_up"
    assert (
        "Loosened after the first look, on 2026-03-10 by ana (crashes are rarer than we thought), agreed to by ben: metric 'crashed': margin went from 0.2 to 0.4."
        in agreed.notes
    )


def test_loosening_never_stops_a_roll_back(running):
    looser(running)
    exp = running.experiment("button")
    frame = cohort(running)
    frame.loc[frame["arm"] == "green", "crashed"] = frame.loc[frame["arm"] == "green", "crashed"] | (
        frame.index[frame["arm"] == "green"] % 7 == 0
    )
    assert running.decide(exp, xb.fit(exp, xb.load_cohort(exp, frame))).action == "roll_back"


def test_loosening_that_was_taken_back_is_over(running):
    running.register(looser(running), reason="a try")
    edit(running, "margin = 0.4", "margin = 0.2")
    assert look(running).action == "hold"  # the newest registration is the loosened one
    running.register(running.experiment("button"))
    assert look(running).action == "ramp_up"


def test_what_is_made_stricter_needs_nobody(running):
    edit(running, "margin = 0.2", "margin = 0.15")
    running.register(running.experiment("button"))
    decision = look(running)
    assert not [rule for rule in decision.rules if rule.name == "agreement"]


def test_before_the_first_look_everything_may_change(ws):
    ws.register(ws.experiment("button"))
    assert ws.register(looser(ws)).body["loosened"] == []


def test_an_experiment_that_was_never_registered_holds_to_what_was_looked_at(ws):
    ws.create_flag(ws.experiment("button"))
    assert "The specification is not registered" in " ".join(look(ws).notes)
    looser(ws)
    assert "The specification was loosened after the first look" in look(ws, days=4).reasons[0]


def test_where_approvals_are_asked_for_a_late_registration_needs_one(ws):
    ws.create_flag(ws.experiment("button"))
    table = ws.config.environments["production"]
    asked = replace(
        ws.config, environments={"production": replace(table, approvals=(ApprovalRule(above_treated=5, need=1),))}
    )
    ana, ben = replace(ws, config=asked), replace(ws, config=asked, actor="ben")
    assert "never registered" in " ".join(look(ana).reasons)
    ana.register(ana.experiment("button"))
    late = look(ana)
    assert "registered after the first exposure" in late.reasons[0]
    assert "Registered on 2026-03-10, after the first look." in late.notes
    ben.agree(ben.experiment("button"))
    assert not [rule for rule in look(ana).rules if rule.name == "agreement"]


def test_what_was_agreed_still_closes_the_gate_while_a_looser_file_waits(running):
    frame = cohort(running, days=5)
    frame["crashed"] = frame.index % np.where(frame["arm"] == "green", 5, 10) == 0  # twice as often
    edit(running, "margin = 0.2", "margin = 0.99")
    loose = running.experiment("button")
    decision = running.decide(loose, xb.fit(loose, xb.load_cohort(loose, frame)))
    assert decision.action == "roll_back"
    assert "worse than the margin of 20 %" in decision.reasons[0]


def test_a_verdict_of_a_policy_that_nobody_agreed_to_ships_nothing_later(running):
    exp = running.experiment("button")
    easy = replace(exp, policy=replace(exp.policy, min_days=1, verdict_days=7))
    first = opened(running.root, days=1)
    assert "agreement" in {rule.name for rule in first.decide(easy, fitted(easy, cohort(running, days=5))).rules}
    later = opened(running.root, days=2).decide(exp, fitted(exp, cohort(running, days=6)))
    assert not [note for note in later.notes if "judged every" in note]


def test_a_posterior_of_another_specification_is_refused(running):
    exp = running.experiment("button")
    wider = replace(exp, metrics=(exp.metrics[0], replace(exp.metrics[1], margin=0.9)))
    for other in (wider, replace(exp, metrics=exp.metrics[:1])):
        with pytest.raises(errors.SpecError, match="fitted with other metrics, margins, arms"):
            running.decide(exp, fitted(other, cohort(running)))


def test_a_posterior_under_a_prior_of_ones_choice_raises_nothing(running):
    exp = running.experiment("button")
    decision = running.decide(exp, xb.fit(exp, xb.load_cohort(exp, cohort(running)), prior="flat"))
    assert decision.action == "hold"
    assert "fitted under the prior flat in place of" in decision.reasons[0]


def test_another_experiment_cannot_move_a_flag_that_is_open(running):
    path = running.root / "experiments" / "button.toml"
    (path.parent / "button_again.toml").write_text(path.read_text().replace('name = "button"', 'name = "button_again"'))
    again = running.experiment("button_again")
    running.register(again)
    decision = running.decide(again, fitted(again, cohort(running)))
    with pytest.raises(errors.FlagError, match="is open in production for the experiment 'button'"):
        running.apply(running.plan(decision))
    with pytest.raises(errors.FlagError, match="was open in production before"):
        running.start(again)


def test_who_registered_without_a_name_is_nobody_else(ws):
    exp = ws.experiment("button")
    ws._record("registered", {"experiment": "button", "spec_hash": exp.spec_hash, "spec": exp})
    with pytest.raises(errors.ApprovalError, match="is not recorded"):
        ws.agree(exp)
    assert ws.register(exp).body["actor"] == "ana"


@pytest.mark.parametrize("name", ["ANA ", "ana\u200b", "\uff41na"])
def test_another_spelling_is_no_other_person(running, name):
    exp = looser(running)
    running.register(exp, reason="a try")
    with pytest.raises(errors.ApprovalError, match="registered this specification"):
        opened(running.root, name).agree(exp)


# --- looks ---------------------------------------------------------------------------------------------


def test_a_threshold_that_is_tried_after_the_first_look_counts_as_one(running):
    exp = running.experiment("button")
    posterior = xb.fit(exp, xb.load_cohort(exp, cohort(running)))
    strict, loose = (replace(exp.policy, harm_alpha=alpha) for alpha in (0.02, 0.001))
    tried = running.try_policy(exp, posterior, strict)
    assert tried.looks == 2
    assert running.try_policy(exp, posterior, strict).looks == 2  # the same view again is no new one
    assert running.try_policy(exp, posterior, loose).looks == 3
    assert running.try_policy(exp, posterior, exp.policy).looks == 3
    assert running.decide(exp, posterior).looks == 4
    assert not running.ledger.entries(kind="outcome")[1:]


def test_before_the_first_look_thresholds_may_be_tried_freely(ws):
    exp = ws.experiment("button")
    ws.create_flag(exp)
    posterior = xb.fit(exp, xb.load_cohort(exp, cohort(ws)))
    ws.try_policy(exp, posterior, replace(exp.policy, harm_alpha=0.02))
    assert ws.decide(exp, posterior).looks == 1


# --- environments --------------------------------------------------------------------------------------


@pytest.fixture
def two(ws):
    """A test environment in which everything goes faster, and a production that is stricter than the file."""
    (ws.root / "expnb.toml").write_text(
        """
schema = 1
[environments.test]
flags = "flagd:test.flagd.json"
policy = { min_days = 1, min_units = 10 }
[environments.production]
flags = "flagd:flags.flagd.json"
policy = { ship = { p_above_rope = 0.995 } }
"""
    )
    return ws.root


def test_an_environment_has_its_own_strictness(two):
    policies = {
        name: xb.open_workspace(two, environment=name).experiment("button").policy for name in ("test", "production")
    }
    assert (policies["test"].min_days, policies["test"].ship.p_above_rope) == (1, 0.98)
    assert (policies["production"].min_days, policies["production"].ship.p_above_rope) == (7, 0.995)
    assert policies["production"].ship.expected_loss == 0.001


def test_what_is_registered_in_one_environment_is_not_in_the_other(two):
    clock = {"actor": "ana", "clock": lambda: NOW}
    test, production = (xb.open_workspace(two, environment=name, **clock) for name in ("test", "production"))
    test.register(test.experiment("button"))
    test.create_flag(test.experiment("button"))
    production.create_flag(production.experiment("button"))
    assert test.start(test.experiment("button")).after.enrolled == 5
    with pytest.raises(errors.FlagError, match="is not registered"):
        production.start(production.experiment("button"))


def test_an_unknown_field_of_an_environments_policy_is_refused(ws):
    path = ws.root / "expnb.toml"
    path.write_text(path.read_text() + "policy = { min_dais = 1 }\n")
    with pytest.raises(errors.ExpnbError, match="min_dais"):
        opened(ws.root)


def test_who_may_only_look_registers_nothing(ws):
    table = ws.config.environments["production"]
    roles = {"viewer": ("zoe",), "analyst": ("ana",)}
    config = replace(ws.config, environments={"production": replace(table, roles=roles)})
    exp = ws.experiment("button")
    with pytest.raises(errors.ApprovalError, match="'zoe' may not register"):
        replace(ws, config=config, actor="zoe").register(exp)
    assert replace(ws, config=config).register(exp).body["actor"] == "ana"


def test_a_look_in_one_environment_is_one_before_a_registration_in_another(two):
    clock = {"actor": "ana", "clock": lambda: NOW}
    test, production = (xb.open_workspace(two, environment=name, **clock) for name in ("test", "production"))
    for ws in (test, production):
        ws.create_flag(ws.experiment("button"))
    test.register(test.experiment("button"))
    look(test)
    looser(production)
    production.register(production.experiment("button"))
    assert "first registered after a look" in look(production).reasons[0]


def test_the_same_file_written_another_way_is_the_same_place(ws):
    (ws.root / "expnb.toml").write_text(
        'schema = 1\n[environments.a]\nflags = "flagd:f.json"\n[environments.b]\nflags = "flagd:./f.json"\n'
    )
    with pytest.raises(errors.SpecError, match="have the same flags"):
        xb.open_workspace(ws.root, environment="a")


def test_a_wrong_policy_of_an_environment_is_named_as_such(ws):
    path = ws.root / "expnb.toml"
    path.write_text(path.read_text() + "policy = { min_days = -1 }\n")
    with pytest.raises(errors.SpecFileError, match="with the policy of the environment 'production' in expnb.toml"):
        opened(ws.root).experiment("button")
