"""Entries of the ledger as events: when, who, what, why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan
from expnb.flags.base import Receipt, VendorRequest, describe
from expnb.history.records import plans, recorded
from expnb.ledger.ledger import Entry
from expnb.spec.canonical import Json

CHANGES = frozenset({"outcome", "kill"})
"""Kinds of entries that say what became of a flag."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the ledger in words.

    Parameters
    ----------
    seq : int
        Of the entry.
    kind : str
    at : datetime
        UTC.
    who : str
        Empty where the ledger does not say.
    act : str
        What was done, in few words.
    what : str
        The same with its reason.
    """

    seq: int
    kind: str
    at: datetime
    who: str
    act: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} UTC{f', {self.who}' if self.who else ''}: {self.what}"


def timeline(entries: Sequence[Entry]) -> list[Event]:
    """Events in the order of the ledger; an intent is told by its outcome, where there is one.

    Parameters
    ----------
    entries : sequence of Entry
        All of an experiment, because an outcome is explained by its intent.
    """
    pushed = plans(entries)
    ended = {entry.body["intent"] for entry in entries if entry.kind == "outcome"}
    events = []
    for entry in entries:
        if entry.kind != "intent" or entry.seq not in ended:
            act, what = _words(entry, pushed)
            who = str(entry.body.get("actor", ""))
            events.append(Event(entry.seq, entry.kind, entry.happened_at, who, act.replace("_", " "), what))
    return events


def receipts(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Receipt]]:
    """Changes of the flag that were made, in their order."""
    for entry in entries:
        if entry.body.get("receipt"):
            yield entry, recorded(Receipt, entry.body["receipt"])


def _words(entry: Entry, pushed: Mapping[int, RampPlan]) -> tuple[str, str]:
    """An entry in few words, and with its reason."""
    if entry.kind in CHANGES:
        return _change(entry, pushed.get(cast("int", entry.body.get("intent", 0))))
    return _SAYS[entry.kind](entry.body) if entry.kind in _SAYS else (entry.kind, f"{entry.kind}.")


def _change(entry: Entry, plan: RampPlan | None) -> tuple[str, str]:
    """What became of a push or a kill."""
    verb, why = (plan.verb, f" Reason: {plan.reason}") if plan else ("a plan", "")
    if entry.body.get("receipt"):
        receipt = recorded(Receipt, entry.body["receipt"])
        act = "killed the flag" if receipt.verb == "kill" else f"pushed {receipt.verb}"
        why = why or (f" Reason: {entry.body['reason']}" if entry.body.get("reason") else "")
        return act, f"{act}: {describe(receipt.before)} -> {describe(receipt.after)}.{why}"
    if entry.body.get("applied") is None:
        return f"pushed {verb}", f"pushed {plan or verb}; whether it was served is not known.{why}"
    error = entry.body.get("error")
    return f"tried to push {verb}", f"tried to push {plan or verb}; nothing was pushed{f': {error}' if error else '.'}"


def _registered(body: Mapping[str, Json]) -> tuple[str, str]:
    loosened = "".join(f" {edit}" for edit in cast("list[str]", body.get("loosened", [])))
    why = f" Reason: {body['reason']}" if body.get("reason") else ""
    return "registered the experiment", f"registered the specification {str(body['spec_hash'])[:8]}.{loosened}{why}"


def _agreed(body: Mapping[str, Json]) -> tuple[str, str]:
    return "agreed to the experiment", f"agreed to the specification {str(body['spec_hash'])[:8]}."


def _view(body: Mapping[str, Json]) -> tuple[str, str]:
    return "tried another policy", f"tried the policy {str(body['policy_hash'])[:8]} on data that were looked at."


def _look(body: Mapping[str, Json]) -> tuple[str, str]:
    return "", f"look {body['look']}, data up to {body['watermark'] or 'an unknown day'}."


def _decision(body: Mapping[str, Json]) -> tuple[str, str]:
    decision = recorded(Decision, body["decision"])
    return f"decided {decision.action}", f"decided: {decision.title}. {' '.join(decision.reasons)}"


def _request(body: Mapping[str, Json]) -> tuple[str, str]:
    plan = recorded(RampPlan, body["plan"])
    return f"asked for {plan.verb}", f"asked others to agree to {plan} (plan {plan.id[:8]})."


def _approval(body: Mapping[str, Json]) -> tuple[str, str]:
    return "agreed to a plan", f"agreed to plan {_said(body)}"


def _declined(body: Mapping[str, Json]) -> tuple[str, str]:
    return "declined a plan", f"declined plan {_said(body)}"


def _comment(body: Mapping[str, Json]) -> tuple[str, str]:
    return "commented on a plan", f"commented on plan {_said(body)}"


def _said(body: Mapping[str, Json]) -> str:
    text = f": {body['text']}" if body.get("text") else "."
    return f"{str(body['plan_id'])[:8]}{text}"


def _vendor_request(body: Mapping[str, Json]) -> tuple[str, str]:
    vendor = recorded(VendorRequest, body["vendor"])
    return "asked at the flag server", f"asked at the flag server: {vendor.url} (plan {vendor.plan_id[:8]})."


def _reason(body: Mapping[str, Json]) -> tuple[str, str]:
    return "said why it was killed", f"said why the flag was killed: {body['reason']}"


def _intent(body: Mapping[str, Json]) -> tuple[str, str]:
    plan = recorded(RampPlan, body["plan"])
    return f"began to push {plan.verb}", f"began to push {plan}; how it ended is not recorded."


def _forgotten(_: Mapping[str, Json]) -> tuple[str, str]:
    return "deleted cached data", "deleted cached data."


_SAYS: Mapping[str, Callable[[Mapping[str, Json]], tuple[str, str]]] = {
    "registered": _registered,
    "agreed": _agreed,
    "look": _look,
    "view": _view,
    "decision": _decision,
    "request": _request,
    "approval": _approval,
    "declined": _declined,
    "comment": _comment,
    "vendor_request": _vendor_request,
    "reason": _reason,
    "intent": _intent,
    "forgotten": _forgotten,
}
