"""A flag of Unleash as one moment had it: its strategy, and the history that names its version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast

from expnb.errors import FlagEditedError, FlagServerError
from expnb.flags import unleash_rules as rules
from expnb.flags.unleash_api import Event, Facts, UnleashApi
from expnb.flags.unleash_rules import Rule, Strategy
from expnb.spec.canonical import Json
from expnb.spec.flag import FlagRef, FlagState

_TRIES: Final = 5  # to read flag and history as one moment had them


@dataclass(frozen=True, slots=True)
class Seen:
    """A flag and its history as one moment had them."""

    state: FlagState
    strategy: Strategy
    rule: Rule
    history: Sequence[Event]  # newest first

    @property
    def version(self) -> int:
        """Number of the newest event; 0 without a history."""
        return self.history[0].id if self.history else 0

    @property
    def strategy_id(self) -> str:
        """What the server calls the strategy."""
        return str(self.strategy["id"])


def look(api: UnleashApi, ref: FlagRef) -> Seen:
    """The flag between two equal looks at its history."""
    history = api.events(ref.flag)
    for _ in range(_TRIES):
        feature = api.feature(ref.flag)
        again = api.events(ref.flag)
        if newest(again) == newest(history):
            return _understood(api, ref, feature, again)
        history = again
    raise FlagServerError(
        api.server.name,
        f"changes flag {ref.flag!r} faster than it can be read. Nothing was changed. Find out who does.",
        "conflict",
    )


def _understood(api: UnleashApi, ref: FlagRef, feature: Facts, history: Sequence[Event]) -> Seen:
    raw, enabled = serving_strategy(api, ref.flag, feature)
    rule = rules.read_strategy(ref.flag, raw)
    changed_at = history[0].at if history else datetime.fromisoformat(str(feature["createdAt"])).astimezone(UTC)
    state = FlagState(
        ref,
        rule.exposure,
        str(newest(history)),
        enabled=enabled,
        changed_at=changed_at,
        bucketing=str(rule.bucketing),
        plan_id=rule.stamp.plan_id,
    )
    return Seen(state, raw, rule, history)


def serving_strategy(api: UnleashApi, flag: str, feature: Facts) -> tuple[Strategy, bool]:
    """The one strategy that serves the flag, and whether the flag is enabled."""
    if feature.get("dependencies"):
        raise FlagEditedError(flag, "it was made to depend on other flags")
    environment = api.in_environment(feature)
    serving = [one for one in strategies_of(environment) if not one.get("disabled")]
    if not serving:
        raise FlagEditedError(flag, f"it has no strategy that serves it in {api.environment!r}")
    if len(serving) > 1:
        raise FlagEditedError(flag, f"it has {len(serving)} strategies in {api.environment!r}, not one")
    return serving[0], bool(environment.get("enabled"))


def strategies_of(environment: Facts) -> list[dict[str, Json]]:
    """All strategies of a flag in an environment, disabled ones too."""
    return [one for one in cast("list[Json]", environment.get("strategies") or []) if isinstance(one, dict)]


def newest(history: Sequence[Event]) -> int:
    """Number of the newest event; 0 without a history."""
    return history[0].id if history else 0
