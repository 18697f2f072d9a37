"""Write the figures of results.json into README.md and docs/, behind the comment that names each.

``<!-- cells_peak_mb_100m --> not yet measured`` becomes ``<!-- cells_peak_mb_100m --> 455 MB``. Words after the number stay, and so does a figure that was not measured yet.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGES = (HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md")))
UNMEASURED = "not yet measured"
WORDS = {"seconds": " s", "MB": " MB"}
FIGURE = re.compile(rf"<!-- (\w+) --> (?:{UNMEASURED}|(?:nan|-?\d[\d.,]*(?:e[+-]?\d+)?)(?: (?:s|MB|%)(?!\w))?)")


def filled(text: str, results: dict[str, dict[str, object]]) -> str:
    """The text with the value of every figure that is known; the others keep their words."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- {name} --> {shown(results[name])}" if name in results else found[0]

    return FIGURE.sub(value, text)


def shown(result: dict[str, object]) -> str:
    """A value with three digits and its unit; shares as percent with one decimal."""
    value, unit = float(str(result["value"])), str(result["unit"])
    if unit == "share":
        return f"{100 * value:.1f} %"
    digits = f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return digits + WORDS.get(unit, "")


def main() -> None:
    """Rewrite the pages."""
    results = json.loads(RESULTS.read_text())
    for page in PAGES:
        text = page.read_text()
        new = filled(text, results)
        if new != text:
            page.write_text(new)


if __name__ == "__main__":
    main()
