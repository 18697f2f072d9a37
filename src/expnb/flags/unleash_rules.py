"""One flag of Unleash: from what it shall serve to its strategy, and back; and whom that strategy exposes.

A flag has one strategy, a gradual rollout with variants. The rollout is the gate, the variants are the split; both hash the same unit with different seeds, so raising the gate moves nobody who is in.
What Unleash has no field for stands as JSON in the strategy's title, so that one change of the strategy is one event of its history.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from expnb.errors import FlagEditedError, FlagError, PercentError, SpecError, UnitError
from expnb.flags.aftermath import fact
from expnb.flags.base import OFF
from expnb.flags.murmur import murmur3_32
from expnb.flags.unleash_split import dropped_name, per_mille, variants_of
from expnb.spec.canonical import Json, canonical_json, digest
from expnb.spec.flag import UNIT, Eligibility, Exposure

Strategy = Mapping[str, Json]

ROLLOUT: Final = "flexibleRollout"
LOST: Final = Exposure({OFF: 1.0}, OFF)  # what is left of a flag that was killed with an unreadable title
_TITLE: Final = "expnb "  # what our titles begin with
_VARIANT_SEED: Final = 86028157  # of Unleash's specification; the gate has seed 0
_PARTS: Final = ("name", "disabled", "segments", "constraints", "parameters", "variants")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which push wrote a strategy.

    Parameters
    ----------
    base : int
        The event that the push was planned on; 0 for a kill and a new flag.
    nonce : str
        Differs for each write: two pushes of one plan are two writes.
    """

    nonce: str
    base: int = 0
    plan_id: str = ""
    ledger_head: str = ""


@dataclass(frozen=True, slots=True)
class Bucketing:
    """How units are put into buckets."""

    group: str
    stickiness: str
    variants: str  # stickiness of the variants

    def __str__(self) -> str:
        return f"Unleash murmur3: group {self.group!r}, gate by {self.stickiness}, split by {self.variants}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A strategy, understood."""

    exposure: Exposure
    stamp: Stamp
    bucketing: Bucketing


def strategy(rule: Rule) -> dict[str, Json]:
    """The strategy that serves a rule."""
    exposure, buckets = rule.exposure, rule.bucketing
    parameters = {
        "groupId": buckets.group,
        "rollout": "100" if exposure.serve else str(round(exposure.enrolled)),
        "stickiness": buckets.stickiness,
    }
    return {
        "name": ROLLOUT,
        "title": _title(rule),
        "disabled": False,
        "segments": [],
        "constraints": _constraints(exposure.eligibility, buckets.stickiness),
        "parameters": cast("Json", parameters),
        "variants": variants_of(exposure, buckets.variants),
    }


def patch(old: Strategy, new: Strategy) -> list[Json]:
    """JSON Patch from one strategy to another: what is equal is not touched, so a ramp is a new rollout and a new title."""
    changes: list[Json] = []
    for part in (*_PARTS[1:], "title"):
        before, after = _part(old, part), _part(new, part)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += [{"op": "remove", "path": f"/{part}/{key}"} for key in before if key not in after]
            changes += [
                {"op": "add", "path": f"/{part}/{key}", "value": value}
                for key, value in after.items()
                if before.get(key) != value
            ]
        elif before != after:
            changes.append({"op": "add", "path": f"/{part}", "value": new[part]})
    return changes


def read_strategy(flag: str, raw: Strategy) -> Rule:
    """The rule that a strategy serves.

    Raises
    ------
    FlagError
        If expnb did not make it.
    FlagEditedError
        If its parts contradict its title.
    """
    title = raw.get("title")
    if not isinstance(title, str) or not title.startswith(_TITLE):
        raise FlagError(
            f"flag {flag!r} was not made by expnb: its strategy has not its title. Create a flag of another name, or rename this one first."
        )
    found = _title_facts(flag, title)
    rule = Rule(_exposure(flag, raw, found), _stamp(flag, found), _bucketing(flag, raw))
    expected = strategy(rule)
    for part in _PARTS:
        if _part(raw, part) != _part(expected, part):
            raise FlagEditedError(flag, f"the {part} of its strategy are not what its title says")
    return rule


def stamp_of(raw: Json) -> Stamp | None:
    """Which push wrote a strategy; None if its title does not say it."""
    title = raw.get("title") if isinstance(raw, dict) else None
    try:
        return _stamp("", _title_facts("", title)) if isinstance(title, str) and title.startswith(_TITLE) else None
    except FlagEditedError:
        return None


def closed(flag: str, raw: Strategy) -> Exposure:
    """The exposure of a killed flag: whatever its title still says, and nobody exposed."""
    try:
        found = _title_facts(flag, str(raw.get("title")))
        who = _eligibility(raw) if "audience" in found else Eligibility()
        _check_audience(flag, who, found)
        return Exposure(_weights(flag, found), str(found.get("control")), eligibility=who)
    except (FlagError, SpecError):
        return LOST


def assigner(raw: Strategy, rule: Rule) -> Callable[[str, Mapping[str, str]], str]:
    """A function from unit and its attributes to variant, as SDKs compute it from the strategy itself [1]_.

    A unit without a name gets ``"off"``: no analysis has it. SDKs that are given an empty userId do expose it, all of them as one; services must not send one.

    References
    ----------
    .. [1] Unleash, client specification; tests compare with UnleashClient.
    """
    exposure, group = rule.exposure, rule.bucketing.group
    parameters = cast("Mapping[str, str]", raw["parameters"])
    rollout = int(parameters["rollout"])
    names = {dropped_name(name, list(exposure.weights)): OFF for name in exposure.dropped}
    split = [
        (names.get(str(one["name"]), str(one["name"])), int(str(one["weight"]))) for one in _objects(raw["variants"])
    ]
    total = sum(weight for _, weight in split)

    def assign(unit: str, attributes: Mapping[str, str]) -> str:
        if not unit or not exposure.eligibility.admits({**attributes, UNIT: unit}):
            return OFF
        data = _encoded(f"{group}:{unit}")
        if murmur3_32(data) % 100 + 1 > rollout:
            return OFF
        place = murmur3_32(data, _VARIANT_SEED) % total + 1
        for name, weight in split:
            place -= weight
            if place <= 0:
                return name
        raise AssertionError  # unreachable: the places are the sum of the weights

    return assign


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UnitError(
            f"the unit in {text!r} has no UTF-8 form, so no SDK can hash it. Write units as valid text."
        ) from error


def _title(rule: Rule) -> str:
    exposure, stamp = rule.exposure, rule.stamp
    facts = {
        "weights": exposure.weights,
        "control": exposure.control,
        "enrolled": exposure.enrolled,
        "serve": exposure.serve,
        "holdback": exposure.holdback,
        "dropped": exposure.dropped,
        "audience": _fingerprint(exposure.eligibility),
        "write": stamp.nonce,
        "base": stamp.base,
        "plan": stamp.plan_id,
        "ledger": stamp.ledger_head,
    }
    said = {name: fact for name, fact in facts.items() if fact or name == "enrolled"}
    return _TITLE + canonical_json(said)


def _title_facts(flag: str, title: str) -> dict[str, Json]:
    try:
        found = json.loads(title.removeprefix(_TITLE))
    except (ValueError, RecursionError) as error:
        raise FlagEditedError(flag, f"the title of its strategy is {title[:80]!r}, not what expnb writes") from error
    if not isinstance(found, dict):
        raise FlagEditedError(flag, "the title of its strategy holds no JSON object")
    return found


def _exposure(flag: str, raw: Strategy, found: Mapping[str, Json]) -> Exposure:
    dropped = found.get("dropped", [])
    try:
        exposure = Exposure(
            weights=_weights(flag, found),
            control=str(found.get("control")),
            enrolled=float(str(found.get("enrolled"))),
            serve=str(found.get("serve", "")),
            holdback=float(str(found.get("holdback", 0))),
            dropped=tuple(map(str, dropped)) if isinstance(dropped, list) else (),
            eligibility=_eligibility(raw),
        )
        per_mille(exposure.weights)
    except (ValueError, FlagError, PercentError, SpecError) as error:
        raise FlagEditedError(flag, f"its title is refused ({fact(error).rstrip('.')})") from error
    _check_audience(flag, exposure.eligibility, found)
    return exposure


def _check_audience(flag: str, who: Eligibility, found: Mapping[str, Json]) -> None:
    if _fingerprint(who) != found.get("audience", ""):
        raise FlagEditedError(flag, "the constraints of its strategy are not the audience that its title says")


def _fingerprint(who: Eligibility) -> str:
    """The audience in short, as the constraints have it in full."""
    return digest(who.audience)[:16] if who.audience else ""


def _weights(flag: str, found: Mapping[str, Json]) -> dict[str, float]:
    weights = found.get("weights")
    if not isinstance(weights, dict):
        raise FlagEditedError(flag, f"the weights in its title are {weights!r}")
    try:
        return {name: float(str(weight)) for name, weight in weights.items()}
    except ValueError as error:
        raise FlagEditedError(flag, f"the weights in its title are {weights!r}") from error


def _stamp(flag: str, found: Mapping[str, Json]) -> Stamp:
    base = found.get("base", 0)
    if not isinstance(base, int):
        raise FlagEditedError(flag, f"the base in its title is {base!r}, not the number of an event")
    return Stamp(str(found.get("write", "")), base, str(found.get("plan", "")), str(found.get("ledger", "")))


def _bucketing(flag: str, raw: Strategy) -> Bucketing:
    parameters = raw.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    by = {str(one.get("stickiness", "default")) for one in _objects(raw.get("variants"))}
    if len(by) > 1:
        raise FlagEditedError(flag, f"its variants differ in stickiness: {sorted(by)}")
    return Bucketing(str(parameters.get("groupId")), str(parameters.get("stickiness")), "".join(by))


def _eligibility(raw: Strategy) -> Eligibility:
    """Who the constraints let in; constraints that expnb does not write show up as a part that contradicts the title."""
    parameters = raw.get("parameters")
    by = parameters.get("stickiness") if isinstance(parameters, dict) else None
    audience: dict[str, tuple[str, ...]] = {}
    for one in _objects(raw.get("constraints")):
        name, values = str(one.get("contextName")), one.get("values")
        audience[UNIT if name == by else name] = tuple(map(str, values)) if isinstance(values, list) else ()
    return Eligibility(audience)


def _constraints(eligibility: Eligibility, stickiness: str) -> Json:
    return [
        {"contextName": stickiness if name == UNIT else name, "operator": "IN", "values": list(values)}
        for name, values in eligibility.audience.items()
    ]


def _part(raw: Strategy, part: str) -> Json:
    """A part of a strategy without what the server adds or leaves out at will."""
    value = raw.get(part)
    if part == "disabled":
        return bool(value)
    if part == "constraints":
        usual: Mapping[str, Json] = {"inverted": False, "caseInsensitive": False}
        return sorted(
            ({k: v for k, v in one.items() if usual.get(k, ...) != v} for one in _objects(value)), key=canonical_json
        )
    return value if value is not None or part == "title" else []


def _objects(value: Json) -> list[dict[str, Json]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
