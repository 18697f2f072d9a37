"""Any text as a line of Markdown that shows it as it is."""

from __future__ import annotations

import re

# What Markdown would read as its own; an underscore inside a word is only an underscore, and an arrow only an arrow.
_MARKS = re.compile(r"[\\`*\[\]<|&~]|(?<!-)>|(?<!\w)_|_(?!\w)")
# What would begin a heading, a list or a rule at the start of a line; a number or a minus sign does not.
_START = re.compile(r"^(#|[-+=](?=\s|$|[-=])|\d+(?=[.)](\s|$)))")


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = _MARKS.sub(lambda mark: f"\\{mark[0]}", " ".join(text.split()))
    return _START.sub(lambda start: f"{start[0]}\\" if start[0].isdigit() else f"\\{start[0]}", line)
