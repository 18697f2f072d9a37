"""What may not slip through: pushes without their evidence, numbers from data that cannot carry them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from tests.test_workspace import decided, with_roles

import expnb as xb
from expnb import errors
from expnb.spec.canonical import to_json
from expnb.workspace import _recorded

NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)


@pytest.fixture
def flag_file(demo):
    return demo.root / "flags.flagd.json"


# --- a plan does what its decision says, and no more ----------------------------------------------------


@pytest.mark.parametrize("change", [{"enrolled": 100.0}, {"serve": "Womens E-Mail"}, {"serve": "Mens E-Mail"}])
def test_a_plan_that_does_more_than_its_decision_is_refused(demo, flag_file, change):
    _, decision = decided(demo, "email_campaign")
    plan, before = demo.plan(decision), flag_file.read_bytes()
    with pytest.raises(errors.FlagError, match="is not what its decision allows"):
        demo.apply(replace(plan, after=replace(plan.after, **change)))
    assert flag_file.read_bytes() == before


def test_a_roll_back_cannot_be_turned_into_a_step_up(demo, flag_file):
    _, decision = decided(demo, "gate_position")
    plan, before = demo.plan(decision), flag_file.read_bytes()
    with pytest.raises(errors.FlagError, match="is not what its decision allows"):
        demo.apply(replace(plan, verb="ramp_up", after=replace(plan.before, enrolled=100)))
    with pytest.raises(errors.FlagError, match="only an audited state can be restored"):
        demo.apply(replace(plan, verb="restore", after=replace(plan.before, enrolled=100)))
    assert flag_file.read_bytes() == before


def test_a_policy_changed_since_the_decision_voids_the_plan(demo, flag_file):
    _, decision = decided(demo, "email_campaign")
    plan, before = demo.plan(decision), flag_file.read_bytes()
    path = demo.root / "experiments" / "email_campaign.toml"
    path.write_text(path.read_text().replace("min_units = 1000", "min_units = 999999"))
    with pytest.raises(errors.PlanVoidError, match="the experiment was changed"):
        demo.apply(plan)
    assert flag_file.read_bytes() == before


def test_the_same_data_carry_one_step_only(demo, flag_file):
    _, decision = decided(demo, "email_campaign")
    demo.apply(demo.plan(decision))
    _, again = decided(demo, "email_campaign")
    assert again.action == "hold"
    assert "already carried a step up" in again.reasons[0]
    before = flag_file.read_bytes()
    with pytest.raises(errors.FlagError, match="is not what its decision allows"):
        demo.apply(replace(demo.plan(again), after=replace(again.flag.exposure, enrolled=100)))
    assert flag_file.read_bytes() == before


def test_a_restore_above_the_threshold_can_be_requested_and_approved(demo):
    ana, ben = with_roles(demo, "ana", need=1), with_roles(demo, "ben", need=1)
    closed = ana.roll_back(ana.experiment("email_campaign"), reason="a mistake")
    with pytest.raises(errors.ApprovalError, match="expnb request email_campaign --restore"):
        ana.restore(closed)
    plan = ana.plan_restore(closed)
    ana.request(plan)
    ben.approve(plan)
    assert ana.apply(plan).after.exposure == closed.before.exposure


def test_file_and_experiment_have_one_name(demo):
    path = demo.root / "experiments" / "email_campaign.toml"
    path.rename(path.with_name("mail.toml"))
    with pytest.raises(errors.SpecError, match="mail.toml holds the experiment 'email_campaign'"):
        demo.experiment("mail")


def test_an_unknown_role_is_named(demo):
    path = demo.root / "expnb.toml"
    path.write_text(
        path.read_text().replace("[defaults]", '[environments.production.roles]\nbea = ["approver"]\n[defaults]')
    )
    with pytest.raises(errors.SpecError, match="is 'bea'; it is one of viewer, analyst, approver, operator"):
        xb.open_workspace(demo.root)


def test_a_decision_in_another_environment_is_no_evidence(demo):
    path = demo.root / "expnb.toml"
    path.write_text(path.read_text() + '[environments.staging]\nflags = "flagd:staging.flagd.json"\n')
    staging = xb.open_workspace(demo.root, environment="staging", clock=lambda: NOW)
    production = xb.open_workspace(demo.root, environment="production", clock=lambda: NOW)
    staging.create_flag(staging.experiment("email_campaign"))
    _, _there = decided(staging, "email_campaign")
    _, here = decided(production, "email_campaign")
    few = xb.datasets.hillstrom().groupby("segment").head(500)
    exp = production.experiment("email_campaign")
    production.decide(exp, xb.fit(exp, xb.load_cohort(exp, few)))
    decided(staging, "email_campaign")
    with pytest.raises(errors.PlanVoidError):
        production.apply(production.plan(here))


def test_serving_one_treatment_to_more_units_counts_as_more_even_if_fewer_are_treated(demo):
    _exp, decision = decided(demo, "email_campaign")
    plan = demo.plan(decision)
    before = replace(plan.before, enrolled=100)
    ship = replace(plan, before=before, after=replace(before, serve="Mens E-Mail", holdback=40))
    assert ship.after.treated < before.treated
    assert ship.raises_treated


def test_a_killed_flag_moves_by_restore_only(demo):
    exp = demo.experiment("gate_position")
    demo.kill(exp)
    with pytest.raises(errors.FlagError, match="was killed; only `expnb restore`"):
        demo.roll_back(exp, reason="close it again")
    assert demo.flag(exp).enabled is False


@pytest.mark.parametrize("name", ["ANA", " ana ", "Anonymous", " "])
def test_another_spelling_is_no_other_person(demo, name):
    ana = with_roles(demo, "ana", need=1)
    plan = ana.plan(decided(ana, "email_campaign")[1])
    ana.request(plan)
    with pytest.raises(errors.ApprovalError):
        with_roles(demo, name, need=1).approve(plan)


def test_a_plan_keeps_its_id_through_the_ledger(demo):
    _exp, decision = decided(demo, "email_campaign")
    for plan in (
        demo.plan(decision),
        demo.plan(decision, to=50),
        replace(demo.plan(decision), after=replace(decision.to, enrolled=50, holdback=0)),
    ):
        assert _recorded(type(plan), to_json(plan)).id == plan.id


def test_kill_works_while_the_rest_of_the_workspace_is_broken(demo):
    (demo.root / "metrics" / "shop.toml").write_text("[[metrics")
    (demo.root / ".expnb" / "unrecorded.jsonl").write_text('{"torn')
    assert xb.open_workspace(demo.root, clock=lambda: NOW).kill("email_campaign").after.enabled is False
    assert demo.ledger.entries(kind="kill")[-1].body["experiment"] == "email_campaign"


def test_rolling_back_a_shipped_flag_serves_nobody(demo):
    exp, decision = decided(demo, "email_campaign")
    shipped = replace(
        decision, flag=replace(decision.flag, exposure=replace(decision.flag.exposure, serve="Mens E-Mail"))
    )
    plan = xb.plan_ramp(exp, shipped, now=NOW, to=0)
    assert (plan.verb, plan.after.treated, plan.after.serve) == ("roll_back", 0, "")
    with pytest.raises(errors.PercentError, match="the ramp is over"):
        xb.plan_ramp(exp, shipped, now=NOW, to=25)


def test_registration_says_on_which_side_of_the_first_exposure(demo):
    exp = demo.experiment("gate_position")
    posterior = xb.fit(exp, xb.load_cohort(exp, demo.source(exp)))
    assert "after the first exposure" in demo.decide(exp, posterior).notes[-1]
    assert "the data carry no dates" in demo.decide(exp, replace(posterior, first_day=None, last_day=None)).notes[-1]
    assert "on the day of" in demo.decide(exp, replace(posterior, first_day=NOW.date())).notes[-1]


# --- data that cannot carry a number ------------------------------------------------------------------


def test_columns_that_differ_in_case_only_are_refused(players, gate_position):
    with pytest.raises(errors.CohortError, match=r"\['version', 'Version'\] differ only in upper and lower case"):
        xb.load_cohort(gate_position, players.assign(Version="gate_30"))


@pytest.mark.parametrize("change", [{"direction": "Increase"}, {"role": "guard-rail"}, {"kind": "conversions"}])
def test_a_misspelt_word_in_python_is_refused(change):
    with pytest.raises(errors.SpecError, match="it is one of"):
        xb.Metric(**({"name": "m", "kind": "mean"} | change))


def test_values_that_are_lost_in_one_arm_hold(gate_position, players, demo):
    lost = (players.version == "gate_40") & (players.retention_7 == 0) & (players.index % 2 == 0)
    cohort = xb.load_cohort(gate_position, players.assign(retention_7=players.retention_7.where(~lost)))
    (check,) = [check for check in cohort.checks if check.name == "lost:retention_7"]
    assert check.outcome == "block"
    decision = xb.decide(gate_position, xb.fit(gate_position, cohort), flag=demo.flag(gate_position), looks=1, now=NOW)
    assert decision.action == "hold"
    assert any("values are missing unevenly" in reason for reason in decision.reasons)


def test_units_without_a_value_do_not_count_towards_the_units_needed(gate_position, players, demo):
    few = players.assign(retention_7=players.retention_7.where(players.index % 100 == 0))
    decision = xb.decide(
        gate_position,
        xb.fit(gate_position, xb.load_cohort(gate_position, few)),
        flag=demo.flag(gate_position),
        looks=1,
        now=NOW,
    )
    assert any(rule.name == "min_units" and rule.outcome == "unknown" for rule in decision.rules)


def test_a_stray_date_does_not_stretch_the_experiment(gate_position, players):
    seen = pd.Series(pd.Timestamp("2017-02-01"), index=players.index)
    seen[0] = pd.Timestamp("1970-01-01")
    experiment = replace(gate_position, exposed_at="seen", start=None, end=None)
    posterior = xb.fit(experiment, xb.load_cohort(experiment, players.assign(seen=seen)))
    assert posterior.first_day == posterior.last_day
    nothing = replace(gate_position, exposed_at="seen")
    empty = xb.fit(nothing, xb.load_cohort(nothing, players.assign(seen=pd.Series(pd.NaT, index=players.index))))
    assert empty.first_day is None


def test_constant_values_have_no_spread_whatever_their_digits(gate_position, players):
    values = np.where(players.version == "gate_30", 10.3, 10.1)
    metric = xb.Metric(name="price", kind="mean", role="goal", rope=0.01)
    experiment = replace(gate_position, metrics=(metric,))
    effect = xb.fit(experiment, xb.load_cohort(experiment, players.assign(price=values))).effect("price", "gate_40")
    assert effect.p_harm_flat is None
    assert effect.mean_control == 10.3


def test_a_flat_effect_under_non_inferiority_ships_only_if_it_is_no_worse(demo):
    exp = demo.experiment("gate_position")
    metrics = tuple(
        replace(m, rope=0.1, margin=0.02) if m.role == "goal" else replace(m, margin=0.2) for m in exp.metrics
    )
    exp = replace(exp, metrics=metrics, policy=replace(exp.policy, aim="non_inferiority", harm_alpha=0.0001))
    flag = demo.flag(exp)
    at_the_top = replace(flag, exposure=replace(flag.exposure, enrolled=100))
    decision = xb.decide(exp, xb.fit(exp, xb.load_cohort(exp, demo.source(exp))), flag=at_the_top, looks=1, now=NOW)
    rules = {rule.name: rule.outcome for rule in decision.rules}
    assert (rules["conclude_flat"], rules["ship_above_margin"]) == ("met", "not met")
    assert decision.action == "hold"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: pd.concat([f, f[["retention_7"]]], axis=1), "the frame has more than one column 'retention_7'"),
        (lambda f: f.assign(userid=[2**70, *range(len(f) - 1)]), "column 'userid' holds values of type int that no"),
    ],
    ids=["two columns of one name", "ids beyond 64 bits"],
)
def test_a_frame_that_has_no_types_is_one_sentence(players, gate_position, spoil, sentence):
    with pytest.raises(errors.SourceError, match=sentence):
        xb.load_cohort(gate_position, spoil(players))


def test_arguments_in_the_wrong_order_are_one_sentence(players, gate_position):
    with pytest.raises(TypeError, match=r"load_cohort takes \(experiment, source\); the first is a DataFrame"):
        xb.load_cohort(players, gate_position)
    cohort = xb.load_cohort(gate_position, players)
    for wrong in ((cohort, gate_position), (gate_position, players)):
        with pytest.raises(TypeError, match=r"fit takes \(experiment, cohort\); it was given"):
            xb.fit(*wrong)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, gate_position):
    (tmp_path / "cohort.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(errors.SourceError, match="the data cannot be read"):
        xb.load_cohort(gate_position, tmp_path / "cohort.parquet")


def test_a_column_of_ids_in_place_of_arms_shows_no_id(players, gate_position):
    with pytest.raises(errors.ArmsError) as caught:
        xb.load_cohort(gate_position, players.assign(version="player-" + players.userid.astype(str)))
    assert "player-" not in str(caught.value)
    assert "90,189 different values" in str(caught.value)


def test_a_decision_is_dated_in_utc(demo):
    tokyo = replace(demo, clock=lambda: NOW.astimezone(__import__("zoneinfo").ZoneInfo("Asia/Tokyo")))
    assert decided(tokyo, "gate_position")[1].decided_at.utcoffset() == timedelta(0)
