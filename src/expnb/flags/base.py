"""What every flag backend can do, and what it hands back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Literal, Protocol

from expnb.decisions.plan import RampPlan, Verb
from expnb.errors import FlagConflictError, FlagError, PercentError, PlanExpiredError
from expnb.spec.flag import Exposure, FlagRef, FlagSpec, FlagState

OFF = "off"  # what `evaluate` says for a unit outside the gate


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can promise.

    Parameters
    ----------
    granularity : float
        Smallest step of a percentage, in percent; 0.01 is one unit in ten thousand.
    concurrency : {"native", "detect_after", "none"}
        Whether a push on a moved version is prevented, only noticed afterwards, or neither.
    approvals : bool
        Whether the backend has change requests of its own, which expnb then hands over to.
    audit : bool
        Whether the backend keeps a history of its own.
    """

    granularity: float
    concurrency: Literal["native", "detect_after", "none"]
    approvals: bool
    audit: bool


@dataclass(frozen=True, slots=True, repr=False)
class Receipt:
    """What a backend did, with both states as they were read from it.

    Parameters
    ----------
    before : FlagState or None
        None only after `kill` of a flag that could not be read: there is no known state to restore.
    after : FlagState
        Read back from the backend after the write, not assumed.
    backend : str
        Where, such as ``"flagd:flags.flagd.json"``.
    note : str
        What a person has to know beyond that; mostly empty.
    """

    ref: FlagRef
    verb: Verb | Literal["kill"]
    before: FlagState | None
    after: FlagState
    applied_at: datetime
    backend: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.verb}: {self.ref}: {describe(self.before)} -> {describe(self.after)} at {self.applied_at:%Y-%m-%d %H:%M:%S} UTC in {self.backend}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = {
            "flag": str(self.ref),
            "done": self.verb,
            "before": describe(self.before),
            "after": describe(self.after),
            "version": self.after.version,
            "at": f"{self.applied_at:%Y-%m-%d %H:%M:%S} UTC",
            "backend": self.backend,
            "note": self.note,
        }
        cells = (f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows.items() if value)
        return f"<table><tbody>{''.join(cells)}</tbody></table>"


@dataclass(frozen=True, slots=True)
class VendorRequest:
    """A change request that waits at the vendor for its approvers."""

    ref: FlagRef
    plan_id: str
    request_id: str  # the vendor's own name for it
    url: str  # where a person approves it
    requested_at: datetime


class FlagBackend(Protocol):
    """Where flags live; the only code that changes what users see."""

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can promise."""
        ...

    def create(self, flag: FlagSpec, *, now: datetime | None = None) -> FlagState:
        """A new flag at 0 percent; a flag of that name that exists is an error."""
        ...

    def read(self, ref: FlagRef) -> FlagState:
        """The flag as it stands now."""
        ...

    def apply(self, plan: RampPlan, *, now: datetime, ledger_head: str = "") -> Receipt:
        """The flag set to `plan.after`, unless it moved since the plan was made."""
        ...

    def evaluate(self, ref: FlagRef, units: Sequence[str]) -> Sequence[str]:
        """Variant per unit: ``"off"`` outside the gate, ``""`` while the flag is disabled."""
        ...

    def request(self, plan: RampPlan) -> VendorRequest:
        """The plan handed over to the vendor's own approvals, where there are any."""
        ...

    def kill(self, ref: FlagRef, *, now: datetime) -> Receipt:
        """The flag closed and disabled, whatever state it is in."""
        ...


def describe(state: FlagState | None) -> str:
    """A state in words."""
    if state is None:
        return "unknown"
    return str(state.exposure) if state.enabled else f"disabled ({state.exposure})"


def check_now(now: datetime) -> None:
    """Raise `FlagError` unless `now` knows its time zone."""
    if now.utcoffset() is None:
        raise FlagError(
            f"now is {now.isoformat()}, which has no time zone; an audit needs one. Write datetime.now(UTC)."
        )


def check_granularity(exposure: Exposure, granularity: float) -> None:
    """Raise `PercentError` for a percentage that is no whole number of steps: it is never rounded."""
    for what, percent in (("enrolled", exposure.enrolled), ("holdback", exposure.holdback)):
        steps = percent / granularity
        if abs(steps - round(steps)) > 1e-6:
            near = round(steps) * granularity
            raise PercentError(percent, f"this backend serves steps of {granularity:g} %. Write {near:.10g}.", what)


def check_variants(exposure: Exposure) -> None:
    """Raise `FlagError` if a variant's name means something else in every answer of a backend."""
    for name in exposure.weights:
        if name in ("", OFF):
            raise FlagError(
                f"a variant is called {name!r}, which is what units outside the gate get. Give it another name, such as 'control'."
            )


def check_push(plan: RampPlan, state: FlagState, *, now: datetime) -> None:
    """Raise unless `plan` may be pushed on `state`: not expired, nothing moved, something to change.

    Raises
    ------
    PlanExpiredError
        If `now` is after the plan's expiry.
    FlagConflictError
        If the flag's version is not the one the plan was made on.
    FlagError
        If the plan contradicts itself or changes nothing.
    """
    check_now(now)
    if now > plan.expires_at:
        raise PlanExpiredError(plan.ref.flag, plan.expires_at.isoformat())
    if state.version != plan.base_version:
        raise FlagConflictError(plan.ref.flag, plan.base_version, state.version, _change(plan, state))
    if state.exposure != plan.before:
        raise FlagError(
            f"the plan for flag {plan.ref.flag!r} starts from '{plan.before}', but version {state.version} is '{state.exposure}'. Nothing was pushed. Plan again from what `read` returns."
        )
    # A plan without a change of exposure still switches a killed flag on again.
    if state.enabled and state.exposure == plan.after:
        raise FlagError(
            f"the plan for flag {plan.ref.flag!r} changes nothing: it already {_verb_phrase(state)}. Nothing was pushed."
        )


def _change(plan: RampPlan, state: FlagState) -> str:
    when = f", changed at {state.changed_at:%Y-%m-%d %H:%M} UTC"
    if state.enabled and state.exposure == plan.before:
        return f"still {plan.before}, but written again{when}"
    return f"{plan.before} -> {describe(state)}{when}"


def _verb_phrase(state: FlagState) -> str:
    return str(state.exposure) if state.exposure.serve else f"has {state.exposure}"
