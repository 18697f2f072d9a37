"""The calls of Unleash's admin API that a backend needs, with answers as plain values and refusals in the user's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast
from urllib.parse import quote

import httpx

from expnb.errors import FlagError, FlagServerError, NameNotFoundError
from expnb.flags.http import FlagServer
from expnb.spec.canonical import Json

ADMIN: Final = "/api/admin"
CHANGED: Final = "feature-strategy-update"
ADDED: Final = "feature-strategy-add"
DISABLED: Final = "feature-environment-disabled"
ENABLED: Final = "feature-environment-enabled"
_NEWEST: Final = 100  # events that are asked for; more than can happen in the moment of a push

Facts = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the server's own history."""

    id: int
    type: str
    by: str
    by_user: int  # below 0 for a token of no person
    at: datetime
    data: Json  # after the change


class UnleashApi:
    """One environment of one project."""

    def __init__(self, server: FlagServer, project: str, environment: str) -> None:
        self.server, self.project, self.environment = server, project, environment

    def names(self) -> list[str]:
        """Flags of the project.

        Raises
        ------
        FlagError
            If there is no such project.
        """
        found = [str(one["name"]) for one in _objects(self._read(self._project("features")), "features")]
        if not found:  # of a project that does not exist, the server says that it has no flags
            self._check_project()
        return found

    def check_place(self) -> None:
        """Raise `FlagError` unless the project exists and uses the environment; everybody who can log in may ask."""
        self._check_project()
        path = f"{ADMIN}/environments/project/{quote(self.project, safe='')}"
        found = _objects(self._read(path), "environments")
        # Others exist on the server, but flags of the project have no part in them.
        used = [str(one["name"]) for one in found if one.get("visible", True)]
        if self.environment not in used:
            raise self._unknown_environment(f"project {self.project!r}", used)

    def _check_project(self) -> None:
        projects = [str(one["id"]) for one in _objects(self._read(f"{ADMIN}/projects"), "projects")]
        if self.project not in projects:
            raise FlagError(
                f"{self.server.name} has no project {self.project!r} that the token {self._token()} may see; it has {projects}. Nothing was changed. Correct the address in expnb.toml."
            )

    def _unknown_environment(self, where: str, known: Sequence[str]) -> FlagError:
        return FlagError(
            f"{self.server.name} has no environment {self.environment!r} for {where}; it has {sorted(known)}. Nothing was changed. Say which one: ?environment={min(known, default='production')} in the address."
        )

    def feature(self, flag: str) -> Facts:
        """A flag with all its environments.

        Raises
        ------
        NameNotFoundError
            If the project has no such flag.
        """
        answer = self._call("GET", self._feature(flag)) if flag else None
        if answer is None or answer.status_code == httpx.codes.NOT_FOUND:
            raise NameNotFoundError("flag", flag, self.names())
        return self._json(answer)

    def in_environment(self, feature: Facts) -> Facts:
        """What a flag is in this environment.

        Raises
        ------
        FlagError
            If the project does not use the environment.
        """
        found = {str(one["name"]): one for one in _objects(feature, "environments")}
        if self.environment not in found:
            raise self._unknown_environment(f"flag {str(feature.get('name'))!r}", list(found))
        return found[self.environment]

    def events(self, flag: str) -> list[Event]:
        """What happened to a flag in this environment, newest first; no more than the last 100."""
        asked = {"feature": f"IS:{flag}", "environment": f"IS:{self.environment}", "limit": str(_NEWEST)}
        answer = self._read(f"{ADMIN}/search/events", asked)
        return sorted(map(_event, _objects(answer, "events")), key=lambda event: event.id, reverse=True)

    def create_feature(self, flag: str) -> bool:
        """A new flag without strategies; False if the name is taken."""
        body: Json = {"name": flag, "type": "experiment", "description": "Made by expnb, which changes its strategy."}
        answer = self._call("POST", self._project("features"), json=body, known=(httpx.codes.CONFLICT,))
        return answer.status_code != httpx.codes.CONFLICT

    def add_strategy(self, flag: str, strategy: Facts) -> str:
        """The id of a new strategy."""
        return str(
            self._json(self._call("POST", self._environment(flag, "strategies"), json=dict(strategy), known=()))["id"]
        )

    def patch_strategy(self, flag: str, strategy_id: str, changes: Sequence[Json]) -> None:
        """Change a strategy by JSON Patch, in one event."""
        self._call("PATCH", self._environment(flag, f"strategies/{quote(strategy_id)}"), json=list(changes), known=())

    def delete_strategy(self, flag: str, strategy_id: str) -> None:
        """Take a strategy away."""
        self._call("DELETE", self._environment(flag, f"strategies/{quote(strategy_id)}"), known=())

    def switch(self, flag: str, *, on: bool) -> None:
        """Enable or disable the flag in this environment; twice is as good as once.

        Raises
        ------
        NameNotFoundError
            If the project has no such flag.
        """
        answer = self._call("POST", self._environment(flag, "on" if on else "off")) if flag else None
        if answer is None or answer.status_code == httpx.codes.NOT_FOUND:
            self.in_environment(self.feature(flag))  # says which of the two is missing
            raise FlagError(f"{self.server.name} did not find flag {flag!r} (404). Nothing was changed. Try again.")

    def wants_requests(self) -> bool:
        """Whether changes in this environment go through the vendor's own approvals, as only its Enterprise edition has them."""
        answer = self._call("GET", self._project("change-requests/config"))
        if answer.status_code == httpx.codes.NOT_FOUND:
            return False
        try:
            config = answer.json()
        except ValueError:
            return False
        return any(one.get("environment") == self.environment and one.get("changeRequestEnabled") for one in config)

    def open_request(self, changes: Sequence[Json], comment: str) -> str:
        """The number of a new change request, which waits for its reviewers."""
        path = self._project(f"environments/{quote(self.environment, safe='')}/change-requests")
        made = self._json(self._call("POST", path, json=list(changes), known=()))
        number = str(made["id"])
        body: Json = {"state": "In review", "comment": comment}
        self._call("PUT", self._project(f"change-requests/{quote(number)}/state"), json=body, known=())
        return number

    def requests_url(self, number: str = "") -> str:
        """Where people see change requests."""
        return f"{self.server.base}/projects/{quote(self.project, safe='')}/change-requests/{number}".rstrip("/")

    def _project(self, rest: str) -> str:
        return f"{ADMIN}/projects/{quote(self.project, safe='')}/{rest}"

    def _feature(self, flag: str) -> str:
        if set(flag) == {"."}:  # would lead to another place of the API
            raise FlagError(f"flag {flag!r} has no address in Unleash. Nothing was changed. Rename it.")
        return self._project(f"features/{quote(flag, safe='')}")

    def _environment(self, flag: str, rest: str) -> str:
        return f"{self._feature(flag)}/environments/{quote(self.environment, safe='')}/{rest}"

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: Json = None,
        params: Mapping[str, str] | None = None,
        known: Sequence[int] = (httpx.codes.NOT_FOUND,),
    ) -> httpx.Response:
        answer = self.server.send(method, path, json=json, params=params)
        status = answer.status_code
        if status == httpx.codes.FORBIDDEN:
            if path.startswith(self._project("")):  # nobody has rights in a project or environment that does not exist
                with suppress(FlagServerError):
                    self.check_place()
            raise FlagServerError(
                self.server.name,
                f"does not allow this with the token {self._token()} (403: {_said(answer)}). Nothing was changed. Ask for a role that may change flags of project {self.project!r} in {self.environment!r}, or for somebody who has it.",
                "no-permission",
            )
        if not answer.is_success and status not in known:
            raise FlagError(f"{self.server.name} refuses ({status}: {_said(answer)}). Nothing was changed.")
        return answer

    def _read(self, path: str, params: Mapping[str, str] | None = None) -> Facts:
        return self._json(self._call("GET", path, params=params, known=()))

    def _json(self, answer: httpx.Response) -> Facts:
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise FlagServerError(
                self.server.name,
                "does not answer as Unleash does. What the flag serves is not known. Check the address in expnb.toml.",
                "server-down",
            )
        return found

    def _token(self) -> str:
        return repr(self.server.token.name) if self.server.token is not None else "(none is named)"


def _said(answer: httpx.Response) -> str:
    """The server's own words, shortened."""
    try:
        found = answer.json()
        details = [str(one["message"]) for one in found.get("details") or [] if "message" in one]
        return "; ".join(details or [str(found["message"])])[:300].rstrip(".")
    except (ValueError, TypeError, KeyError, AttributeError):
        return "without a reason"


def _event(raw: Facts) -> Event:
    at = datetime.fromisoformat(str(raw["createdAt"])).astimezone(UTC)
    by_user = raw.get("createdByUserId")
    return Event(
        int(str(raw["id"])),
        str(raw["type"]),
        str(raw.get("createdBy")),
        by_user if isinstance(by_user, int) else 0,
        at,
        raw.get("data"),
    )


def _objects(found: Facts, key: str) -> list[dict[str, Json]]:
    return [one for one in cast("list[Json]", found.get(key) or []) if isinstance(one, dict)]
