"""Tell a channel what was done: one try, three seconds at most, and never an error.

A roll back does not wait for a chat. What could not be told is said to the one who acts.
"""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

from expnb.decisions.plan import RampPlan
from expnb.errors import CredentialError, FlagError
from expnb.flags.base import Enforcement
from expnb.flags.secret import Secret
from expnb.spec.canonical import Json
from expnb.spec.workspace_file import ACTS

Act = Literal["request", "approval", "push", "roll_back", "kill"]
STEP_SECONDS: Final = 2.0  # for each of connect, send and receive
SECONDS: Final = 3.0  # for all of it, names looked up included
_LONGEST: Final = 1000  # signs of one field
_TAKEN: Final = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What was done, as a channel is told.

    Parameters
    ----------
    before, after : str
        What the flag served, and what it serves or is to serve.
    reason : str
        Empty where none was given.
    plan_id : str
        Empty where there was no plan, as at a kill.
    ledger_head : str
        Hash of the ledger's last entry: with it, `expnb ledger verify --against` finds truncation and rewriting.
    enforcement : {"unenforced", "enforced"}
        Whether roles and approvals were checked by a service that the actor does not own.
    """

    act: Act
    experiment: str
    flag: str
    environment: str
    verb: str
    before: str
    after: str
    actor: str
    ledger_head: str
    enforcement: Enforcement
    reason: str = ""
    plan_id: str = ""

    @classmethod
    def of_plan(cls, act: Act, plan: RampPlan, *, actor: str, ledger_head: str, enforcement: Enforcement) -> Event:
        """What was done with a plan."""
        return cls(
            act=act,
            experiment=plan.experiment,
            flag=plan.ref.flag,
            environment=plan.ref.environment,
            verb=plan.verb,
            before=str(plan.before),
            after=str(plan.after),
            actor=actor,
            ledger_head=ledger_head,
            enforcement=enforcement,
            reason=plan.reason,
            plan_id=plan.id,
        )


@dataclass(frozen=True, slots=True)
class Notifier:
    """Who tells a channel of the acts that it wants to hear of.

    Parameters
    ----------
    webhook : str
        Name of the credential that is its URL; nobody is told without one.
    on : tuple of str
        Acts that are told.
    """

    webhook: str = ""
    on: tuple[str, ...] = field(default=ACTS)

    def tell(self, event: Event) -> str:
        """What went wrong, in a sentence; empty where all went well or nobody is to be told. Never raises."""
        if not self.webhook or event.act not in self.on:
            return ""
        try:
            return notify(Secret(self.webhook), event)
        except FlagError:  # a name that no credential can have
            return f"Nobody was told of this {event.act.replace('_', ' ')}: the name of the webhook in expnb.toml is none that a credential can have. What was done stands; tell them yourself."


def notify(webhook: Secret, event: Event, *, seconds: float = SECONDS) -> str:
    """Post an event to a webhook as Slack takes it.

    Parameters
    ----------
    webhook : Secret
        Its URL, which is a secret and never shown.
    seconds : float
        After which nobody waits any more; the post may still arrive.

    Returns
    -------
    str
        What went wrong, in a sentence; empty where the channel took it. Never raises.
    """
    heard: list[str] = []
    # In a thread: no limit of a socket holds while a name is looked up, or while an answer comes byte by byte.
    sender = threading.Thread(target=lambda: heard.append(_posted(webhook, event)), daemon=True)
    sender.start()
    sender.join(seconds)
    problem = heard[0] if heard else f"took longer than {seconds:g} s"
    if not problem:
        return ""
    return f"Nobody was told of this {event.act.replace('_', ' ')}: the webhook {webhook.name!r} {problem}. What was done stands; tell them yourself."


def message(event: Event) -> dict[str, Json]:
    """The event as Slack's JSON; whatever people wrote is shown as text, so it can neither call a channel nor look like a line of ours."""
    said = {name: _plain(str(getattr(event, name))) for name in Event.__dataclass_fields__}
    lines = [
        f"*{said['act'].replace('_', ' ')}*: {said['experiment']}, flag {said['flag']} in {said['environment']} ({said['enforcement']})",
        f"{said['verb']}: {said['before']} -> {said['after']}",
        f"by {said['actor']}: {said['reason'] or 'no reason given'}",
        " ".join(filter(None, (said["plan_id"] and f"plan {said['plan_id']},", f"ledger head {said['ledger_head']}"))),
    ]
    return {"text": "\n".join(lines)}


def _plain(text: str) -> str:
    short = " ".join(text.split())
    short = short if len(short) <= _LONGEST else short[:_LONGEST] + "…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _posted(webhook: Secret, event: Event) -> str:
    """What went wrong; the words never hold the address, which is the secret."""
    try:
        status = _post(webhook.reveal(), json.dumps(message(event)).encode())
    except CredentialError:
        return "is neither in the environment nor in the keyring (service 'expnb')"
    except TimeoutError:
        return f"did not answer within {STEP_SECONDS:g} s"
    except _NoAddressError:
        return "holds no address that begins with https:// or http://"
    except OSError as error:
        return f"cannot be reached ({type(error).__name__})"
    except Exception as error:  # noqa: BLE001 - a roll back never fails because of a message
        return f"cannot be used ({type(error).__name__})"
    return "" if status in _TAKEN else f"answered {status}"


class _NoAddressError(Exception):
    """What should be the address of a webhook is none."""


def _post(url: str, body: bytes) -> int:
    # By hand: httpx and requests write the address, which is the secret, to their logs, and follow redirects elsewhere.
    parts = urlsplit(url)
    kinds = {"https": http.client.HTTPSConnection, "http": http.client.HTTPConnection}
    if parts.scheme not in kinds or not parts.hostname:
        raise _NoAddressError
    connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=STEP_SECONDS)
    try:
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        status: int = connection.getresponse().status
        return status
    finally:
        connection.close()
