"""One text and one hash for equal values, on every machine and Python version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import date, datetime

from expnb.errors import SpecError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def to_json(value: object) -> Json:
    """`value` as plain JSON data: dataclasses as objects, tuples as lists, times as ISO text.

    Raises
    ------
    SpecError
        If a part of `value` has no JSON form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    raise SpecError(f"a {type(value).__name__} has no JSON form; use text, numbers, times, lists and mappings.")


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces; NaN and infinity are refused.

    Raises
    ------
    SpecError
        If a number is not finite: a failure must never become a plausible number.
    """
    try:
        return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise SpecError("a number is NaN or infinite and cannot be recorded; write None with a reason.") from error


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON of what `value` says, 64 hexadecimal digits.

    Fields of dataclasses that have their default say nothing and are left out: a hash stays what it was when a later expnb knows one more optional field.
    """
    return hashlib.sha256(canonical_json(_said(value)).encode()).hexdigest()


def _said(value: object) -> object:
    """`value` without the fields of dataclasses that have their default, at any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        given = {field.name: (getattr(value, field.name), _default(field)) for field in fields(value)}
        return {name: _said(part) for name, (part, default) in given.items() if part != default}
    if isinstance(value, Mapping):
        return {key: _said(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_said(part) for part in value]
    return value


def _default(field: Field[object]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()
