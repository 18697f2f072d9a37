"""Which variant a unit gets: the arithmetic of flagd's `fractional`, generation 2.

Generation 2 is what openfeature-provider-flagd 0.5 and @openfeature/flagd-core 4 compute: MurmurHash3 of a text, times the sum of the integer weights, shifted right by 32 bits.
Other generations put other people into the same percentage, so the generation stands in each flag's metadata.

References
----------
.. [1] Appleby, MurmurHash3_x86_32, github.com/aappleby/smhasher.
.. [2] open-feature/flagd, docs/architecture-decisions/high-precision-fractional-bucketing.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Final

from expnb.errors import SpecError, UnitError
from expnb.flags.base import OFF
from expnb.spec.flag import UNIT, Exposure

GENERATION: Final = "2"
GATE_UNITS: Final = 10_000  # the gate counts in 0.01 %
GATE_SALT: Final = "/gate/"
SPLIT_SALT: Final = "/split/"
LAYER_SALT: Final = "expnb/layer/"  # followed by the name of the layer: experiments of one layer cut the same line
HOLDOUT_SALT: Final = "expnb/holdout/"  # the same for every flag
BUCKETING: Final = f"flagd generation {GENERATION}: gate {GATE_SALT}, split {SPLIT_SALT}, by targetingKey"
MAX_TOTAL: Final = 2**31 - 1  # flagd refuses a larger sum of weights
_COARSE_TOTAL: Final = 10**9  # sum of weights that have no smaller exact form
_MASK: Final = 0xFFFFFFFF


def murmur3_32(data: bytes) -> int:
    """MurmurHash3 x86 32 bit with seed 0, as an unsigned integer [1]_."""
    whole = len(data) & ~3
    state = 0
    for start in range(0, whole, 4):
        block = int.from_bytes(data[start : start + 4], "little") * 0xCC9E2D51 & _MASK
        block = (block << 15 | block >> 17) * 0x1B873593 & _MASK
        state ^= block
        state = ((state << 13 | state >> 19) & _MASK) * 5 + 0xE6546B64 & _MASK
    if whole != len(data):
        tail = int.from_bytes(data[whole:], "little") * 0xCC9E2D51 & _MASK
        state ^= (tail << 15 | tail >> 17) * 0x1B873593 & _MASK
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    return state ^ state >> 16


def bucket(key: str, total: int) -> int:
    """Place of a text among `total` equal buckets, 0 to total - 1 [2]_.

    Raises
    ------
    UnitError
        If the text has no UTF-8 form.
    """
    try:
        data = key.encode()
    except UnicodeEncodeError as error:
        raise UnitError(
            f"the unit in {key!r} has no UTF-8 form, so no SDK can hash it. Write units as valid text."
        ) from error
    return murmur3_32(data) * total >> 32


def fractional(key: str, weights: Sequence[tuple[str, int]]) -> str:
    """The name whose share of the weights holds the bucket of `key`."""
    place = bucket(key, sum(weight for _, weight in weights))
    for name, weight in weights:
        place -= weight
        if place < 0:
            return name
    raise SpecError(
        f"the weights {list(weights)} add up to 0, so nobody gets a variant. Give at least one a weight above 0."
    )


def gate_units(percent: float) -> int:
    """Units of the gate for a percentage of whole steps of 0.01 %."""
    return round(percent * GATE_UNITS / 100)


def split_weights(weights: Mapping[str, float]) -> tuple[tuple[str, int], ...]:
    """Relative weights as the smallest integers of the same proportion, by name.

    The order is that of the names, not of the mapping: a mapping that went through sorted JSON must not move people between variants.

    Raises
    ------
    SpecError
        If a weight is so small beside the others that nobody would get that variant.
    """
    exact = {name: Fraction(repr(float(weights[name]))) for name in sorted(weights)}
    scale = math.lcm(*(part.denominator for part in exact.values()))
    whole = {name: int(part * scale) for name, part in exact.items()}
    divisor = math.gcd(*whole.values()) or 1
    parts = {name: part // divisor for name, part in whole.items()}
    if sum(parts.values()) > MAX_TOTAL:
        parts = _rounded(parts)
    return tuple(parts.items())


def _rounded(parts: Mapping[str, int]) -> dict[str, int]:
    total = sum(parts.values())
    rounded = {name: round(Fraction(part * _COARSE_TOTAL, total)) for name, part in parts.items()}
    for name, part in parts.items():
        if part and not rounded[name]:
            raise SpecError(
                f"variant {name!r} has less than one billionth of the weight, so nobody would get it. Write 0, or a larger weight."
            )
    return rounded


def served_split(exposure: Exposure) -> tuple[tuple[str, int], ...]:
    """What units inside the gate are served, with integer weights; the places of dropped treatments serve ``"off"``, so that nobody else moves."""
    return tuple((OFF if name in exposure.dropped else name, part) for name, part in split_weights(exposure.weights))


def assigner(flag: str, exposure: Exposure) -> Callable[[str, Mapping[str, str]], str]:
    """A function from unit and its attributes to variant, for one flag as it stands.

    A unit without a name gets ``"off"``: all anonymous traffic has one hash and would flip as a block.
    """
    split = served_split(exposure)
    edge = gate_units(100 - exposure.holdback if exposure.serve else exposure.enrolled)
    who = exposure.eligibility
    held_out = gate_units(who.holdout)
    start, end = (gate_units(edge) for edge in who.slice)

    def assign(unit: str, attributes: Mapping[str, str]) -> str:
        if not unit or not who.admits({**attributes, UNIT: unit}):
            return OFF
        if held_out and bucket(f"{HOLDOUT_SALT}{unit}", GATE_UNITS) < held_out:
            return OFF
        # A shipped variant is for all of the layer: the experiment, which needed its own units, is over.
        if (
            who.layer
            and not exposure.serve
            and not start <= bucket(f"{LAYER_SALT}{who.layer}/{unit}", GATE_UNITS) < end
        ):
            return OFF
        inside = bucket(f"{flag}{GATE_SALT}{unit}", GATE_UNITS) < edge
        if exposure.serve:
            return exposure.serve if inside else exposure.control
        return fractional(f"{flag}{SPLIT_SALT}{unit}", split) if inside else OFF

    return assign


def assign_all(
    flag: str, exposure: Exposure, units: Sequence[str], attributes: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Variant of each unit, in the order of `units`."""
    assign = assigner(flag, exposure)
    if not attributes:
        return [assign(unit, {}) for unit in units]
    rows = (dict(zip(attributes, row, strict=True)) for row in zip(*attributes.values(), strict=True))
    return [assign(unit, row) for unit, row in zip(units, rows, strict=True)]
