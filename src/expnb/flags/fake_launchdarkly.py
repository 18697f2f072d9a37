"""A server that behaves like LaunchDarkly's documented REST API, for tests and for trying expnb without an account.

``python -m expnb.flags.fake_launchdarkly --port 8030`` serves it on this machine, in memory, until it is ended. It is a fake: it shows that expnb speaks the API as documented, not that the vendor's server takes it.

It keeps to the vendor's documentation of version 20240415: JSON Patch with `test` (409 when it fails), semantic patches (all or nothing), 400, 401, 403, 404, 405 where approvals are required, 429 with Retry-After, approval requests, an audit log with comments.
Not documented, and chosen here: versions rise by one, and only in the environments that changed; a rollout made by a semantic patch stands in the order of the flag's variations.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

from expnb.flags.fake_launchdarkly_patch import Object, Refused, check_flag, instructed, patched

Fault = Literal["drop_before", "drop_after", "hang_after", "error_after", "conflict", "rate_limit"]
_SETTINGS: Final[Object] = {
    "required": False,
    "minNumApprovals": 1,
    "canReviewOwnRequest": False,
    "canApplyDeclinedChanges": False,
    "bypassApprovalsForPendingChanges": False,
    "serviceKind": "launchdarkly",
    "serviceConfig": {},
    "requiredApprovalTags": [],
}


@dataclass(frozen=True)
class Member:
    """Who a token stands for, and what it may do."""

    name: str
    writes: tuple[str, ...] | None = None  # environments; None for all
    reads_only: bool = False
    bypasses_approvals: bool = False


@dataclass
class FakeLaunchDarkly:
    """The server and its state; a context manager that runs it on a free port of 127.0.0.1.

    Parameters
    ----------
    tokens : mapping of str to Member
        Access tokens; made up, like everything here.
    faults : list
        Taken one by one by the next requests that write; None is none.
    retry_after : str
        What a 429 asks for, in seconds.
    """

    project: str = "shop"
    environments: Sequence[str] = ("production", "staging")
    tokens: dict[str, Member] = field(
        default_factory=lambda: {
            "fake-ana": Member("ana"),
            "fake-ben": Member("ben"),
            "fake-eve": Member("eve", reads_only=True),
        }
    )
    port: int = 0
    retry_after: str = "1"
    faults: list[Fault | None] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path of each
    headers: list[dict[str, str]] = field(default_factory=list)
    flags: dict[str, Object] = field(default_factory=dict)
    audit: list[Object] = field(default_factory=list)  # newest last
    approvals: list[Object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = {name: deepcopy(_SETTINGS) for name in self.environments}
        self.lock = threading.RLock()
        self.released = threading.Event()  # ends requests that hang

    def __enter__(self) -> Self:
        self.server = _Server(self)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def address(self) -> str:
        """What to write into expnb.toml."""
        return f"launchdarkly+http://127.0.0.1:{self.server.server_address[1]}/{self.project}"

    def require_approvals(self, environment: str, **settings: object) -> None:
        """Take changes of flags in an environment through approval requests only."""
        self.settings[environment].update({"required": True, **settings})

    def config(self, flag: str, environment: str) -> Object:
        """A copy of what a flag serves in an environment."""
        with self.lock:
            return deepcopy(self.flags[flag]["environments"][environment])

    # --- the API --------------------------------------------------------------------------------

    def answer(
        self, method: str, path: str, query: dict[str, str], body: Object, kind: str, member: Member
    ) -> tuple[int, Object]:
        """Status and body of one request."""
        parts = [unquote(part) for part in path.split("/")[3:]]
        with self.lock:
            match method, parts:
                case "GET", ["flags", self.project]:
                    return 200, {"items": [{"key": key} for key in self.flags], "totalCount": len(self.flags)}
                case "POST", ["flags", self.project]:
                    return 201, self._create(body, member)
                case "GET", ["flags", self.project, key]:
                    return 200, self._shown(self._flag(key), query.get("env"))
                case "PATCH", ["flags", self.project, key]:
                    return 200, self._update(self._flag(key), body, kind, query, member)
                case "GET", ["projects", self.project, "environments", key] if key in self.settings:
                    return 200, {"key": key, "name": key, "approvalSettings": self.settings[key]}
                case _, [
                    "projects",
                    self.project,
                    "flags",
                    key,
                    "environments",
                    environment,
                    "approval-requests",
                    *rest,
                ] if environment in self.settings:
                    return self._approval(method, self._flag(key), environment, rest, body, member)
                case "GET", ["auditlog"]:
                    return 200, {"items": self.audit[::-1][: int(query.get("limit", "10"))]}
        raise Refused(404, "not_found", "Unknown resource")

    def _flag(self, key: str) -> Object:
        if key not in self.flags:
            raise Refused(404, "not_found", f"Unknown feature key {key}")
        return self.flags[key]

    def _shown(self, flag: Object, environment: str | None) -> Object:
        shown = deepcopy(flag)
        if environment is not None:
            shown["environments"] = {key: part for key, part in shown["environments"].items() if key == environment}
        return shown

    def _create(self, body: Object, member: Member) -> Object:
        _check_writer(member, None)
        if body["key"] in self.flags:
            raise Refused(409, "conflict", "A feature flag with that key already exists")
        values = [variation["value"] for variation in body["variations"]]
        if len({json.dumps(value) for value in values}) != len(values):
            raise Refused(400, "invalid_request", "variation values must be unique")
        now, salt = _now(), secrets.token_hex(16)
        defaults = body.get("defaults", {"onVariation": 0, "offVariation": len(values) - 1})
        flag = {
            "key": body["key"],
            "name": body["name"],
            "kind": "multivariate",
            "description": body.get("description", ""),
            "temporary": body.get("temporary", True),
            "tags": body.get("tags", []),
            "variations": [{"_id": secrets.token_hex(12), **variation} for variation in body["variations"]],
            "defaults": defaults,
            "customProperties": body.get("customProperties", {}),
            "archived": False,
            "creationDate": now,
            "_version": 1,
            "environments": {
                name: {
                    "on": bool(body.get("isFlagOn", False)),
                    "archived": False,
                    "salt": salt,
                    "sel": secrets.token_hex(16),
                    "lastModified": now,
                    "version": 1,
                    "targets": [],
                    "contextTargets": [],
                    "rules": [],
                    "fallthrough": {"variation": defaults["onVariation"]},
                    "offVariation": defaults["offVariation"],
                    "prerequisites": [],
                    "_site": {"href": f"/{self.project}/{name}/features/{body['key']}", "type": "text/html"},
                    "_environmentName": name,
                    "trackEvents": False,
                    "trackEventsFallthrough": False,
                }
                for name in self.environments
            },
        }
        check_flag(flag)
        self.flags[body["key"]] = flag
        self._note(member, flag, None, "createFlag", "")
        return deepcopy(flag)

    def _update(self, flag: Object, body: Object, kind: str, query: dict[str, str], member: Member) -> Object:
        comment = body.get("comment", "")
        if "domain-model=launchdarkly.semanticpatch" in kind:
            changed = instructed(flag, body.get("environmentKey"), body["instructions"])
        else:
            operations = body.get("patch")
            if not isinstance(operations, list):
                raise Refused(400, "invalid_request", "the body is no JSON patch")
            changed = patched(flag, operations)
        touched = [name for name in self.environments if changed["environments"][name] != flag["environments"][name]]
        _check_writer(member, None)
        for name in touched:
            _check_writer(member, name)
            if self.settings[name]["required"] and not member.bypasses_approvals:
                raise Refused(405, "method_not_allowed", "Flag configuration updates require approval")
            if query.get("ignoreConflicts") != "true":
                self._check_pending(changed, name)
        return self._commit(changed, touched, member, comment)

    def _check_pending(self, changed: Object, environment: str) -> None:
        for approval in self.approvals:
            if approval["status"] == "pending" and approval["_of"] == (changed["key"], environment):
                try:
                    instructed(changed, environment, approval["instructions"])
                except Refused:
                    raise Refused(
                        400, "invalid_request", "This change would cause a pending approval request to fail"
                    ) from None

    def _commit(self, changed: Object, touched: Sequence[str], member: Member, comment: str) -> Object:
        before = self.flags[changed["key"]]
        if changed == before:
            return deepcopy(before)
        changed["_version"] += 1
        for name in touched:
            changed["environments"][name]["version"] += 1
            changed["environments"][name]["lastModified"] = _now()
        self.flags[changed["key"]] = changed
        self._note(member, changed, touched, "updateFlag", comment)
        return deepcopy(changed)

    def _note(self, member: Member, flag: Object, touched: Sequence[str] | None, action: str, comment: str) -> None:
        self.audit.append(
            {
                "_id": secrets.token_hex(12),
                "date": _now(),
                "kind": "flag",
                "name": flag["name"],
                "comment": comment,
                "member": {"email": f"{member.name}@example.com"},
                "accesses": [
                    {"action": action, "resource": f"proj/{self.project}:env/{name}:flag/{flag['key']}"}
                    for name in touched or ["*"]
                ],
            }
        )

    def _approval(
        self, method: str, flag: Object, environment: str, rest: list[str], body: Object, member: Member
    ) -> tuple[int, Object]:
        of = (flag["key"], environment)
        own = [approval for approval in self.approvals if approval["_of"] == of]
        if method == "GET" and not rest:
            return 200, {"items": [_plain(approval) for approval in own]}
        if method == "POST" and not rest:
            _check_writer(member, None)
            instructed(flag, environment, body["instructions"])  # an instruction that cannot be carried out is refused
            approval = {
                "_id": secrets.token_hex(12),
                "_version": 1,
                "_of": of,
                "creationDate": _now(),
                "serviceKind": "launchdarkly",
                "requestorId": member.name,
                "description": body["description"],
                "reviewStatus": "pending",
                "allReviews": [],
                "status": "pending",
                "instructions": body["instructions"],
            }
            self.approvals.append(approval)
            return 201, _plain(approval)
        approval = next((approval for approval in own if approval["_id"] == rest[0]), {})
        if not approval:
            raise Refused(404, "not_found", "Unknown approval request")
        if method == "POST" and rest[1:] == ["reviews"]:
            return 200, self._review(approval, environment, body, member)
        if method == "POST" and rest[1:] == ["apply"]:
            return 200, self._apply(approval, flag, environment, body, member)
        return 200, _plain(approval)

    def _review(self, approval: Object, environment: str, body: Object, member: Member) -> Object:
        _check_writer(member, environment)
        settings = self.settings[environment]
        if member.name == approval["requestorId"] and not settings["canReviewOwnRequest"]:
            raise Refused(403, "forbidden", "You cannot review your own request")
        approval["allReviews"].append(
            {"kind": body["kind"], "comment": body.get("comment", ""), "memberId": member.name}
        )
        kinds = [review["kind"] for review in approval["allReviews"]]
        if "decline" in kinds and not settings["canApplyDeclinedChanges"]:
            approval["reviewStatus"] = "declined"
        elif kinds.count("approve") >= settings["minNumApprovals"]:
            approval["reviewStatus"] = "approved"
        return _plain(approval)

    def _apply(self, approval: Object, flag: Object, environment: str, body: Object, member: Member) -> Object:
        _check_writer(member, environment)
        if approval["reviewStatus"] != "approved" or approval["status"] != "pending":
            raise Refused(400, "invalid_request", "The approval request is not approved, or was applied")
        try:
            changed = instructed(flag, environment, approval["instructions"])
        except Refused:
            approval["status"] = "failed"
            raise
        self._commit(changed, [environment], member, body.get("comment", ""))
        approval.update(status="completed", appliedDate=_now(), appliedByMemberId=member.name)
        return _plain(approval)


def _plain(approval: Object) -> Object:
    return {key: deepcopy(value) for key, value in approval.items() if key != "_of"}


def _now() -> int:
    return int(time.time() * 1000)


def _check_writer(member: Member, environment: str | None) -> None:
    if member.reads_only or (
        environment is not None and member.writes is not None and environment not in member.writes
    ):
        raise Refused(403, "forbidden", "Access to the requested resource was denied")


# --- HTTP -------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakeLaunchDarkly) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", fake.port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        writes = self.command != "GET"
        with self.server.fake.lock:
            self.server.fake.requests.append((self.command, self.path))
            self.server.fake.headers.append(dict(self.headers))
            fault = self.server.fake.faults.pop(0) if writes and self.server.fake.faults else None
        if fault == "drop_before":
            self.close_connection = True
            return
        if fault == "rate_limit":
            self._send(
                429,
                _error("rate_limited", "You've exceeded the API rate limit"),
                {"Retry-After": self.server.fake.retry_after},
            )
            return
        if fault == "conflict":
            self._send(409, _error("conflict", "The request conflicts with a concurrent API request"))
            return
        status, body = self._answer(raw)
        if fault == "hang_after":
            self.server.fake.released.wait()
        if fault in ("drop_after", "hang_after"):
            self.close_connection = True
            return
        if fault == "error_after":
            status, body = 502, _error("bad_gateway", "Bad gateway")
        self._send(status, body)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve  # noqa: N815 - names of http.server

    def _answer(self, raw: bytes) -> tuple[int, Object]:
        member = self.server.fake.tokens.get(self.headers.get("Authorization", ""))
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if member is None:
            return 401, _error("unauthorized", "Invalid access token")
        try:
            body = json.loads(raw) if raw else {}
            body = {"patch": body} if isinstance(body, list) else body  # a JSON patch without a comment
            return self.server.fake.answer(
                self.command, url.path, query, body, self.headers.get("Content-Type", ""), member
            )
        except Refused as refused:
            return refused.status, _error(refused.code, str(refused))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return 400, _error("invalid_request", f"{type(error).__name__}: {error}")

    def _send(self, status: int, body: Object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        with suppress(OSError):  # the client gave up
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                "LD-API-Version": self.headers.get("LD-API-Version", "20240415"),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - signature of http.server
        """Say nothing."""


def _error(code: str, message: str) -> Object:
    return {"code": code, "message": message, "id": secrets.token_hex(16)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the input ends or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m expnb.flags.fake_launchdarkly", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 for any that is free")
    parser.add_argument("--project", default="shop")
    parser.add_argument(
        "--environment", action="append", help="may be given several times; production and staging by default"
    )
    parser.add_argument("--require-approvals", action="append", default=[], metavar="ENVIRONMENT")
    given = parser.parse_args(arguments)
    fake = FakeLaunchDarkly(given.project, given.environment or ("production", "staging"), port=given.port)
    for name in given.require_approvals:
        fake.require_approvals(name)
    with fake:
        tokens = ", ".join(f"{token} ({member.name})" for token, member in fake.tokens.items())
        sys.stdout.write(f'flags = "{fake.address}"\ntokens of this fake: {tokens}\n')
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            fake.thread.join()


if __name__ == "__main__":
    main()
