"""Values as they were recorded."""

from __future__ import annotations

from typing import TypeVar

from expnb.spec.canonical import Json

T = TypeVar("T")


def recorded(shape: type[T], body: Json) -> T:
    """A value of a ledger entry, such as a plan, a receipt or an experiment."""
    from pydantic import TypeAdapter  # noqa: PLC0415 - 0.1 s that only recorded values need

    return TypeAdapter(shape).validate_python(body)
