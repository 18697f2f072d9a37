"""The calls of LaunchDarkly's REST API that a ramp needs, for one project and environment.

Written from the vendor's published documentation (version 20240415); not proven against the vendor's server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import httpx

from expnb.errors import ApprovalError, FlagError, FlagServerError, NameNotFoundError, PushUncertainError
from expnb.flags.http import FlagServer
from expnb.flags.launchdarkly_rules import Object, as_list, as_object
from expnb.spec.canonical import Json

VERSION: Final = "20240415"
SEMANTIC: Final = "application/json; domain-model=launchdarkly.semanticpatch"
_MARK: Final = "expnb:"  # starts the line of an approval request that expnb reads back
_REFUSED: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)


class RefusedError(FlagError):
    """The server refused a change: it is none that it can make, or breaks one that waits there."""


class StaleError(RefusedError):
    """The server refused a change because another one came first."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One approval request at the vendor."""

    id: str
    review: str  # "approved", "declined" or "pending"
    status: str  # "pending", "completed", "failed" or "scheduled"
    instructions: tuple[Object, ...]
    created_at: datetime
    plan_id: str  # empty for a request that expnb did not make
    base: str  # fingerprint of the record it follows
    record: str


class Api:
    """The calls, each of them once: a write is never sent twice.

    Parameters
    ----------
    environment : str
        The environment's key at the vendor.
    """

    def __init__(self, server: FlagServer, project: str, environment: str) -> None:
        self.server, self.project, self.environment = server, project, environment

    def flag(self, key: str) -> Object:
        """The flag, with the configuration of this environment.

        Raises
        ------
        NameNotFoundError
            If the project has no such flag.
        """
        found = self.find(key)
        if found is None:
            raise NameNotFoundError("flag", key, self._keys())
        return found

    def find(self, key: str) -> Object | None:
        """The flag, or None if the project has none of that name."""
        answer = self._send("GET", self._flag_path(key), params={"env": self.environment})
        return None if answer.status_code == HTTPStatus.NOT_FOUND else self._body(answer)

    def config(self, flag: Object) -> Object:
        """What a flag serves in this environment."""
        configs = as_object(flag.get("environments"))
        if self.environment not in configs:
            raise FlagError(
                f"{self.server.name} has no environment {self.environment!r} in project {self.project!r}. Nothing was changed. Create it there, or name its key: launchdarkly://{self.project}?environment=KEY."
            )
        return as_object(configs[self.environment])

    def create(self, flag: Object) -> None:
        """A new flag, off in every environment."""
        self._write("POST", f"/api/v2/flags/{quote(self.project, safe='')}", flag)

    def patch(self, key: str, operations: Sequence[Json], comment: str) -> None:
        """A JSON Patch: all of it or nothing, and nothing when a `test` in it fails."""
        self._write("PATCH", self._flag_path(key), {"patch": list(operations), "comment": comment})

    def instruct(self, key: str, instructions: Sequence[Json], comment: str) -> None:
        """A semantic patch of this environment: all of it or nothing, whatever version the flag has."""
        body: Object = {
            "environmentKey": self.environment,
            "instructions": list(instructions),
            "comment": comment,
        }
        self._write("PATCH", self._flag_path(key), body, content_type=SEMANTIC)

    def approvals_required(self) -> bool:
        """Whether this environment takes changes of flags through approval requests only."""
        answer = self._send("GET", f"{self._project_path()}/environments/{quote(self.environment, safe='')}")
        if answer.status_code == HTTPStatus.NOT_FOUND:
            self.config({})
        return as_object(self._body(answer).get("approvalSettings")).get("required") is True

    def approvals(self, key: str) -> list[Approval]:
        """The approval requests of a flag in this environment, newest first."""
        answer = self._send("GET", self._approvals_path(key))
        found = [_approval(as_object(item)) for item in as_list(self._body(answer).get("items"))]
        return sorted(found, key=lambda approval: approval.created_at, reverse=True)

    def ask(self, key: str, instructions: Sequence[Json], text: str, note: Mapping[str, str]) -> Approval:
        """A new approval request; `note` is what expnb reads back from it."""
        description = f"{text}\n{_MARK}{json.dumps(dict(note), sort_keys=True)}"
        body: Object = {"description": description, "instructions": list(instructions)}
        return _approval(self._body(self._write("POST", self._approvals_path(key), body), wrote=True))

    def apply(self, key: str, approval: Approval, comment: str) -> None:
        """An approved request, carried out by the vendor."""
        self._write("POST", f"{self._approvals_path(key)}/{quote(approval.id, safe='')}/apply", {"comment": comment})

    def page(self, flag: Object) -> str:
        """Where a person finds the flag and its approval requests."""
        site = as_object(self.config(flag).get("_site")).get("href")
        return f"{self.server.base}{site}" if isinstance(site, str) else self.server.base

    def _flag_path(self, key: str) -> str:
        return f"/api/v2/flags/{quote(self.project, safe='')}/{quote(key, safe='')}"

    def _project_path(self) -> str:
        return f"/api/v2/projects/{quote(self.project, safe='')}"

    def _approvals_path(self, key: str) -> str:
        return f"{self._project_path()}/flags/{quote(key, safe='')}/environments/{quote(self.environment, safe='')}/approval-requests"

    def _keys(self) -> list[str]:
        answer = self._send("GET", f"/api/v2/flags/{quote(self.project, safe='')}", params={"limit": "100"})
        if answer.status_code == HTTPStatus.NOT_FOUND:
            raise FlagError(
                f"{self.server.name} has no project {self.project!r} that the token may see. Nothing was changed. Correct the address in expnb.toml."
            )
        return [str(as_object(item).get("key")) for item in as_list(self._body(answer).get("items"))]

    def _write(self, method: str, path: str, body: Object, *, content_type: str = "") -> httpx.Response:
        answer = self._send(method, path, json=body, content_type=content_type)
        if answer.status_code in _REFUSED:
            kind = StaleError if answer.status_code == HTTPStatus.CONFLICT else RefusedError
            raise kind(
                f"{self.server.name} refuses the change: {_message(answer)}. Nothing was changed. Read the flag, and plan again."
            )
        if answer.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            raise ApprovalError(
                f"environment {self.environment!r} of {self.server.name} takes changes through an approval request only ({_message(answer)}). Nothing was changed. Request approval of the plan, have it approved there, then apply it."
            )
        if answer.is_error:
            raise FlagServerError(
                self.server.name,
                f"answers {answer.status_code}: {_message(answer)}. Nothing was changed. Read the flag.",
                "flag-server-answer",
            )
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: Json = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "",
    ) -> httpx.Response:
        answer = self.server.send(method, path, json=json, params=params, content_type=content_type)
        if answer.status_code == HTTPStatus.FORBIDDEN:
            token = self.server.token.name if self.server.token else ""
            raise FlagServerError(
                self.server.name,
                f"does not let the token {token!r} do this in project {self.project!r}, environment {self.environment!r} (403). Nothing was changed. Give it a role that may, or use another one.",
                "no-permission",
            )
        return answer

    def _body(self, answer: httpx.Response, *, wrote: bool = False) -> Object:
        if answer.is_error:
            raise FlagServerError(
                self.server.name,
                f"answers {answer.status_code}: {_message(answer)}. Nothing was changed. Correct the address in expnb.toml.",
                "flag-server-answer",
            )
        try:
            body = answer.json()
        except ValueError:
            body = None
        if isinstance(body, dict):
            return body
        if wrote:
            raise PushUncertainError(
                f"{self.server.name} answered a change with something else than a JSON object; it may be done. Nothing is sent twice: read the flag."
            )
        raise FlagServerError(
            self.server.name,
            "answers with something else than a JSON object. Nothing was changed. Check the address in expnb.toml: it may be a login page.",
            "flag-server-answer",
        )


def _message(answer: httpx.Response) -> str:
    try:
        message = as_object(answer.json()).get("message")
    except ValueError:
        message = None
    return str(message or "no reason is given").strip().rstrip(".")[:300]


def _approval(raw: Object) -> Approval:
    note = _note(str(raw.get("description", "")))
    return Approval(
        str(raw.get("_id", "")),
        str(raw.get("reviewStatus", "")),
        str(raw.get("status", "")),
        tuple(as_object(item) for item in as_list(raw.get("instructions"))),
        _time(raw.get("creationDate")),
        note.get("plan", ""),
        note.get("base", ""),
        note.get("record", ""),
    )


def _note(description: str) -> dict[str, str]:
    line = next((line for line in description.splitlines() if line.startswith(_MARK)), _MARK)
    try:
        found = json.loads(line.removeprefix(_MARK) or "{}")
    except (ValueError, RecursionError):
        return {}
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _time(milliseconds: Json) -> datetime:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        milliseconds = 0
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
