"""What changed since the last look, without taking another one: counts of new data, never their effects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import cast

import numpy as np

from expnb.decisions.decision import TITLES
from expnb.errors import ExpnbError
from expnb.history.compare import flips
from expnb.history.page import Page, Section, filled
from expnb.history.records import Past, as_workspace, kept_cells, own_entries, past_decisions, recorded, until
from expnb.history.restated import days_restated, units_restated
from expnb.history.timeline import CHANGES, receipts, timeline
from expnb.ledger.agreement import agreement
from expnb.ledger.ledger import Entry
from expnb.spec.changes import Change, changes
from expnb.spec.experiment import Experiment
from expnb.spec.read import DEFINING_KEYS
from expnb.stats.cells import Cells
from expnb.stats.checks import counts_of
from expnb.workspace import Workspace

Effects = Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Review(Page):
    """What changed since the last look, in sentences.

    Parameters
    ----------
    since : str
        Which look was the last.
    data : tuple of str
        Units and days that came since, and known days that changed; counts only.
    specification, metrics : tuple of str
        Edits of the experiment, and of the definitions of its metrics.
    flag : tuple of str
        Changes of the flag: who, when, from what to what.
    requests : tuple of str
        Plans that wait for approval or a push.
    looks : tuple of str
        The last two looks side by side: effects, and rules that came out otherwise.
    """

    since: str
    data: tuple[str, ...]
    specification: tuple[str, ...]
    metrics: tuple[str, ...]
    flag: tuple[str, ...]
    requests: tuple[str, ...]
    looks: tuple[str, ...]

    @property
    def title(self) -> str:
        """Which look was the last."""
        return self.since

    def sections(self) -> tuple[Section, ...]:
        """What changed, under headings."""
        return filled(
            [
                ("Data since then (counts only: this is no look)", self.data or ("Nothing new.",)),
                ("Specification", self.specification),
                ("Metric definitions", self.metrics),
                ("Flag", self.flag or ("Unchanged.",)),
                ("Open requests", self.requests),
                ("The last two looks", self.looks),
            ]
        )


def review(name: str, workspace: Workspace | str | Path = ".") -> Review:
    """What changed in an experiment since the last look.

    It reads the source and counts, but is no look: nothing is recorded, and no effect of data that were not looked at is shown.

    Parameters
    ----------
    name : str
        Of the experiment.
    workspace : Workspace, str or Path

    Raises
    ------
    NameNotFoundError, SpecError
    """
    ws = as_workspace(workspace)
    entries = own_entries(ws, name)
    experiment = ws.experiment(name)
    known = past_decisions(entries)
    last = known[-1] if known else None
    since = last.entry.seq if last else 0
    moved = [str(event) for event in timeline(entries) if event.seq > since and event.kind in CHANGES]
    agreed = _agreed(entries, last)
    edits = list(changes(agreed, experiment)) if agreed else []
    definitions = [edit for edit in edits if _is_definition(edit)]
    return Review(
        since=_title(name, last),
        data=tuple(_data(ws, entries, experiment, last)),
        specification=(
            *(_edit(edit) for edit in edits if edit not in definitions),
            *_registration(entries, experiment),
        ),
        metrics=tuple(map(_edit, definitions)),
        flag=(*moved, *_moved_outside(ws, entries, experiment, last)),
        requests=(*_missing(ws, entries, experiment, last), *_requests(ws, name)),
        looks=tuple(_looks(entries, known)),
    )


def _title(name: str, last: Past | None) -> str:
    if last is None:
        return f"{name}: not looked at yet"
    then = last.decision
    return f"{name}: since look {then.looks}, {TITLES[then.action].lower()} on {then.decided_at:%Y-%m-%d %H:%M} UTC (ledger entry {last.entry.seq})"


# --- the data ---------------------------------------------------------------------------------


def _data(workspace: Workspace, entries: Sequence[Entry], experiment: Experiment, last: Past | None) -> Iterator[str]:
    """What came since, and what became of the days that were known."""
    try:
        now = workspace.load(experiment).cells
    except ExpnbError as error:
        yield f"The source cannot be read: {error}"
        return
    if last is None:
        yield from _arrived(experiment, now, "So far")
        return
    then, why = kept_cells(workspace, entries, last)
    watermark = last.decision.watermark
    dated = watermark is not None and not np.isnat(now.day).all()
    if dated:
        yield from _arrived(experiment, now.where(~until(now, watermark)), f"After {watermark}")
        now = now.where(until(now, watermark))
    if then is None:
        yield f"{why} What became of the days that were known is therefore counted by arm alone."
        units = {name: now.count(name) for name in experiment.variants}
        shown = {name: n if n >= experiment.min_cell else 0 for name, n in units.items()}
        yield from units_restated(last.decision.units, shown, min_cell=experiment.min_cell)
        return
    then = then.where(until(then, watermark if dated else None))
    counts = [{name: cells.count(name) for name in experiment.variants} for cells in (then, now)]
    yield from units_restated(*counts, min_cell=experiment.min_cell)
    same = _same_metrics(last.experiment, experiment)
    yield from days_restated(experiment, *(cells.roll_up(by_day=True) for cells in (then, now)), metrics=same)
    if any(metric.window_days is not None for metric in experiment.metrics):
        yield "Values also change where windows that were open are over now."


def _arrived(experiment: Experiment, cells: Cells, when: str) -> Iterator[str]:
    """Units per arm, with the days on which they came."""
    if not cells.units:
        return
    counts = counts_of({name: cells.count(name) for name in experiment.variants}, min_cell=experiment.min_cell)
    found = cells.days(least=experiment.min_cell)
    days = f", on {_span(*found)}" if found else ""
    yield f"{when}{days}: {', '.join(f'{name} {count}' for name, count in counts.items())} units."


def _span(first: date, last: date) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


# --- specification, flag, requests --------------------------------------------------------------


def _agreed(entries: Sequence[Entry], last: Past | None) -> Experiment | None:
    """The experiment as it was at the last look, or registered; None where neither was recorded."""
    if last is not None and last.is_complete:
        return last.experiment
    specs = [entry.body["spec"] for entry in entries if entry.kind == "registered" and "spec" in entry.body]
    return recorded(Experiment, specs[-1]) if specs else None


def _is_definition(edit: Change) -> bool:
    """Whether it changed what a metric measures, or who vouches for it; the rest of a metric is the experiment's own choice."""
    metric, _, key = edit.where.rpartition(": ")
    return metric.startswith("metric ") and key in DEFINING_KEYS


def _edit(edit: Change) -> str:
    return f"{edit.sentence} This loosens it." if edit.loosens else edit.sentence


def _same_metrics(then: Experiment, now: Experiment) -> list[str]:
    """Names of the metrics that measure the same in both."""
    before = {metric.name: metric for metric in then.metrics}
    return [
        metric.name
        for metric in now.metrics
        if (old := before.get(metric.name))
        and (old.definition_hash, old.covariate, old.totals)
        == (metric.definition_hash, metric.covariate, metric.totals)
    ]


def _missing(
    workspace: Workspace, entries: Sequence[Entry], experiment: Experiment, last: Past | None
) -> Sequence[str]:
    """What nobody else has agreed to yet."""
    approvals = bool(workspace.config.environments[workspace.environment].approvals)
    first_day = last.decision.first_day if last else None
    return agreement(experiment, entries, first_day=first_day, approvals=approvals).missing


def _registration(entries: Sequence[Entry], experiment: Experiment) -> Iterator[str]:
    registered = [entry for entry in entries if entry.kind == "registered"]
    if not registered:
        yield "It is not registered: nothing shows that it was agreed before the data."
        return
    same = registered[-1].body["spec_hash"] == experiment.spec_hash
    yield f"It is {'' if same else 'not '}the one that was registered on {registered[-1].happened_at:%Y-%m-%d}."


def _moved_outside(
    workspace: Workspace, entries: Sequence[Entry], experiment: Experiment, last: Past | None
) -> Iterator[str]:
    """Whether the flag is at a version of which the ledger knows nothing."""
    try:
        state = workspace.flag(experiment)
    except ExpnbError as error:
        yield f"The flag cannot be read: {error}"
        return
    known = {receipt.after.version for _, receipt in receipts(entries)}
    known |= {last.decision.flag.version} if last else set()
    if known and state.version not in known:
        yield f"The flag is at version {state.version}, changed at {state.changed_at:%Y-%m-%d %H:%M} UTC, and the ledger does not know by whom: {state.exposure}."


def _requests(workspace: Workspace, name: str) -> Iterator[str]:
    """Plans that were asked for, are still valid, and were not pushed."""
    for asked in workspace.requests():
        if asked.plan.experiment != name:
            continue
        agreed, needed = workspace.approvals(asked.plan), workspace.approvals_needed(asked.plan)
        who = f" ({', '.join(agreed)})" if agreed else ""
        declined = f"; declined by {', '.join(map(str, asked.declines))}" if asked.declines else ""
        yield f"{asked.author} asked for {asked.plan}; {len(agreed)} of {needed} approvals{who}{declined}; void after {asked.plan.expires_at:%Y-%m-%d %H:%M} UTC."


# --- the last two looks -------------------------------------------------------------------------


def _looks(entries: Sequence[Entry], known: Sequence[Past]) -> Iterator[str]:
    """What the last look said otherwise than the one before it."""
    if not known:
        return
    now = known[-1].decision
    earlier = [past.decision for past in known if past.decision.fingerprint != now.fingerprint]
    if not earlier:
        return
    then, effects = earlier[-1], _effects(entries)
    yield f"Look {then.looks} said {TITLES[then.action].lower()}, look {now.looks} said {TITLES[now.action].lower()}."
    before, after = effects.get(then.fingerprint, {}), effects.get(now.fingerprint, {})
    for metric, variant in after:
        was = before.get((metric, variant))
        words = "not known" if was is None else f"{100 * was:+.2f} %"
        yield f"{metric} under {variant}: raw effect {words} then, {100 * after[metric, variant]:+.2f} % now."
    yield from flips(then, now)


def _effects(entries: Sequence[Entry]) -> dict[str, Effects]:
    """Raw relative effects by look, as they were recorded."""
    found: dict[str, Effects] = {}
    for entry in entries:
        if entry.kind == "look" and "effects" in entry.body:
            rows = cast("list[dict[str, str | float]]", entry.body["effects"])
            own = {(str(row["metric"]), str(row["variant"])): math.expm1(float(row["log_ratio"])) for row in rows}
            found[str(entry.body["fingerprint"])] = own
    return found
