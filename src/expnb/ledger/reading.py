"""What the ledger says about one experiment or one flag, as values; read once, asked often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan
from expnb.flags.base import Receipt
from expnb.ledger.ledger import Entry, Ledger
from expnb.ledger.recorded import recorded
from expnb.spec.flag import FlagRef


def entries_of(ledger: Ledger, experiment: str, environment: str) -> list[Entry]:
    """Entries about an experiment, as far as they hold in an environment; oldest first."""
    return ledger.entries(experiment=experiment, environment=environment)


def entries_on(ledger: Ledger, ref: FlagRef) -> list[Entry]:
    """Entries about a flag, oldest first."""
    return ledger.entries(flag=ref.flag, environment=ref.environment)


def receipts(entries: Iterable[Entry]) -> list[Receipt]:
    """Receipts among entries, oldest first."""
    return [recorded(Receipt, entry.body["receipt"]) for entry in entries if entry.body.get("receipt")]


def decisions(entries: Iterable[Entry]) -> list[tuple[Entry, Decision]]:
    """Decisions among entries, oldest first; those of one environment name it."""
    return [
        (entry, recorded(Decision, entry.body["decision"]))
        for entry in entries
        if entry.kind == "decision" and entry.body.get("environment")
    ]


def last_step(on_flag: Sequence[Entry], decided: Sequence[tuple[Entry, Decision]]) -> Decision | None:
    """The decision behind the last step up of a flag that was pushed.

    Parameters
    ----------
    on_flag : sequence of Entry
        About the flag.
    decided : sequence of (Entry, Decision)
        Of the experiment.
    """
    pushed = {entry.body["intent"] for entry in on_flag if entry.kind == "outcome" and entry.body["applied"]}
    known = {entry.body["evidence_hash"]: decision for entry, decision in decided}
    for entry in reversed(on_flag):
        if entry.kind == "intent" and entry.seq in pushed:
            plan = recorded(RampPlan, entry.body["plan"])
            if plan.raises_treated and plan.evidence_hash in known:
                return known[plan.evidence_hash]
    return None


def unsettled(entries: Sequence[Entry]) -> list[Entry]:
    """Intents without an outcome, oldest first; one may still be on its way."""
    closed = {entry.body["intent"] for entry in entries if entry.kind == "outcome"}
    return [entry for entry in entries if entry.kind == "intent" and entry.seq not in closed]
