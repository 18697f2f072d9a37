"""Who came first, from the server's own history: Unleash lets everybody write, and only its history tells who did.

The server writes a strategy and its event in one transaction, under the lock of the strategy's row, so numbers of events are in the order of the writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from expnb.flags.unleash_api import CHANGED, Event
from expnb.flags.unleash_rules import Strategy, patch, stamp_of


@dataclass(frozen=True, slots=True)
class Race:
    """What should stand after the events of a push, and what does.

    Parameters
    ----------
    standing : Strategy
        What the last one made of the strategy who knew what was there.
    winner : Event or None
        The event that made it; None if nobody changed the strategy.
    latest : Strategy
        What the strategy is now.
    lost : frozenset of int
        Pushes that were planned on a version that others had changed meanwhile: they are taken back.
    """

    standing: Strategy
    winner: Event | None
    latest: Strategy
    lost: frozenset[int]
    version: int  # number of the newest event that was not late

    @property
    def settled(self) -> bool:
        """Whether what stands is what is served."""
        return not patch(self.latest, self.standing)


def run(base: int, strategy: Strategy, newer: Sequence[Event]) -> Race:
    """The race that began at a version.

    Parameters
    ----------
    base : int
        Number of the event that was the newest when the strategy was read.
    strategy : Strategy
        What it was then.
    newer : sequence of Event
        What happened since, oldest first.
    """
    standing, latest, winner, last = strategy, strategy, None, base
    lost: set[int] = set()
    known = {_nonce(strategy)}
    for event in newer:
        if event.type != CHANGED or not isinstance(event.data, dict):
            last = event.id
            continue
        latest = event.data
        if not patch(latest, standing):  # put back, or written again
            last = event.id
        elif _is_late(event, last, known, lost):
            lost.add(event.id)
        else:
            standing, winner, last = latest, event, event.id
        known.add(_nonce(latest))
    return Race(standing, winner, latest, frozenset(lost), last)


def _is_late(event: Event, last: int, known: set[str], lost: set[int]) -> bool:
    """Whether an event is a push on a version that was no more; an edit by hand keeps our title, and a kill names no version."""
    stamp = stamp_of(event.data)
    if stamp is None or stamp.nonce in known or not stamp.base:
        return False
    return stamp.base != last and stamp.base not in lost


def _nonce(strategy: Strategy) -> str:
    stamp = stamp_of(cast("dict[str, object]", strategy))  # type: ignore[arg-type]
    return stamp.nonce if stamp else ""
