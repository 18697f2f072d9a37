"""Flags in LaunchDarkly, through its REST API: not proven against the vendor's server, only against an honest fake.

A ramp is one JSON Patch of one environment that holds only on the version that was read. Where the environment asks for approvals, the change is made by the vendor from an approved request, and never past it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from difflib import unified_diff
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qs, urlsplit

from expnb.decisions.plan import RampPlan
from expnb.errors import (
    ApprovalError,
    ExpnbError,
    FlagConflictError,
    FlagEditedError,
    FlagError,
    PushUncertainError,
)
from expnb.flags import launchdarkly_line as line
from expnb.flags import launchdarkly_rules as rules
from expnb.flags.address import Address
from expnb.flags.aftermath import fact, half_way
from expnb.flags.base import (
    OFF,
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
from expnb.flags.http import FlagServer
from expnb.flags.launchdarkly_api import VERSION, Api, Approval, RefusedError, StaleError
from expnb.flags.launchdarkly_approvals import approved, base_of, instructions
from expnb.flags.launchdarkly_rules import Object, Opened, Record
from expnb.spec.canonical import Json
from expnb.spec.flag import Exposure, FlagRef, FlagSpec, FlagState

_VENDOR: Final = "app.launchdarkly.com"
_CAN: Final = Capabilities(
    granularity=0.01, concurrency="native", approvals=False, audit=True, eligibility=("audience",)
)
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")


class LaunchDarklyFlags:
    """The flags of one environment in a LaunchDarkly project.

    Not proven against the vendor's server: the calls follow its published documentation, and are tested against `expnb.flags.fake_launchdarkly`.
    While a flag is off, LaunchDarkly serves "off", not the default in the callers' code.

    Parameters
    ----------
    server : FlagServer
    project : str
        The project's key.
    environment : str
        The workspace's environment whose flags it holds; others are refused.
    key : str, optional
        That environment's key at LaunchDarkly; its name by default.
    name : str, optional
        What receipts call this backend.
    """

    def __init__(self, server: FlagServer, project: str, environment: str, *, key: str = "", name: str = "") -> None:
        self.server, self.environment = server, environment
        self.name = name or f"launchdarkly://{project}"
        self.api = Api(server, project, key or environment)

    def __repr__(self) -> str:
        return f"LaunchDarklyFlags({self.name!r}, {self.environment!r})"

    @property
    def capabilities(self) -> Capabilities:
        """What this environment can promise; asks the server whether it requires approvals.

        A request that the vendor applies is bound to no version there, so "native" concurrency ends where approvals begin.

        Raises
        ------
        FlagServerError
            If the server cannot be asked.
        """
        return replace(_CAN, approvals=True, concurrency="none") if self.api.approvals_required() else _CAN

    def create(self, flag: FlagSpec, *, now: datetime | None = None) -> FlagState:
        """A new flag at 0 percent, or one that another environment has already, begun in this one.

        Where the environment requires approvals the flag stays off until its first plan is approved.

        Raises
        ------
        FlagError
            If the flag exists in this environment, or its name, variants or audience cannot be served; or if the project has no such environment.
        HalfMadeError
            If a later step than the first is refused: the flag is there by then, off.
        """
        now = datetime.now(UTC) if now is None else now
        check_environment(flag.ref, self.environment, self.name)
        check_now(now)
        self._check_spec(flag)
        stands = ""
        if self.api.find(flag.ref.flag) is None:
            self.api.approvals_required()  # says so if there is no such environment
            self._post(flag)
            stands = "It is there and off, so it serves nobody. Put that right and create it again, which goes on from there; or archive it in LaunchDarkly."
        with half_way(flag.ref.flag, self.name, stands):
            opened = self._open(flag.ref)
        if opened.record_text or not rules.untouched(opened, flag.exposure):
            raise self._exists(flag.ref.flag)
        with half_way(flag.ref.flag, self.name, stands):
            self._begin(flag, opened, Record(flag.exposure, now.astimezone(UTC)))
        with half_way(flag.ref.flag, self.name, "It is there at 0 %, so it serves nobody. Read it."):
            return self.read(flag.ref)

    def read(self, ref: FlagRef) -> FlagState:
        """The flag as it stands now.

        Raises
        ------
        NameNotFoundError
            If the project has no such flag.
        FlagEditedError
            If it serves something else than its record says, and no approved request explains it.
        FlagServerError
            If the server cannot be asked.
        """
        check_environment(ref, self.environment, self.name)
        return self._state(ref, self._open(ref))[0]

    def preview(self, plan: RampPlan, *, now: datetime) -> str:
        """The lines of the environment's rules that `apply` would change, as a diff; an approval that is missing yet does not refuse it."""
        opened = self._open(plan.ref)
        self._planned(opened, plan, now)
        order = opened.order
        old: Object = {key: opened.config.get(key) for key in ("on", "rules", "fallthrough")}
        new: Object = {"on": True, **rules.targeting(plan.after, order)}
        before, after = (json.dumps(part, indent=2, sort_keys=True).splitlines(keepends=True) for part in (old, new))
        return "".join(unified_diff(before, after, f"{plan.ref} now", f"{plan.ref} after"))

    def apply(self, plan: RampPlan, *, now: datetime, ledger_head: str = "") -> Receipt:
        """The flag set to `plan.after` and turned on, if nothing moved since the plan was made.

        Where the environment requires approvals, the vendor's request of exactly this plan is applied.

        Raises
        ------
        PercentError
            If a percentage cannot be served.
        PlanExpiredError, FlagConflictError, FlagError
            If the plan is too old, the flag moved, or nothing would change.
        ApprovalError
            If no request of this plan is approved at the vendor.
        PushUncertainError
            If the answer was lost and the flag does not show the change, or shows another one.
        """
        opened = self._open(plan.ref)
        before, old = self._planned(opened, plan, now)
        record = Record(plan.after, now.astimezone(UTC), plan.id, ledger_head or old.ledger_head)
        note, lost = "", False
        try:
            if self.api.approvals_required():
                note = self._apply_request(opened, plan, record, old)
            else:
                self._patch(opened, plan.ref.flag, rules.operations(opened, record), _comment(plan))
        except PushUncertainError as error:
            note, lost = f"{error.sentence} It was read: the change is there.", True
        except RefusedError as error:
            raise self._conflict(plan, error, now) from error
        after = self._confirmed(plan, before, lost=lost)
        return Receipt(plan.ref, plan.verb, before, after, now.astimezone(UTC), self.name, note)

    def evaluate(self, ref: FlagRef, units: Sequence[str], attributes: Attributes | None = None) -> Sequence[str]:
        """Variant per unit, as the vendor's SDKs compute it from the flag's salt.

        Returns
        -------
        list of str
            ``"off"`` for a unit outside the ramp or the audience, and for one without a name; ``""`` for all while the flag is off.
        """
        check_units(units, attributes)
        check_environment(ref, self.environment, self.name)
        opened = self._open(ref)
        state, _ = self._state(ref, opened)
        if not state.enabled:
            return [""] * len(units)
        assign = line.assigner(ref.flag, opened.salt, state.exposure)
        names = tuple(attributes or {})
        rows = zip(*(attributes or {}).values(), strict=True) if names else iter([()] * len(units))
        return [assign(unit, dict(zip(names, row, strict=True))) for unit, row in zip(units, rows, strict=True)]

    def request(self, plan: RampPlan) -> VendorRequest:
        """An approval request for the plan; the one that waits already, if there is one.

        Raises
        ------
        FlagConflictError, FlagError
            If the plan could not be applied, or its rollout cannot be said in a request.
        """
        opened = self._open(plan.ref)
        _, old = self._planned(opened, plan, plan.created_at)
        if not self.api.approvals_required():
            raise FlagError(
                f"the plan for flag {plan.ref.flag!r} cannot be handed over: environment {self.environment!r} requires no approvals in LaunchDarkly, so nothing there would keep it back. Ask for approval in expnb, which keeps it in its ledger."
            )
        waiting = [
            one for one in self.api.approvals(plan.ref.flag) if one.plan_id == plan.id and one.status == "pending"
        ]
        if waiting:
            return self._handed_over(plan, opened, waiting[0])
        record = Record(plan.after, plan.created_at.astimezone(UTC), plan.id, old.ledger_head)
        note = {"plan": plan.id, "base": base_of(old), "record": record.text}
        text = f"{_comment(plan)}\n{plan.before} -> {plan.after}"
        return self._handed_over(
            plan, opened, self.api.ask(plan.ref.flag, instructions(opened, plan.after), text, note)
        )

    def kill(self, ref: FlagRef, *, now: datetime) -> Receipt:
        """The flag turned off, whatever its version, rules or record say; then its rules are closed too.

        Raises
        ------
        NameNotFoundError
            If the project has no such flag.
        ApprovalError
            If the environment requires approvals and the token's role may not pass them by.
        """
        check_environment(ref, self.environment, self.name)
        check_now(now)
        opened = self._open(ref)
        try:
            before, old = self._state(ref, opened)
            exposure, note = before.exposure.closed(), ""
        except FlagError as error:
            before, old, note = None, None, f"The state before is not known: {fact(error)}"
            exposure = rules.closed(ref.flag, opened)
        self._turn_off(ref.flag, opened)
        record = Record(exposure, now.astimezone(UTC), "", old.ledger_head if old else "")
        note = " ".join(part for part in (note, self._close(ref.flag, opened, record)) if part)
        after = self._killed(ref, exposure, record)
        return Receipt(ref, "kill", before, after, now.astimezone(UTC), self.name, note)

    def ledger_head(self, ref: FlagRef) -> str:
        """The ledger's head when the flag was last pushed, empty if none was given: what to verify the ledger against."""
        check_environment(ref, self.environment, self.name)
        return self._state(ref, self._open(ref))[1].ledger_head

    # --- reading --------------------------------------------------------------------------------

    def _open(self, ref: FlagRef) -> Opened:
        check_environment(ref, self.environment, self.name)
        flag = self.api.flag(ref.flag)
        return Opened(flag, self.api.config(flag), self.api.environment)

    def _state(self, ref: FlagRef, opened: Opened) -> tuple[FlagState, Record]:
        if not opened.record_text:
            raise FlagError(
                f"flag {ref.flag!r} was not begun by expnb in environment {self.environment!r}: it carries no property {rules.property_of(self.api.environment)!r}. Nothing was changed. Create a flag of another name."
            )
        record = self._current(ref.flag, opened, rules.parse_record(ref.flag, opened.record_text))
        found = rules.problem(opened)
        if found:
            raise FlagEditedError(ref.flag, found)
        state = FlagState(
            ref,
            record.exposure,
            opened.version,
            enabled=opened.on,
            changed_at=record.changed_at,
            bucketing=opened.bucketing,
            plan_id=record.plan_id,
        )
        return state, record

    def _current(self, flag: str, opened: Opened, record: Record) -> Record:
        """The record of what is served now: the one beside the flag, or that of a request which somebody applied at the vendor since."""
        if rules.agrees(record, opened):
            return record
        done = [one for one in self.api.approvals(flag) if one.status == "completed"]
        for _ in done:
            follower = next((one for one in done if one.base == base_of(record)), None)
            if follower is None:
                break
            record = rules.parse_record(flag, follower.record)
            if rules.agrees(record, opened):
                return record
        raise FlagEditedError(
            flag, f"it does not serve what its record says ('{rules.parse_record(flag, opened.record_text).exposure}')"
        )

    # --- writing --------------------------------------------------------------------------------

    def _planned(self, opened: Opened, plan: RampPlan, now: datetime) -> tuple[FlagState, Record]:
        """The flag as it is, once everything that could forbid the plan was checked."""
        check_granularity(plan.after, _CAN.granularity)
        line.check_shares(plan.after)
        state, record = self._state(plan.ref, opened)
        if record.plan_id == plan.id and state.version != plan.base_version:
            change = (
                f"this very plan was pushed already, at {state.changed_at:%Y-%m-%d %H:%M} UTC: now {describe(state)}"
            )
            raise FlagConflictError(plan.ref.flag, plan.base_version, state.version, change)
        check_push(plan, state, now=now)
        if state.exposure != rules.LOST:  # restored after a kill that could not read it
            check_fixed(plan.ref.flag, state.exposure, plan.after)
        return state, record

    def _patch(self, opened: Opened, flag: str, operations: Sequence[Json], comment: str) -> None:
        path = f"/environments/{self.api.environment}/version"
        guard: Object = {"op": "test", "path": path, "value": opened.config.get("version")}
        self.api.patch(flag, [guard, *operations], comment)

    def _confirmed(self, plan: RampPlan, before: FlagState, *, lost: bool) -> FlagState:
        try:
            after = self.read(plan.ref)
        except ExpnbError as error:
            raise PushUncertainError(
                f"flag {plan.ref.flag!r} was written, but cannot be read back: {fact(error)}"
            ) from error
        if (after.exposure, after.enabled) == (plan.after, True):
            return after
        if lost and after.version == before.version:
            raise PushUncertainError(
                f"the answer to the push of flag {plan.ref.flag!r} was lost, and the flag still has {describe(after)}. It was not sent twice, and may still arrive: read the flag again before anything else moves."
            )
        raise PushUncertainError(
            f"flag {plan.ref.flag!r} was pushed as '{plan.after}', but reads '{describe(after)}': somebody else wrote it at once. Read it and decide again."
        )

    def _conflict(self, plan: RampPlan, error: RefusedError, now: datetime) -> FlagError:
        """Why a write was refused: the change that somebody else made, if there is one."""
        try:
            found = self.read(plan.ref)
            check_push(plan, found, now=now)
        except FlagError as moved:
            return moved
        if not isinstance(error, StaleError):
            return error
        change = f"still {describe(found)}; the server had another change under way"
        return FlagConflictError(plan.ref.flag, plan.base_version, found.version, change)

    def _turn_off(self, flag: str, opened: Opened) -> None:
        instructions: list[Json] = [{"kind": "turnFlagOff"}]
        order = opened.order
        if OFF in order and opened.config.get("offVariation") != order.index(OFF):
            instructions.insert(0, {"kind": "updateOffVariation", "variationId": opened.variation_id(OFF)})
        try:
            self.api.instruct(flag, instructions, "expnb: kill")
        except ApprovalError as error:
            raise ApprovalError(
                f"flag {flag!r} was NOT turned off: {fact(error)} In an emergency use a token whose role has the action bypassRequiredApproval, or turn it off by hand and have that approved: {self.api.page(opened.flag)}"
            ) from error
        except PushUncertainError as error:
            if self.api.config(self.api.flag(flag)).get("on") is not False:
                raise PushUncertainError(
                    f"{error.sentence} It was read: flag {flag!r} is still on. Kill it again."
                ) from error

    def _killed(self, ref: FlagRef, exposure: Exposure, record: Record) -> FlagState:
        """The state after a kill, as it was read back."""
        opened = self._open(ref)
        if opened.on:
            raise PushUncertainError(
                f"flag {ref.flag!r} was turned off, but is on: somebody else wrote it at once. Kill it again."
            )
        try:
            return self._state(ref, opened)[0]
        except FlagError:  # no record, or one that is not what the rules say: off all the same
            return FlagState(
                ref, exposure, opened.version, enabled=False, changed_at=record.changed_at, bucketing=opened.bucketing
            )

    def _close(self, flag: str, opened: Opened, record: Record) -> str:
        """Close the rules of a flag that is off; what kept it from that, in words."""
        if record.exposure == rules.LOST:
            return "It is off; its rules were left as they are."
        try:
            self.api.patch(flag, rules.closing(opened, record), "expnb: kill, rules closed")
        except (FlagError, ApprovalError) as error:
            return f"It is off, but its rules could not be closed ({fact(error).rstrip('.')}); look at them before it is turned on."
        return ""

    # --- approvals of the vendor ----------------------------------------------------------------

    def _apply_request(self, opened: Opened, plan: RampPlan, record: Record, old: Record) -> str:
        """Have the vendor carry out the approved request of this plan; a note for the receipt."""
        flag = plan.ref.flag
        approval = approved(self.api.approvals(flag), opened, plan, old, self.api.page(opened.flag))
        self.api.apply(flag, approval, _comment(plan))
        try:
            self.api.patch(flag, [rules.keep(opened, record)], _comment(plan))
        except (FlagError, ApprovalError) as error:
            return f"Approved as request {approval.id}. expnb's note beside the flag could not be written ({fact(error).rstrip('.')}); the request stands for it."
        return f"Approved as request {approval.id}."

    def _handed_over(self, plan: RampPlan, opened: Opened, approval: Approval) -> VendorRequest:
        return VendorRequest(plan.ref, plan.id, approval.id, self.api.page(opened.flag), approval.created_at)

    # --- a new flag -----------------------------------------------------------------------------

    def _check_spec(self, flag: FlagSpec) -> None:
        check_variants(flag.exposure)
        check_eligibility(flag.exposure, _CAN, self.name)
        line.check_weights_fit(flag.exposure)
        if not _KEY.fullmatch(flag.ref.flag):
            raise FlagError(
                f"a flag is called {flag.ref.flag!r}; LaunchDarkly takes letters, digits, '.', '_' and '-' only, and 256 of them at most. Nothing was changed. Rename it."
            )

    def _begin(self, flag: FlagSpec, opened: Opened, record: Record) -> None:
        try:
            self._patch(opened, flag.ref.flag, rules.operations(opened, record), "expnb: a new flag, at 0 %")
        except ApprovalError:  # what is served needs approval, a note beside it does not
            self.api.patch(flag.ref.flag, [rules.keep(opened, record)], "expnb: a new flag, off")
        except PushUncertainError:
            if not self._open(flag.ref).record_text:
                raise

    def _post(self, flag: FlagSpec) -> None:
        try:
            self.api.create(_new_flag(flag))
        except StaleError as error:  # somebody was faster
            raise self._exists(flag.ref.flag) from error
        except PushUncertainError:
            if self.api.find(flag.ref.flag) is None:
                raise

    def _exists(self, flag: str) -> FlagError:
        return FlagError(
            f"flag {flag!r} exists already in {self.name}. Nothing was changed. Read it, or create one of another name."
        )


def open_address(address: Address) -> LaunchDarklyFlags:
    """The backend at ``launchdarkly://PROJECT``, ``launchdarkly://HOST/PROJECT`` or ``launchdarkly+http://127.0.0.1:PORT/PROJECT``.

    Raises
    ------
    FlagError
        If it names no project or no token, or would send the token over the network in clear.
    """
    place = urlsplit(f"//{address.place}")
    host, project = (_VENDOR, place.netloc) if not place.path.strip("/") else (place.netloc, place.path.strip("/"))
    plain = address.scheme.endswith("+http")
    if "/" in project or (plain and host == _VENDOR):
        raise FlagError(
            f"the address {address.url!r} names no project. Write launchdarkly://PROJECT, or launchdarkly+http://127.0.0.1:PORT/PROJECT for the fake."
        )
    if plain and not _is_here(place.hostname or ""):
        raise FlagError(
            f"the address {address.url!r} would send the token over the network in clear. Write launchdarkly://HOST/PROJECT; +http is for a server on this machine."
        )
    if address.token is None:
        raise FlagError(
            f'the flags in environment {address.environment!r} are in LaunchDarkly, which asks for a token. Name one: token = "NAME_OF_AN_ENVIRONMENT_VARIABLE".'
        )
    base = f"{'http' if plain else 'https'}://{host}"
    server = FlagServer(base, f"LaunchDarkly at {base}", address.token, headers={"LD-API-Version": VERSION})
    key = parse_qs(place.query).get("environment", [""])[0]
    return LaunchDarklyFlags(server, project, address.environment, key=key, name=address.url)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _new_flag(flag: FlagSpec) -> Object:
    names = line.variants(flag.exposure)
    variations: list[Json] = [{"value": name, "name": name} for name in names]
    return {
        "key": flag.ref.flag,
        "name": flag.ref.flag,
        "description": "Made by expnb, which moves it. Edit it there.",
        "temporary": True,
        "tags": ["expnb"],
        "variations": variations,
        "defaults": {"onVariation": names.index(OFF), "offVariation": names.index(OFF)},
        "customProperties": {},
    }


def _comment(plan: RampPlan) -> str:
    return f"expnb {plan.verb} of {plan.experiment}: {plan.reason} (plan {plan.id[:12]})"
