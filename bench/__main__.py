"""Run every benchmark and write its figures."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

from bench import start_up

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Measure, print, and keep the figures of other runs that were not measured again."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for figure in start_up.figures():
        print(f"{figure.name}: {figure.value:.4g} {figure.unit} ({figure.compared_with})", flush=True)
        results[figure.name] = {
            "value": float(f"{figure.value:.4g}"),
            "unit": figure.unit,
            "compared_with": figure.compared_with,
            "command": "make bench",
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {_cores()} cores",
        }
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def _cores() -> int:
    import os

    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
