"""Change requests: a plan, who asks for it, and what others answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from html import escape
from typing import cast

from expnb.decisions.plan import RampPlan
from expnb.flags.base import Enforcement, VendorRequest
from expnb.ledger.ledger import EntryKind, Ledger
from expnb.ledger.recorded import recorded

_KINDS: tuple[EntryKind, ...] = ("request", "approval", "declined", "comment", "vendor_request")


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody said about a request."""

    who: str
    at: datetime
    text: str = ""

    def __str__(self) -> str:
        return f"{self.who}, {self.at:%Y-%m-%d %H:%M} UTC{f': {self.text}' if self.text else ''}"


@dataclass(frozen=True, slots=True, repr=False)
class ChangeRequest:
    """A plan that others were asked to agree to.

    Parameters
    ----------
    plan : RampPlan
        What was requested; an answer binds its verb, target, base version, policy, evidence and expiry.
    author : str
        Who asked.
    approvals, declines, comments : tuple of Answer
        Oldest first; one decline stops the plan.
    vendor : VendorRequest, optional
        The request at a backend that has approvals of its own.
    enforcement : {"unenforced", "enforced"}
        Whether roles and approvals were checked by a service that the one who asked does not own.
    """

    plan: RampPlan
    author: str
    requested_at: datetime
    approvals: tuple[Answer, ...] = ()
    declines: tuple[Answer, ...] = ()
    comments: tuple[Answer, ...] = ()
    vendor: VendorRequest | None = None
    enforcement: Enforcement = "unenforced"

    def __str__(self) -> str:
        declined = "DECLINED: " if self.declines else ""
        lines = [
            f"{declined}{self.plan} (requested by {self.author}, plan {self.plan.id[:12]}, void after {self.plan.expires_at:%Y-%m-%d %H:%M} UTC, {self.enforcement})",
            f"  why: {self.plan.reason}",
        ]
        lines += [f"  {what}: {answer}" for what, answers in self._answers for answer in answers]
        if self.vendor:
            lines.append(f"  to be approved at {self.vendor.url}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = [
            ("plan", f"{self.plan} ({self.plan.id[:12]})"),
            ("why", self.plan.reason),
            ("requested by", f"{self.author}, {self.requested_at:%Y-%m-%d %H:%M} UTC"),
            ("void after", f"{self.plan.expires_at:%Y-%m-%d %H:%M} UTC"),
        ]
        rows += [(what, str(answer)) for what, answers in self._answers for answer in answers]
        rows += [("to be approved at", self.vendor.url)] if self.vendor else []
        rows.append(("roles and approvals", self.enforcement))
        cells = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
        return f"<table><tbody>{''.join(cells)}</tbody></table>"

    @property
    def _answers(self) -> tuple[tuple[str, tuple[Answer, ...]], ...]:
        return ("approved", self.approvals), ("declined", self.declines), ("comment", self.comments)


def change_requests(ledger: Ledger, environment: str) -> list[ChangeRequest]:
    """The requests of an environment with their answers, oldest first; each plan once."""
    known: dict[str, ChangeRequest] = {}  # without their answers
    heard: dict[tuple[str, str], list[Answer]] = {}
    vendors: dict[str, VendorRequest] = {}
    said = [entry for kind in _KINDS for entry in ledger.entries(kind=kind, environment=environment)]
    for entry in sorted(said, key=lambda one: one.seq):
        plan_id, who = str(entry.body["plan_id"]), str(entry.body["actor"])
        if entry.kind == "request" and plan_id not in known:
            enforcement = cast("Enforcement", entry.body.get("enforcement", "unenforced"))
            known[plan_id] = ChangeRequest(
                recorded(RampPlan, entry.body["plan"]), who, entry.happened_at, enforcement=enforcement
            )
        elif entry.kind == "vendor_request":
            vendors[plan_id] = recorded(VendorRequest, entry.body["vendor"])
        elif entry.kind != "request":
            answers = heard.setdefault((entry.kind, plan_id), [])
            answers.append(Answer(who, entry.happened_at, str(entry.body.get("text", ""))))
    return [
        replace(
            one,
            approvals=tuple(heard.get(("approval", plan_id), ())),
            declines=tuple(heard.get(("declined", plan_id), ())),
            comments=tuple(heard.get(("comment", plan_id), ())),
            vendor=vendors.get(plan_id),
        )
        for plan_id, one in known.items()
    ]
