"""The ramp panel: a plan, why, who agreed, one button, and the receipt."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan
from expnb.errors import ExpnbError, FlagConflictError, PlanExpiredError, PlanVoidError, PushUncertainError
from expnb.spec.flag import FlagRef, FlagState
from expnb.widgets.ramp_twins import to_html, to_text
from expnb.widgets.ramp_view import Phase, ReceiptLike, View, draw, receipt_bars, receipt_rows

if TYPE_CHECKING:
    import anywidget

# After these the same plan can never be pushed, or must not be pushed blindly again.
FINAL = (FlagConflictError, PlanExpiredError, PlanVoidError, PushUncertainError)
HERE = Path(__file__).parent


class FlagReader(Protocol):
    """Where the flag is read."""

    def read(self, ref: FlagRef, /) -> FlagState:
        """The flag as it stands now."""


class Applies(Protocol):
    """What the panel needs of a workspace: it asks, the workspace checks and acts."""

    @property
    def actor(self) -> str:
        """Who acts."""

    @property
    def environment(self) -> str:
        """Where the flag lives."""

    @property
    def flags(self) -> FlagReader:
        """Where the flag is read."""

    def approvals_needed(self, plan: RampPlan, /) -> int:
        """How many others must agree."""

    def approvals(self, plan: RampPlan, /) -> Sequence[str]:
        """Who has agreed to exactly this plan."""

    def apply(self, plan: RampPlan, /) -> ReceiptLike:
        """Push the plan, after every check."""


class RampPanel:
    """One plan with one button; live in a notebook, a table everywhere else.

    The panel is no widget itself: it builds one when it is shown, and none with ``EXPNB_STATIC=1``. Every guard lies here and in the workspace, in the kernel; the front end only draws.

    Parameters
    ----------
    plan : RampPlan
    workspace : Workspace
        Or anything else that can apply the plan.
    decision : Decision, optional
        The decision behind the plan; brings reasons, notes and rules. Without it the plan's own reason is shown.
    """

    def __init__(self, plan: RampPlan, workspace: Applies, *, decision: Decision | None = None) -> None:
        self.plan, self.workspace, self.decision = plan, workspace, decision
        self.receipt: ReceiptLike | None = None
        self._widget: anywidget.AnyWidget | None = None
        self._view = self._looked_at()

    @property
    def view(self) -> View:
        """What is shown now."""
        return self._view

    @property
    def widget(self) -> anywidget.AnyWidget:
        """The live widget, to be placed in a layout; built at first use."""
        if self._widget is None:
            self._widget = _widget_class()(state=self._view.state())
            self._widget.on_msg(self._on_message)
        return self._widget

    def press(self, plan_id: str) -> None:
        """What the confirmed button does: the plan is pushed once, and what came of it is shown.

        Parameters
        ----------
        plan_id : str
            Id of the plan on the page that was pressed.
        """
        if self.receipt is not None:
            self._show(
                message=f"Already pushed at {self.receipt.applied_at:%Y-%m-%d %H:%M:%S} UTC; this press did nothing."
            )
        elif self._view.phase in ("nothing", "blocked", "pushing"):
            self._show(message="This press did nothing: the plan cannot be pushed.")
        elif plan_id != self.plan.id:
            self._show(
                error="The page shows another plan than the kernel holds. Nothing was pushed; run the cell again."
            )
        else:
            self._push()

    def refresh(self) -> None:
        """Flag and approvals, read again."""
        if self._view.phase in ("ready", "waiting"):
            self._set(replace(self._looked_at(), message="Looked again just now."))

    def _push(self) -> None:
        self._show(phase="pushing", message="Pushing: setting the flag, then reading it back.", error="")
        try:
            receipt = self.workspace.apply(self.plan)
        except FINAL as error:
            self._show(phase="blocked", message="", error=str(error))
        except ExpnbError as error:
            self._set(replace(self._looked_at(), error=str(error)))
        except Exception as error:  # noqa: BLE001 - shown where it was caused: an error of a callback is lost otherwise
            self._show(
                phase="blocked",
                message="",
                error=f"{type(error).__name__}: {error}. Whether the flag changed is not known; read it before anything else moves.",
            )
        else:
            self.receipt = receipt
            self._show(
                phase="done",
                message="Done. The flag was read back.",
                bars=receipt_bars(receipt),
                receipt=receipt_rows(receipt),
            )
        finally:
            if self._view.phase == "pushing":  # the kernel was interrupted
                self._show(
                    phase="blocked",
                    message="",
                    error="The push was interrupted. Whether the flag changed is not known; read it before anything else moves.",
                )

    def _looked_at(self) -> View:
        """The plan against the flag and the approvals as they are now."""
        needed, given = self.workspace.approvals_needed(self.plan), self.workspace.approvals(self.plan)
        error = ""
        live = None
        try:
            live = self.workspace.flags.read(self.plan.ref)
        except ExpnbError as problem:  # an unreadable flag must not hide the way back: the push itself will tell
            error = str(problem)
        phase = self._phase(live, missing=len(set(given)) < needed)
        if phase == "blocked" and live is not None:
            error = str(
                FlagConflictError(
                    self.plan.ref.flag, self.plan.base_version, live.version, f"{self.plan.before} -> {live.exposure}"
                )
            )
        return replace(
            draw(self.plan, self.decision, phase=phase, needed=needed, given=given, actor=self.workspace.actor),
            error=error,
        )

    def _phase(self, live: FlagState | None, *, missing: bool) -> Phase:
        # A restore with the same exposure still switches a killed flag on again.
        revives = self.plan.verb == "restore" and live is not None and not live.enabled
        if not self.plan.changes and not revives:
            return "nothing"
        if live is not None and live.version != self.plan.base_version:
            return "blocked"
        return "waiting" if missing else "ready"

    def _show(self, **changes: object) -> None:
        self._set(replace(self._view, **changes))  # type: ignore[arg-type]  # names and types are those of View

    def _set(self, view: View) -> None:
        self._view = view
        if self._widget is not None:
            self._widget.set_trait("state", view.state())

    def _on_message(self, _widget: object, content: Mapping[str, object], _buffers: object) -> None:
        verbs: Mapping[object, Callable[[], None]] = {
            "apply": lambda: self.press(str(content.get("plan"))),
            "refresh": self.refresh,
        }
        verbs.get(content.get("kind"), lambda: None)()

    def __repr__(self) -> str:
        return to_text(self._view)

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, object], dict[str, object]]:
        """The live widget, with its twins for every place that has none."""
        del include, exclude  # IPython filters by itself
        twins: dict[str, object] = {"text/plain": to_text(self._view), "text/html": to_html(self._view)}
        if os.environ.get("EXPNB_STATIC") == "1":
            return twins, {}
        live: tuple[dict[str, object], dict[str, object]] | dict[str, object] | None = self.widget._repr_mimebundle_()
        data, metadata = live if isinstance(live, tuple) else (live or {}, {})
        return {**data, **twins}, metadata


@cache
def _widget_class() -> type[anywidget.AnyWidget]:
    """The anywidget class; made at first use, because a static page needs none."""
    import anywidget  # noqa: PLC0415 - half a second, and a comm, that static mode does without
    import traitlets  # noqa: PLC0415

    class RampPanelWidget(anywidget.AnyWidget):
        """Draws the state; a press comes back as a message."""

        _esm = HERE / "ramp_panel.js"
        _css = HERE / "ramp_panel.css"
        state = traitlets.Dict().tag(sync=True)

    return RampPanelWidget
