"""The workspace: from a decision to a pushed flag, with nothing lost and nothing changed by bad input."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

import expnb as xb
from expnb import errors
from expnb.spec.workspace_file import ApprovalRule
from expnb.workspace import open_workspace

NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)


@pytest.fixture
def flag_file(demo):
    return demo.root / "flags.flagd.json"


def decided(ws, name):
    exp = ws.experiment(name)
    return exp, ws.decide(exp, xb.fit(exp, xb.load_cohort(exp, ws.source(exp)), seed=20))


def with_roles(ws, actor="ana", roles=None, need=0):
    """The workspace under another name, with roles and approvals; somebody agreed to what was registered after its data."""
    if need and not ws.ledger.entries(kind="agreed"):
        for name in ws.experiments:
            replace(ws, actor="carl").agree(ws.experiment(name))
    table = ws.config.environments["production"]
    approvals = (ApprovalRule(above_treated=5, need=need),) if need else ()
    config = replace(ws.config, environments={"production": replace(table, roles=roles or {}, approvals=approvals)})
    return replace(ws, actor=actor, config=config)


# --- the two real experiments ---------------------------------------------------------------------


def test_cookie_cats_is_rolled_back_and_the_gate_closes(demo):
    exp, decision = decided(demo, "gate_position")
    effect = "raw effect -4.31 %"
    assert decision.action == "roll_back"
    assert any(effect in reason for reason in decision.reasons)
    assert any("p = 0.0086" in note for note in decision.notes)
    demo.apply(demo.plan(decision))
    assert demo.flag(exp).exposure.enrolled == 0


def test_hillstrom_ramps_up_from_25_to_50_with_the_mens_email_ahead(demo):
    exp, decision = decided(demo, "email_campaign")
    assert (decision.action, decision.variant) == ("ramp_up", "Mens E-Mail")
    assert any("prior and data disagree" in note for note in decision.notes)
    demo.apply(demo.plan(decision))
    assert demo.flag(exp).exposure.enrolled == 50


# --- looks ------------------------------------------------------------------------------------------


def test_the_same_data_again_are_not_a_new_look(demo):
    assert decided(demo, "gate_position")[1].looks == 1
    assert decided(demo, "gate_position")[1].looks == 1
    assert len(demo.ledger.entries(kind="decision", experiment="gate_position")) == 1


def test_other_data_are_a_new_look(demo, players):
    exp, _ = decided(demo, "gate_position")
    later = demo.decide(exp, xb.fit(exp, xb.load_cohort(exp, players.iloc[1:])))
    assert later.looks == 2


def test_a_look_that_cannot_be_recorded_is_an_error(demo):
    exp = demo.experiment("gate_position")
    posterior = xb.fit(exp, xb.load_cohort(exp, demo.source(exp)))
    broken = _without_ledger(demo)
    with pytest.raises(errors.LedgerError):
        broken.decide(exp, posterior)


def test_a_decision_that_fails_is_no_look(demo, flag_file):
    flag_file.unlink()
    with pytest.raises(errors.FlagFileError, match="does not exist"):
        decided(demo, "gate_position")
    assert not demo.ledger.entries(kind="look")


def test_decisions_are_written_for_reviewers(demo):
    _, decision = decided(demo, "gate_position")
    folder = demo.root / "decisions" / "gate_position"
    assert sorted(path.name for path in folder.iterdir()) == ["2017-02-20.json", "2017-02-20.md"]
    first = (folder / "2017-02-20.json").read_bytes()
    decided(demo, "gate_position")
    assert (folder / "2017-02-20.json").read_bytes() == first
    assert decision.reasons[0] in (folder / "2017-02-20.md").read_text()


# --- registration -----------------------------------------------------------------------------------


def test_registration_after_the_first_exposure_is_shown(demo):
    _, decision = decided(demo, "gate_position")
    assert "Registered on 2017-02-20, after the first exposure." in decision.notes


def test_a_changed_specification_is_shown(demo):
    path = demo.root / "experiments" / "gate_position.toml"
    path.write_text(path.read_text().replace("rope = 0.005", "rope = 0.006"))
    _, decision = decided(demo, "gate_position")
    assert (
        "The specification changed after it was registered on 2017-02-20: metric 'retention_7': rope went from 0.005 to 0.006. metric 'retention_7': margin went from 0.005 to 0.006."
        in decision.notes
    )


def test_the_same_specification_is_registered_once(demo):
    exp = demo.experiment("gate_position")
    assert demo.register(exp) == demo.register(exp)


# --- sources ----------------------------------------------------------------------------------------


def test_a_source_is_a_path_in_the_workspace_or_a_table_or_query_of_a_connection(demo):
    from expnb.cohorts.warehouse import Warehouse

    exp = demo.experiment("gate_position")
    assert demo.source(exp) == demo.root / "cookie_cats.parquet"
    stored = replace(exp, source="", connection="GAMES_WAREHOUSE", table="assignments")
    assert demo.source(stored) == Warehouse("GAMES_WAREHOUSE", "assignments", "")
    asked = replace(exp, source="", connection="GAMES_WAREHOUSE", sql="SELECT * FROM assignments")
    assert demo.source(asked) == Warehouse("GAMES_WAREHOUSE", "", "SELECT * FROM assignments")
    with pytest.raises(errors.SpecError, match="names no source"):
        demo.source(replace(exp, source=""))


def test_a_cohort_is_loaded_from_the_workspace_wherever_one_stands(demo, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exp = demo.experiment("gate_position")
    fresh = xb.load_cohort(exp, demo.source(exp)).cells.fingerprint
    assert demo.load("gate_position").cells.fingerprint == demo.load(exp).cells.fingerprint == fresh


def test_cells_are_cached_in_a_folder_of_the_experiment_and_can_be_forgotten(demo, players):
    demo.load("gate_position", players)
    assert not demo.cells_folder.exists()
    demo.load("gate_position")
    assert list((demo.cells_folder / "gate_position").iterdir())
    assert demo.forget("gate_position")[0].cells > 0
    assert demo.load("gate_position").cells.units == len(players)


def test_events_are_taken_from_the_workspace_too(demo, monkeypatch, tmp_path):
    units = [f"u{number}" for number in range(400)]
    first = pd.Timestamp("2017-02-01", tz="UTC")
    arms = ["gate_30" if number % 2 else "gate_40" for number in range(400)]
    pd.DataFrame({"userid": units, "version": arms, "seen": first}).to_parquet(demo.root / "assigned.parquet")
    bought = pd.DataFrame({"userid": units[::3], "at": first + pd.Timedelta(hours=5), "kind": "purchase"})
    bought.to_parquet(demo.root / "happened.parquet")
    (demo.root / "experiments" / "purchases.toml").write_text(
        """
schema = 1
[experiment]
name = "purchases"
hypothesis = "A later gate sells more."
owner = "games"
flag = "purchases"
unit = "userid"
variant = "version"
control = "gate_30"
weights = { gate_30 = 50, gate_40 = 50 }
exposed_at = "seen"
shape = "events"
source = "assigned.parquet"
[events]
source = "happened.parquet"
at = "at"
kind = "kind"
[[metrics]]
name = "bought"
kind = "conversion"
event = "purchase"
role = "goal"
rope = 0.01
"""
    )
    monkeypatch.chdir(tmp_path)
    cells = demo.load("purchases").cells
    assert cells.units == 400
    means = [cells.moments("bought", arm).mean * 200 for arm in ("gate_30", "gate_40")]
    assert sum(means) == pytest.approx(len(bought))


# --- what is kept, and for how long -------------------------------------------------------------------


@pytest.fixture
def kept(demo):
    """Cached files and reports of two experiments, each pair 10 and 40 days old."""
    import os

    files = {}
    for name in ("email_campaign", "gate_position"):
        for days in (10, 40):
            for file in (
                f".expnb/cells/{name}/part-{days}.parquet",
                f".expnb/posterior/{name}/{days}/p.json",
                f"reports/{name}-2017-01-01-0000{days}.html",
            ):
                path = demo.root / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("x")
                seconds = (NOW - timedelta(days=days)).timestamp()
                os.utime(path, (seconds, seconds))
                files[file] = path
    (demo.root / "reports" / "notes.txt").write_text("mine")
    return lambda: sorted(file for file, path in files.items() if path.exists())


def with_retention(ws, days):
    path = ws.root / "expnb.toml"
    path.write_text(path.read_text().replace("min_cell = 20", f"min_cell = 20\nretention_days = {days}"))
    return open_workspace(ws.root, clock=lambda: NOW)


def test_caches_older_than_the_retention_are_deleted_when_a_workspace_is_opened(demo, kept):
    before = kept()
    open_workspace(demo.root, clock=lambda: NOW)
    assert kept() == before
    ws = with_retention(demo, 30)
    assert kept() == [file for file in before if file.startswith("reports/") or "40" not in file]
    assert ws.ledger.verify()


def test_a_retention_that_is_no_time_is_refused(demo, kept):
    before = kept()
    with pytest.raises(errors.SpecError, match="retention_days is 0; it must be above 0"):
        with_retention(demo, 0)
    assert kept() == before


def test_forgetting_deletes_the_caches_of_one_experiment_and_is_recorded(demo, kept):
    entries = demo.ledger.verify().entries
    (forgotten,) = demo.forget("gate_position")
    assert str(forgotten) == ("gate_position: 2 files of cached cells, 2 files of cached posteriors removed")
    assert not [file for file in kept() if "gate_position" in file and not file.startswith("reports/")]
    assert len([file for file in kept() if "email_campaign" in file]) == 6
    entry = demo.ledger.entries(kind="forgotten")[-1]
    assert entry.body == {
        "experiment": "gate_position", "actor": demo.actor, "older_than_days": None, "cells": 2, "posterior": 2, "looks": 0, "reports": 0,
    }  # fmt: skip
    assert demo.ledger.verify().entries == entries + 1
    assert demo.forget("gate_position") == []
    assert len(demo.ledger.entries(kind="forgotten")) == 1


def test_forgetting_leaves_younger_files_and_takes_reports_on_request(demo, kept):
    done = demo.forget(older_than=timedelta(days=30), reports=True)
    assert [(one.experiment, one.cells, one.posterior, one.reports) for one in done] == [
        ("email_campaign", 1, 1, 1),
        ("gate_position", 1, 1, 1),
    ]
    assert all("10" in file for file in kept())
    assert len(kept()) == 6
    assert (demo.root / "reports" / "notes.txt").exists()


def test_an_experiment_whose_file_is_gone_can_be_forgotten(demo, kept):
    (demo.root / "experiments" / "gate_position.toml").unlink()
    assert demo.forget("gate_position", reports=True)[0].files == 6
    for name in ("gate", "..", "gate_positon"):
        with pytest.raises(errors.NameNotFoundError, match="no experiment is called"):
            demo.forget(name)


def test_an_experiment_whose_name_begins_like_another_is_another(demo, kept):
    other = demo.root / "reports" / "gate_position-2-2017-01-01-000000.html"
    other.write_text("x")
    demo.forget("gate_position", reports=True)
    assert other.exists()


# --- pushing ----------------------------------------------------------------------------------------


def test_a_push_is_intent_then_outcome_with_what_was_read_back(demo):
    exp, decision = decided(demo, "gate_position")
    receipt = demo.apply(demo.plan(decision))
    intent, outcome = demo.ledger.entries(experiment=exp.name)[-2:]
    assert (intent.kind, outcome.kind) == ("intent", "outcome")
    assert outcome.body["intent"] == intent.seq
    assert outcome.body["applied"] is True
    assert outcome.body["sample"] == {"off": 200}
    assert outcome.body["receipt"]["after"]["version"] == receipt.after.version == demo.flag(exp).version


def test_a_flag_changed_since_the_plan_is_refused_and_shows_the_other_change(demo, flag_file):
    exp, decision = decided(demo, "email_campaign")
    mine = demo.plan(decision)
    demo.roll_back(exp, reason="somebody else was faster")
    before = flag_file.read_bytes()
    with pytest.raises(errors.FlagConflictError, match="changed since the plan was made") as caught:
        demo.apply(mine)
    assert "enrolled 0 %" in str(caught.value)
    assert flag_file.read_bytes() == before
    assert demo.ledger.entries(kind="outcome")[-1].body["applied"] is False


def test_an_expired_plan_is_refused(demo, flag_file):
    _, decision = decided(demo, "email_campaign")
    plan, before = demo.plan(decision), flag_file.read_bytes()
    with pytest.raises(errors.PlanExpiredError, match="Decide again on fresh data"):
        replace(demo, clock=lambda: NOW + timedelta(days=2)).apply(plan)
    assert flag_file.read_bytes() == before


def test_no_push_up_without_a_recorded_decision(demo, flag_file):
    exp = demo.experiment("email_campaign")
    posterior = xb.fit(exp, xb.load_cohort(exp, demo.source(exp)))
    decision = xb.decide(exp, posterior, flag=demo.flag(exp), looks=1, now=NOW)
    before = flag_file.read_bytes()
    with pytest.raises(errors.FlagError, match="is not in the ledger. Nothing was pushed"):
        demo.apply(demo.plan(decision))
    assert flag_file.read_bytes() == before


def test_a_newer_and_worse_decision_voids_the_plan(demo, flag_file):
    exp, decision = decided(demo, "email_campaign")
    plan = demo.plan(decision)
    few = xb.datasets.hillstrom().groupby("segment").head(100)
    assert demo.decide(exp, xb.fit(exp, xb.load_cohort(exp, few))).action == "hold"
    before = flag_file.read_bytes()
    with pytest.raises(errors.PlanVoidError, match="said ramp_up Mens E-Mail, the decision now says hold"):
        demo.apply(plan)
    assert flag_file.read_bytes() == before


def _without_ledger(ws):
    """The workspace with a ledger that cannot be written: its address is a folder."""
    return replace(ws, config=replace(ws.config, ledger=replace(ws.config.ledger, url="sqlite:///experiments")))


def test_a_ledger_that_cannot_be_written_means_no_push(demo, flag_file):
    _, decision = decided(demo, "email_campaign")
    plan, before = demo.plan(decision), flag_file.read_bytes()
    with pytest.raises(errors.LedgerError):
        _without_ledger(demo).apply(plan)
    assert flag_file.read_bytes() == before


def test_restore_returns_to_the_state_before_a_receipt_and_can_be_undone_too(demo):
    _, decision = decided(demo, "gate_position")
    rolled_back = demo.apply(demo.plan(decision))
    restored = demo.restore(rolled_back)
    assert restored.after.exposure == rolled_back.before.exposure
    assert demo.restore(restored).after.exposure.enrolled == 0


def test_only_an_audited_state_can_be_restored(demo):
    _, decision = decided(demo, "gate_position")
    receipt = demo.apply(demo.plan(decision))
    forged = replace(receipt, before=replace(receipt.before, exposure=replace(receipt.before.exposure, enrolled=100)))
    with pytest.raises(errors.FlagError, match="only an audited state can be restored"):
        demo.restore(forged)


def test_an_intent_without_outcome_is_resolved_by_reading_not_by_pushing_again(demo, monkeypatch):
    exp, decision = decided(demo, "email_campaign")
    plan = demo.plan(decision)
    demo._record(
        "intent",
        {"experiment": exp.name, "flag": exp.flag, "environment": "production", "plan_id": plan.id, "plan": plan},
    )
    demo.flags.apply(plan, now=NOW)  # the crash came after the push
    version = demo.flag(exp).version
    later = replace(demo, clock=lambda: NOW + timedelta(minutes=5))
    later.roll_back(exp, reason="the next thing that happens")
    first, *_ = [entry for entry in demo.ledger.entries(kind="outcome") if entry.body["plan_id"] == plan.id]
    assert first.body["applied"] is True
    assert first.body["resolved_by_reading"]["version"] == version


def test_a_roll_back_needs_a_reason(demo, flag_file):
    before = flag_file.read_bytes()
    with pytest.raises(errors.SpecError, match="a roll back needs a reason"):
        demo.roll_back(demo.experiment("gate_position"), reason=" ")
    assert flag_file.read_bytes() == before


# --- kill -------------------------------------------------------------------------------------------


def test_kill_closes_and_disables_and_is_recorded(demo):
    exp = demo.experiment("gate_position")
    receipt = demo.kill(exp)
    assert (receipt.after.enabled, receipt.after.exposure.enrolled) == (False, 0)
    assert demo.ledger.entries(kind="kill")[-1].body["flag"] == exp.flag


def test_kill_works_without_a_ledger_and_is_recorded_later(demo):
    exp = demo.experiment("gate_position")
    _without_ledger(demo).kill(exp)
    assert demo.flag(exp).enabled is False
    assert not demo.ledger.entries(kind="kill")
    decided(demo, "email_campaign")
    assert demo.ledger.entries(kind="kill")[-1].happened_at == NOW


def test_a_killed_flag_can_be_restored(demo):
    exp = demo.experiment("gate_position")
    before = demo.flag(exp).exposure
    restored = demo.restore(demo.kill(exp))
    assert restored.after.enabled
    assert restored.after.exposure == before


# --- roles and approvals ------------------------------------------------------------------------------


def test_more_than_the_threshold_needs_somebody_else(demo, flag_file):
    ana = with_roles(demo, "ana", need=1)
    _, decision = decided(ana, "email_campaign")
    plan, before = ana.plan(decision), flag_file.read_bytes()
    with pytest.raises(errors.ApprovalError, match=r"33\.33 % treated in production needs 1 approval, 0 given"):
        ana.apply(plan)
    assert flag_file.read_bytes() == before
    ana.request(plan)
    with_roles(demo, "ben", need=1).approve(plan)
    assert ana.apply(plan).after.exposure.enrolled == 50


def test_a_plan_that_changes_nothing_is_not_requested(demo):
    demo.roll_back(demo.experiment("gate_position"), reason="already closed")
    plan = demo.plan(decided(demo, "gate_position")[1])
    with pytest.raises(errors.SpecError, match="changes nothing: enrolled 0 %"):
        demo.request(plan)


def test_nobody_approves_their_own_plan(demo):
    ana = with_roles(demo, "ana", need=1)
    plan = ana.plan(decided(ana, "email_campaign")[1])
    ana.request(plan)
    with pytest.raises(errors.ApprovalError, match="'ana' requested this plan; somebody else"):
        ana.approve(plan)


def test_an_anonymous_identity_cannot_approve(demo):
    ana = with_roles(demo, "ana", need=1)
    plan = ana.plan(decided(ana, "email_campaign")[1])
    ana.request(plan)
    with pytest.raises(errors.ApprovalError, match="anonymous"):
        with_roles(demo, "anonymous", need=1).approve(plan)


def test_an_approval_is_bound_to_exactly_one_plan(demo):
    ana, ben = with_roles(demo, "ana", need=1), with_roles(demo, "ben", need=1)
    plan = ana.plan(decided(ana, "email_campaign")[1])
    ana.request(plan)
    ben.approve(plan)
    other = replace(plan, reason="something else")
    with pytest.raises(errors.ApprovalError, match="0 given"):
        ana.apply(other)


def test_lowering_exposure_never_needs_approval(demo):
    ana = with_roles(demo, "ana", need=2)
    _, decision = decided(ana, "gate_position")
    assert ana.apply(ana.plan(decision)).after.exposure.enrolled == 0


def test_a_role_that_is_missing_is_named(demo, flag_file):
    roles = {"viewer": ("*",), "analyst": ("ana",), "approver": ("ben",), "operator": ("ops",)}
    eve = with_roles(demo, "eve", roles)
    plan, before = eve.plan(decided(eve, "email_campaign")[1]), flag_file.read_bytes()
    with pytest.raises(
        errors.ApprovalError,
        match="'eve' may not apply in production; that needs one of the roles analyst, operator. Ask ana, ops",
    ):
        eve.apply(plan)
    with pytest.raises(errors.ApprovalError, match="'eve' may not kill"):
        eve.kill(eve.experiment("email_campaign"))
    assert flag_file.read_bytes() == before


# --- the folder ------------------------------------------------------------------------------------------


def test_a_workspace_is_found_from_a_folder_below_it(demo):
    assert open_workspace(demo.root / "experiments").root == demo.root


def test_a_folder_without_a_workspace_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no workspace file at .*expnb\.toml"):
        open_workspace(tmp_path)


def test_an_unknown_experiment_offers_the_nearest(demo):
    with pytest.raises(LookupError, match="no experiment is called 'gate_positon'. Did you mean 'gate_position'"):
        demo.experiment("gate_positon")


def test_an_unknown_key_in_the_workspace_file_is_named(demo):
    path = demo.root / "expnb.toml"
    path.write_text(path.read_text().replace("flags =", "flag ="))
    with pytest.raises(
        errors.UnknownKeyError, match=r"unknown key 'flag' in \[environments\.production\]\. Did you mean 'flags'"
    ):
        open_workspace(demo.root)


def test_several_environments_have_to_be_chosen_from(demo):
    path = demo.root / "expnb.toml"
    path.write_text(path.read_text() + '[environments.staging]\nflags = "flagd:staging.flagd.json"\n')
    with pytest.raises(errors.SpecError, match="say which one"):
        open_workspace(demo.root)
    assert open_workspace(demo.root, environment="staging").environment == "staging"
    with pytest.raises(LookupError, match="no environment is called 'stagin'. Did you mean 'staging'"):
        open_workspace(demo.root, environment="stagin")


def test_an_unknown_time_zone_is_named(demo):
    path = demo.root / "expnb.toml"
    path.write_text(path.read_text().replace('timezone = "UTC"', 'timezone = "Berlin"'))
    with pytest.raises(errors.SpecError, match="timezone is 'Berlin', which is no zone of the IANA list"):
        open_workspace(demo.root).experiment("gate_position")


def test_two_environments_cannot_share_their_flags(demo):
    path = demo.root / "expnb.toml"
    path.write_text(path.read_text() + '[environments.staging]\nflags = "flagd:flags.flagd.json"\n')
    with pytest.raises(errors.SpecError, match="have the same flags 'flagd:flags.flagd.json'"):
        open_workspace(demo.root, environment="staging")


def test_the_demo_reports_the_outlier_where_the_row_level_file_is_present(tmp_path, real_data):
    ws = xb.demo.make_workspace(tmp_path / "demo", data=real_data, clock=lambda: NOW)
    _, decision = decided(ws, "gate_position")
    assert decision.action == "roll_back"
    assert any("game_rounds: one unit of gate_30 has 49,854" in note for note in decision.notes)


def test_the_demo_never_deletes_a_folder_that_is_not_its_own(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").touch()
    with pytest.raises(errors.SpecError, match="is not empty and is no demo workspace"):
        xb.demo.make_workspace(tmp_path / "work")
    assert (tmp_path / "work" / "thesis.txt").exists()
