"""Flags in the memory of this process: for first steps and tests, and the example of a backend in one file.

Everything that a backend has to do stands here; docs/backends.md goes through it line by line.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from expnb.decisions.plan import RampPlan
from expnb.errors import FlagConflictError, FlagError, NameNotFoundError
from expnb.flags.address import Address
from expnb.flags.base import (
    Attributes,
    Capabilities,
    Receipt,
    VendorRequest,
    check_eligibility,
    check_environment,
    check_fixed,
    check_granularity,
    check_now,
    check_push,
    check_units,
    check_variants,
    describe,
)
from expnb.flags.bucketing import BUCKETING, assign_all
from expnb.spec.flag import Exposure, FlagRef, FlagSpec, FlagState

_STORES: Final[dict[tuple[str, str], dict[str, FlagState]]] = {}  # this process is the server: a name is a place in it
_LOCK: Final = threading.RLock()


class InMemoryFlags:
    """The flags of one environment, as long as the process lives.

    Parameters
    ----------
    name : str
        What receipts call this backend; the same name and environment is the same store.
    environment : str
        The environment whose flags it holds; others are refused.
    """

    capabilities: Final = Capabilities(
        granularity=0.01,
        concurrency="native",
        approvals=False,
        audit=False,
        eligibility=("audience", "layer", "holdout"),
    )

    def __init__(self, name: str, environment: str) -> None:
        self.name, self.environment = name, environment
        self._flags = _STORES.setdefault((name, environment), {})

    def create(self, flag: FlagSpec, *, now: datetime | None = None) -> FlagState:
        """A new flag at 0 percent."""
        now = datetime.now(UTC) if now is None else now
        check_environment(flag.ref, self.environment, self.name)
        check_now(now)
        check_variants(flag.exposure)
        check_eligibility(flag.exposure, self.capabilities, self.name)
        with _LOCK:
            if flag.ref.flag in self._flags:
                raise FlagError(
                    f"flag {flag.ref.flag!r} exists already in {self.name}. Nothing was changed. Read it, or create one of another name."
                )
            state = FlagState(
                flag.ref, flag.exposure, "1", enabled=True, changed_at=now.astimezone(UTC), bucketing=BUCKETING
            )
            self._flags[flag.ref.flag] = state
            return state

    def read(self, ref: FlagRef) -> FlagState:
        """The flag as it stands now."""
        check_environment(ref, self.environment, self.name)
        with _LOCK:
            if ref.flag not in self._flags:
                raise NameNotFoundError("flag", ref.flag, list(self._flags))
            return self._flags[ref.flag]

    def names(self) -> list[str]:
        """Names of all its flags."""
        with _LOCK:
            return sorted(self._flags)

    def preview(self, plan: RampPlan, *, now: datetime) -> str:
        """What `apply` would change."""
        return f"- {describe(self._checked(plan, now))}\n+ {plan.after}"

    def apply(self, plan: RampPlan, *, now: datetime, ledger_head: str = "") -> Receipt:  # noqa: ARG002 - memory cannot vouch for a ledger
        """The flag set to `plan.after`, unless it moved since the plan was made."""
        with _LOCK:
            before = self._checked(plan, now)
            after = self._written(before, plan.after, plan.id, now, enabled=True)
        return Receipt(plan.ref, plan.verb, before, after, now.astimezone(UTC), self.name)

    def evaluate(self, ref: FlagRef, units: Sequence[str], attributes: Attributes | None = None) -> Sequence[str]:
        """Variant per unit; ``"off"`` for units that are not let in, ``""`` while the flag is disabled."""
        check_units(units, attributes)
        state = self.read(ref)
        return assign_all(ref.flag, state.exposure, units, attributes) if state.enabled else [""] * len(units)

    def request(self, plan: RampPlan) -> VendorRequest:
        """Refused: memory has no approvals of its own."""
        raise FlagError(
            f"the plan for flag {plan.ref.flag!r} cannot be handed over: {self.name} has no approvals of its own. Ask for approval in expnb, which keeps it in its ledger."
        )

    def kill(self, ref: FlagRef, *, now: datetime) -> Receipt:
        """The flag closed and disabled, whatever state it is in."""
        check_now(now)
        with _LOCK:
            before = self.read(ref)
            shut = before.exposure.closed()
            after = self._written(before, shut, "", now, enabled=False)
        return Receipt(ref, "kill", before, after, now.astimezone(UTC), self.name)

    def _checked(self, plan: RampPlan, now: datetime) -> FlagState:
        check_granularity(plan.after, self.capabilities.granularity)
        before = self.read(plan.ref)
        if before.plan_id == plan.id and before.version != plan.base_version:
            change = f"this very plan was pushed already, as number {before.version}: now {describe(before)}"
            raise FlagConflictError(plan.ref.flag, plan.base_version, before.version, change)
        check_push(plan, before, now=now)
        check_fixed(plan.ref.flag, before.exposure, plan.after)
        return before

    def _written(
        self, before: FlagState, exposure: Exposure, plan_id: str, now: datetime, *, enabled: bool
    ) -> FlagState:
        after = replace(
            before,
            exposure=exposure,
            version=str(int(before.version) + 1),
            enabled=enabled,
            changed_at=now.astimezone(UTC),
            plan_id=plan_id,
        )
        self._flags[before.ref.flag] = after
        return after


def open_address(address: Address) -> InMemoryFlags:
    """The backend at ``memory://NAME``."""
    return InMemoryFlags(address.url, address.environment)
