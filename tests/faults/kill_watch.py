"""How long a running service goes on serving a treatment after somebody asked for a kill.

The service is a process of its own with the real SDK at its own polling: ``python -m tests.faults.kill_watch flagd FILE FLAG`` or ``unleash URL FLAG`` with a client token in UNLEASH_CLIENT_TOKEN.
It says "serving" once it serves the treatment, and when it has stopped for a while, at which time of the machine's monotonic clock it last did.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TREATMENT = "green"
UNITS = [f"user-{number}" for number in range(200)]
QUIET_SECONDS = {"flagd": 2.0, "unleash": 35.0}  # longer than the SDK polls


class Watched:
    """A service that is watched until it stops."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def last_wrong(self) -> float:
        """When it last served the treatment, by the machine's monotonic clock; waits until it has stopped."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        assert said[:1] == ["stopped"], said
        return float(said[1])


@contextmanager
def service(sdk: str, place: str | Path, flag: str, token: str = "") -> Iterator[Watched]:
    """A running service that serves the treatment by now."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.kill_watch", sdk, str(place), flag],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"UNLEASH_CLIENT_TOKEN": token},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "serving"
        yield Watched(process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def seconds_to_the_last_wrong(kill: Callable[[], None], watched: Watched) -> float:
    """From the call to the last evaluation that still gave the treatment."""
    called = time.monotonic()
    kill()
    return max(0.0, watched.last_wrong() - called)


def _flagd(path: str, flag: str) -> Callable[[str], str]:
    from openfeature.contrib.provider.flagd import FlagdProvider
    from openfeature.contrib.provider.flagd.config import ResolverType
    from openfeature.evaluation_context import EvaluationContext

    provider = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=path)  # polls as it comes
    provider.initialize(EvaluationContext())
    return lambda unit: provider.resolve_string_details(flag, "code default", EvaluationContext(unit)).value


def _unleash(url: str, flag: str) -> Callable[[str], str]:
    from UnleashClient import UnleashClient

    client = UnleashClient(
        url=f"{url}/api", app_name="shop", custom_headers={"Authorization": os.environ["UNLEASH_CLIENT_TOKEN"]}
    )
    client.initialize_client()
    return lambda unit: str(client.get_variant(flag, {"userId": unit})["name"])


def main(sdk: str, place: str, flag: str) -> None:
    """Serve until the treatment is gone."""
    ask = {"flagd": _flagd, "unleash": _unleash}[sdk](place, flag)
    last, said = 0.0, False
    while not said or time.monotonic() - last < QUIET_SECONDS[sdk]:
        for unit in UNITS:
            if ask(unit) == TREATMENT:
                last = time.monotonic()
                if not said:
                    print("serving", flush=True)  # noqa: T201
                    said = True
        time.sleep(0.001)
    print("stopped", last, flush=True)  # noqa: T201
    os._exit(0)  # without waiting for the threads of an SDK


if __name__ == "__main__":
    main(*sys.argv[1:])
