"""What LaunchDarkly serves of an exposure: stretches of one line, the record kept beside them, and who stands where.

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
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from itertools import accumulate
from typing import Final, cast

from expnb.errors import FlagEditedError, FlagError, PercentError, SpecError, UnitError
from expnb.flags.base import OFF
from expnb.flags.bucketing import split_weights
from expnb.spec.canonical import Json, canonical_json, digest
from expnb.spec.flag import UNIT, Eligibility, Exposure

Object = dict[str, Json]
TOTAL: Final = 100_000  # thousandths of a percent on the line
TOLERANCE: Final = Fraction(1, 100)  # by which an arm's share may miss what was asked, relative
_SCALE: Final = float(0xFFFFFFFFFFFFFFF)  # 15 hexadecimal digits
_SERVING: Final = ("on", "salt", "targets", "contextTargets", "rules", "fallthrough", "offVariation", "prerequisites")


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


def serving(exposure: Exposure, order: Sequence[str]) -> Object:
    """The JSON of a rule that serves `exposure`, for variations in this order."""
    parts = stretches(exposure)
    if len(parts) == 1:
        return {"variation": order.index(parts[0][0])}
    weights: list[Json] = [{"variation": order.index(name), "weight": width} for name, width in parts]
    return {"rollout": {"variations": weights, "contextKind": "user"}}


def clauses(exposure: Exposure) -> list[Json]:
    """The conditions of the rule that lets an audience in; the unit itself is the key of the context."""
    return [
        {
            "contextKind": "user",
            "attribute": "key" if name == UNIT else name,
            "op": "in",
            "negate": False,
            "values": list(values),
        }
        for name, values in exposure.eligibility.audience.items()
    ]


def targeting(exposure: Exposure, order: Sequence[str]) -> Object:
    """`rules` and `fallthrough` of an environment that serves `exposure`."""
    served = serving(exposure, order)
    if not exposure.eligibility.audience:
        return {"rules": [], "fallthrough": served}
    return {"rules": [{"clauses": clauses(exposure), **served}], "fallthrough": {"variation": order.index(OFF)}}


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


@dataclass(frozen=True, slots=True)
class Record:
    """What expnb keeps at the flag, for one environment: the exposure, and where it came from."""

    exposure: Exposure
    changed_at: datetime
    plan_id: str = ""
    ledger_head: str = ""

    @property
    def text(self) -> str:
        """Its JSON text; what is as by default is left out."""
        exposure = self.exposure
        default = Eligibility()
        who = {
            name: getattr(exposure.eligibility, name)
            for name in ("audience", "layer", "slice", "holdout")
            if getattr(exposure.eligibility, name) != getattr(default, name)
        }
        optional: Mapping[str, object] = {
            "serve": exposure.serve,
            "holdback": exposure.holdback,
            "dropped": exposure.dropped,
            "eligibility": who,
            "planId": self.plan_id,
            "ledgerHead": self.ledger_head,
        }
        return canonical_json(
            {
                "schema": 1,
                "weights": exposure.weights,
                "control": exposure.control,
                "enrolled": exposure.enrolled,
                "changedAt": self.changed_at,
                **{name: value for name, value in optional.items() if value},
            }
        )


def parse_record(flag: str, text: str) -> Record:
    """The record that `text` holds.

    Raises
    ------
    FlagEditedError
        If it is none, or was changed by hand into nonsense.
    """
    try:
        raw = json.loads(text)
        who = dict(raw.get("eligibility", {}))
        who["audience"] = {name: tuple(values) for name, values in who.get("audience", {}).items()}
        exposure = Exposure(
            raw["weights"],
            raw["control"],
            raw["enrolled"],
            raw.get("serve", ""),
            raw.get("holdback", 0.0),
            tuple(raw.get("dropped", ())),
            Eligibility(**who),
        )
        changed_at = datetime.fromisoformat(raw["changedAt"])
        record = Record(exposure, changed_at, str(raw.get("planId", "")), str(raw.get("ledgerHead", "")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SpecError, PercentError) as error:
        raise FlagEditedError(flag, f"the record that expnb keeps at it reads {text[:80]!r}") from error
    if changed_at.utcoffset() is None:
        raise FlagEditedError(flag, "the record that expnb keeps at it has a time without a zone")
    return record


def shut(exposure: Exposure) -> Exposure:
    """`exposure` with nobody exposed, neither through the gate nor through a shipped variant."""
    return replace(exposure, enrolled=0.0, serve="", holdback=0.0)


def order_of(flag: Object) -> list[str]:
    """The values of a flag's variations, in their order."""
    return [str(as_object(variation).get("value")) for variation in as_list(flag.get("variations"))]


def is_served(exposure: Exposure, flag: Object, config: Object) -> bool:
    """Whether the configuration of an environment is the one that serves `exposure`."""
    order = order_of(flag)
    if not set(variants(exposure)) <= set(order):
        return False
    wanted = targeting(exposure, order)
    return {
        "rules": [plain_rule(rule) for rule in as_list(config.get("rules"))],
        "fallthrough": _plain_serving(as_object(config.get("fallthrough"))),
    } == {
        "rules": [plain_rule(rule) for rule in as_list(wanted["rules"])],
        "fallthrough": _plain_serving(as_object(wanted["fallthrough"])),
    }


def problem(flag: Object, config: Object) -> str:
    """What serves units past the rules, in words; empty when nothing does."""
    if flag.get("archived") or config.get("archived"):
        return "it is archived"
    if any(
        as_object(target).get("values") for key in ("targets", "contextTargets") for target in as_list(config.get(key))
    ):
        return "units are targeted one by one, past the ramp"
    if config.get("prerequisites"):
        return "another flag is its prerequisite"
    order = order_of(flag)
    if OFF not in order or config.get("offVariation") != order.index(OFF):
        return "its off variation is not 'off'"
    return ""


def fingerprint(flag: Object, config: Object, record: str) -> str:
    """Hash of everything that decides what is served, so that an edit by hand changes it too."""
    return digest([order_of(flag), {key: config.get(key) for key in _SERVING}, record])[:12]


def as_object(value: Json) -> Object:
    """`value` if it is a JSON object, an empty one otherwise."""
    return value if isinstance(value, dict) else {}


def as_list(value: Json) -> list[Json]:
    """`value` if it is a JSON list, an empty one otherwise."""
    return value if isinstance(value, list) else []


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


def plain_rule(rule: Json) -> Json:
    """What decides who a rule is for and what they get, without identifiers and defaults that the vendor adds."""
    raw = as_object(rule)
    plain = [
        {
            key: as_object(clause).get(key, default)
            for key, default in (
                ("contextKind", "user"),
                ("attribute", ""),
                ("op", ""),
                ("negate", False),
                ("values", []),
            )
        }
        for clause in as_list(raw.get("clauses"))
    ]
    return cast("Json", {"clauses": plain, **_plain_serving(raw)})


def _plain_serving(raw: Object) -> Object:
    """What decides who gets what, without identifiers and defaults that the vendor adds."""
    rollout = raw.get("rollout")
    if not isinstance(rollout, dict):
        return {"variation": raw.get("variation")}
    parts: list[Json] = [
        [as_object(part).get("variation"), as_object(part).get("weight")] for part in as_list(rollout.get("variations"))
    ]
    hashed: list[Json] = [rollout.get("bucketBy") or "key", rollout.get("contextKind") or "user", rollout.get("seed")]
    return {"parts": [part for part in parts if as_list(part)[1]], "hashed": hashed}


def check_weights_fit(exposure: Exposure) -> None:
    """Raise `FlagError` for a variant so small that no ramp could serve it its share."""
    try:
        check_shares(replace(exposure, enrolled=100.0, serve="", holdback=0.0))
    except PercentError as error:
        raise FlagError(f"the split {dict(exposure.weights)} cannot be served: {error.rule}") from error
