"""One push to Unleash: written once, found again when its answer was lost, and done only when it came first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from expnb.decisions.plan import RampPlan
from expnb.errors import AnswerLostError, FlagEditedError, FlagError, FlagRaceError, FlagServerError, PushUncertainError
from expnb.flags import unleash_race
from expnb.flags import unleash_rules as rules
from expnb.flags.aftermath import fact
from expnb.flags.base import describe
from expnb.flags.unleash_api import CHANGED, Event, UnleashApi
from expnb.flags.unleash_look import Seen, look
from expnb.flags.unleash_rules import Strategy
from expnb.spec.flag import FlagState

_LOOKS: Final = (
    0.0,
    0.1,
    0.2,
    0.4,
    0.8,
    1.5,
)  # seconds before each look for a write whose answer was lost, or its rival
_LOOK_SECONDS: Final = 15.0  # after which no further look is taken
_TRIES: Final = 5  # to read back while late writers come and go


@dataclass(frozen=True, slots=True)
class Push:
    """A change of one flag on its way.

    Parameters
    ----------
    pause : callable
        Waits some seconds.
    """

    _api: UnleashApi
    _pause: Callable[[float], None]

    def send(self, plan: RampPlan, seen: Seen, new: Strategy) -> tuple[FlagState, str]:
        """The flag as it reads afterwards, and what to note.

        Raises
        ------
        FlagRaceError
            If somebody else was first; their change stands.
        FlagServerError
            If nothing was changed.
        PushUncertainError
            If what became of the write is not known, or not what was asked for.
        """
        note = self._write(plan.ref.flag, seen, new)
        own, after = self._done(plan, seen, new)
        return after, f"{note} {_author(own)}".strip()

    def _write(self, flag: str, seen: Seen, new: Strategy) -> str:
        """Send the change once; what to note about it."""
        try:
            self._api.patch_strategy(flag, seen.strategy_id, rules.patch(seen.strategy, new))
        except AnswerLostError as lost:
            return self._found(flag, seen, new, lost)
        return ""

    def _found(self, flag: str, seen: Seen, new: Strategy, lost: AnswerLostError) -> str:
        """Look for a write whose answer was lost: in the history, and never by writing again."""
        read = False
        for _ in self._looks():
            with suppress(FlagError):
                newer = self._newer(flag, seen)
                read = True
                if _own(newer, new):
                    return f"The answer was lost ({lost.how}); the change was found by reading."
        if not read or lost.under_way:
            raise lost
        raise FlagServerError(
            self._api.server.name,
            f"{lost.how}, and the history of flag {flag!r} does not have the change: nothing was changed. Read the flag, and push again.",
            "server-down",
        )

    def _settled(self, plan: RampPlan, seen: Seen, new: Strategy) -> Event:
        """The event of our own write, once it is known to be the first; a late write is taken back.

        Raises
        ------
        FlagRaceError
            If somebody else was first; their change stands.
        """
        flag = plan.ref.flag
        for number, _ in enumerate(self._looks()):
            try:
                newer = self._newer(flag, seen)
            except FlagError as error:
                raise PushUncertainError(
                    f"flag {flag!r} was written, but its history cannot be read: {fact(error)}"
                ) from error
            own = _own(newer, new)
            race = unleash_race.run(seen.version, seen.strategy, newer)
            if own and race.settled:
                return self._judged(plan, own, race)
            # Who came late puts the other's change back; who came first waits for that, and does it at last.
            if own and (own.id in race.lost or number == len(_LOOKS) - 2):
                with suppress(AnswerLostError):
                    self._api.patch_strategy(flag, seen.strategy_id, rules.patch(race.latest, race.standing))
        raise PushUncertainError(
            f"flag {flag!r} was written while others wrote it, and what stands is not clear. Read it, look at its history in Unleash, and decide again."
        )

    def _judged(self, plan: RampPlan, own: Event, race: unleash_race.Race) -> Event:
        winner = race.winner
        if own.id in race.lost:
            served = f"the change by {winner.by}" if winner else "a switch of the flag"
            raise FlagRaceError(plan.ref.flag, plan.base_version, str(winner.id if winner else race.version), served)
        if winner is None or winner.id != own.id:
            raise PushUncertainError(
                f"flag {plan.ref.flag!r} was written, and {winner.by if winner else 'somebody'} changed it right after. Read it and decide again."
            )
        return own

    def _done(self, plan: RampPlan, seen: Seen, new: Strategy) -> tuple[Event, FlagState]:
        """The event of our write, and the flag as it reads with it; a late writer may write over it for a moment."""
        own = self._settled(plan, seen, new)
        self._switch_on(plan, seen)
        for _ in range(_TRIES):
            after = self._read_back(plan)
            if after and (after.exposure, after.enabled) == (plan.after, True):
                return own, after
            own = self._settled(plan, seen, new)
        raise PushUncertainError(
            f"flag {plan.ref.flag!r} was written as '{plan.after}', but reads '{describe(after)}': somebody changed it right after. Read it and decide again."
        )

    def _switch_on(self, plan: RampPlan, seen: Seen) -> None:
        if seen.state.enabled:
            return
        try:
            with suppress(AnswerLostError):  # what is read back says what became of it
                self._api.switch(plan.ref.flag, on=True)
        except FlagError as error:
            raise PushUncertainError(
                f"flag {plan.ref.flag!r} was written, but not switched on: {fact(error)}"
            ) from error

    def _read_back(self, plan: RampPlan) -> FlagState | None:
        """The flag as it reads; None while somebody's edit contradicts its title."""
        try:
            return look(self._api, plan.ref).state
        except FlagEditedError:
            return None
        except FlagError as error:
            raise PushUncertainError(
                f"flag {plan.ref.flag!r} was written, but cannot be read back: {fact(error)}"
            ) from error

    def _newer(self, flag: str, seen: Seen) -> list[Event]:
        """What happened since, oldest first."""
        return [event for event in reversed(self._api.events(flag)) if event.id > seen.version]

    def _looks(self) -> Iterator[None]:
        end = time.monotonic() + _LOOK_SECONDS
        for seconds in _LOOKS:
            if time.monotonic() > end:
                return
            if seconds:
                self._pause(seconds)
            yield


def _own(newer: Sequence[Event], new: Strategy) -> Event | None:
    """The event of our own write; its title has a nonce."""
    for event in newer:
        if event.type == CHANGED and isinstance(event.data, dict) and event.data.get("title") == new["title"]:
            return event
    return None


def _author(own: Event) -> str:
    if own.by_user < 0:
        return f"Unleash's history names {own.by!r}, as for every token that belongs to no person; with a personal access token it names you."
    return f"Unleash's history names {own.by!r}."
