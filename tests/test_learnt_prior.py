"""Priors of a workspace: learnt from its ledger, used by default, and never changed under a running experiment."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.test_workspace import decided

import expnb as xb
from expnb import errors
from expnb.posterior.priors.past import log_ratio, records
from expnb.spec.prior import Prior


def remember(ws, count, *, metric="retention_7", kind="conversion", prefix="old", randomised=True, seed=1):
    """Looks at finished experiments, as `decide` records them."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        one = {"metric": metric, "kind": kind, "variant": "b", "log_ratio": float(rng.normal(0, 0.02)), "se": 0.01}
        facts = {"fingerprint": f"{prefix}{i}", "look": 1, "priors": {metric: Prior()}, "effects": [one]}
        ws._record("look", {"experiment": f"{prefix}_{i}", "randomised": randomised, **facts})


@pytest.fixture
def unregistered(demo):
    """The demo, with an experiment that was neither registered nor looked at."""
    text = (demo.root / "experiments" / "gate_position.toml").read_text()
    (demo.root / "experiments" / "gate_again.toml").write_text(text.replace('"gate_position"', '"gate_again"'))
    return demo


# --- from the ledger ---------------------------------------------------------------------------------


def test_a_look_records_effects_that_later_priors_learn_from(demo, players):
    exp, _ = decided(demo, "gate_position")
    past = demo.past_effects()
    rates = players.groupby("version").retention_7.agg(["mean", "size"])
    row = past[past.metric == "retention_7"].iloc[0]
    assert row.log_ratio == pytest.approx(math.log(rates["mean"]["gate_40"] / rates["mean"]["gate_30"]))
    assert row.se == pytest.approx(math.sqrt(((1 - rates["mean"]) / rates["mean"] / rates["size"]).sum()))
    assert set(past.metric) == {metric.name for metric in exp.metrics}
    assert (row.experiment, row.kind, row.variant, row.randomised) == ("gate_position", exp.goal.kind, "gate_40", True)


def test_the_newest_look_of_every_experiment_counts(demo, players):
    exp, _ = decided(demo, "gate_position")
    before = demo.past_effects()
    demo.decide(exp, xb.fit(exp, xb.load_cohort(exp, players.iloc[1:])))
    after = demo.past_effects()
    assert len(after) == len(before)
    assert (after.log_ratio != before.log_ratio).any()


def test_an_experiment_with_a_wrong_sample_ratio_teaches_nothing(demo, players):
    exp = demo.experiment("gate_position")
    lost = players[(players.version == "gate_30") | (players.index % 4 > 0)]
    demo.decide(exp, xb.fit(exp, xb.load_cohort(exp, lost)))
    assert not demo.past_effects().randomised.any()


def test_the_error_of_a_log_ratio_of_means_is_that_of_the_delta_method(demo):
    exp = demo.experiment("email_campaign")
    cells = xb.load_cohort(exp, demo.source(exp)).cells
    posterior = xb.fit(exp, cells)
    for effect in posterior.effects:
        arms = [cells.moments(effect.metric, name) for name in (exp.control, effect.variant)]
        found = log_ratio(effect)
        assert found is not None
        expected = math.sqrt(sum(arm.variance / arm.n / arm.mean**2 for arm in arms))
        assert found[1] == pytest.approx(expected, rel=0.1)


def test_small_arms_and_arms_without_conversions_leave_no_trace(demo):
    exp = demo.experiment("gate_position")
    effect = xb.fit(exp, xb.load_cohort(exp, demo.source(exp))).effect("retention_7", "gate_40")
    assert log_ratio(effect) is not None
    for change in (
        {"effect_rel": None},
        {"effect_rel": -1.0},
        {"ci_low": None},
        {"n_control": 0},
        {"mean_treatment": 0.0},
    ):
        assert log_ratio(replace(effect, **change)) is None


def test_only_effects_that_decide_are_recorded(demo):
    exp = demo.experiment("gate_position")
    posterior = xb.fit(exp, xb.load_cohort(exp, demo.source(exp)))
    effect = posterior.effect("retention_7", "gate_40")
    others = [replace(effect, segment="platform=ios"), replace(effect, estimate="uncapped")]
    assert len(list(records(replace(posterior, effects=(effect, *others))))) == 1


# --- the default -------------------------------------------------------------------------------------


def test_from_twenty_experiments_on_an_experiment_has_a_learnt_prior(unregistered):
    remember(unregistered, 19)
    assert unregistered.experiment("gate_again").prior == unregistered.prior("gate_again") == Prior()
    remember(unregistered, 1, prefix="last")
    exp = unregistered.experiment("gate_again")
    assert exp.prior.id.startswith("learnt from 20 past experiments on metric retention_7 (")
    assert exp.prior == unregistered.prior("gate_again") == unregistered.prior(exp) == unregistered.prior("retention_7")
    assert exp.prior.id in exp._repr_html_()


def test_every_metric_has_the_prior_of_its_own_past(unregistered):
    remember(unregistered, 25)
    remember(unregistered, 30, metric="retention_1", prefix="early", seed=2)
    exp = unregistered.experiment("gate_again")
    assert exp.prior_on("retention_7").source == "learnt from 25 past experiments on metric retention_7"
    assert exp.prior_on("retention_1").source == "learnt from 30 past experiments on metric retention_1"
    assert exp.prior == exp.prior_on("retention_7")
    assert unregistered.prior(exp.metric("retention_1")) == exp.prior_on("retention_1")


def test_experiments_that_were_not_randomised_do_not_count(unregistered):
    remember(unregistered, 15)
    remember(unregistered, 15, prefix="broken", randomised=False)
    assert unregistered.experiment("gate_again").prior == Prior()


def test_a_prior_in_the_file_holds(unregistered):
    remember(unregistered, 25)
    path = unregistered.root / "experiments" / "gate_again.toml"
    path.write_text(path.read_text().replace("[policy]", "[prior]\nscale = 0.03\n[policy]"))
    assert unregistered.experiment("gate_again").prior == Prior()
    path.write_text(path.read_text().replace("scale = 0.03", "scale = 0.01"))
    assert unregistered.prior("gate_again") == Prior(scale=0.01)


def test_an_unknown_name_gets_a_sentence(demo):
    with pytest.raises(
        errors.NameNotFoundError,
        match=r"no experiment or metric is called 'gate_positon'. Did you mean 'gate_position'",
    ):
        demo.prior("gate_positon")


# --- pinned --------------------------------------------------------------------------------------------


def test_a_registered_prior_stays(unregistered):
    remember(unregistered, 25)
    exp = unregistered.experiment("gate_again")
    unregistered.register(exp)
    remember(unregistered, 30, prefix="later", seed=5)
    again = unregistered.experiment("gate_again")
    assert again == exp
    assert again.spec_hash == exp.spec_hash
    assert unregistered.prior("retention_7") != exp.prior


def test_an_experiment_that_was_registered_with_the_default_keeps_it(demo):
    before = demo.experiment("gate_position")
    remember(demo, 25)
    assert demo.experiment("gate_position") == before
    assert before.prior == Prior()


def test_the_first_look_pins_the_prior_of_an_experiment_that_was_not_registered(unregistered, players):
    remember(unregistered, 25)
    exp = unregistered.experiment("gate_again")

    unregistered.decide(exp, xb.fit(exp, xb.load_cohort(exp, players)))
    remember(unregistered, 30, prefix="later", seed=5)
    assert unregistered.experiment("gate_again") == exp
    assert unregistered.experiment("gate_again").policy_hash == exp.policy_hash


def test_an_experiment_does_not_learn_from_itself(unregistered):
    remember(unregistered, 20)
    remember(unregistered, 1, prefix="gate", seed=9)
    past = unregistered.past_effects(excluding="gate_0")
    assert len(past) == 20
    assert "gate_0" not in set(past.experiment)


def test_a_look_of_an_older_version_pins_the_default(unregistered):
    facts = {"experiment": "gate_again", "fingerprint": "f", "look": 1, "watermark": None}
    unregistered._record("look", facts)
    remember(unregistered, 25)
    assert unregistered.experiment("gate_again").prior == Prior()


def test_naming_a_prior_after_the_registration_is_shown(unregistered, players):
    remember(unregistered, 25)
    unregistered.register(unregistered.experiment("gate_again"))
    path = unregistered.root / "experiments" / "gate_again.toml"
    path.write_text(path.read_text().replace("[policy]", "[prior]\nscale = 0.1\n[policy]"))
    exp = unregistered.experiment("gate_again")
    decision = unregistered.decide(exp, xb.fit(exp, xb.load_cohort(exp, players)))
    assert any("specification changed after it was registered on" in note for note in decision.notes)
    assert decision.prior == "student_t(4, 0, 0.1)"
