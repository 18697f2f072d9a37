"""A real Unleash for tests: unleash-server from npm on PostgreSQL from Debian, on loopback, without telemetry."""

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from tests.servers import Postgres, ended, free_port, install, postgres_server, untested, wait_for_port

VERSION = "7.4.1"
PROJECT = "default"  # open source has no other
ADMIN = "*:*.an-admin-token-of-the-tests"
CLIENTS = {env: f"default:{env}.a-client-token-of-the-tests" for env in ("development", "production")}
PASSWORD = "A-password-0f-the-tests"  # noqa: S105 - of a server that lives as long as the tests


@dataclass
class UnleashServer:
    """The server, and ways to do what people do in its interface."""

    url: str
    database: Postgres
    tokens: dict[str, str] = field(default_factory=dict)  # of persons, by name

    @property
    def address(self) -> str:
        """What a workspace file says."""
        return self.url.replace("http:", "unleash+http:") + f"/{PROJECT}"

    def call(self, method: str, path: str, body: object = None, *, token: str = ADMIN) -> httpx.Response:
        """One request as somebody else makes it."""
        return httpx.request(method, self.url + path, json=body, headers={"Authorization": token}, timeout=20)

    def person(self, name: str, role: str = "Editor") -> str:
        """The personal token of somebody who can log in."""
        if name not in self.tokens:
            roles = {one["name"]: one["id"] for one in self.call("GET", "/api/admin/user-admin").json()["rootRoles"]}
            body = {"username": name, "password": PASSWORD, "rootRole": roles[role], "sendEmail": False}
            self.call("POST", "/api/admin/user-admin", body).raise_for_status()
            with httpx.Client(base_url=self.url, timeout=20) as browser:
                browser.post("/auth/simple/login", json={"username": name, "password": PASSWORD}).raise_for_status()
                asked = {"description": "expnb", "expiresAt": "2099-01-01T00:00:00.000Z"}
                made = browser.post("/api/admin/user/tokens", json=asked).raise_for_status()
            self.tokens[name] = made.json()["secret"]
        return self.tokens[name]

    def flag(self, name: str, project: str = PROJECT) -> str:
        """Path of a flag in the admin API."""
        return f"/api/admin/projects/{project}/features/{name}"

    def clear(self) -> None:
        """Every flag gone; their events stay, as in life."""
        for flag in self.call("GET", f"/api/admin/projects/{PROJECT}/features").json()["features"]:
            self.call("DELETE", self.flag(flag["name"])).raise_for_status()
        for flag in self.call("GET", "/api/admin/search/features?archived=IS:true&limit=100").json()["features"]:
            self.call("DELETE", f"/api/admin/archive/{flag['name']}").raise_for_status()

    def events(self, flag: str) -> list[dict]:
        """Events of a flag, oldest first."""
        found = self.call("GET", f"/api/admin/search/events?feature=IS:{flag}&limit=1000").json()["events"]
        return sorted(found, key=lambda event: event["id"])


def installed() -> Path:
    """The folder of unleash-server, filled on first use and kept outside the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "expnb-tests" / f"unleash-server-{VERSION}"
    if folder.is_dir():
        return folder
    if not shutil.which("npm"):
        install("nodejs", "npm")
    if not shutil.which("npm") or not shutil.which("node"):
        untested("flags in Unleash", "no node and npm here. Install nodejs 20 and npm.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        # Installed beside and moved, so that an interrupted run leaves no half of it.
        Path(name, "package.json").write_text("{}")
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", f"unleash-server@{VERSION}"]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
        if done.returncode:
            untested("flags in Unleash", f"npm cannot install it: {done.stderr[-300:]}")
        if not folder.is_dir():  # another test run was faster
            Path(name).rename(folder)
            Path(name).mkdir()
    return folder


@contextmanager
def unleash_server():
    """A server with an empty database."""
    program = installed() / "node_modules" / "unleash-server" / "dist" / "server.js"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="expnb-unleash-")))
        folder.chmod(0o755)  # the database runs as another user
        database = stack.enter_context(postgres_server(folder / "postgres", "flags in Unleash"))
        port = free_port()
        settings = {
            "DATABASE_URL": database.url,
            "DATABASE_SSL": "false",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "CHECK_VERSION": "false",
            "SEND_TELEMETRY": "false",
            "LOG_LEVEL": "warn",
            "TZ": "UTC",
            # Its limits for people who log in are no part of what is tested, and many do so here within a minute.
            "SIMPLE_LOGIN_LIMIT_PER_MINUTE": "10000",
            "CREATE_USER_RATE_LIMIT_PER_MINUTE": "10000",
            "INIT_ADMIN_API_TOKENS": ADMIN,
            "INIT_CLIENT_API_TOKENS": ",".join(CLIENTS.values()),
        }
        log = folder / "unleash.log"
        out = stack.enter_context(log.open("w"))
        process = subprocess.Popen(["node", program], env=os.environ | settings, stdout=out, stderr=out, cwd=folder)
        stack.callback(ended, process)
        wait_for_port(port, process, log)
        yield UnleashServer(f"http://127.0.0.1:{port}", database)


@pytest.fixture(scope="session")
def unleash():
    """One real Unleash for all tests."""
    with unleash_server() as server:
        yield server


def main() -> None:
    """A server to look at: python -m tests.flags.unleash_server."""
    with unleash_server() as server:
        print(json.dumps({"url": server.url, "admin": ADMIN, "database": server.database.url}), flush=True)  # noqa: T201
        input()


if __name__ == "__main__":
    main()
