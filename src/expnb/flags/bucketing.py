"""Which variant a unit gets: the arithmetic of flagd's `fractional`, whose generation stands in each flag's metadata.

An exposure is a chain of draws, each a salted hash of the unit that is cut into parts: not in the holdout, in the slice of the layer, inside the gate, then the split. `flagd_rules` writes the same chain as JSON for SDKs.

References
----------
.. [1] open-feature/flagd, docs/architecture-decisions/high-precision-fractional-bucketing.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Final

from expnb.errors import SpecError, UnitError
from expnb.flags.base import OFF, check_units
from expnb.flags.generations import Generation, generation_named
from expnb.flags.murmur import absorbed, finished, murmur3_32
from expnb.spec.flag import UNIT, Exposure

__all__ = ["murmur3_32"]  # the hash is part of this module's face

GENERATION: Final = "2"
GATE_UNITS: Final = 10_000  # the gate counts in 0.01 %
GATE_SALT: Final = "/gate/"
SPLIT_SALT: Final = "/split/"
LAYER_SALT: Final = "expnb/layer/"  # followed by the name of the layer: experiments of one layer cut the same line
HOLDOUT_SALT: Final = "expnb/holdout/"  # the same for every flag
BUCKETING: Final = f"flagd generation {GENERATION}: gate {GATE_SALT}, split {SPLIT_SALT}, by targetingKey"
MAX_TOTAL: Final = 2**31 - 1  # flagd refuses a larger sum of weights
_COARSE_TOTAL: Final = 10**9  # sum of weights that have no smaller exact form
_MANY: Final = 2_000  # units from which NumPy is worth its import


def bucket(key: str, total: int) -> int:
    """Place of a text among `total` equal buckets of generation 2, 0 to total - 1 [1]_.

    Raises
    ------
    UnitError
        If the text has no UTF-8 form.
    """
    return murmur3_32(_encoded(key)) * total >> 32


def fractional(key: str, weights: Sequence[tuple[str, int]], generation: str = GENERATION) -> str:
    """The name whose share of the weights holds the hash of `key`; empty where generation 1 finds none.

    Raises
    ------
    SpecError
        If no weight is above 0.
    """
    if not any(weight for _, weight in weights):
        raise SpecError(
            f"the weights {list(weights)} add up to 0, so nobody gets a variant. Give at least one a weight above 0."
        )
    return Draw("", tuple(weights)).compiled(generation_named(generation))(_encoded(key))


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


@dataclass(frozen=True, slots=True)
class Draw:
    """A hash of a salt and the unit, cut into named parts."""

    salt: str
    parts: tuple[tuple[str, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each part, and an empty one: generation 1 leaves about one hash in a billion without a part."""
        return (*(name for name, _ in self.parts), "")

    def compiled(self, generation: Generation) -> Callable[[bytes], str]:
        """A function from the bytes of a unit to the name of its part."""
        begun, place, names = salted(self.salt, generation), generation.place, self.names
        edges = generation.edges([part for _, part in self.parts])

        def draw(unit: bytes) -> str:
            state, rest, length = begun(len(unit))
            return names[bisect_right(edges, place(finished(rest + unit, state, length)))]

        return draw


def salted(salt: str, generation: Generation) -> Callable[[int], tuple[int, bytes, int]]:
    """A function from the length of a unit to how its hash begins: the state after the salt's whole words, the bytes of the salt that are left, and the length of all."""
    text = _encoded(salt)

    @cache
    def begun(length: int) -> tuple[int, bytes, int]:
        data = generation.head(len(text) + length) + text
        whole = len(data) & ~3
        return absorbed(data[:whole], 0), data[whole:], len(data) + length

    return begun


def steps(flag: str, exposure: Exposure) -> list[tuple[Draw, str]]:
    """The draws that a unit has to pass, each with the part that passes; the last is the gate."""
    who = exposure.eligibility
    held, (start, end) = gate_units(who.holdout), (gate_units(edge) for edge in who.slice)
    passed: list[tuple[Draw, str]] = []
    if who.holdout:
        passed.append((Draw(HOLDOUT_SALT, (("held", held), ("in", GATE_UNITS - held))), "in"))
    # A shipped variant is for all of the layer: the experiment, which needed its own units, is over.
    if who.layer and not exposure.serve:
        parts = (("before", start), ("own", end - start), ("after", GATE_UNITS - end))
        passed.append((Draw(f"{LAYER_SALT}{who.layer}/", parts), "own"))
    edge = gate_units(100 - exposure.holdback if exposure.serve else exposure.enrolled)
    return [*passed, (Draw(f"{flag}{GATE_SALT}", (("in", edge), ("out", GATE_UNITS - edge))), "in")]


def split(flag: str, exposure: Exposure) -> Draw:
    """The draw of the variant, for units that passed the gate."""
    return Draw(f"{flag}{SPLIT_SALT}", served_split(exposure))


def assigner(flag: str, exposure: Exposure, generation: str = GENERATION) -> Callable[[str, Mapping[str, str]], str]:
    """A function from unit and its attributes to variant, for one flag as it stands.

    A unit without a name gets ``"off"``: all anonymous traffic has one hash and would flip as a block.
    """
    hashed, who = generation_named(generation), exposure.eligibility
    *refusals, gate = [(draw.compiled(hashed), passes) for draw, passes in steps(flag, exposure)]
    pick, names = split(flag, exposure).compiled(hashed), served_split(exposure)

    def assign(unit: str, attributes: Mapping[str, str]) -> str:
        data = _encoded(unit)
        if not data or (who.audience and not who.admits({**attributes, UNIT: unit})):
            return OFF
        if any(draw(data) != passes for draw, passes in refusals):
            return OFF
        inside = gate[0](data) == gate[1]
        if exposure.serve:
            return exposure.serve if inside else exposure.control
        if not inside:
            return OFF
        return names[0][0] if len(names) == 1 else pick(data) or OFF

    return assign


def assign_all(
    flag: str,
    exposure: Exposure,
    units: Sequence[str],
    attributes: Mapping[str, Sequence[str]] | None = None,
    *,
    generation: str = GENERATION,
) -> list[str]:
    """Variant of each unit, in the order of `units`.

    Parameters
    ----------
    attributes : mapping, optional
        Value of each attribute for each unit; an attribute that the audience names and that is missing here lets nobody in.
    generation : {"1", "2", "3"}
        Hash generation of the SDKs in question.

    Raises
    ------
    UnitError
        If a unit is no text, or has no UTF-8 form.
    """
    check_units(units, attributes)
    if len(units) >= _MANY:
        from expnb.flags.vectorised import assigned  # noqa: PLC0415 - NumPy, only for many units

        names, codes = assigned(flag, exposure, units, attributes, generation=generation)
        return [names[code] for code in codes.tolist()]
    assign = assigner(flag, exposure, generation)
    if not attributes:
        return [assign(unit, {}) for unit in units]
    rows = (dict(zip(attributes, row, strict=True)) for row in zip(*attributes.values(), strict=True))
    return [assign(unit, row) for unit, row in zip(units, rows, strict=True)]


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UnitError(
            f"the unit in {text!r} has no UTF-8 form, so no SDK can hash it. Write units as valid text."
        ) from error
    except AttributeError as error:
        raise UnitError(
            f"a unit is {text!r}, of type {type(text).__name__}; SDKs hash text. Write it as the text that the service sends."
        ) from error
