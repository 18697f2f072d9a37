"""What an installed OpenFeature flagd provider answers for the flags of flags.json; needs nothing of expnb.

Run by the Python of a virtual environment that has one published version:

    python -m venv v1 && v1/bin/pip install openfeature-provider-flagd==0.2.7
    v1/bin/python tests/flags/golden/evaluate.py

It prints the package, its version, and for each flag the SHA-256 of all answers, one per line in the order of `units()`.
"""

import hashlib
import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path

FLAGS = Path(__file__).with_name("flags.json")
COUNTRIES = ("DE", "AT", "CH", "", None)
EDGES = ["0", "false", " ", "a.b", '"', "\n", "null", "\\", "x" * 15, "x" * 500]
WIDE = [f"{text}-{number}" for number in range(200) for text in ("ü", "日本", "💶")]


def units():
    """20,000 units of ASCII text."""
    return [f"user-{number}" for number in range(20_000 - len(EDGES))] + EDGES


def wide_units():
    """Units of other text, which JavaScript SDKs hash as UTF-16."""
    return WIDE


def attributes(unit):
    """What a service would say about a unit; every fifth has no country at all."""
    country = COUNTRIES[sum(unit.encode()) % len(COUNTRIES)]
    return {} if country is None else {"country": country}


def digest(answers):
    """SHA-256 of the answers, one per line."""
    return hashlib.sha256("\n".join(answers).encode()).hexdigest()


def provider_answers(path, flags, asked, deadline_ms=500):
    """Answers of the installed provider, by flag."""
    from openfeature.contrib.provider.flagd import FlagdProvider
    from openfeature.contrib.provider.flagd.config import ResolverType
    from openfeature.evaluation_context import EvaluationContext

    provider = FlagdProvider(
        resolver_type=ResolverType.FILE, offline_flag_source_path=str(path), deadline_ms=deadline_ms
    )
    provider.initialize(EvaluationContext())
    contexts = [EvaluationContext(unit, attributes(unit)) for unit in asked]
    answers = {
        flag: [provider.resolve_string_details(flag, "code default", context).value for context in contexts]
        for flag in flags
    }
    provider.shutdown()
    return answers


def main():
    """Print the digests."""
    logging.disable(logging.CRITICAL)
    flags = list(json.loads(FLAGS.read_text())["flags"])
    told = {"package": "openfeature-provider-flagd", "version": version("openfeature-provider-flagd")}
    for name, asked in (("ascii", units()), ("wide", wide_units())):
        told[name] = {flag: digest(found) for flag, found in provider_answers(FLAGS, flags, asked).items()}
    json.dump(told, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
