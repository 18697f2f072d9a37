"""Run every benchmark, and write its figures into results.json and the pages that quote them; `python -m bench cells` runs only that module."""

from __future__ import annotations

import json
import math
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench import (
    accuracy,
    calibration,
    cells,
    document,
    engines,
    faults,
    flags,
    models,
    policy,
    pooling,
    priors,
    segments,
    start_up,
    tails,
)
from bench.figure import Figure

RESULTS = Path(__file__).with_name("results.json")
MODULES = {
    "start_up": start_up,
    "cells": cells,
    "engines": engines,
    "accuracy": accuracy,
    "calibration": calibration,
    "pooling": pooling,
    "segments": segments,
    "models": models,
    "priors": priors,
    "tails": tails,
    "policy": policy,
    "flags": flags,
}
OWN_COMMAND = {"faults": faults}  # takes a quarter of an hour


def main(*names: str) -> None:
    """Measure, print, and keep the figures of other runs that were not measured again."""
    known = MODULES | OWN_COMMAND
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no benchmark is called {unknown[0]!r}; there are {', '.join(known)}.")
    for name in names or MODULES:
        for figure in known[name].figures():
            print(f"{figure.name}: {figure.value:.4g} {figure.unit} ({figure.compared_with})", flush=True)
            if not math.isfinite(figure.value):
                print(f"not kept: {figure.name} is no number", flush=True)
            elif figure.kept:
                _keep(figure, f"make {name}" if name in OWN_COMMAND else "make bench")
                document.main()


def _keep(figure: Figure, command: str) -> None:
    """Written at once: a run that breaks off later loses nothing."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results[figure.name] = {
        "value": float(f"{figure.value:.4g}"),
        "unit": figure.unit,
        "compared_with": figure.compared_with,
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {_cores()} cores",
    }
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def _cores() -> int:
    import os

    return os.cpu_count() or 1


if __name__ == "__main__":
    main(*sys.argv[1:])
