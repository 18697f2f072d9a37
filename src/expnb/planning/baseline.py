"""What the metrics of an experiment look like without any change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expnb.errors import NameNotFoundError, SpecError
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric

if TYPE_CHECKING:
    from expnb.stats.cells import Cells


@dataclass(frozen=True, slots=True)
class Baseline:
    """Mean and standard deviation of one metric, per unit of the control."""

    mean: float
    sd: float


Given = float | tuple[float, float]


def as_baselines(
    experiment: Experiment, metrics: tuple[Metric, ...], given: Mapping[str, Given] | Given | Cells
) -> dict[str, Baseline]:
    """The baseline of every metric.

    Parameters
    ----------
    given : mapping, number, pair or Cells
        Per metric the share of units (conversion, retention), or mean and standard deviation; one number or pair stands for all metrics. Of cells, what the control showed.

    Raises
    ------
    NameNotFoundError
        If `given` names a metric that is not judged.
    SpecError
        If a metric has no baseline, or an impossible one.
    """
    if isinstance(given, Mapping):
        for name in given:
            if name not in {metric.name for metric in metrics}:
                raise NameNotFoundError("goal or guardrail", name, [metric.name for metric in metrics])
        found: dict[str, Given | None] = {metric.name: given.get(metric.name) for metric in metrics}
    elif isinstance(given, int | float | tuple):
        found = {metric.name: given for metric in metrics}
    else:
        found = {metric.name: _of_cells(experiment, metric, given) for metric in metrics}
    return {metric.name: _checked(metric, found[metric.name]) for metric in metrics}


def _of_cells(experiment: Experiment, metric: Metric, cells: Cells) -> Given:
    moments = cells.metrics[metric.name].moments(cells.variant == experiment.control)
    if moments.n < 2:
        raise SpecError(
            f"the control has {moments.n} units with a value of {metric.name!r}; a baseline needs more. Give it as a number."
        )
    return moments.mean if metric.is_share else (moments.mean, math.sqrt(moments.variance))


def _checked(metric: Metric, given: Given | None) -> Baseline:
    if given is None:
        raise SpecError(
            f"metric {metric.name!r} has no baseline. Add one: {_example(metric)}; or pass cells of an earlier experiment."
        )
    if metric.is_share:
        if isinstance(given, tuple) or not 0 < given < 1:
            raise SpecError(
                f"the baseline of {metric.name!r} is {given}; a share lies between 0 and 1. Write {_example(metric)}."
            )
        return Baseline(float(given), math.sqrt(given * (1 - given)))
    if not isinstance(given, tuple) or len(given) != 2 or not all(map(math.isfinite, given)) or min(given) <= 0:
        raise SpecError(
            f"the baseline of {metric.name!r} is {given}; a {metric.kind} has a mean and a standard deviation per unit, both above 0. Write {_example(metric)}."
        )
    return Baseline(float(given[0]), float(given[1]))


def _example(metric: Metric) -> str:
    return f"baseline={{{metric.name!r}: {'0.1' if metric.is_share else '(10.0, 15.0)'}}}"
