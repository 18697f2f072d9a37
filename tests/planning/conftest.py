"""An experiment to be planned: one goal, two guardrails, 10 % each."""

from datetime import date

import pytest

import expnb as xb

START = date(2026, 1, 1)


@pytest.fixture
def planned():
    """A new experiment with some parts changed."""

    def make(guardrails=2, *, treatments=1, goals=1, goal=None, prior=None, **policy):
        metrics = [goal or xb.Metric(name="bought", kind="conversion", role="goal", rope=0.005)]
        metrics += [
            xb.Metric(name=f"bought_{number}", kind="conversion", role="goal", rope=0.005) for number in range(1, goals)
        ]
        metrics += [
            xb.Metric(name=f"kept_{number}", kind="conversion", role="guardrail", margin=0.02)
            for number in range(guardrails)
        ]
        weights = {"old": 50.0} | {f"new_{number}": 50.0 for number in range(treatments)}
        return xb.Experiment(
            name="button", hypothesis="A larger button sells more.", owner="shop", flag="button", unit="user", variant="arm", control="old",
            weights=weights, start=START, end=date(2026, 3, 1), metrics=tuple(metrics), policy=xb.Policy(**policy), prior=prior or xb.Prior(),
        )  # fmt: skip

    return make
