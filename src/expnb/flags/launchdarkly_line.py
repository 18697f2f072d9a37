"""Where units stand in LaunchDarkly, and which stretch of its line belongs to which variant.

A flag there has one hash, so one line from 0 to 100 000 thousandths of a percent, on which every unit has its place. A gate and a split cannot be told apart on it, and variants side by side would push each other along while the ramp rises.
So every arm owns a fixed stretch as wide as its weight. In its first part it is served, in the rest nothing new. Raising only moves the border within a stretch: nobody changes the variant.

Stretches are mirrored two by two, so that control and treatment of an ordinary experiment have "off" once, between them: control | off | treatment.
With three or more arms "off" stands on the line more than once. The vendor's own experiments name a variation twice in that way; whether the vendor's pages show such a rollout nicely was not tried.

References
----------
.. [1] launchdarkly-server-sdk 9, ldclient/impl/evaluator_common.py: the place of a context, and how a rollout is walked.
.. [2] launchdarkly.com/docs/api/feature-flags/update-feature-flag: weights in thousandths of a percent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from typing import Final

from expnb.errors import FlagError, PercentError, UnitError
from expnb.flags.base import OFF
from expnb.flags.bucketing import split_weights
from expnb.spec.flag import UNIT, Exposure

TOTAL: Final = 100_000  # thousandths of a percent on the line
TOLERANCE: Final = Fraction(1, 100)  # by which an arm's share may miss what was asked, relative
_SCALE: Final = float(0xFFFFFFFFFFFFFFF)  # 15 hexadecimal digits


def stretches(exposure: Exposure) -> tuple[tuple[str, int], ...]:
    """What stands on the line from its start, in thousandths of a percent that add up to 100 000; ``"off"`` is nothing new."""
    if exposure.serve:
        held = round(exposure.holdback * 1000) if exposure.serve != exposure.control else 0
        return _joined([(exposure.control, held), (exposure.serve, TOTAL - held)])
    parts = []
    for place, (arm, width) in enumerate(_slots(exposure)):
        inside = 0 if arm in exposure.dropped else round(Fraction(repr(exposure.enrolled)) * width / 100)
        pair = [(arm, inside), (OFF, width - inside)]
        parts += pair[::-1] if place % 2 else pair
    return _joined(parts)


def variants(exposure: Exposure) -> list[str]:
    """The flag's variations in their order: control, ``"off"``, and the treatments by name."""
    control, *others = _order(exposure)
    return [control, OFF, *others]


def check_shares(exposure: Exposure) -> None:
    """Raise `PercentError` when an arm cannot get its share to one part in a hundred.

    The line counts in thousandths of a percent. Thirds of 5 % fall between them and lose less than a thousandth; a small arm of a tiny ramp would lose much of what it was promised, or all.
    """
    if exposure.serve or not exposure.enrolled:
        return
    found = dict.fromkeys(exposure.weights, 0)
    for name, width in stretches(exposure):
        found[name] = found.get(name, 0) + width
    for name, share in exposure.shares().items():
        wanted = Fraction(share) * TOTAL
        if abs(found[name] - wanted) > wanted * TOLERANCE + Fraction(1, 10**6):
            least = exposure.enrolled * float(150 / wanted)
            raise PercentError(
                exposure.enrolled,
                f"LaunchDarkly counts in thousandths of a percent, so {name!r} would get {found[name] / 1000:g} % of the units instead of {float(wanted) / 1000:.4g} %. Write {least:.2g} or more, or give {name!r} a larger weight.",
            )


def check_weights_fit(exposure: Exposure) -> None:
    """Raise `FlagError` for a variant so small that no ramp could serve it its share."""
    try:
        check_shares(replace(exposure, enrolled=100.0, serve="", holdback=0.0))
    except PercentError as error:
        raise FlagError(f"the split {dict(exposure.weights)} cannot be served: {error.rule}") from error


def place(flag: str, salt: str, unit: str) -> float:
    """Where a unit stands on the line, 0 to 1 [1]_.

    Raises
    ------
    UnitError
        If the unit has no UTF-8 form.
    """
    try:
        data = f"{flag}.{salt}.{unit}".encode()
    except UnicodeEncodeError as error:
        raise UnitError(
            f"the unit {unit!r} has no UTF-8 form, so no SDK can hash it. Write units as valid text."
        ) from error
    return int(hashlib.sha1(data, usedforsecurity=False).hexdigest()[:15], 16) / _SCALE


def assigner(flag: str, salt: str, exposure: Exposure) -> Callable[[str, Mapping[str, str]], str]:
    """A function from unit and its attributes to variant, for one flag as it stands."""
    parts = stretches(exposure)
    # The SDKs add up floating point shares; so do we, to put the borders where they do.
    borders = list(accumulate((width / TOTAL for _, width in parts), initial=0.0))[1:]

    def assign(unit: str, attributes: Mapping[str, str]) -> str:
        if not unit or not exposure.eligibility.admits({**attributes, UNIT: unit}):
            return OFF
        at = place(flag, salt, unit)
        return next((name for (name, _), border in zip(parts, borders, strict=True) if at < border), parts[-1][0])

    return assign


def _order(exposure: Exposure) -> list[str]:
    """Control first, then by name and not by mapping: one that went through sorted JSON must not move anybody."""
    return [exposure.control, *sorted(set(exposure.weights) - {exposure.control})]


def _slots(exposure: Exposure) -> list[tuple[str, int]]:
    """Each arm with the width of its stretch; borders lie on the nearest thousandth of a percent."""
    weights, order = dict(split_weights(exposure.weights)), _order(exposure)
    total = sum(weights.values())
    borders = [
        round(Fraction(TOTAL * part, total)) for part in accumulate((weights[name] for name in order), initial=0)
    ]
    return [(name, end - start) for name, start, end in zip(order, borders, borders[1:], strict=False)]


def _joined(parts: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Neighbours of one name as one stretch, and none of no width."""
    joined: list[tuple[str, int]] = []
    for name, width in parts:
        if joined and joined[-1][0] == name:
            joined[-1] = (name, joined[-1][1] + width)
        elif width:
            joined.append((name, width))
    return tuple(joined)
