"""The three published hash generations of flagd's `fractional`, which put different people into the same percentage.

A generation says which bytes of a text are hashed, how a hash becomes a place, and where the parts of a split end among the places.

=========== ==================================== ========================================================================
generation  published in                         place of a text
=========== ==================================== ========================================================================
1           openfeature-provider-flagd 0.2,      absolute value of the signed hash, as a percentage in floating point
            @openfeature/flagd-core 1
2           openfeature-provider-flagd 0.5,      unsigned hash, times the sum of the weights, shifted right by 32 bits
            @openfeature/flagd-core 4
3           openfeature-provider-flagd 0.6       as 2, of the text's CBOR form
=========== ==================================== ========================================================================

References
----------
.. [1] open-feature/flagd, docs/architecture-decisions/high-precision-fractional-bucketing.md and fractional-non-string-rand-units.md.
.. [2] RFC 8949, Concise Binary Object Representation, section 3: the head of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from expnb.errors import FlagError

_SPACE: Final = 2**32
_LARGEST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Generation:
    """One way from a text and integer weights to a part of the split.

    Parameters
    ----------
    name : str
        As it stands in a flag's metadata.
    head : callable
        Bytes that are hashed before a text of so many bytes.
    signed : bool
        Whether the place of a hash is the absolute value of the signed one, in percent, rather than the unsigned one.
    edges : callable
        Where each part ends among the places; ascending.
    """

    name: str
    head: Callable[[int], bytes]
    signed: bool
    edges: Callable[[Sequence[int]], list[float]]

    def place(self, hashed: int) -> float:
        """Place of an unsigned hash among the edges."""
        if not self.signed:
            return hashed
        return min(hashed, _SPACE - hashed) / _LARGEST * 100


def no_head(length: int) -> bytes:  # noqa: ARG001 - one form for all generations
    """Nothing: the text alone is hashed."""
    return b""


def cbor_head(length: int) -> bytes:
    """The CBOR head of a text of so many bytes [2]_."""
    if length < 24:
        return bytes([0x60 + length])
    size = next(size for size in (1, 2, 4, 8) if length < 1 << 8 * size)
    return bytes([0x78 + size.bit_length() - 1]) + length.to_bytes(size, "big")


def _percents(parts: Sequence[int]) -> list[float]:
    """Ends in percent, added up in the provider's own order of floating-point operations."""
    total = sum(parts)
    return list(accumulate(part * 100 / total for part in parts))


def _hashes(parts: Sequence[int]) -> list[float]:
    """First hash beyond each part: ``hash * total >> 32 < end`` without the product."""
    total = sum(parts)
    return [-(-end * _SPACE // total) for end in accumulate(parts)]


GENERATIONS: Final = {
    "1": Generation("1", no_head, signed=True, edges=_percents),
    "2": Generation("2", no_head, signed=False, edges=_hashes),
    "3": Generation("3", cbor_head, signed=False, edges=_hashes),
}


def generation_named(name: str) -> Generation:
    """The hash generation of that name.

    Raises
    ------
    FlagError
        If there is none.
    """
    if name not in GENERATIONS:
        raise FlagError(
            f"no hash generation is called {name!r}; published are {', '.join(GENERATIONS)}. Use an expnb that knows it, or the one that made the flag."
        )
    return GENERATIONS[name]
