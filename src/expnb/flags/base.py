"""What every flag backend can do, and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Literal, Protocol

from expnb.decisions.plan import RampPlan, Verb
from expnb.errors import FlagConflictError, FlagError, PercentError, PlanExpiredError, UnitError
from expnb.spec.flag import Exposure, FlagRef, FlagSpec, FlagState

Enforcement = Literal["unenforced", "enforced"]
Attributes = Mapping[str, Sequence[str]]  # name of an attribute -> its value for each unit
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
    eligibility : tuple of str
        What it can narrow the eligible units by: of ``"audience"``, ``"layer"`` and ``"holdout"``.
    """

    granularity: float
    concurrency: Literal["native", "detect_after", "none"]
    approvals: bool
    audit: bool
    eligibility: tuple[str, ...] = ()


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
    enforcement : {"unenforced", "enforced"}
        Whether roles and approvals were checked by a service that the one who pushed does not own.
    """

    ref: FlagRef
    verb: Verb | Literal["kill"]
    before: FlagState | None
    after: FlagState
    applied_at: datetime
    backend: str
    note: str = ""
    enforcement: Enforcement = "unenforced"

    def __str__(self) -> str:
        done = f"{self.verb}: {self.ref}: {describe(self.before)} -> {describe(self.after)} at {self.applied_at:%Y-%m-%d %H:%M:%S} UTC in {self.backend}, {self.enforcement}"
        return f"{done}. {self.note}" if self.note else done

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
            "roles and approvals": self.enforcement,
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

    def preview(self, plan: RampPlan, *, now: datetime) -> str:
        """What `apply` would write, as a diff in the backend's own form; refuses what `apply` would refuse, and changes nothing."""
        ...

    def apply(self, plan: RampPlan, *, now: datetime, ledger_head: str = "") -> Receipt:
        """The flag set to `plan.after`, unless it moved since the plan was made."""
        ...

    def evaluate(self, ref: FlagRef, units: Sequence[str], attributes: Attributes | None = None) -> Sequence[str]:
        """Variant per unit: ``"off"`` outside the gate or the audience, ``""`` while the flag is disabled."""
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


def check_environment(ref: FlagRef, environment: str, backend: str) -> None:
    """Raise `FlagError` for a flag of another environment than the backend holds."""
    if ref.environment != environment:
        raise FlagError(
            f"{backend} holds the flags of environment {environment!r}, asked was {ref}. Use the backend of that environment."
        )


def check_units(units: Sequence[str], attributes: Attributes | None) -> None:
    """Raise `UnitError` unless `units` is several texts, and every attribute has a value for each."""
    if isinstance(units, str):
        raise UnitError(f"units is the text {units!r}; `evaluate` takes several units. Write [{units!r}] for one.")
    for name, values in (attributes or {}).items():
        if isinstance(values, str) or len(values) != len(units):
            raise UnitError(
                f"attribute {name!r} has {'one text' if isinstance(values, str) else f'{len(values)} values'} for {len(units)} units; give one value per unit, in their order."
            )


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


def check_eligibility(exposure: Exposure, capabilities: Capabilities, backend: str) -> None:
    """Raise `FlagError` for an audience, layer or holdout that the backend cannot serve."""
    missing = [need for need in exposure.eligibility.needs if need not in capabilities.eligibility]
    if missing:
        raise FlagError(
            f"{backend} cannot serve {' and '.join(missing)} ({exposure.eligibility}). Nothing was changed. Leave {'it' if len(missing) == 1 else 'them'} out of the experiment, or keep its flag in a backend that can, such as flagd:flags.flagd.json."
        )


def check_fixed(flag: str, before: Exposure, after: Exposure) -> None:
    """Raise `FlagError` for a plan that changes what is fixed while a flag lives: split, control and eligibility."""
    if dict(before.weights) != dict(after.weights) or before.control != after.control:
        raise FlagError(
            f"the plan for flag {flag!r} changes its split from {dict(before.weights)} (control {before.control!r}) to {dict(after.weights)} (control {after.control!r}); "
            "that would move exposed units between variants. Nothing was pushed. Create a new flag for a new split."
        )
    if before.eligibility != after.eligibility:
        raise FlagError(
            f"the plan for flag {flag!r} changes who is eligible from {before.eligibility} to {after.eligibility}; exposed units would leave, or others come in between. Nothing was pushed. Create a new flag for another audience."
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
