"""MurmurHash3: the hash under the buckets of flagd and of Unleash."""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
MULTIPLY_1: Final = 0xCC9E2D51
MULTIPLY_2: Final = 0x1B873593
ADD: Final = 0xE6546B64
MIX_1: Final = 0x85EBCA6B
MIX_2: Final = 0xC2B2AE35


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 x86 32 bit, as an unsigned integer.

    References
    ----------
    .. [1] Appleby, MurmurHash3_x86_32, github.com/aappleby/smhasher.
    """
    return finished(data, seed, len(data))


def finished(rest: bytes, state: int, length: int) -> int:
    """The hash of a text of `length` bytes whose first words gave `state`, and of which `rest` is left."""
    whole = len(rest) & ~3
    state = absorbed(rest[:whole], state)
    if whole != len(rest):
        tail = int.from_bytes(rest[whole:], "little") * MULTIPLY_1 & MASK
        state ^= (tail << 15 | tail >> 17) * MULTIPLY_2 & MASK
    state ^= length
    state = (state ^ state >> 16) * MIX_1 & MASK
    state = (state ^ state >> 13) * MIX_2 & MASK
    return state ^ state >> 16


def absorbed(words: bytes, state: int) -> int:
    """The state after whole words of four bytes; texts that begin alike share it."""
    for start in range(0, len(words), 4):
        block = int.from_bytes(words[start : start + 4], "little") * MULTIPLY_1 & MASK
        block = (block << 15 | block >> 17) * MULTIPLY_2 & MASK
        state ^= block
        state = ((state << 13 | state >> 19) & MASK) * 5 + ADD & MASK
    return state
