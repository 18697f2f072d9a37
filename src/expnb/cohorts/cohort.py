"""A cohort: a source bound to an experiment, and what can be said of it at once."""

from __future__ import annotations

import html
from dataclasses import dataclass

from expnb.cohorts.reduce import check_columns, reduce
from expnb.cohorts.sources import bind
from expnb.errors import SourceError
from expnb.spec.experiment import Experiment
from expnb.stats.cells import Cells
from expnb.stats.checks import Check

MARKS = {"ok": "✓", "warn": "⚠", "block": "✗"}


@dataclass(frozen=True, slots=True)
class Cohort:
    """A source bound to an experiment; holds statistics and checks, never rows."""

    experiment: Experiment
    cells: Cells

    @property
    def checks(self) -> tuple[Check, ...]:
        """What is right or wrong with the data."""
        return self.cells.checks

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {self.cells.count(name):,}" for name in self.experiment.variants)
        lines = [f"cohort of {self.experiment.name}: {self.cells.units:,} units from {self.cells.source} ({sizes})"]
        return "\n".join(lines + [f"{MARKS[check.outcome]} {check.sentence}" for check in self.checks])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{name}</td><td>{self.cells.count(name):,}</td><td>{self.experiment.share(name):.1%}</td></tr>"
            for name in map(html.escape, self.experiment.variants)
        )
        notes = "".join(f"<li>{MARKS[check.outcome]} {html.escape(check.sentence)}</li>" for check in self.checks)
        caption = (
            f"{html.escape(self.experiment.name)}: {self.cells.units:,} units from {html.escape(self.cells.source)}"
        )
        return f"<table><caption style='text-align:left;font-weight:bold;white-space:nowrap'>{caption}</caption><tr><th style='text-align:left'>arm</th><th>units</th><th>promised</th></tr>{rows}</table><ul style='list-style:none;padding-left:0'>{notes}</ul>"


def load_cohort(experiment: Experiment, source: object) -> Cohort:
    """The cohort of an experiment, checked: sample ratio, arms, units, values.

    Parameters
    ----------
    experiment : Experiment
    source : str, Path, pandas or Polars frame, Arrow table, DuckDB relation, or Ibis table
        One row per unit. A path may hold wildcards; parquet and CSV are known.

    Returns
    -------
    Cohort
        Its statistics come from one statement that runs where the data is.

    Raises
    ------
    PathNotFoundError, SourceError, ColumnNotFoundError, EmptyCohortError, ArmsError, NullArmError, UnitError, MetricValuesError, CohortError
        Each with the value found, the rule and the next step.
    """
    if not isinstance(experiment, Experiment):
        raise SourceError(
            f"load_cohort takes (experiment, source); the first is a {type(experiment).__name__}. "
            "Read the experiment first: ws.experiment(name)."
        )
    table, engine, name = bind(source, timezone=experiment.timezone)
    check_columns(experiment, table)
    return Cohort(experiment, reduce(experiment, table, engine, name))
