"""The metric catalogue as a table: who owns which metric, and which experiments use it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from expnb.errors import NameNotFoundError
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.read import MetricDefinition

Registered = Mapping[str, Mapping[str, str]]
COLUMNS = ("metric", "kind", "unit", "owner", "version", "certified", "used by")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueRow:
    """One metric of the catalogue with its users.

    Parameters
    ----------
    experiments : tuple of str
        Names of the experiments that use it.
    notes : tuple of str
        What changed since an experiment was registered.
    """

    definition: MetricDefinition
    experiments: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """Values of `COLUMNS` as text."""
        metric = self.definition
        certified = "yes" if metric.certified else "no"
        users = ", ".join(self.experiments) or "nobody"
        return (metric.name, metric.kind, metric.unit or "–", metric.owner, metric.version, certified, users)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Catalogue:
    """Every metric of the catalogue, as a table.

    Parameters
    ----------
    rows : tuple of CatalogueRow
        By name.
    unread : mapping of str to str
        Experiments that could not be read, with the reason; what they use is not known.
    """

    rows: tuple[CatalogueRow, ...]
    unread: Mapping[str, str]

    def __iter__(self) -> Iterator[CatalogueRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> CatalogueRow:
        """The metric of that name.

        Raises
        ------
        NameNotFoundError
            If the catalogue has none.
        """
        for row in self.rows:
            if row.definition.name == name:
                return row
        raise NameNotFoundError("metric", name, [row.definition.name for row in self.rows])

    @property
    def unreadable(self) -> tuple[str, ...]:
        """A sentence for each experiment that could not be read."""
        return tuple(f"experiment {name!r} cannot be read: {why}" for name, why in self.unread.items())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What changed since a registration, and what could not be read."""
        return (*(note for row in self.rows for note in row.notes), *self.unreadable)

    def __repr__(self) -> str:
        if not self.rows:
            return "\n".join(["the catalogue is empty: no file in metrics/ defines a metric.", *self.remarks])
        table = [COLUMNS, *(row.cells for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in table]
        return "\n".join([*(line.rstrip() for line in lines), *(f"! {remark}" for remark in self.remarks)])

    def _repr_html_(self) -> str:
        def cells(tag: str, texts: tuple[str, ...]) -> str:
            return "".join(f"<{tag} style='text-align:left'>{html.escape(text)}</{tag}>" for text in texts)

        body = "".join(f"<tr>{cells('td', row.cells)}</tr>" for row in self.rows)
        remarks = "".join(f"<li>{html.escape(remark)}</li>" for remark in self.remarks)
        return (
            f"<table><caption style='text-align:left;font-weight:bold;white-space:nowrap'>metric catalogue</caption><tr>{cells('th', COLUMNS)}</tr>{body}</table>"
            + (f"<ul>{remarks}</ul>" if remarks else "")
        )


def to_register(experiment: Experiment) -> dict[str, dict[str, str]]:
    """Version and definition of every metric, as they are registered."""
    return {metric.name: {"version": metric.version, "digest": metric.definition_hash} for metric in experiment.metrics}


def new_version(metric: Metric, registered: Registered) -> str:
    """A sentence when the metric got a new version since the registration; else empty."""
    before = registered.get(metric.name, {}).get("version", metric.version)
    if before == metric.version:
        return ""
    return f"metric {metric.name!r} went from version {before or '(none)'} to {metric.version or '(none)'} since the registration"


def silent_edit(metric: Metric, registered: Registered) -> str:
    """A sentence when the definition changed since the registration while the version did not; else empty."""
    before = registered.get(metric.name)
    if before is None or before["version"] != metric.version or before["digest"] == metric.definition_hash:
        return ""
    return f"metric {metric.name!r} was edited without a new version"
