"""What the ledger says about one experiment or one flag, as values."""

from __future__ import annotations

from collections.abc import Sequence

from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan
from expnb.flags.base import Receipt
from expnb.ledger.ledger import Entry, EntryKind, Ledger
from expnb.ledger.recorded import recorded
from expnb.spec.flag import FlagRef


def own_entries(ledger: Ledger, experiment: str, environment: str) -> list[Entry]:
    """Entries about an experiment, as far as they hold in an environment; oldest first."""
    entries = ledger.entries(experiment=experiment)
    return [entry for entry in entries if entry.body.get("environment", environment) == environment]


def entries_on(ledger: Ledger, ref: FlagRef, kind: EntryKind | None = None) -> list[Entry]:
    """Entries about a flag, of one kind or all, oldest first."""
    entries = ledger.entries(kind=kind, flag=ref.flag)
    return [entry for entry in entries if entry.body.get("environment") == ref.environment]


def receipts_on(ledger: Ledger, ref: FlagRef) -> list[Receipt]:
    """Receipts of a flag, oldest first."""
    return [recorded(Receipt, entry.body["receipt"]) for entry in entries_on(ledger, ref) if entry.body.get("receipt")]


def decisions_on(ledger: Ledger, experiment: str, environment: str) -> list[tuple[Entry, Decision]]:
    """Recorded decisions of an environment with their entries, oldest first."""
    entries = ledger.entries(kind="decision", experiment=experiment)
    return [
        (entry, recorded(Decision, entry.body["decision"]))
        for entry in entries
        if entry.body.get("environment") == environment
    ]


def last_step(ledger: Ledger, ref: FlagRef, decided: Sequence[tuple[Entry, Decision]]) -> Decision | None:
    """The decision behind the last step up of a flag that was pushed."""
    pushed = {entry.body["intent"] for entry in entries_on(ledger, ref, "outcome") if entry.body["applied"]}
    plans = [
        recorded(RampPlan, entry.body["plan"]) for entry in entries_on(ledger, ref, "intent") if entry.seq in pushed
    ]
    known = {entry.body["evidence_hash"]: decision for entry, decision in decided}
    steps = [known.get(plan.evidence_hash) for plan in plans if plan.raises_treated]
    return next((decision for decision in reversed(steps) if decision), None)
