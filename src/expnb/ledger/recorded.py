"""Values as they were recorded."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, TypeVar

from expnb.spec.canonical import Json

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def recorded(shape: type[T], body: Json) -> T:
    """A value of a ledger entry, such as a plan, a receipt or an experiment."""
    reader: TypeAdapter[T] = _reader(shape)  # type: ignore[arg-type]  # a class is hashable
    return reader.validate_python(body)


@cache  # to build one takes longer than a push
def _reader(shape: type[T]) -> TypeAdapter[T]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - 0.1 s that only recorded values need

    return TypeAdapter(shape)
