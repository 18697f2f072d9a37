"""The text of a flag file: one flag changes, all else stays byte for byte."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expnb.errors import FlagFileError
from expnb.flags.document import EMPTY, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
BLOCKS = st.dictionaries(st.text(), JSON, max_size=3)
DOCUMENTS = st.builds(
    lambda top, flags, indent, escaped: json.dumps(
        {key: part for key, part in top.items() if key != "flags"} | {"flags": flags} | {"flags2": 1.50},
        indent=indent,
        ensure_ascii=escaped,
    ),
    BLOCKS,
    BLOCKS,
    st.sampled_from([None, 0, 2, "\t"]),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.text(), BLOCKS)
def test_writing_one_flag_leaves_every_other_byte(text, key, value):
    document = parse(text, "f.json")
    written = document.with_flag(key, value)
    again = parse(written, "f.json")
    assert json.loads(written)["flags"] == json.loads(text)["flags"] | {key: value}
    assert again.value(key) == value
    foreign = [name for name in document.keys if name != key]
    assert [again.source(name) for name in foreign] == [document.source(name) for name in foreign]
    if document.members:
        cut = document.members[-1].end if key not in document.keys else document.members[document.keys.index(key)].value
        assert written.startswith(text[:cut])
        rest = text[
            document.members[-1].end if key not in document.keys else document.members[document.keys.index(key)].end :
        ]
        assert written.endswith(rest)


def test_numbers_spaces_and_escapes_of_foreign_flags_stay_as_their_owners_wrote_them():
    text = '{"x": 1e2, "flags":\r\n {"old":  {"n": 0.10, "t": "\\u00e9", "big": 123456789012345678901234567890 } } , "last":[ ]}\r\n'
    written = parse(text, "f.json").with_flag("new", {"a": 1})
    for part in (
        '"x": 1e2',
        '{"n": 0.10, "t": "\\u00e9", "big": 123456789012345678901234567890 }',
        ' , "last":[ ]}\r\n',
    ):
        assert part in written


def test_a_new_file_reads_well():
    text = parse(EMPTY, "f.json").with_flag("a", {"b": {"c": 1}})
    assert text == (
        '{\n  "$schema": "https://flagd.dev/schema/v0/flags.json",\n  "flags": {\n'
        '    "a": {\n      "b": {\n        "c": 1\n      }\n    }\n  }\n}\n'
    )


def test_half_a_surrogate_pair_is_written_as_an_escape():
    written = parse(EMPTY, "f.json").with_flag("a", {"t": "\ud800 ü"})
    assert parse(written.encode().decode(), "f.json").value("a") == {"t": "\ud800 ü"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not valid JSON"),
        ('{"flags": {"a": {"state": "ENAB', "half written"),
        ("[]", 'no object "flags"'),
        ("{}", 'no object "flags"'),
        ('{"flags": []}', 'no object "flags"'),
        ('{"flags": {}, "flags": {}}', "twice"),
        ("\ufeff{}", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=["empty", "torn", "list", "no flags", "flags is a list", "flags twice", "byte order mark", "deep"],
)
def test_a_text_that_is_no_flag_file_is_refused_with_the_reason(text, problem):
    with pytest.raises(FlagFileError, match=problem):
        parse(text, "f.json")
