"""Write the figures of results.json into docs/performance.md, behind the comment that names each."""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
WORDS = {"seconds": " s", "MB": " MB"}


def filled(text: str, results: dict[str, dict[str, object]]) -> str:
    """The text with the value of every figure that is known; the others keep their words."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in results:
            return found[0]
        return f"<!-- {name} --> {results[name]['value']:.3g}{WORDS.get(str(results[name]['unit']), '')} |"

    return re.sub(r"<!-- (\w+) --> [^|]*\|", value, text)


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(filled(PAGE.read_text(), json.loads((HERE / "results.json").read_text())))


if __name__ == "__main__":
    main()
