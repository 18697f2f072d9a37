"""Names, weights and order of the variants that Unleash splits by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Final

from expnb.errors import FlagError
from expnb.spec.canonical import Json
from expnb.spec.flag import UNIT, Exposure

_TOTAL: Final = 1000  # weights of variants are in 1/1000
_DROPPED: Final = "dropped"
_NAME: Final = re.compile(r"[A-Za-z0-9_.!~*'()-]{1,90}")  # what Unleash takes, and room for the mark of a dropped one
# How the server sorts variants whenever it writes them: ICU's order of these signs, small letters before capitals.
_ORDER: Final = "_-!.'()*~0123456789abcdefghijklmnopqrstuvwxyz"


def variants_of(exposure: Exposure, stickiness: str) -> list[Json]:
    """What the gate lets in is split by; the one variant that Unleash wants to be "variable" gets what the others leave."""
    parts, rest = _split(exposure)
    return [
        {
            "name": name,
            "weight": parts[name],
            "weightType": "variable" if name == rest else "fix",
            "stickiness": stickiness,
        }
        for name in in_order(list(parts))
    ]


def _split(exposure: Exposure) -> tuple[dict[str, int], str]:
    names = list(exposure.weights)
    if not exposure.serve:
        parts = per_mille(exposure.weights)
        dropped = {name: dropped_name(name, names) for name in exposure.dropped}
        return {dropped.get(name, name): part for name, part in parts.items()}, exposure.control
    held = round(exposure.holdback * _TOTAL / 100) if exposure.serve != exposure.control else 0
    kept = {exposure.control: held} if held else {}
    return {**kept, exposure.serve: _TOTAL - held}, exposure.serve


def check_names(flag: str, exposure: Exposure, stickiness: str) -> None:
    """Raise `FlagError` for names that Unleash refuses, or that would mean something else there."""
    for what, name in (("flag", flag), *(("variant", name) for name in exposure.weights)):
        if not _NAME.fullmatch(name) or set(name) == {"."}:
            raise FlagError(
                f"a {what} is called {name!r}; Unleash takes up to 90 letters without accents, digits and -_.!~*'() in a name. Nothing was changed. Rename it."
            )
    if "disabled" in exposure.weights:
        raise FlagError(
            "a variant is called 'disabled', which is what Unleash answers outside the gate. Nothing was changed. Give it another name, such as 'control'."
        )
    if len({name.lower() for name in exposure.weights}) < len(exposure.weights):
        raise FlagError(
            f"the variants {sorted(exposure.weights)} differ only in capitals, which Unleash does not sort reliably. Nothing was changed. Give them names that differ."
        )
    if stickiness in exposure.eligibility.audience:
        raise FlagError(
            f"the audience names the attribute {stickiness!r}, by which Unleash knows the unit itself. Nothing was changed. Write {UNIT!r} for an allow-list."
        )


def per_mille(weights: Mapping[str, float]) -> dict[str, int]:
    """Relative weights in 1/1000, by name.

    Raises
    ------
    FlagError
        If one is no whole number of 1/1000: it is never rounded.
    """
    exact = {name: Fraction(repr(float(weight))) for name, weight in weights.items()}
    total = sum(exact.values())
    parts = {name: part * _TOTAL / total for name, part in exact.items()}
    if any(part.denominator != 1 for part in parts.values()):
        raise FlagError(
            f"the weights {dict(weights)} are no whole thousandths, and Unleash splits by these. Nothing was changed. Write {_near(parts)}."
        )
    return {name: int(part) for name, part in parts.items()}


def _near(parts: Mapping[str, Fraction]) -> dict[str, int]:
    """The nearest whole thousandths that add up; the largest remainders are rounded up."""
    whole = {name: int(part) for name, part in parts.items()}
    left = _TOTAL - sum(whole.values())
    for name in sorted(parts, key=lambda name: whole[name] - parts[name])[:left]:
        whole[name] += 1
    return whole


def in_order(names: Sequence[str]) -> list[str]:
    """Names as the server sorts variants, whatever order they are sent in."""
    return sorted(names, key=lambda name: ([_ORDER.find(sign) for sign in name.lower()], name.swapcase()))


def dropped_name(name: str, names: Sequence[str]) -> str:
    """What the place of a dropped treatment is called: a name that no service knows, sorted where `name` was.

    The server sorts variants by name, and a unit belongs to a place in that order. A common name for all that were dropped would move everybody between.
    """
    others = [other for other in names if other != name]
    place = in_order(names).index(name)
    marked = f"{name}_{_DROPPED}"
    while marked in others or in_order([*others, marked]).index(marked) != place:
        marked = marked.removesuffix(_DROPPED) + f"_{_DROPPED}"
    return marked
