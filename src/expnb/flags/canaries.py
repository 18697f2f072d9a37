"""Units that nobody is, whose variants tell one hash from another."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Final

from expnb.flags.base import OFF
from expnb.flags.bucketing import GENERATION, assign_all
from expnb.spec.flag import Exposure

UNITS: Final = tuple(f"expnb-canary-{number}" for number in range(64))
# JavaScript SDKs hash UTF-16 code units where the others hash UTF-8 bytes.
WIDE_UNITS: Final = tuple(f"expnb-canary-ü-{number}" for number in range(64))
_SIGNS: Final = string.digits + string.ascii_letters
_OUTSIDE: Final = "-"


def probe(weights: Mapping[str, float], control: str) -> Exposure:
    """The exposure that canaries are asked under: half of them in, so that gate and split both show."""
    return Exposure(weights, control, enrolled=50)


def canaries(flag: str, weights: Mapping[str, float], control: str, generation: str = GENERATION) -> str:
    """What the canary units get of a flag's split, with half of the gate open: one sign for each."""
    return signs(assign_all(flag, probe(weights, control), UNITS, generation=generation), weights)


def signs(answers: Sequence[str], weights: Mapping[str, float]) -> str:
    """One sign for each answer: the place of the variant among the names in their order, or a dash outside the gate."""
    places = {name: _SIGNS[place % len(_SIGNS)] for place, name in enumerate(sorted(weights))}
    return "".join((places | {OFF: _OUTSIDE}).get(answer, "?") for answer in answers)


def differing(one: str, other: str) -> int:
    """How many canaries got something else."""
    return sum(a != b for a, b in zip(one, other, strict=True)) if len(one) == len(other) else max(len(one), len(other))
