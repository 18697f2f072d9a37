"""Real servers for tests: found or installed, on loopback only, ended by their process."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "geheim-%40-4711"  # noqa: S105 - in a URL; the server knows it as geheim-@-4711


def untested(what: str, why: str) -> None:
    """Skip loudly; where everything has to be there, fail."""
    words = f"NOT TESTED: {what}; {why}"
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)


def install(*packages: str) -> None:
    """Debian's own packages, where that is possible."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(
            ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *command],  # another worker may install at once
            check=False,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"nothing answers on port {port}:\n{log.read_text()[-2000:]}")


def wait_for_words(log: Path, words: str, times: int = 1) -> None:
    for _ in range(900):
        if log.read_text().count(words) >= times:
            return
        time.sleep(0.1)
    pytest.fail(f"never said {words!r}:\n{log.read_text()[-2000:]}")


def ended(process: subprocess.Popen, seconds: float = 20) -> None:
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(seconds)


# --- PostgreSQL ------------------------------------------------------------------------------


def server_programs() -> Path | None:
    if path := shutil.which("initdb"):
        return Path(path).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda folder: int(folder.parent.name))


@dataclass
class Postgres:
    """A private cluster, which can be stopped and started again."""

    folder: Path
    port: int
    drop: dict[str, object]  # rights that root has to give up
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"postgresql://analyst:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        data, log = self.folder / "data", self.folder / "log"
        options = [f"-p{self.port}", "-clisten_addresses=127.0.0.1", f"-cunix_socket_directories={data}", "-cfsync=off", "-cmax_connections=20"]  # fmt: skip
        said = log.read_text().count("ready to accept connections") if log.exists() else 0
        with log.open("a") as out:
            # Without runuser in between, so that the pid is the server's own.
            self.process = subprocess.Popen(
                [server_programs() / "postgres", "-D", data, *options], stdout=out, stderr=out, cwd=self.folder, **self.drop
            )  # fmt: skip
        wait_for_port(self.port, self.process, log)
        wait_for_words(log, "ready to accept connections", said + 1)

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGINT)  # ends sessions too
            ended(self.process)
            self.process = None


@contextmanager
def postgres_server(folder: Path, what: str = "cohorts in PostgreSQL"):
    """A cluster of its own, on loopback, with a password."""
    if server_programs() is None:
        install("postgresql")
    programs = server_programs()
    if programs is None:
        untested(what, "no initdb here. Install postgresql.")
    user = []
    if os.geteuid() == 0:  # the server refuses to run as root
        if (
            not shutil.which("runuser")
            or subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode
        ):
            untested(what, "root cannot run it, and there is no user postgres.")
        user = ["runuser", "-u", "postgres", "--"]
    folder.mkdir()
    secret = folder / "password"
    secret.write_text("geheim-@-4711")
    if user:
        shutil.chown(folder, "postgres")
        shutil.chown(secret, "postgres")
    data = folder / "data"
    made = subprocess.run(
        [*user, programs / "initdb", "-D", data, "-U", "analyst", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    drop = {"user": "postgres", "group": "postgres", "extra_groups": []} if user else {}
    server = Postgres(folder, free_port(), drop)
    try:
        server.start()
        yield server
    finally:
        server.stop()
