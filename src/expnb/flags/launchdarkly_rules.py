"""A flag of LaunchDarkly as JSON: what its environment serves for an exposure, and the record that expnb keeps beside it.

The record stands in a custom property of the flag, one for each environment; the vendor documents those for the data of integrations. What is served must follow from it: a flag that serves something else was edited by somebody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, cast

from expnb.errors import FlagEditedError, FlagError, PercentError, SpecError
from expnb.flags.base import OFF
from expnb.flags.launchdarkly_line import stretches, variants
from expnb.spec.canonical import Json, canonical_json, digest
from expnb.spec.flag import UNIT, Eligibility, Exposure

Object = dict[str, Json]
LOST: Final = Exposure({OFF: 1.0}, OFF)  # what is left of a flag that was killed without a readable record
_SERVING: Final = ("on", "salt", "targets", "contextTargets", "rules", "fallthrough", "offVariation", "prerequisites")


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


def is_served(exposure: Exposure, opened: Opened) -> bool:
    """Whether the configuration of an environment is the one that serves `exposure`."""
    if not set(variants(exposure)) <= set(opened.order):
        return False
    config, wanted = opened.config, targeting(exposure, opened.order)
    return {
        "rules": [plain_rule(rule) for rule in as_list(config.get("rules"))],
        "fallthrough": _plain_serving(as_object(config.get("fallthrough"))),
    } == {
        "rules": [plain_rule(rule) for rule in as_list(wanted["rules"])],
        "fallthrough": _plain_serving(as_object(wanted["fallthrough"])),
    }


def problem(opened: Opened) -> str:
    """What serves units past the rules, in words; empty when nothing does."""
    config, order = opened.config, opened.order
    if opened.flag.get("archived") or config.get("archived"):
        return "it is archived"
    if any(
        as_object(target).get("values") for key in ("targets", "contextTargets") for target in as_list(config.get(key))
    ):
        return "units are targeted one by one, past the ramp"
    if config.get("prerequisites"):
        return "another flag is its prerequisite"
    if OFF not in order or config.get("offVariation") != order.index(OFF):
        return "its off variation is not 'off'"
    return ""


def as_object(value: Json) -> Object:
    """`value` if it is a JSON object, an empty one otherwise."""
    return value if isinstance(value, dict) else {}


def as_list(value: Json) -> list[Json]:
    """`value` if it is a JSON list, an empty one otherwise."""
    return value if isinstance(value, list) else []


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


@dataclass(frozen=True, slots=True)
class Opened:
    """A flag as one moment saw it.

    Parameters
    ----------
    flag, config : dict
        The flag, and what it serves in the environment.
    environment : str
        The environment's key at the vendor.
    """

    flag: Object
    config: Object
    environment: str

    @property
    def record_text(self) -> str:
        """The record beside the flag, empty if expnb never began it in this environment."""
        kept = as_object(as_object(self.flag.get("customProperties")).get(property_of(self.environment)))
        values = as_list(kept.get("value"))
        return str(values[0]) if values else ""

    @property
    def version(self) -> str:
        """Version and hash of everything that decides what is served, so that an edit by hand changes it too."""
        serving = {key: self.config.get(key) for key in _SERVING}
        return f"{self.config.get('version')}-{digest([self.order, serving, self.record_text])[:12]}"

    @property
    def on(self) -> bool:
        """Whether targeting is on."""
        return self.config.get("on") is True

    @property
    def order(self) -> list[str]:
        """The values of the flag's variations, in their order."""
        return [str(as_object(variation).get("value")) for variation in as_list(self.flag.get("variations"))]

    @property
    def salt(self) -> str:
        """What is hashed with the key of a unit."""
        return str(self.config.get("salt"))

    @property
    def bucketing(self) -> str:
        """How units get their places, in words."""
        return f"LaunchDarkly SHA1 of {self.flag.get('key')}.{self.salt}. and the context's key"

    def variation_id(self, name: str) -> str:
        """The vendor's identifier of a variation."""
        return str(as_object(as_list(self.flag.get("variations"))[self.order.index(name)]).get("_id"))


def agrees(record: Record, opened: Opened) -> bool:
    """Whether the environment serves what the record says; a flag that is off serves nobody, whatever its rules say."""
    nobody = not opened.on and not record.exposure.enrolled and not record.exposure.serve
    return nobody or is_served(record.exposure, opened)


def untouched(opened: Opened, exposure: Exposure) -> bool:
    """Whether a flag has these very variations, and serves "off" to everybody by nobody's decision."""
    names = opened.order
    everybody = replace(exposure, eligibility=replace(exposure.eligibility, audience={}))
    return names == variants(exposure) and not opened.on and not problem(opened) and is_served(everybody, opened)


def property_of(environment: str) -> str:
    """The custom property that keeps the record of an environment."""
    return f"expnb-{environment}"


def operations(opened: Opened, record: Record) -> list[Json]:
    """The JSON Patch that makes the environment serve the record; nothing else is named in it."""
    base, wanted = f"/environments/{opened.environment}", targeting(record.exposure, opened.order)
    found: list[Json] = []
    if not is_served(record.exposure, opened):
        found += _rule_operations(base, opened.config, wanted)
        found.append({"op": "replace", "path": f"{base}/fallthrough", "value": wanted["fallthrough"]})
    if not opened.on:
        found.append({"op": "replace", "path": f"{base}/on", "value": True})
    return [*found, keep(opened, record)]


def closing(opened: Opened, record: Record) -> list[Json]:
    """The JSON Patch that leaves no rule of a killed flag open."""
    base, wanted = f"/environments/{opened.environment}", targeting(record.exposure, opened.order)
    rules: Json = {"op": "replace", "path": f"{base}/rules", "value": wanted["rules"]}
    return [
        rules,
        {"op": "replace", "path": f"{base}/fallthrough", "value": wanted["fallthrough"]},
        keep(opened, record),
    ]


def keep(opened: Opened, record: Record) -> Json:
    """The operation that puts the record beside the flag."""
    value: Object = {"name": f"expnb in {opened.environment}", "value": [record.text]}
    if "customProperties" not in opened.flag:
        return {"op": "add", "path": "/customProperties", "value": {property_of(opened.environment): value}}
    return {"op": "add", "path": f"/customProperties/{property_of(opened.environment)}", "value": value}


def _rule_operations(base: str, config: Object, wanted: Object) -> list[Json]:
    """Only what the rule serves, where the rule is there; its identifiers and clauses stay as they are."""
    old, new = as_list(config.get("rules")), as_list(wanted["rules"])
    if not old and not new:
        return []
    bare = [{"clauses": as_object(rule).get("clauses")} for rule in (*old, *new)]
    if len(old) != 1 or len(new) != 1 or not _same_clauses(*bare):
        return [{"op": "replace", "path": f"{base}/rules", "value": new}]
    served = {key: value for key, value in as_object(new[0]).items() if key != "clauses"}
    gone = [key for key in ("variation", "rollout") if as_object(old[0]).get(key) is not None and key not in served]
    found: list[Json] = [{"op": "remove", "path": f"{base}/rules/0/{key}"} for key in gone]
    return [*found, *({"op": "add", "path": f"{base}/rules/0/{key}", "value": value} for key, value in served.items())]


def _same_clauses(old: Object, new: Object) -> bool:
    return plain_rule(old) == plain_rule(new)


def closed(flag: str, opened: Opened) -> Exposure:
    """The exposure of a killed flag: whatever of its record can still be read, and nobody exposed."""
    try:
        exposure = parse_record(flag, opened.record_text).exposure.closed()
    except FlagError:
        return LOST
    return exposure if set(variants(exposure)) <= set(opened.order) else LOST
