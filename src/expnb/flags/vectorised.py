"""The same variants as `bucketing.assigner`, for many units at once.

Units of one byte length are hashed together, word by word, as columns of 32-bit numbers that wrap around.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from expnb.errors import UnitError
from expnb.flags import murmur
from expnb.flags.base import OFF, check_units
from expnb.flags.bucketing import GENERATION, Draw, salted, split, steps
from expnb.flags.generations import Generation, generation_named
from expnb.spec.flag import UNIT, Exposure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint32]
    Codes = NDArray[np.intp]

_TOGETHER: Final = 1 << 14  # units whose columns stay in the processor's cache


@dataclass(frozen=True, slots=True)
class _Alike:
    """Units of one length in bytes."""

    length: int
    places: NDArray[np.intp]  # where they stand among all units
    data: NDArray[np.uint8]  # a row of bytes for each


def assigned(
    flag: str,
    exposure: Exposure,
    units: Sequence[str],
    attributes: Mapping[str, Sequence[str]] | None = None,
    *,
    generation: str = GENERATION,
) -> tuple[tuple[str, ...], Codes]:
    """Names of what is served, and for each unit the place of its own among them.

    Raises
    ------
    UnitError
        If a unit is no text, or has no UTF-8 form.
    """
    check_units(units, attributes)
    hashed, groups = generation_named(generation), list(_grouped(units))
    served = _served(flag, exposure)
    passed = _admitted(exposure, units, attributes or {})
    *refusals, gate = steps(flag, exposure)
    for draw, passes in refusals:
        passed &= _parts(draw, hashed, groups, len(units)) == draw.names.index(passes)
    inside = _parts(gate[0], hashed, groups, len(units)) == gate[0].names.index(gate[1])
    if exposure.serve:
        codes = np.where(inside, 1, 2)
    else:
        pick = split(flag, exposure)
        single = len(pick.parts) == 1
        codes = np.where(inside, 1 + (0 if single else _parts(pick, hashed, groups, len(units))), 0)
    return served, np.where(passed, codes, 0)


def _served(flag: str, exposure: Exposure) -> tuple[str, ...]:
    """What a code stands for; the first is ``"off"``."""
    if exposure.serve:
        return OFF, exposure.serve, exposure.control
    return OFF, *(name or OFF for name in split(flag, exposure).names)


def _admitted(exposure: Exposure, units: Sequence[str], attributes: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
    """Whether each unit has a name and the audience lets it in."""
    admitted = np.fromiter(map(bool, units), dtype=bool, count=len(units))
    for name, values in exposure.eligibility.audience.items():
        given = units if name == UNIT else attributes.get(name)
        if given is None:
            return np.zeros(len(units), dtype=bool)
        allowed = frozenset(values)
        admitted &= np.fromiter((value in allowed for value in given), dtype=bool, count=len(units))
    return admitted


def _grouped(units: Sequence[str]) -> Iterator[_Alike]:
    """Units by their length in bytes."""
    text, lengths = _encoded(units)
    ends = np.cumsum(lengths)
    order = np.argsort(lengths, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        if len(places):
            length = int(lengths[places[0]])
            for some in np.split(places, range(_TOGETHER, len(places), _TOGETHER)):
                starts = ends[some] - length
                yield _Alike(length, some, text[starts[:, None] + np.arange(length)])


def _encoded(units: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All units in one text, and how many bytes each has."""
    try:
        joined = "".join(units)
        text = joined.encode()
    except TypeError as error:
        found = next(unit for unit in units if not isinstance(unit, str))
        raise UnitError(
            f"a unit is {found!r}, of type {type(found).__name__}; SDKs hash text. Write it as the text that the service sends."
        ) from error
    except UnicodeEncodeError as error:
        raise UnitError(
            f"a unit holds {error.object[error.start : error.end]!r}, which has no UTF-8 form, so no SDK can hash it. Write units as valid text."
        ) from error
    sizes = map(len, units) if joined.isascii() else (len(unit.encode()) for unit in units)
    return np.frombuffer(text, dtype=np.uint8), np.fromiter(sizes, dtype=np.int64, count=len(units))


def _parts(draw: Draw, generation: Generation, groups: Sequence[_Alike], count: int) -> Codes:
    """Which part of a draw each unit falls into."""
    begun, edges = salted(draw.salt, generation), np.array(generation.edges([part for _, part in draw.parts]))
    found = np.empty(count, dtype=np.intp)
    for alike in groups:
        state, rest, length = begun(alike.length)
        hashes = _hashes(alike.data, rest, state, length)
        found[alike.places] = np.searchsorted(edges, _places(hashes, generation), side="right")
    return found


def _places(hashes: Hashes, generation: Generation) -> NDArray[np.float64] | NDArray[np.int64]:
    """`Generation.place` of each hash, by the same operations."""
    wide = hashes.astype(np.int64)
    if not generation.signed:
        return wide
    return np.minimum(wide, 2**32 - wide) / (2**31 - 1) * 100


def _hashes(data: NDArray[np.uint8], rest: bytes, state: int, length: int) -> Hashes:
    """`murmur.finished` of each row of `data` behind `rest`."""
    count, width = data.shape
    used = len(rest) + width
    padded = np.zeros((count, -(-used // 4) * 4), dtype=np.uint8)
    padded[:, : len(rest)] = np.frombuffer(rest, dtype=np.uint8)
    padded[:, len(rest) : used] = data
    words = np.ascontiguousarray(padded.view("<u4").T)
    hashes = np.full(count, state, dtype=np.uint32)
    for word in words[: used // 4]:
        hashes ^= _mixed(word)
        hashes = _rotated(hashes, 13) * np.uint32(5) + np.uint32(murmur.ADD)
    if used % 4:
        hashes ^= _mixed(words[-1])
    hashes ^= np.uint32(length & murmur.MASK)
    hashes = (hashes ^ hashes >> np.uint32(16)) * np.uint32(murmur.MIX_1)
    hashes = (hashes ^ hashes >> np.uint32(13)) * np.uint32(murmur.MIX_2)
    return hashes ^ hashes >> np.uint32(16)


def _mixed(word: Hashes) -> Hashes:
    return _rotated(word * np.uint32(murmur.MULTIPLY_1), 15) * np.uint32(murmur.MULTIPLY_2)


def _rotated(words: Hashes, by: int) -> Hashes:
    return words << np.uint32(by) | words >> np.uint32(32 - by)
