"""The 18 failures that an honest test injects, one by one: what must hold when each of them happens."""

import os
import resource
import signal
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from tests.faults.crash import Act, approved, forked, kept, roll_back_plan, stopped_when
from tests.faults.dead import break_ledger
from tests.faults.kill_watch import service
from tests.faults.shop import LATER, NAME, NOW, make_shop, units

import expnb as xb
from expnb import errors
from expnb.decisions.plan import plan_change
from expnb.spec.canonical import canonical_json

MINUTE = timedelta(minutes=1)


def outcomes(shop):
    return shop.opened().ledger.entries(kind="outcome")


def strategy_updates(unleash, shop):
    return [event for event in unleash.events(shop.flag) if event["type"] == "feature-strategy-update"]


# --- the wire, and the server behind it -------------------------------------------------------------


def test_01_server_down_before_the_push(unleash_shop, proxy, unleash):
    """Nothing changed, the intent is closed as not applied, and one sentence says so."""
    plan, before = unleash_shop.stepped(), unleash.events(unleash_shop.flag)
    proxy.hurt("drop-before")
    with pytest.raises(errors.FlagError) as told:
        unleash_shop.opened().apply(plan)
    proxy.heal()
    assert told.value.runbook
    assert unleash.events(unleash_shop.flag) == before
    assert outcomes(unleash_shop)[-1].body["applied"] is False
    assert unleash_shop.opened().control.unsettled() == []


@pytest.mark.parametrize("how", ["drop-after", "hang-after", "502-after"])
def test_02_the_answer_is_lost_after_the_write(unleash_shop, proxy, unleash, how):
    """It is reported as applied after reading; there is exactly one event, and no second write."""
    plan, before = unleash_shop.stepped(), len(strategy_updates(unleash, unleash_shop))
    sent = len(proxy.writes)
    proxy.hurt(how, times=1)
    receipt = unleash_shop.opened().apply(plan)
    assert receipt.after.exposure == plan.after
    assert len(strategy_updates(unleash, unleash_shop)) == before + 1
    assert len(proxy.writes) == sent + 1
    assert outcomes(unleash_shop)[-1].body["applied"] is True


def test_03_the_backend_hangs_because_its_database_is_gone(unleash_shop, proxy, unleash):
    """The push ends within its limits; afterwards the ledger says what was true all the time."""
    plan = unleash_shop.stepped()
    unleash.database.stop()
    try:
        with pytest.raises(errors.FlagError):  # FlagServerError before anything was sent, PushUncertainError after
            unleash_shop.opened().apply(plan)
    finally:
        unleash.database.start()
    for _ in range(100):  # the server finds its database again by itself
        if unleash.call("GET", "/api/admin/projects").status_code == 200:
            break
    ws = unleash_shop.opened(now=LATER)
    ws.settle()
    assert list(kept(ws, unleash_shop)) == []
    assert ws.flags.read(unleash_shop.ref).exposure == plan.before
    fresh = replace(plan, created_at=LATER)
    assert ws.apply(approved(unleash_shop, fresh)).after.exposure == plan.after


@pytest.mark.parametrize("status", ["409", "500"])
def test_04_a_conflict_on_the_servers_side_is_not_retried(unleash_shop, proxy, unleash, status):
    """No blind retry: one write went out, nothing changed, and the outcome says so."""
    plan, sent = unleash_shop.stepped(), len(proxy.writes)
    before = strategy_updates(unleash, unleash_shop)
    proxy.hurt(status)
    with pytest.raises(errors.FlagError):
        unleash_shop.opened().apply(plan)
    proxy.heal()
    assert len(proxy.writes) == sent + 1
    assert strategy_updates(unleash, unleash_shop) == before
    ws = unleash_shop.opened(now=LATER)
    ws.settle()
    assert [one.body["applied"] for one in outcomes(unleash_shop)][-1] is False


def test_05_too_many_requests_waits_and_then_goes_on(unleash_shop, proxy):
    """It waits as long as the server asks, once, and the push is done once. OFREP providers answer code defaults while they wait: docs/backends.md."""
    plan = unleash_shop.stepped()
    proxy.hurt("429", times=1)
    assert unleash_shop.opened().apply(plan).after.exposure == plan.after


def test_05_a_server_that_asks_to_wait_for_an_hour_is_not_waited_for(unleash_shop, proxy):
    """The wait has a limit: then the push ends, and nothing was changed."""
    plan = unleash_shop.stepped()
    proxy.hurt("429")
    proxy.retry_after = "3600"
    with pytest.raises(errors.FlagError):
        unleash_shop.opened().apply(plan)
    proxy.heal()
    assert unleash_shop.opened().flags.read(unleash_shop.ref).exposure == plan.before


# --- other people -----------------------------------------------------------------------------------


def test_06_two_notebooks_ramp_one_flag(shop):
    """The second is refused and told what the first did; both stand in the audit. Many at once: test_races.py."""
    plan, other = shop.stepped(), roll_back_plan(shop.opened("bea"), "It hurts.")
    shop.opened("bea").apply(other)
    with pytest.raises(errors.FlagConflictError, match="enrolled 5 %.*-> enrolled 0 %"):
        shop.opened().apply(plan)
    assert shop.opened().flags.read(shop.ref).exposure == other.after
    assert [one.body["actor"] for one in shop.opened().ledger.entries(kind="intent")][-2:] == ["bea", "ana"]
    assert [one.body["applied"] for one in outcomes(shop)][-2:] == [True, False]


def test_07_somebody_edits_the_flag_between_analysis_and_push(unleash_shop, unleash, monkeypatch):
    """Another person, by a token of their own, in Unleash: the push is refused and names them."""
    plan = unleash_shop.stepped()
    path = f"{unleash.flag(unleash_shop.flag)}/environments/{unleash_shop.environment}"
    unleash.call("POST", f"{path}/off", token=unleash.person("ben")).raise_for_status()
    before = unleash.events(unleash_shop.flag)
    with pytest.raises(errors.FlagConflictError, match="ben"):
        unleash_shop.opened().apply(plan)
    assert unleash.events(unleash_shop.flag) == before


def test_07_somebody_edits_the_flag_file_between_analysis_and_push(shop):
    """An editor changed the file by hand: it is not overwritten."""
    plan = shop.stepped()
    shop.flag_file.write_text(
        shop.flag_file.read_text().replace("2500", "7500", 1).replace('"enrolled": 5', '"enrolled": 75')
    )
    edited = shop.flag_file.read_text()
    with pytest.raises(errors.FlagError):
        shop.opened().apply(plan)
    assert shop.flag_file.read_text() == edited


def test_08_one_environment_takes_the_push_and_another_does_not(tmp_path):
    """Each environment has an outcome of its own; that of production is not 'done' because that of development is."""
    shop = make_shop(tmp_path / "shop", environment="development")
    config = shop.root / "expnb.toml"
    config.write_text(config.read_text() + '\n[environments.production]\nflags = "flagd:production.flagd.json"\n')
    production = replace(shop, environment="production")
    exp = shop.opened().experiment(NAME)
    production.opened().create_flag(exp)
    production.opened(now=NOW - timedelta(days=9)).register(exp)
    shop.opened().apply(shop.opened().start(exp))
    plan = production.opened().start(exp)
    (shop.root / "production.flagd.json").chmod(0o444)
    with pytest.raises(errors.FlagFileError, match="read-only"):
        production.opened().apply(plan)
    said = {one.body["environment"]: one.body["applied"] for one in outcomes(shop)}
    assert said == {"development": True, "production": False}
    assert production.opened().flags.read(production.ref).exposure.enrolled == 0
    (shop.root / "production.flagd.json").chmod(0o644)
    assert production.opened().apply(plan).after.exposure.enrolled == 1  # complete it; or roll development back


# --- the analysis -----------------------------------------------------------------------------------


def with_source(shop, frame):
    """The shop whose cohort lies in its file, and a step up that was planned on it."""
    frame.to_parquet(shop.root / "cohort.parquet")
    ws = shop.opened()
    experiment = ws.experiment(NAME)
    plan = ws.plan(ws.decide(experiment, xb.fit(experiment, ws.load(experiment))))
    return approved(shop, plan)


def test_09_rows_changed_since_the_analysis(shop):
    """The decision is taken again on the rows of now; they say less, and the push is refused."""
    plan = with_source(shop, units(3))
    units(3, lift=-0.3).to_parquet(shop.root / "cohort.parquet")
    before = shop.flag_file.read_bytes()
    with pytest.raises(errors.PlanVoidError):
        shop.opened().apply(plan)
    assert shop.flag_file.read_bytes() == before


def test_09_the_cells_of_the_analysis_were_swapped(shop):
    """The file with the cells behind the decision is not what its name says."""
    plan = shop.stepped()
    for path in (shop.root / ".expnb" / "looks" / NAME).iterdir():
        path.write_bytes(b"PAR1 somebody else's cells")
    with pytest.raises(errors.PlanVoidError, match="gone or were changed"):
        shop.opened().apply(plan)


def test_09_data_that_are_too_old(shop):
    """A plan that is young enough, on data that are not: at the push the decision of now holds."""
    config = shop.root / "expnb.toml"
    config.write_text(config.read_text().replace("approvals", "max_age_hours = 1000\napprovals"))
    plan = shop.stepped()
    with pytest.raises(errors.PlanVoidError):
        shop.opened(now=NOW + timedelta(days=30)).apply(plan)


@pytest.mark.parametrize("where", ["replace_file", "serve_sample"], ids=["before the write", "after the write"])
def test_10_a_crash_between_audit_and_push_and_between_push_and_outcome(shop, where):
    """The next one finds the truth by reading. Every other moment: test_crashes.py."""
    plan = shop.stepped()
    dying = forked(
        lambda: stopped_when(lambda frame: frame.f_code.co_name == where, lambda: Act("ramp_up", shop, plan).do(shop))
    )
    assert os.WTERMSIG(dying) == signal.SIGKILL
    ws = shop.opened("carl", LATER)
    (found,) = ws.settle()
    assert found.body["applied"] is (where == "serve_sample")
    assert list(kept(ws, shop)) == []


def no_room(act):
    """The act, in a process that may not make any file longer: as on a full disk."""

    def crowded():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        act()

    return forked(crowded)


def test_11_the_ledger_is_full(shop):
    """No step up without its line in the ledger; closing by kill works all the same."""
    plan, before = shop.stepped(), shop.flag_file.read_bytes()

    def push():
        with pytest.raises(errors.LedgerError):
            shop.opened().apply(plan)

    assert no_room(push) == 0
    assert shop.flag_file.read_bytes() == before
    assert no_room(lambda: shop.opened().kill(NAME)) == 0
    assert not shop.opened().flags.read(shop.ref).enabled


def test_11_the_ledger_is_no_database_any_more(shop):
    """No step up, no roll back with a line; kill works, waits in the spool, and is recorded with the next entry."""
    plan, good = shop.stepped(), shop.ledger_file.read_bytes()
    break_ledger(shop)
    with pytest.raises(errors.LedgerError):
        shop.opened().apply(plan)
    assert not shop.opened().kill(NAME).after.enabled
    for path in shop.ledger_file.parent.glob("ledger.sqlite*"):
        path.unlink()
    shop.ledger_file.write_bytes(good)  # from the backup
    ws = shop.opened(now=LATER)
    shop.decided(now=LATER)  # the next entry, whatever it is
    assert [one.kind for one in ws.ledger.entries()][-3:] == ["kill", "look", "decision"]


def test_11_a_flipped_byte_is_named_by_its_entry(shop):
    """`verify` says which entry does not hold, and no push goes on from it."""
    (third,) = [one for one in shop.opened().ledger.entries() if one.seq == 3]
    raw, text = shop.ledger_file.read_bytes(), canonical_json(third.body).encode()
    assert raw.count(text) == 1
    shop.ledger_file.write_bytes(raw.replace(text, text.replace(b'"actor":"ana"', b'"actor":"anb"')))
    with pytest.raises(errors.LedgerBrokenError, match="entry 3"):
        shop.opened().ledger.verify()


def test_12_a_guardrail_without_numbers_holds(shop):
    """No Prometheus source exists yet: a guardrail's data come with the cohort. Where one arm has none the rule is unknown, and unknown never passes; where nobody has any there is no decision."""
    frame = units(5)
    ws = shop.opened()
    experiment = ws.experiment(NAME)
    half = frame.assign(crashed=frame.crashed.where(frame.arm == "grey"))
    decision = ws.decide(experiment, xb.fit(experiment, xb.load_cohort(experiment, half)))
    assert (decision.action, decision.to) == ("hold", decision.flag.exposure)
    assert {rule.outcome for rule in decision.rules if rule.name == "guardrail"} == {"unknown"}
    with pytest.raises(errors.CohortError, match="no usable value"):
        xb.load_cohort(experiment, frame.assign(crashed=np.nan))


def test_12_a_source_without_rows_is_an_error_and_no_decision(shop):
    """Dead and half dead: no row at all, or those of one variant only."""
    ws, frame = shop.opened(), units(5)
    experiment = ws.experiment(NAME)
    with pytest.raises(errors.CohortError):
        xb.load_cohort(experiment, frame.iloc[:0])
    with pytest.raises(errors.CohortError):
        xb.load_cohort(experiment, frame[frame.arm == "grey"])


def test_13_a_sample_ratio_that_is_off_blocks_the_ramp(shop):
    """One in twenty treated units is lost: no step, with the p-value in words, and none at the push either."""
    frame = units(12)
    lost = (frame.arm == "green") & (frame.index % 20 == 0)
    ws = shop.opened()
    experiment = ws.experiment(NAME)
    decision = ws.decide(experiment, xb.fit(experiment, xb.load_cohort(experiment, frame[~lost])))
    assert decision.action == "hold"
    assert any("p = " in reason or "p < " in reason for reason in decision.reasons), decision.reasons
    with pytest.raises(errors.FlagError):
        ws.apply(replace(ws.plan(decision), verb="ramp_up", after=replace(decision.flag.exposure, enrolled=25.0)))


def test_14_a_changed_salt_is_refused(unleash_shop, unleash):
    """groupId decides who is inside: the same percentages, other people. Other SDKs with other hashes: tests/flags/test_sdks.py."""
    ws = unleash_shop.opened()
    path = f"{unleash.flag(unleash_shop.flag)}/environments/{unleash_shop.environment}/strategies"
    (strategy,) = unleash.call("GET", path).json()
    change = [{"op": "replace", "path": "/parameters/groupId", "value": "another"}]
    unleash.call("PATCH", f"{path}/{strategy['id']}", change).raise_for_status()
    experiment = ws.experiment(NAME)
    state = ws.flags.read(unleash_shop.ref)
    wider = replace(state.exposure, enrolled=25.0)
    plan = plan_change("ramp_up", experiment, state, wider, reason="Wider.", now=NOW)
    with pytest.raises(errors.RebucketedError):
        ws.apply(plan)


def test_14_a_changed_salt_in_the_file_is_refused(shop):
    """The gate's salt was edited by hand."""
    plan = shop.stepped()
    shop.flag_file.write_text(shop.flag_file.read_text().replace("/gate/", "/door/"))
    with pytest.raises((errors.FlagEditedError, errors.RebucketedError)):
        shop.opened().apply(plan)


def test_15_a_percentage_that_the_backend_would_serve_to_nobody(unleash_shop, unleash):
    """12.5 % on Unleash is taken with 200 and then serves nobody: it is refused before the call."""
    ws = unleash_shop.opened()
    state, before = ws.flags.read(unleash_shop.ref), unleash.events(unleash_shop.flag)
    plan = plan_change(
        "ramp_down", ws.experiment(NAME), state, replace(state.exposure, enrolled=2.5), reason="Less.", now=NOW
    )
    with pytest.raises(errors.PercentError, match="2.5"):
        ws.apply(plan)
    assert unleash.events(unleash_shop.flag) == before
    assert outcomes(unleash_shop)[-1].body["applied"] is not False or not ws.control.unsettled()


def test_16_the_author_under_another_token_is_no_approver(unleash_shop, unleash, monkeypatch):
    """Two tokens of one person are one person: identity counts, in whatever spelling."""
    ws = unleash_shop.opened()
    plan = ws.plan(unleash_shop.decided())
    ws.request(plan)
    monkeypatch.setenv("UNLEASH_ANA", unleash.person("ana-by-another-token"))
    for name in ("ana", "Ana", " ana"):
        with pytest.raises(errors.ApprovalError, match="somebody else"):
            unleash_shop.opened(name).approve(plan)
    with pytest.raises(errors.ApprovalError):
        ws.apply(plan)


def test_16_an_approval_is_not_replayed_on_a_later_version(shop):
    """What was approved on one version does not hold on the next, though the percentages are the same."""
    plan = shop.stepped()
    ws = shop.opened()
    ws.apply(plan)
    ws.roll_back(ws.experiment(NAME), reason="It hurts.")
    with pytest.raises(errors.FlagError):
        ws.apply(plan)
    with pytest.raises(errors.FlagError):
        ws.apply(replace(plan, base_version=ws.flags.read(shop.ref).version))
    assert ws.flags.read(shop.ref).exposure.enrolled == 0


def test_17_an_equal_or_later_time_on_the_flag_file(shop):
    """The file says that it was written in ten years, as after a clock that was wrong: the kill is newer still, and the service sees it."""
    future = shop.flag_file.stat().st_mtime + 10 * 365 * 86400
    os.utime(shop.flag_file, (future, future))
    with service("flagd", shop.flag_file, shop.flag) as watched:
        shop.opened().kill(NAME)
        assert shop.flag_file.stat().st_mtime > future
        assert watched.last_wrong() > 0  # it stopped


def test_18_pushed_is_not_yet_seen_by_clients(shop):
    """A service answers from what it read last: the receipt says what the flag is, and only the service what it serves."""
    with service("flagd", shop.flag_file, shop.flag) as watched:
        receipt = shop.opened().kill(NAME)
        assert receipt.after.exposure.treated == 0
        assert watched.last_wrong() > 0
