"""Flags in Unleash, open source or Enterprise, through its admin API.

Unleash keeps no version and prevents no lost update. Its history does tell, in order, who wrote what: a push counts as done only when its own event is the first after the version that it was planned on.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, cast
from urllib.parse import parse_qsl

from expnb.decisions.plan import RampPlan
from expnb.errors import (
    AnswerLostError,
    ApprovalError,
    FlagConflictError,
    FlagEditedError,
    FlagError,
    FlagServerError,
    NameNotFoundError,
    PushUncertainError,
)
from expnb.flags import unleash_rules as rules
from expnb.flags.address import Address
from expnb.flags.aftermath import fact, half_way
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
from expnb.flags.http import FlagServer
from expnb.flags.unleash_api import ADDED, DISABLED, Event, UnleashApi
from expnb.flags.unleash_look import Seen, look, serving_strategy, strategies_of
from expnb.flags.unleash_push import Push
from expnb.flags.unleash_rules import Bucketing, Rule, Stamp, Strategy
from expnb.flags.unleash_split import check_names, per_mille
from expnb.spec.canonical import Json
from expnb.spec.flag import FlagRef, FlagSpec, FlagState

_CAPABILITIES: Final = Capabilities(
    granularity=1.0, concurrency="detect_after", approvals=False, audit=True, eligibility=("audience",)
)
_LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")


class Unleash:
    """The flags of one environment of one Unleash project.

    Parameters
    ----------
    server : FlagServer
        With a personal access token, if the server's history is to name the person.
    project : str
        The Unleash project.
    environment : str
        The environment of the workspace; flags of others are refused.
    unleash_environment : str, optional
        What Unleash calls it; the same by default.
    stickiness : str, optional
        The context field that names a unit.
    name : str, optional
        What receipts call this backend.
    """

    def __init__(
        self,
        server: FlagServer,
        project: str,
        environment: str,
        *,
        unleash_environment: str = "",
        stickiness: str = "userId",
        name: str = "",
    ) -> None:
        self.environment = environment
        self.name = name or f"unleash:{server.base}/{project}"
        self._api = UnleashApi(server, project, unleash_environment or environment)
        self._stickiness = stickiness
        self._pause = server.pause
        self._approvals: bool | None = None

    def __repr__(self) -> str:
        return f"Unleash({self.name!r}, {self.environment!r})"

    @property
    def capabilities(self) -> Capabilities:
        """Whole percentages, conflicts noticed from the history, audiences; approvals where the server has change requests switched on."""
        if self._approvals is None:
            with suppress(FlagServerError):  # `apply` asks again before it writes
                self._approvals = self._api.wants_requests()
        return replace(_CAPABILITIES, approvals=bool(self._approvals))

    def names(self) -> list[str]:
        """Names of all flags of the project."""
        return sorted(self._api.names())

    def create(self, flag: FlagSpec, *, now: datetime | None = None) -> FlagState:
        """A new flag at 0 percent, switched on; a flag that exists in other environments gets this one too.

        Raises
        ------
        FlagError
            If the flag exists in this environment, or its names, weights or audience cannot be served; or if the server has no such project or environment.
        FlagServerError
            If the server cannot be asked, or does not allow it.
        HalfMadeError
            If it does not allow a later step: the flag is there by then, and serves nobody.
        """
        check_environment(flag.ref, self.environment, self.name)
        check_now(datetime.now(UTC) if now is None else now)
        exposure, name = flag.exposure, flag.ref.flag
        check_variants(exposure)
        check_names(name, exposure, self._stickiness)
        check_eligibility(exposure, _CAPABILITIES, self.name)
        per_mille(exposure.weights)
        self._api.check_place()
        made = self._create_feature(name)
        self._add_strategy(name, Rule(exposure, Stamp(_nonce()), self._bucketing(name)), made=made)
        with self._half_way(
            name,
            "It stands at 0 % and is perhaps not switched on, so it serves nobody. Put that right and read it: the first push switches it on.",
        ):
            self._api.switch(name, on=True)
            return self.read(flag.ref)

    def read(self, ref: FlagRef) -> FlagState:
        """The flag as it stands now; its version is the number of the newest event of its history.

        Raises
        ------
        NameNotFoundError
            If the project has no such flag.
        FlagEditedError
            If somebody changed its strategy, or what it depends on, in Unleash itself.
        FlagServerError
            If the server cannot be asked.
        """
        check_environment(ref, self.environment, self.name)
        return look(self._api, ref).state

    def preview(self, plan: RampPlan, *, now: datetime) -> str:
        """The parts of the strategy that `apply` would change; nothing is written."""
        seen = self._checked(plan, now)
        new = rules.strategy(self._planned(plan, seen, "", ""))
        return "\n".join(_diff(f"{self.name}: {plan.ref}", seen, new))

    def apply(self, plan: RampPlan, *, now: datetime, ledger_head: str = "") -> Receipt:
        """The flag set to `plan.after` and enabled, if nothing moved since the plan was made.

        Raises
        ------
        ApprovalError
            If the environment has change requests of its own: `request` opens one.
        PercentError
            If a percentage is not whole: Unleash takes 12.5 and then serves nobody.
        PlanExpiredError, FlagConflictError, FlagError
            If the plan is too old, the flag moved, or nothing would change.
        FlagRaceError
            If somebody else wrote in the same moment and came first; their change is in effect again.
        PushUncertainError
            If what became of the write is not known, or not what was asked for.
        """
        seen = self._checked(plan, now)
        self._refuse_to_walk_around(plan)
        new = rules.strategy(self._planned(plan, seen, _nonce(), ledger_head))
        after, note = Push(self._api, self._pause).send(plan, seen, new)
        return Receipt(plan.ref, plan.verb, seen.state, after, now.astimezone(UTC), self.name, note)

    def evaluate(self, ref: FlagRef, units: Sequence[str], attributes: Attributes | None = None) -> Sequence[str]:
        """Variant per unit, as Unleash's SDKs compute it from the strategy as it stands.

        Returns
        -------
        list of str
            ``"off"`` outside the gate, in the place of a dropped treatment, and for a unit without a name; ``""`` for all while the flag is disabled.
        """
        check_environment(ref, self.environment, self.name)
        check_units(units, attributes)
        raw, enabled = serving_strategy(self._api, ref.flag, self._api.feature(ref.flag))
        rule = rules.read_strategy(ref.flag, raw)
        if not enabled:
            return [""] * len(units)
        if {rule.bucketing.stickiness, rule.bucketing.variants} != {self._stickiness}:
            raise FlagEditedError(ref.flag, f"units are not put into buckets by {self._stickiness} ({rule.bucketing})")
        assign = rules.assigner(raw, rule)
        given = attributes or {}
        return [
            assign(unit, {name: values[place] for name, values in given.items()}) for place, unit in enumerate(units)
        ]

    def request(self, plan: RampPlan) -> VendorRequest:
        """The plan as a change request of Unleash Enterprise, in review.

        The two routes are those that Unleash's own interface calls; they were tried against an imitation only, as open source has none.

        Raises
        ------
        FlagError
            If the environment has no change requests: ask for approval in expnb.
        """
        seen = self._checked(plan, plan.created_at)
        if not self._api.wants_requests():
            raise FlagError(
                f"the plan for flag {plan.ref.flag!r} cannot be handed over: {self.name} has no approvals of its own, as its open-source edition has none. Ask for approval in expnb, which keeps it in its ledger."
            )
        new = rules.strategy(self._planned(plan, seen, _nonce(), ""))
        change: dict[str, Json] = {"feature": plan.ref.flag, "action": "updateStrategy"}
        changes: list[Json] = [{**change, "payload": {"id": seen.strategy_id, **new}}]
        if not seen.state.enabled:
            changes.append({**change, "action": "updateEnabled", "payload": {"enabled": True}})
        number = self._api.open_request(changes, plan.reason)
        return VendorRequest(plan.ref, plan.id, number, self._api.requests_url(number), datetime.now(UTC))

    def kill(self, ref: FlagRef, *, now: datetime) -> Receipt:
        """The flag switched off, then closed, whatever its strategies, title or history say.

        Raises
        ------
        NameNotFoundError
            If the project has no such flag.
        FlagServerError, PushUncertainError
            If it could not be switched off, or is not known to be: do it in Unleash.
        """
        check_environment(ref, self.environment, self.name)
        check_now(now)
        self._switch_off(ref.flag)
        notes: list[str] = []
        before = self._before_kill(ref, notes)
        try:
            self._close(ref.flag)
        except FlagError as error:
            notes.append(f"It is off, but not closed: {fact(error)} Do not switch it on before it is.")
        try:
            after = look(self._api, ref).state
        except FlagError as error:
            notes.append(f"It is off, but cannot be read back: {fact(error)}")
            shut = before.exposure.closed() if before else rules.LOST
            after = FlagState(ref, shut, "unknown", enabled=False, changed_at=now.astimezone(UTC))
        if after.enabled:
            raise PushUncertainError(f"flag {ref} was switched off, and somebody switched it on again. Kill it again.")
        return Receipt(ref, "kill", before, after, now.astimezone(UTC), self.name, " ".join(notes))

    def _bucketing(self, flag: str) -> Bucketing:
        return Bucketing(flag, self._stickiness, self._stickiness)

    # --- a new flag ------------------------------------------------------------------------------

    def _create_feature(self, flag: str) -> bool:
        """Whether the flag is new since; one that another environment made is not."""
        made = False
        try:
            if self._api.create_feature(flag):
                return True
        except AnswerLostError:
            made = True  # perhaps; either way it is there without a strategy
        try:
            environment = self._api.in_environment(self._api.feature(flag))
        except NameNotFoundError as error:
            raise FlagError(
                f"flag {flag!r} exists already in Unleash, archived or in another project than {self._api.project!r}, and names are taken for all. Nothing was changed. Create one of another name."
            ) from error
        if strategies_of(environment):
            raise self._exists(flag)
        return made

    def _add_strategy(self, flag: str, rule: Rule, *, made: bool) -> None:
        new = rules.strategy(rule)
        bare = "It is there without a strategy, so it serves nobody. Put that right and create it again, which goes on from there; or archive it in Unleash."
        with self._half_way(flag, bare if made else ""), suppress(AnswerLostError):
            self._api.add_strategy(flag, new)
        with self._half_way(
            flag, "It is there at 0 %, and switched off. Read it; if it has no strategy, create it again."
        ):
            found = strategies_of(self._api.in_environment(self._api.feature(flag)))
            events = self._api.events(flag)
        own = [str(one["id"]) for one in found if one.get("title") == new["title"]]
        if not own:
            raise PushUncertainError(
                f"flag {flag!r} has no strategy yet: the answer to its creation was lost. Create it again."
            )
        first = [event for event in reversed(events) if event.type == ADDED and _is_among(event, found)]
        if len(found) > 1 and not _is_among(first[0], [one for one in found if one["id"] in own]):
            self._api.delete_strategy(flag, own[0])
            raise self._exists(flag)

    def _half_way(self, flag: str, stands: str) -> AbstractContextManager[None]:
        return half_way(flag, self.name, stands)

    def _exists(self, flag: str) -> FlagError:
        return FlagError(
            f"flag {flag!r} exists already in {self.name}. Nothing was changed. Read it, or create one of another name."
        )

    # --- a push ----------------------------------------------------------------------------------

    def _checked(self, plan: RampPlan, now: datetime) -> Seen:
        """The flag as it is, once everything that could forbid the plan was checked."""
        check_environment(plan.ref, self.environment, self.name)
        check_granularity(plan.after, _CAPABILITIES.granularity)
        check_eligibility(plan.after, _CAPABILITIES, self.name)
        seen = look(self._api, plan.ref)
        state = seen.state
        if state.plan_id == plan.id and state.version != plan.base_version:
            change = (
                f"this very plan was pushed already, at {state.changed_at:%Y-%m-%d %H:%M} UTC: now {describe(state)}"
            )
            raise FlagConflictError(plan.ref.flag, plan.base_version, state.version, change)
        try:
            check_push(plan, state, now=now)
        except FlagConflictError as error:
            change = f"{error.change} by {seen.history[0].by}" if seen.history else error.change
            raise FlagConflictError(error.flag, error.planned, error.found, change) from None
        if state.exposure != rules.LOST:  # restored after a kill that could not read it
            check_fixed(plan.ref.flag, state.exposure, plan.after)
        return seen

    def _planned(self, plan: RampPlan, seen: Seen, nonce: str, ledger_head: str) -> Rule:
        stamp = Stamp(nonce, seen.version, plan.id, ledger_head or seen.rule.stamp.ledger_head)
        return Rule(plan.after, stamp, seen.rule.bucketing)

    def _refuse_to_walk_around(self, plan: RampPlan) -> None:
        if self._api.wants_requests():
            raise ApprovalError(
                f"changes of {plan.ref} go through the change requests of Unleash, and expnb does not walk around them. Nothing was pushed. Request the plan, and have it applied there: {self._api.requests_url()}."
            )

    # --- a kill ----------------------------------------------------------------------------------

    def _switch_off(self, flag: str) -> None:
        try:
            self._api.switch(flag, on=False)
        except AnswerLostError:
            self._api.switch(flag, on=False)  # off twice is as good as once, and a kill does not wait

    def _before_kill(self, ref: FlagRef, notes: list[str]) -> FlagState | None:
        """What the flag was before it was switched off, as far as it can be known."""
        try:
            seen = look(self._api, ref)
        except FlagError as error:
            notes.append(f"The state before is not known: {fact(error)} The history in Unleash has it.")
            return None
        if len(seen.history) > 1 and seen.history[0].type == DISABLED:
            older = seen.history[1]
            return replace(seen.state, enabled=True, version=str(older.id), changed_at=older.at)
        return seen.state

    def _close(self, flag: str) -> None:
        """Leave one strategy that serves nobody: ours; others are disabled, not deleted."""
        strategies = strategies_of(self._api.in_environment(self._api.feature(flag)))
        own = next((one for one in strategies if rules.stamp_of(one)), None)
        own = own or next((one for one in strategies if one.get("name") == rules.ROLLOUT), None)
        for other in strategies:
            if other is not own and not other.get("disabled"):
                self._api.patch_strategy(flag, str(other["id"]), [{"op": "add", "path": "/disabled", "value": True}])
        new = rules.strategy(self._closed(flag, own or {}))
        if own is None:
            self._api.add_strategy(flag, new)
        elif any(cast("dict[str, Json]", change)["path"] != "/title" for change in rules.patch(own, new)):
            self._api.patch_strategy(flag, str(own["id"]), rules.patch(own, new))
        self._api.switch(flag, on=False)  # a change of strategies in between may have switched it on

    def _closed(self, flag: str, own: Strategy) -> Rule:
        try:
            rule = rules.read_strategy(flag, own)
        except FlagError:
            return Rule(rules.closed(flag, own), Stamp(_nonce()), self._bucketing(flag))
        return Rule(rule.exposure.closed(), Stamp(_nonce(), ledger_head=rule.stamp.ledger_head), rule.bucketing)


def open_address(address: Address) -> Unleash:
    """The backend at ``unleash+https://HOST/PROJECT``.

    ``?environment=development`` says what Unleash calls the environment, ``?stickiness=accountId`` which context field names a unit.

    Raises
    ------
    FlagError
        If the address names no project, or would send the token in clear.
    """
    place, _, query = address.place.partition("?")
    root, _, project = place.strip("/").rpartition("/")
    if not root:
        raise FlagError(
            f"the address {address.url!r} names no project. Write unleash+https://HOST/PROJECT; the first project of Unleash is called default."
        )
    plain = address.scheme == "unleash+http"
    if plain and root.partition("/")[0].rpartition(":")[0] not in _LOCAL and root.partition("/")[0] not in _LOCAL:
        raise FlagError(
            f"the address {address.url!r} would send the token over the network in clear. Write unleash+https://HOST/PROJECT; +http is for a server on this machine."
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not set(options) <= {"environment", "stickiness"} or options.get("stickiness") in ("", "default", "random"):
        raise FlagError(
            f"the address {address.url!r} asks for {options}; known are environment, and stickiness, which names a context field such as userId. Correct it in expnb.toml."
        )
    base = f"{'http' if plain else 'https'}://{root}"
    return Unleash(
        FlagServer(base, f"Unleash at {base}", address.token),
        project,
        address.environment,
        unleash_environment=options.get("environment", ""),
        stickiness=options.get("stickiness", "userId"),
        name=address.url.partition("?")[0],
    )


def _is_among(event: Event, strategies: Sequence[Mapping[str, Json]]) -> bool:
    return isinstance(event.data, dict) and event.data.get("id") in [one["id"] for one in strategies]


def _nonce() -> str:
    return secrets.token_hex(4)


def _diff(what: str, seen: Seen, new: Strategy) -> Iterator[str]:
    yield f"--- {what}, version {seen.version}"
    yield f"+++ {what}, after"
    if not seen.state.enabled:
        yield "- enabled: false"
        yield "+ enabled: true"
    for change in cast("list[dict[str, Json]]", rules.patch(seen.strategy, new)):
        path = str(change["path"]).strip("/")
        old: Json = cast("Json", seen.strategy)
        for step in path.split("/"):
            old = old.get(step) if isinstance(old, dict) else None
        yield f"- {path}: {json.dumps(old, ensure_ascii=False)}"
        yield f"+ {path}: {json.dumps(change.get('value'), ensure_ascii=False)}"
