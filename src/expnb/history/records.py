"""The ledger read back as values: decisions with what they were taken on, receipts, plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from expnb.cohorts.looks import read_look
from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan
from expnb.errors import NameNotFoundError, ReplayError
from expnb.flags.base import Receipt
from expnb.ledger.ledger import Entry
from expnb.ledger.recorded import recorded as read_back
from expnb.spec.canonical import Json, to_json
from expnb.spec.experiment import Experiment
from expnb.spec.prior import Prior
from expnb.stats.arrays import BoolArray
from expnb.stats.cells import Cells
from expnb.workspace import Workspace, open_workspace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Past:
    """A decision as it was recorded, with what is needed to take it again.

    Parameters
    ----------
    entry : Entry
        Of the ledger.
    decision : Decision
    evidence_hash : str
    """

    entry: Entry
    decision: Decision
    evidence_hash: str

    @property
    def is_complete(self) -> bool:
        """Whether what a replay needs was recorded; an expnb before replays did not."""
        return "replay" in self.entry.body

    @property
    def experiment(self) -> Experiment:
        """The experiment as it was specified then."""
        return recorded(Experiment, self._facts["spec"])

    @property
    def prior(self) -> Prior | None:
        """The prior that the fit was given in place of the experiment's own."""
        return None if self._facts["prior"] is None else recorded(Prior, self._facts["prior"])

    @property
    def cells(self) -> str:
        """Name of the file that keeps the cells; empty where none does."""
        return str(self._facts["cells"])

    @property
    def before(self) -> Mapping[str, int] | None:
        """Units per arm in the data that carried the last step up."""
        return cast("Mapping[str, int] | None", self._facts["before"])

    @property
    def judged(self) -> str:
        """Evidence hash of the decision whose verdict might stand; empty for none."""
        return str(self._facts["judged"])

    @property
    def unagreed(self) -> Sequence[str]:
        """What nobody else had agreed to then."""
        return cast("Sequence[str]", self._facts["unagreed"])

    @property
    def _facts(self) -> Mapping[str, Json]:
        return cast("Mapping[str, Json]", self.entry.body["replay"])


def as_workspace(workspace: Workspace | str | Path, environment: str | None = None) -> Workspace:
    """The workspace itself, or the one in a folder; in an environment, where one is named."""
    if not isinstance(workspace, Workspace):
        return open_workspace(workspace, environment=environment)
    return workspace if environment is None else replace(workspace, environment=environment)


def recorded(shape: type[T], body: Json) -> T:
    """A value as it was recorded.

    Raises
    ------
    ReplayError
        If this version of expnb cannot read it.
    """
    try:
        return read_back(shape, body)
    except ValueError as error:  # pydantic's, or a rule that is newer than the entry
        raise ReplayError(
            f"a {shape.__name__} in the ledger cannot be read by this version of expnb: {error} Read it with the version that the decision names."
        ) from error


def past_decisions(entries: Sequence[Entry]) -> list[Past]:
    """Decisions among entries, in their order."""
    return [
        Past(entry, recorded(Decision, entry.body["decision"]), str(entry.body["evidence_hash"]))
        for entry in entries
        if entry.kind == "decision"
    ]


def kept_cells(workspace: Workspace, entries: Sequence[Entry], past: Past) -> tuple[Cells | None, str]:
    """The cells that were kept at a look; without them the reason why they are gone."""
    when = f"the decision of {past.decision.decided_at:%Y-%m-%d %H:%M} UTC"
    if not past.is_complete or not past.cells:
        return None, f"No cells were kept of {when}."
    folder = workspace.looks_folder / past.decision.experiment
    cells = read_look(folder, past.cells)
    if cells is not None:
        return cells, ""
    if (folder / past.cells).exists():
        return (
            None,
            f"The cells kept of {when} are not those that it was taken on: {past.cells} was changed or damaged since.",
        )
    forgotten = [entry for entry in entries if entry.kind == "forgotten" and entry.seq > past.entry.seq]
    told = next((entry for entry in forgotten if entry.body.get("looks")), None)
    if told is not None:
        return None, f"The cells of {when} were forgotten by {told.body['actor']} on {told.happened_at:%Y-%m-%d}."
    days = workspace.config.defaults.retention_days
    kept = f", or were deleted after retention_days = {days:g}" if days is not None else ""
    return None, f"The cells of {when} are not here: they are kept on the machine where it was taken{kept}."


def until(cells: Cells, day: date | None) -> BoolArray:
    """Cells up to a day, and those without one; all of them where there is no day."""
    return np.full(cells.n.size, fill_value=True) if day is None else ~(cells.day > np.datetime64(day, "D"))


def last_receipt(entries: Sequence[Entry]) -> Receipt | None:
    """The receipt of the last change of a flag, as the ledger has it; None where there was none."""
    bodies = [entry.body["receipt"] for entry in entries if entry.body.get("receipt")]
    return recorded(Receipt, bodies[-1]) if bodies else None


def plan_behind(entries: Sequence[Entry], receipt: Receipt) -> tuple[Entry, RampPlan | None]:
    """The entry with a receipt, and the plan that was pushed; None for a kill, which needs none.

    Raises
    ------
    ReplayError
        If the receipt is not in the ledger.
    """
    body = to_json(receipt)
    entry = next((entry for entry in reversed(entries) if entry.body.get("receipt") == body), None)
    if entry is None:
        raise ReplayError(
            f"the ledger holds no receipt of {receipt.verb} for flag {receipt.ref.flag!r} at {receipt.applied_at:%Y-%m-%d %H:%M} UTC. Open the workspace that it was made in: replay(receipt, workspace=…)."
        )
    return entry, plans(entries).get(cast("int", entry.body.get("intent", 0)))


def plans(entries: Sequence[Entry]) -> dict[int, RampPlan]:
    """Plans that were pushed, by the number of their intent."""
    return {entry.seq: recorded(RampPlan, entry.body["plan"]) for entry in entries if entry.kind == "intent"}


def own_entries(workspace: Workspace, name: str) -> list[Entry]:
    """Entries on an experiment, oldest first; those that name another environment are left out.

    Raises
    ------
    NameNotFoundError
        If nothing is known of that experiment.
    """
    entries = workspace.ledger.entries(experiment=name)
    if not entries and name not in workspace.experiments:
        raise NameNotFoundError("experiment", name, sorted({*workspace.experiments, *_names(workspace)}))
    return [entry for entry in entries if entry.body.get("environment", workspace.environment) == workspace.environment]


def _names(workspace: Workspace) -> Iterator[str]:
    """Experiments of which the ledger knows."""
    for entry in workspace.ledger.entries():
        if "experiment" in entry.body:
            yield str(entry.body["experiment"])
