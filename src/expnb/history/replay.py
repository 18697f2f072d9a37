"""A past decision taken again: from the cells that were kept at its look, or from the source as it is now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import numpy as np

from expnb.decisions.decide import decide
from expnb.decisions.decision import TITLES, Decision
from expnb.errors import ReplayError
from expnb.flags.base import Receipt
from expnb.history.compare import flips, raw_effects, values, verdicts, versions
from expnb.history.page import Page, Section, filled
from expnb.history.records import (
    Past,
    as_workspace,
    kept_cells,
    last_receipt,
    own_entries,
    past_decisions,
    plan_behind,
    until,
)
from expnb.history.restated import days_restated, units_restated
from expnb.ledger.ledger import Entry
from expnb.models.fit import Engine, fit
from expnb.posterior.posterior import Posterior
from expnb.spec.experiment import Experiment
from expnb.stats.cells import Cells
from expnb.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Replay(Page):
    """A decision as it was recorded, and the same one taken again.

    Parameters
    ----------
    entry : int
        Number of the recorded decision in the ledger.
    recorded, replayed : Decision
    from_source : bool
        Whether the source was read again, up to the days that were known then; else the kept cells were.
    differences : tuple of str
        What came out otherwise. From kept cells: action, exposure, and the outcome or value of any rule. From the source: action and exposure alone, because
        restated data move every value a little.
    data : tuple of str
        From the source: what late or restated data changed.
    notes : tuple of str
        What a reader must know besides, such as versions that differ.
    """

    entry: int
    recorded: Decision
    replayed: Decision
    from_source: bool
    differences: tuple[str, ...]
    data: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether nothing came out otherwise."""
        return not self.differences

    @property
    def title(self) -> str:
        """The answer in one line."""
        decided = f"{self.recorded.experiment}: the decision of {self.recorded.decided_at:%Y-%m-%d %H:%M} UTC (ledger entry {self.entry}), {TITLES[self.recorded.action].lower()}"
        if self.from_source:
            return f"{decided}, {'stands' if self.same else 'would be another'} on the source as it is now"
        return f"{decided}, {'is the same' if self.same else 'comes out otherwise'} from its kept cells"

    def sections(self) -> tuple[Section, ...]:
        """Then and now, under headings."""
        decided = [
            f"Then: {self.recorded.title}.",
            f"Now: {self.replayed.title}.",
            f"{len(self.recorded.rules)} rules; {self.recorded.footer}.",
        ]
        return filled(
            [
                ("Decided", decided),
                ("Different", self.differences),
                ("What changed in the data", self.data),
                ("Know besides", self.notes),
            ]
        )


def replay(of: Receipt | Decision, *, workspace: Workspace | str | Path = ".", from_source: bool = False) -> Replay:
    """A past decision taken again, with the experiment, prior, engine, seed, flag and time of then.

    Parameters
    ----------
    of : Receipt or Decision
        A change of a flag that a decision asked for, or the decision itself.
    workspace : Workspace, str or Path
        Where it was recorded.
    from_source : bool
        Read the source again instead of the kept cells, up to the last day that was known then: says whether late or restated data would change the decision.

    Returns
    -------
    Replay
        Values of the exact engine are the same up to 1e-6, those of the pymc engine up to four Monte Carlo errors; versions that differ are said.

    Raises
    ------
    ReplayError
        If the change was made by a person without a decision, the decision is not in the ledger, or its cells were forgotten, changed, or are on another machine.
    """
    ref = of.ref if isinstance(of, Receipt) else of.flag.ref
    ws = as_workspace(workspace, ref.environment)
    entries = _entries(ws, of)
    wanted = _evidence_behind(entries, of) if isinstance(of, Receipt) else of.evidence_hash
    known = past_decisions(entries)
    # A decision that was read back from the ledger has floats where whole numbers were, and so another hash.
    past = next((one for one in reversed(known) if one.evidence_hash == wanted or one.decision == of), None)
    if past is None:
        raise ReplayError(
            f"the decision behind this is not in the ledger of {ws.environment}, so nothing shows what it was taken on. Replay one that is: `expnb ledger list` shows them."
        )
    if not past.is_complete:
        raise ReplayError(
            f"the decision of {past.decision.decided_at:%Y-%m-%d %H:%M} UTC was recorded by an expnb that kept neither its cells nor its specification; it cannot be taken again. Replay a later one."
        )
    cells, why = kept_cells(ws, entries, past)
    if cells is None and not from_source:
        raise ReplayError(
            f"{why} Replay it from the source: `expnb replay {past.decision.experiment} --decision {past.entry.seq} --from-source`."
        )
    judged = next((one.decision for one in known if one.evidence_hash == past.judged), None)
    return (
        _from_source(ws, past, judged, cells, why) if from_source else _from_cells(past, judged, cast("Cells", cells))
    )


def find_decision(workspace: Workspace, name: str, entry: int | None = None) -> Receipt | Decision:
    """What to replay of an experiment: a decision by its ledger entry, else the last receipt, else the last decision.

    Raises
    ------
    ReplayError
        If there is none.
    """
    entries = own_entries(workspace, name)
    known = {past.entry.seq: past.decision for past in past_decisions(entries)}
    if entry is not None and entry in known:
        return known[entry]
    if entry is not None or not known:
        have = ", ".join(map(str, known)) or "none yet"
        asked = f"ledger entry {entry} is no decision" if entry is not None else "nothing was decided"
        raise ReplayError(
            f"{asked} on {name!r} in {workspace.environment}; the entries with its decisions are: {have}. Write one of them, or `expnb decide {name}` first."
        )
    return last_receipt(entries) or known[max(known)]


def _entries(workspace: Workspace, of: Receipt | Decision) -> list[Entry]:
    """Entries of the experiment that a receipt or a decision is about."""
    if isinstance(of, Decision):
        return own_entries(workspace, of.experiment)
    on_flag = workspace.ledger.entries(flag=of.ref.flag)
    entry, _ = plan_behind(on_flag, of)
    return own_entries(workspace, str(entry.body["experiment"]))


def _evidence_behind(entries: Sequence[Entry], receipt: Receipt) -> str:
    """Evidence hash of the decision that a receipt was made on."""
    entry, plan = plan_behind(entries, receipt)
    if plan is None or not plan.evidence_hash:
        why = f": {plan.reason}" if plan and plan.reason else "."
        raise ReplayError(
            f"{entry.body.get('actor') or 'somebody'} made this change ({receipt.verb} of flag {receipt.ref.flag!r} at {receipt.applied_at:%Y-%m-%d %H:%M} UTC) without a decision of the policy{why} "
            f"There is nothing to take again. Replay a decision by its number: `expnb replay {entry.body['experiment']} --decision N`; `expnb ledger list` shows them."
        )
    return plan.evidence_hash


def _again(past: Past, cells: Cells, judged: Decision | None) -> tuple[Posterior, Decision]:
    """The decision of then on other or the same cells."""
    then, experiment = past.decision, past.experiment
    posterior = fit(experiment, cells, engine=cast("Engine", then.engine), prior=past.prior, seed=then.seed)
    decision = decide(
        experiment,
        posterior,
        flag=then.flag,
        looks=then.looks,
        now=then.decided_at,
        before=past.before,
        judged=judged,
        unagreed=past.unagreed,
    )
    return posterior, decision


def _from_cells(past: Past, judged: Decision | None, cells: Cells) -> Replay:
    then = past.decision
    _, now = _again(past, cells, judged)
    return Replay(
        entry=past.entry.seq,
        recorded=then,
        replayed=now,
        from_source=False,
        differences=(*verdicts(then, now), *flips(then, now), *values(then, now)),
        data=(),
        notes=tuple(versions(then.versions, now.versions)),
    )


def _from_source(workspace: Workspace, past: Past, judged: Decision | None, cells: Cells | None, why: str) -> Replay:
    then, experiment = past.decision, past.experiment
    found, notes = _known_then(workspace, experiment, then.watermark)
    posterior, now = _again(past, found, judged)
    if cells is None:
        notes.append(f"{why} What changed is therefore known by arm, not by day.")
        data = [*units_restated(then.units, now.units, min_cell=experiment.min_cell)]
    else:
        known = cells.where(until(cells, then.watermark))
        counts = [{name: part.count(name) for name in experiment.variants} for part in (known, found)]
        data = [
            *units_restated(*counts, min_cell=experiment.min_cell),
            *days_restated(experiment, known, found),
            *raw_effects(_again(past, cells, judged)[0], posterior),
        ]
    data += flips(then, now)
    return Replay(
        entry=past.entry.seq,
        recorded=then,
        replayed=now,
        from_source=True,
        differences=tuple(verdicts(then, now)),
        data=tuple(data) or ("The source holds the same data as then.",),
        notes=(*notes, *versions(then.versions, now.versions)),
    )


def _known_then(workspace: Workspace, experiment: Experiment, watermark: date | None) -> tuple[Cells, list[str]]:
    """Cells of the source as it is now, up to the last day that was known, with what a reader must know of them."""
    windows = watermark is not None and any(metric.window_days is not None for metric in experiment.metrics)
    as_of = _midnight_after(watermark, experiment.timezone) if watermark and windows else None
    cohort = workspace.load(experiment, as_of=as_of)
    notes = [f"Windows are taken to end with {watermark}, the last day that was known."] if windows else []
    if watermark is None or np.isnat(cohort.cells.day).all():
        return cohort.cells, [*notes, "The data carry no days: all of the source was read, also what is newer."]
    return cohort.until(watermark, as_of=as_of).cells, notes


def _midnight_after(day: date, timezone: str) -> datetime:
    return datetime.combine(day + timedelta(days=1), time(), ZoneInfo(timezone))
