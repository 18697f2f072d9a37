"""Posteriors built by hand, so that charts are tested without an engine."""

from dataclasses import replace

import numpy as np
import pytest

from expnb.posterior.effect import Density, Effect
from expnb.posterior.posterior import Posterior


def normal(mean: float, sd: float, points: int = 161) -> Density:
    x = np.linspace(mean - 7 * sd, mean + 7 * sd, points)
    return Density(x, np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi)))


def share_above(mean: float, sd: float, cut: float) -> float:
    from scipy.special import ndtr

    return float(ndtr((mean - cut) / sd))


def make_effect(
    *,
    metric: str = "retention_7",
    variant: str = "gate_40",
    counts: tuple[int, int] = (44_700, 45_489),
    means: tuple[float, float] = (0.1902, 0.1820),
    posterior: tuple[float, float] = (-0.0367, 0.0135),
    rope: float | None = 0.005,
    margin: float | None = 0.005,
    direction: str = "increase",
    **other: object,
) -> Effect:
    mean, sd = posterior
    sign = 1 if direction == "increase" else -1
    raw_abs = means[1] - means[0]
    facts = {
        "kind": "conversion", "role": "goal", "unit": "", "segment": "all",
        "effect_abs": raw_abs, "effect_rel": means[1] / means[0] - 1,
        "effect_abs_post": mean * means[0], "effect_rel_post": mean,
        "hdi_abs_low": (mean - 1.96 * sd) * means[0], "hdi_abs_high": (mean + 1.96 * sd) * means[0],
        "hdi_rel_low": mean - 1.96 * sd, "hdi_rel_high": mean + 1.96 * sd,
        "p_improvement": share_above(sign * mean, sd, 0), "p_above_rope": share_above(sign * mean, sd, rope or 0),
        "p_harm": 1 - share_above(sign * mean, sd, -(margin or 0)), "p_rope": 0.01, "p_harm_flat": 0.99,
        "expected_loss_abs": 0.007, "expected_loss_rel": 0.037, "p_best": 0.002, "p_value": 0.0016, "ci_low": -0.013, "ci_high": -0.003,
        "scale": "relative", "prior": "student_t(4, 0, 0.03)", "engine": "exact", "note": "",
        "relative": normal(mean, sd), "absolute": normal(mean * means[0], sd * means[0]),
    }  # fmt: skip
    return Effect(
        metric=metric, variant=variant, direction=direction, n_control=counts[0], n_treatment=counts[1],
        mean_control=means[0], mean_treatment=means[1], rope=rope, margin=margin, **(facts | other),
    )  # fmt: skip


POSTERIOR_FIGURES = (
    "effect_rel", "effect_abs_post", "effect_rel_post", "hdi_abs_low", "hdi_abs_high", "hdi_rel_low", "hdi_rel_high", "p_improvement", "p_above_rope", "p_harm", "p_rope",
    "p_harm_flat", "expected_loss_abs", "expected_loss_rel", "p_best", "relative", "absolute",
)  # fmt: skip
MISSING = dict.fromkeys(POSTERIOR_FIGURES) | {
    "scale": "absolute",
    "note": "no posterior: fewer than two units in an arm",
}


def make_posterior(*effects: Effect, control: str = "gate_30") -> Posterior:
    return Posterior(
        experiment="gate_position", control=control, effects=effects, engine="exact", prior="student_t(4, 0, 0.03)", seed=20,
        counts={control: effects[0].n_control} | {one.variant: one.n_treatment for one in effects},
        fingerprint="f" * 64, first_day=None, last_day=None, checks=(), versions={},
    )  # fmt: skip


@pytest.fixture
def cookie_cats():
    """Retention of Cookie Cats players, near its published numbers."""
    return make_posterior(make_effect())


@pytest.fixture
def emails():
    """Two treatments of one control, near the published visit rates of Hillstrom's e-mails."""
    men = make_effect(
        metric="visit",
        variant="Mens E-Mail",
        counts=(21_306, 21_307),
        means=(0.1062, 0.1828),
        posterior=(0.716, 0.036),
        rope=0.01,
        margin=0.01,
    )
    women = replace(
        make_effect(
            metric="visit",
            variant="Womens E-Mail",
            counts=(21_306, 21_387),
            means=(0.1062, 0.1514),
            posterior=(0.422, 0.032),
            rope=0.01,
            margin=0.01,
        ),
        note="prior and data disagree: the raw effect lies 3.9 prior-predictive standard deviations from none",
    )
    return make_posterior(men, women, control="No E-Mail")


@pytest.fixture
def effect_of():
    """A function that makes one effect."""
    return make_effect


@pytest.fixture
def posterior_of():
    """A function that makes a posterior of effects."""
    return make_posterior


@pytest.fixture
def missing(effect_of):
    """An effect without a posterior."""
    return make_effect(rope=None, margin=None, **MISSING)
