"""Experiments in Jupyter: from a cohort to a Bayesian decision to a ramped feature flag.

>>> import expnb as xb
>>> exp = xb.read_experiment("experiments/gate_position.toml")  # doctest: +SKIP
>>> posterior = xb.fit(exp, xb.load_cohort(exp, "cohort.parquet"))  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING

from expnb._version import __version__

if TYPE_CHECKING:
    from expnb import charts, datasets, demo, errors, flags, models, reports, widgets
    from expnb.cohorts.cohort import Cohort, load_cohort, load_cohorts
    from expnb.cohorts.warehouse import Warehouse
    from expnb.decisions.decide import decide
    from expnb.decisions.decision import Decision
    from expnb.decisions.plan import RampPlan, plan_ramp
    from expnb.decisions.sensitivity import Sensitivity, sensitivity
    from expnb.flags.exposures import check_exposures
    from expnb.history.incident import Incident, incident
    from expnb.history.replay import Replay, replay
    from expnb.history.review import Review, review
    from expnb.models.fit import fit
    from expnb.planning.backlog import Backlog, Proposal, prioritise
    from expnb.planning.design import ExperimentPlan, plan_experiment
    from expnb.planning.past import PolicyReplay, replay_policy
    from expnb.planning.simulate import OperatingCharacteristics, simulate_policy
    from expnb.planning.waiting import Waiting, value_of_waiting
    from expnb.posterior.bulk import compare
    from expnb.posterior.posterior import Posterior
    from expnb.posterior.priors.learn import learn_prior
    from expnb.posterior.priors.plain import plain_odds
    from expnb.posterior.priors.score import score_prior
    from expnb.spec.experiment import Experiment
    from expnb.spec.metric import Metric
    from expnb.spec.policy import Policy, Rung
    from expnb.spec.prior import Prior
    from expnb.spec.read import read_experiment
    from expnb.stats.cells import Cells
    from expnb.workspace import Workspace, open_workspace

# Loaded at first use: `import expnb` itself loads nothing outside the standard library.
_HOMES = {
    "Backlog": "expnb.planning.backlog",
    "Cells": "expnb.stats.cells",
    "Cohort": "expnb.cohorts.cohort",
    "Decision": "expnb.decisions.decision",
    "Experiment": "expnb.spec.experiment",
    "ExperimentPlan": "expnb.planning.design",
    "Incident": "expnb.history.incident",
    "Metric": "expnb.spec.metric",
    "OperatingCharacteristics": "expnb.planning.simulate",
    "Policy": "expnb.spec.policy",
    "PolicyReplay": "expnb.planning.past",
    "Posterior": "expnb.posterior.posterior",
    "Prior": "expnb.spec.prior",
    "Proposal": "expnb.planning.backlog",
    "RampPlan": "expnb.decisions.plan",
    "Replay": "expnb.history.replay",
    "Review": "expnb.history.review",
    "Rung": "expnb.spec.policy",
    "Sensitivity": "expnb.decisions.sensitivity",
    "Waiting": "expnb.planning.waiting",
    "Warehouse": "expnb.cohorts.warehouse",
    "Workspace": "expnb.workspace",
    "check_exposures": "expnb.flags.exposures",
    "compare": "expnb.posterior.bulk",
    "decide": "expnb.decisions.decide",
    "fit": "expnb.models.fit",
    "incident": "expnb.history.incident",
    "learn_prior": "expnb.posterior.priors.learn",
    "load_cohort": "expnb.cohorts.cohort",
    "load_cohorts": "expnb.cohorts.cohort",
    "open_workspace": "expnb.workspace",
    "plain_odds": "expnb.posterior.priors.plain",
    "plan_experiment": "expnb.planning.design",
    "plan_ramp": "expnb.decisions.plan",
    "prioritise": "expnb.planning.backlog",
    "read_experiment": "expnb.spec.read",
    "replay": "expnb.history.replay",
    "review": "expnb.history.review",
    "replay_policy": "expnb.planning.past",
    "score_prior": "expnb.posterior.priors.score",
    "sensitivity": "expnb.decisions.sensitivity",
    "simulate_policy": "expnb.planning.simulate",
    "value_of_waiting": "expnb.planning.waiting",
}
_MODULES = ("charts", "datasets", "demo", "errors", "flags", "models", "reports", "widgets")

__all__ = [
    "Backlog",
    "Cells",
    "Cohort",
    "Decision",
    "Experiment",
    "ExperimentPlan",
    "Incident",
    "Metric",
    "OperatingCharacteristics",
    "Policy",
    "PolicyReplay",
    "Posterior",
    "Prior",
    "Proposal",
    "RampPlan",
    "Replay",
    "Review",
    "Rung",
    "Sensitivity",
    "Waiting",
    "Warehouse",
    "Workspace",
    "__version__",
    "charts",
    "check_exposures",
    "compare",
    "datasets",
    "decide",
    "demo",
    "errors",
    "fit",
    "flags",
    "incident",
    "learn_prior",
    "load_cohort",
    "load_cohorts",
    "models",
    "open_workspace",
    "plain_odds",
    "plan_experiment",
    "plan_ramp",
    "prioritise",
    "read_experiment",
    "replay",
    "replay_policy",
    "reports",
    "review",
    "score_prior",
    "sensitivity",
    "simulate_policy",
    "value_of_waiting",
    "widgets",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"expnb.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'expnb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
