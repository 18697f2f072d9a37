"""The text of a flag file: one flag is replaced, every other byte stays as it is.

The file belongs to many people. Parsing and dumping it whole would reformat numbers, spaces and escapes of flags that expnb does not own, and fill their diffs with noise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from expnb.errors import FlagFileError
from expnb.spec.canonical import Json

SCHEMA: Final = "https://flagd.dev/schema/v0/flags.json"
EMPTY: Final = f'{{\n  "$schema": "{SCHEMA}",\n  "flags": {{}}\n}}\n'
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Member:
    """One `"key": value` of an object, by its places in the text."""

    key: str
    start: int  # of the key
    value: int  # start of the value
    end: int  # of the value


@dataclass(frozen=True, slots=True)
class FlagDocument:
    """A flag file as text, and where its flags stand in it."""

    text: str
    opening: int  # just after the brace that opens "flags"
    closing: int  # at the brace that closes it
    members: tuple[Member, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The flags of the file, each once, in order."""
        return tuple(dict.fromkeys(member.key for member in self.members))

    def count(self, key: str) -> int:
        """How often the file names a flag; more than once is a mistake that parsers hide."""
        return sum(member.key == key for member in self.members)

    def source(self, key: str) -> str:
        """The flag's JSON text; the last one counts, as in every parser."""
        member = [member for member in self.members if member.key == key][-1]
        return self.text[member.value : member.end]

    def value(self, key: str) -> Json:
        """The flag's JSON value."""
        return cast("Json", json.loads(self.source(key)))

    def with_flag(self, key: str, value: Mapping[str, Json]) -> str:
        """The text with `value` as the flag `key`: in its old place, or as the last flag."""
        if not self.count(key):
            return self._with_new_flag(key, value)
        text = self.text
        for member in reversed(self.members):
            if member.key == key:
                text = text[: member.value] + _dump(value, _indent(text, member.start)) + text[member.end :]
        return text

    def _with_new_flag(self, key: str, value: Mapping[str, Json]) -> str:
        name = json.dumps(key)
        if not self.members:
            entry = f"\n    {name}: {_dump(value, '    ')}\n  "
            return self.text[: self.opening] + entry + self.text[self.closing :]
        last = self.members[-1]
        indent = _indent(self.text, last.start)
        entry = f",\n{indent}{name}: {_dump(value, indent)}"
        return self.text[: last.end] + entry + self.text[last.end :]


def parse(text: str, path: str) -> FlagDocument:
    """A flag file, checked to be one JSON object with an object "flags".

    Raises
    ------
    FlagFileError
        If it is not.
    """
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise FlagFileError(
            path,
            f"is not valid JSON ({error}); it may be half written. Nothing was changed. Put back its last good version: services keep serving that one meanwhile.",
        ) from error
    except RecursionError as error:
        raise FlagFileError(
            path, "is nested too deeply to be a flag file. Nothing was changed. Check that the path is right."
        ) from error
    if not isinstance(whole, dict) or not isinstance(whole.get("flags"), dict):
        raise FlagFileError(
            path, 'has no object "flags" at its top level. Nothing was changed. Check that the path names a flagd file.'
        )
    tops = [member for member in _members(text, text.index("{"))[0] if member.key == "flags"]
    if len(tops) > 1:
        raise FlagFileError(
            path,
            'has "flags" twice at its top level, and readers differ in which one they take. Nothing was changed. Merge the two.',
        )
    members, closing = _members(text, tops[0].value)
    return FlagDocument(text, tops[0].value + 1, closing, members)


def _members(text: str, brace: int) -> tuple[tuple[Member, ...], int]:
    """Members of the object that opens at `brace`, and where it closes; the text is known to be valid JSON."""
    found: list[Member] = []
    at = _skip(text, brace + 1)
    while text[at] != "}":
        key, end = _DECODER.raw_decode(text, at)
        value = _skip(text, _skip(text, end) + 1)
        after = _DECODER.raw_decode(text, value)[1]
        found.append(Member(key, at, value, after))
        at = _skip(text, after)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return tuple(found), at


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _indent(text: str, at: int) -> str:
    """The white space before `at`, if nothing else stands on its line."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line if not line.strip() else ""


def _dump(value: Mapping[str, Json], indent: str) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if not text.isprintable() and any("\ud800" <= char <= "\udfff" for char in text):
        text = json.dumps(value, indent=2, allow_nan=False)  # half a surrogate pair has no UTF-8 form, only an escape
    return text.replace("\n", "\n" + indent)
