"""One flag of a flagd file: from what it shall serve to its JSON, and back.

Two salted hashes: the gate decides who is in, the split decides the variant. Raising the gate therefore never moves anybody who is in already.
The metadata is the truth and the targeting follows from it; a flag whose targeting says otherwise was edited by somebody else and is not read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final

from expnb.errors import FlagEditedError, FlagError, PercentError, SpecError
from expnb.flags.base import OFF
from expnb.flags.bucketing import (
    GATE_SALT,
    GATE_UNITS,
    GENERATION,
    HOLDOUT_SALT,
    LAYER_SALT,
    SPLIT_SALT,
    gate_units,
    served_split,
    split_weights,
)
from expnb.flags.canaries import canaries
from expnb.spec.canonical import Json, canonical_json
from expnb.spec.flag import UNIT, Eligibility, Exposure

_OWN_METADATA: Final = (
    "revision",
    "generation",
    "enrolled",
    "serve",
    "holdback",
    "control",
    "weights",
    "dropped",
    "eligibility",
    "changed_at",
    "planId",
    "ledgerHead",
    "beforeKill",
)
CANARIES: Final = "canaries"
_OWN_PARTS: Final = ("state", "variants", "defaultVariant", "targeting")
LOST: Final = Exposure({OFF: 1.0}, OFF)  # what is left of a flag that was killed with unreadable metadata


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who wrote a flag last, and as which revision.

    Parameters
    ----------
    before_kill : str
        JSON text of a flag that could not be read when it was killed, kept for a person.
    """

    revision: int
    changed_at: datetime
    plan_id: str = ""
    ledger_head: str = ""
    before_kill: str = ""


@dataclass(frozen=True, slots=True)
class FlagBlock:
    """One flag of the file, understood."""

    exposure: Exposure
    enabled: bool
    stamp: Stamp


def to_json_block(block: FlagBlock, old: Json = None) -> dict[str, Json]:
    """The flag as flagd reads it; what others added to `old` is kept."""
    exposure, stamp = block.exposure, block.stamp
    metadata: dict[str, Json] = {
        "revision": stamp.revision,
        "generation": GENERATION,
        "enrolled": _tidy(exposure.enrolled),
        "serve": exposure.serve,
        "holdback": _tidy(exposure.holdback),
        "control": exposure.control,
        "weights": canonical_json({name: _tidy(weight) for name, weight in exposure.weights.items()}),
        "changed_at": stamp.changed_at.isoformat(),
        "planId": stamp.plan_id,
    }
    optional = {
        "dropped": canonical_json(list(exposure.dropped)) if exposure.dropped else "",
        "eligibility": _eligibility_text(exposure.eligibility),
        "ledgerHead": stamp.ledger_head,
        "beforeKill": stamp.before_kill,
    }
    metadata |= {name: text for name, text in optional.items() if text}
    foreign = old if isinstance(old, dict) else {}
    return {
        "state": "ENABLED" if block.enabled else "DISABLED",
        "variants": {OFF: OFF, **{name: name for name in sorted(exposure.weights)}},
        "defaultVariant": OFF,
        "targeting": targeting(exposure),
        "metadata": metadata | _foreign_metadata(foreign.get("metadata")),
        **{key: value for key, value in foreign.items() if key not in (*_OWN_PARTS, "metadata") and _writable(value)},
    }


def targeting(exposure: Exposure) -> Json:
    """The rule that serves `exposure`.

    A missing targeting key gets "off": all anonymous traffic has one hash, and would flip as a block.
    The holdback is the top end of the gate, so shipping needs no third salt and undoing it brings back the same people.
    """
    edge = gate_units(100 - exposure.holdback if exposure.serve else exposure.enrolled)
    gate: Json = {"fractional": [_flag_key(GATE_SALT), ["in", edge], ["out", GATE_UNITS - edge]]}
    inside: Json = exposure.serve or _split(exposure)
    outside = exposure.control if exposure.serve else OFF
    refused = [part for condition in _refusals(exposure) for part in (condition, OFF)]
    return {"if": [*refused, {"==": [gate, "in"]}, inside, outside]}


def new_flag(flag: str, exposure: Exposure) -> dict[str, Json]:
    """What a flag carries from its creation on, byte for byte: what canary units get, so that another hash is noticed.

    Raises
    ------
    FlagError
        If the name of the flag or of its layer is not ASCII text, which JavaScript SDKs hash otherwise than all others.
    """
    for what, name in (("flag", flag), ("layer", exposure.eligibility.layer)):
        if not name.isascii():
            raise FlagError(
                f"the {what} {name!r} has letters outside ASCII, and units are hashed together with that name: JavaScript SDKs hash such letters otherwise, and would expose other people. Nothing was changed. Name it in ASCII."
            )
    return {"metadata": {CANARIES: canaries(flag, exposure.weights, exposure.control)}}


def canaries_of(raw: Json) -> str:
    """What the canary units got when the flag was made; empty for a flag that does not say."""
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    found = metadata.get(CANARIES) if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else ""


def _refusals(exposure: Exposure) -> Iterator[Json]:
    """Conditions under which a unit is served "off", whatever its bucket."""
    who = exposure.eligibility
    yield {"!": [{"var": UNIT}]}
    for name, values in who.audience.items():
        if "." in name:
            raise FlagError(
                f"the audience names the attribute {name!r}; flagd reads a dot as a path into the context, and would let nobody in. Give the attribute a name without a dot."
            )
        yield {"!": [{"in": [{"var": name}, list(values)]}]}
    if who.holdout:
        held = gate_units(who.holdout)
        shares: list[Json] = [["held", held], ["in", GATE_UNITS - held]]
        yield {"==": [{"fractional": [_unit_key(HOLDOUT_SALT), *shares]}, "held"]}
    if who.layer and not exposure.serve:  # a shipped variant is for all of the layer
        start, end = (gate_units(edge) for edge in who.slice)
        parts: list[Json] = [["before", start], ["own", end - start], ["after", GATE_UNITS - end]]
        yield {"!=": [{"fractional": [_unit_key(f"{LAYER_SALT}{who.layer}/"), *parts]}, "own"]}


def _flag_key(salt: str) -> Json:
    return {"cat": [{"var": "$flagd.flagKey"}, salt, {"var": UNIT}]}


def _unit_key(salt: str) -> Json:
    return {"cat": [salt, {"var": UNIT}]}


def _split(exposure: Exposure) -> Json:
    parts = served_split(exposure)
    if len(parts) == 1:  # flagd's schema wants two shares at least
        return parts[0][0]
    shares: list[Json] = [[name, weight] for name, weight in parts]
    return {"fractional": [_flag_key(SPLIT_SALT), *shares]}


def version(block: FlagBlock, raw: Json) -> str:
    """Revision and hash of everything the flag holds, so that an edit by hand changes it too."""
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{block.stamp.revision}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:12]}"


def read_block(flag: str, raw: Json) -> FlagBlock:
    """The flag that `raw` describes.

    Raises
    ------
    FlagError
        If expnb did not make it, or made it for other SDKs.
    FlagEditedError
        If its parts contradict each other.
    """
    if not isinstance(raw, dict):
        raise FlagEditedError(flag, "it is no JSON object")
    metadata = raw.get("metadata", {})
    if not isinstance(metadata, dict):
        raise FlagEditedError(flag, "its metadata is no JSON object")
    if not any(key in metadata for key in _OWN_METADATA):
        raise FlagError(
            f"flag {flag!r} was not made by expnb: it carries none of its metadata. Create a flag of another name, or rename this one first."
        )
    if metadata.get("generation") != GENERATION:
        raise FlagError(
            f"flag {flag!r} is made for hash generation {metadata.get('generation')!r}, this expnb evaluates generation {GENERATION!r}: other people would be exposed. Use the expnb that made it."
        )
    block = FlagBlock(_exposure(flag, metadata), raw.get("state") == "ENABLED", _stamp(flag, metadata))
    _check_parts(flag, raw, to_json_block(block))
    return block


def _check_parts(flag: str, raw: Mapping[str, Json], expected: Mapping[str, Json]) -> None:
    for part in _OWN_PARTS:
        # As text: 25.0 equals 25 in Python, but flagd takes no fractional weights.
        if json.dumps(raw.get(part), sort_keys=True) != json.dumps(expected[part], sort_keys=True):
            raise FlagEditedError(flag, f"its {part} is not what its metadata says")


def _exposure(flag: str, metadata: Mapping[str, Json]) -> Exposure:
    try:
        exposure = Exposure(
            weights=_weights(flag, metadata),
            control=_text(flag, metadata, "control"),
            enrolled=_number(flag, metadata, "enrolled"),
            serve=_text(flag, metadata, "serve"),
            holdback=_number(flag, metadata, "holdback"),
            dropped=_dropped(flag, metadata),
            eligibility=_eligibility(flag, metadata),
        )
        split_weights(exposure.weights)
    except (PercentError, SpecError) as error:
        raise FlagEditedError(flag, f"its metadata is refused ({str(error).rstrip('.')})") from error
    return exposure


def _stamp(flag: str, metadata: Mapping[str, Json]) -> Stamp:
    revision = metadata.get("revision")
    if not isinstance(revision, int) or isinstance(revision, bool) or revision < 1:
        raise FlagEditedError(flag, f"its metadata 'revision' is {revision!r}, not a whole number from 1 on")
    text = _text(flag, metadata, "changed_at")
    try:
        changed_at = datetime.fromisoformat(text)
    except ValueError as error:
        raise FlagEditedError(flag, f"its metadata 'changed_at' is {text!r}, not a time") from error
    if changed_at.utcoffset() is None:
        raise FlagEditedError(flag, f"its metadata 'changed_at' is {text!r}, which has no time zone")
    optional = {
        name: _text(flag, metadata, name) if name in metadata else "" for name in ("planId", "ledgerHead", "beforeKill")
    }
    return Stamp(revision, changed_at, optional["planId"], optional["ledgerHead"], optional["beforeKill"])


def _weights(flag: str, metadata: Mapping[str, Json]) -> dict[str, float]:
    text = _text(flag, metadata, "weights")
    try:
        weights = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FlagEditedError(flag, f"its metadata 'weights' is {text!r}, not JSON text") from error
    if not isinstance(weights, dict):
        raise FlagEditedError(flag, f"its metadata 'weights' is {text!r}, not a JSON object")
    return {name: _number(flag, weights, name) for name in weights}


def _dropped(flag: str, metadata: Mapping[str, Json]) -> tuple[str, ...]:
    text = _text(flag, metadata, "dropped") if "dropped" in metadata else "[]"
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FlagEditedError(flag, f"its metadata 'dropped' is {text!r}, not JSON text") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FlagEditedError(flag, f"its metadata 'dropped' is {text!r}, not a JSON list of names")
    return tuple(names)


def _eligibility_text(eligibility: Eligibility) -> str:
    """Its JSON text, without what is as by default; empty for everybody."""
    default = Eligibility()
    given = {part.name: getattr(eligibility, part.name) for part in fields(Eligibility)}
    said = {name: value for name, value in given.items() if value != getattr(default, name)}
    return canonical_json(said) if said else ""


def _eligibility(flag: str, metadata: Mapping[str, Json]) -> Eligibility:
    text = _text(flag, metadata, "eligibility") if "eligibility" in metadata else "{}"
    try:
        raw = json.loads(text)
        audience = {str(name): tuple(map(str, values)) for name, values in raw.get("audience", {}).items()}
        return Eligibility(**raw | {"audience": audience})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FlagEditedError(flag, f"its metadata 'eligibility' is {text!r}, not who is eligible") from error


def _text(flag: str, metadata: Mapping[str, Json], key: str) -> str:
    value = metadata.get(key)
    if not isinstance(value, str):
        raise FlagEditedError(flag, f"its metadata {key!r} is {value!r}, not text")
    return value


def _number(flag: str, metadata: Mapping[str, Json], key: str) -> float:
    value = metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FlagEditedError(flag, f"its metadata {key!r} is {value!r}, not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise FlagEditedError(flag, f"its metadata {key!r} is too large a number") from error


def closed(flag: str, raw: Json) -> tuple[Exposure, int]:
    """The exposure of a killed flag, and its last revision: whatever can still be read, and nobody exposed."""
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    revision = metadata.get("revision")
    known = revision if isinstance(revision, int) and not isinstance(revision, bool) and revision >= 0 else 0
    try:
        exposure = Exposure(
            _weights(flag, metadata), _text(flag, metadata, "control"), eligibility=_eligibility(flag, metadata)
        )
        split_weights(exposure.weights)
    except (FlagError, SpecError):
        return LOST, known
    return exposure, known


def _foreign_metadata(metadata: Json) -> dict[str, Json]:
    """What others wrote into the metadata, as far as flagd can carry it."""
    pairs = metadata.items() if isinstance(metadata, dict) else ()
    return {
        key: value
        for key, value in pairs
        if key and key not in _OWN_METADATA and isinstance(value, str | int | float) and _writable(value)
    }


def _writable(value: Json) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def _tidy(number: float) -> Json:
    """25 instead of 25.0: the file is read by people."""
    return int(number) if math.isfinite(number) and number == int(number) else number
