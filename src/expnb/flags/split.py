"""Whether a flag serves what its state says, asked with sample units."""

from __future__ import annotations

import math
from collections.abc import Mapping

from expnb.errors import PushUncertainError
from expnb.flags.base import OFF, FlagBackend
from expnb.spec.flag import FlagRef, FlagState

SAMPLE_UNITS = 200
# Chance of a false alarm of the split check after a push: about one in two million pushes.
SPLIT_SD = 5.0


def serve_sample(flags: FlagBackend, ref: FlagRef) -> dict[str, int]:
    """How many of 200 made-up units get each answer; ``"off"`` is outside the gate."""
    served = flags.evaluate(ref, [f"expnb-sample-{number}" for number in range(SAMPLE_UNITS)])
    return {name: served.count(name) for name in sorted(set(served))}


def check_split(state: FlagState, served: Mapping[str, int]) -> None:
    """Raise `PushUncertainError` when sample units are not served as the state promises.

    Parameters
    ----------
    served : mapping of str to int
        Sample units by what they got; ``"off"`` is outside the gate.
    """
    total = sum(served.values())
    for name, share in expected_shares(state).items():
        slack = SPLIT_SD * math.sqrt(total * share * (1 - share))
        if abs(served.get(name, 0) - total * share) > slack:
            raise PushUncertainError(
                f"flag {state.ref.flag!r} says {state.exposure}, but {served.get(name, 0)} of {total} sample units get {name!r} where {total * share:.0f} were expected. The push is recorded; look at the flag before anything else moves."
            )


def expected_shares(state: FlagState) -> dict[str, float]:
    """Share of eligible units per answer of a flag, 0 to 1; ``"off"`` is outside the gate."""
    shares = state.exposure.shares()
    return shares | {OFF: max(0.0, 1 - sum(shares.values()))}
