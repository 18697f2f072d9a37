"""Posteriors and flags as plain values, so that each rule can be asked alone."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

import expnb as xb
from expnb.posterior.effect import Effect
from expnb.posterior.posterior import Posterior
from expnb.spec.flag import Exposure, FlagRef, FlagState

NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)

GOOD = Effect(
    metric="retention_7", kind="conversion", role="goal", direction="increase", unit="", variant="gate_40", segment="all",
    n_control=45_000, n_treatment=45_000, mean_control=0.19, mean_treatment=0.21, effect_abs=0.02, effect_rel=0.105,
    effect_abs_post=0.018, effect_rel_post=0.095, hdi_abs_low=0.01, hdi_abs_high=0.03, hdi_rel_low=0.05, hdi_rel_high=0.15,
    p_improvement=0.999, p_above_rope=0.99, p_harm=0.0001, p_rope=0.005, p_harm_flat=0.0001, p_harm_wide=0.0001, expected_loss_abs=1e-6,
    expected_loss_rel=1e-5, p_best=0.999, p_value=0.001, ci_low=0.01, ci_high=0.03, scale="relative", rope=0.005,
    margin=0.005, prior="student_t(4, 0, 0.03)", engine="exact", note="", relative=None, absolute=None,
)  # fmt: skip


@pytest.fixture
def goal():
    """A goal that clearly improves."""
    return GOOD


@pytest.fixture
def guardrail():
    """A guardrail within its margin."""
    return replace(GOOD, metric="retention_1", role="guardrail", rope=None, p_above_rope=None, p_rope=None, margin=0.02)


@pytest.fixture
def posterior_of():
    """A posterior of given effects."""

    def make(*effects, counts=None, fingerprint="f" * 64):
        return Posterior(
            experiment="gate_position",
            control="gate_30",
            effects=effects,
            engine="exact",
            prior="student_t(4, 0, 0.03)",
            seed=0,
            counts=counts or {"gate_30": 45_000, "gate_40": 45_000},
            fingerprint=fingerprint,
            first_day=date(2017, 2, 1),
            last_day=date(2017, 2, 14),
            checks=(),
            versions={},
        )

    return make


@pytest.fixture
def flag_at():
    """The flag at a percent enrolled."""

    def make(enrolled, *, serve="", enabled=True, changed=timedelta(days=2)):
        exposure = Exposure(weights={"gate_30": 50, "gate_40": 50}, control="gate_30", enrolled=enrolled, serve=serve)
        return FlagState(FlagRef("gate-position", "production"), exposure, "7-abc", enabled, NOW - changed)

    return make


@pytest.fixture
def ask(gate_position, goal, guardrail, posterior_of, flag_at):
    """The decision on the good posterior, with some things changed."""

    def make(
        *,
        enrolled=25,
        looks=1,
        now=NOW,
        experiment=gate_position,
        counts=None,
        before=None,
        goal=goal,
        guardrail=guardrail,
        **flag,
    ):
        return xb.decide(
            experiment,
            posterior_of(goal, guardrail, counts=counts),
            flag=flag_at(enrolled, **flag),
            looks=looks,
            now=now,
            before=before,
        )

    return make
