"""The ramp panel without a browser: twins, guards, messages."""

import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import expnb.widgets
from expnb.errors import FlagFileError, PushUncertainError
from expnb.spec.flag import Exposure
from expnb.widgets import RampPanel
from expnb.widgets.ramp_view import View

HERE = Path(expnb.widgets.__file__).parent
SCRIPT = (HERE / "ramp_panel.js").read_text()
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
NASTY = "<img src=x onerror=alert(1)>\"'&</td>ünï"


@pytest.fixture
def live(monkeypatch):
    """A front end may be there."""
    monkeypatch.delenv("EXPNB_STATIC", raising=False)


def send(panel: RampPanel, **content: object) -> None:
    """What the browser sends."""
    panel.widget._handle_custom_msg(content, [])


def bundle(panel: RampPanel) -> dict[str, object]:
    return panel._repr_mimebundle_()[0]


# --- what is shown -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "after", "label"),
    [
        ("roll_back", {"enrolled": 0}, "Roll back: close the gate (50 % → 0 %)"),
        ("ramp_up", {"enrolled": 100}, "Ramp up: 50 % → 100 % enrolled"),
        ("ramp_down", {"enrolled": 25}, "Ramp down: 50 % → 25 % enrolled"),
        ("ship", {"serve": "gate_40"}, "Ship gate_40 to everybody"),
        ("ship", {"serve": "gate_40", "holdback": 5}, "Ship gate_40 to everybody, 5 % stay on gate_30"),
        ("conclude_flat", {"serve": "gate_30"}, "Conclude: everybody gets gate_30"),
        ("restore", {"enrolled": 25}, "Restore: enrolled 25 %, treated 12.5 %"),
    ],
)
def test_button_says_exactly_what_happens(workspace, plan_to, roll_back, verb, after, label):
    panel = RampPanel(plan_to(verb, replace(roll_back.before, **after)), workspace)
    assert panel.view.button == label


def test_roll_back_of_a_shipped_variant_says_whom_it_reaches(workspace, plan_to, roll_back):
    shipped = replace(roll_back.before, serve="gate_40")
    workspace.flags.state = replace(workspace.flags.state, exposure=shipped)
    assert (
        RampPanel(plan_to("roll_back", roll_back.after, before=shipped), workspace).view.button
        == "Roll back: close the gate (everybody → 0 %)"
    )


def test_only_roll_back_wears_the_colour_of_danger(workspace, roll_back, ramp_up):
    assert RampPanel(roll_back, workspace).view.danger
    assert not RampPanel(ramp_up, workspace).view.danger


def test_bars_show_enrolled_and_treated_before_and_after(workspace, roll_back):
    assert [(bar.label, bar.enrolled, bar.treated) for bar in RampPanel(roll_back, workspace).view.bars] == [
        ("now", 50, 25),
        ("after", 0, 0),
    ]


def test_bar_of_a_shipped_variant_reaches_everybody(workspace, plan_to, roll_back):
    panel = RampPanel(plan_to("ship", replace(roll_back.before, serve="gate_40", holdback=5)), workspace)
    assert (panel.view.bars[1].enrolled, panel.view.bars[1].treated) == (100, 95)


def test_reasons_come_from_the_decision_and_else_from_the_plan(workspace, roll_back, decide_like):
    assert RampPanel(roll_back, workspace).view.reasons == (roll_back.reason,)
    assert RampPanel(roll_back, workspace, decision=decide_like(roll_back)).view.reasons == (
        "First reason.",
        "Second reason.",
    )


def test_rules_that_are_not_met_come_first(workspace, roll_back, decide_like):
    outcomes = [
        outcome for _, outcome, _, _ in RampPanel(roll_back, workspace, decision=decide_like(roll_back)).view.rules
    ]
    assert outcomes == ["not met", "unknown", "met"]


def test_every_twin_says_unenforced(live, workspace, roll_back):
    data = bundle(RampPanel(roll_back, workspace))
    assert "unenforced" in data["text/html"]
    assert "unenforced" in data["text/plain"]


def test_hold_has_no_button_but_a_sentence(workspace, plan_to, roll_back):
    view = RampPanel(plan_to("hold", roll_back.before), workspace).view
    assert view.button == ""
    assert view.message == "Nothing to push: the flag stays as it is, enrolled 50 %, treated 25 %."


def test_a_restore_of_a_killed_flag_can_be_pushed_although_its_exposure_stays(workspace, plan_to, roll_back):
    workspace.flags.state = replace(workspace.flags.state, enabled=False)
    assert RampPanel(plan_to("restore", roll_back.before), workspace).view.phase == "ready"


# --- twins and static mode ---------------------------------------------------------------------


def test_every_bundle_has_html_and_text_beside_the_live_view(live, workspace, roll_back):
    data = bundle(RampPanel(roll_back, workspace))
    assert set(data) >= {"text/html", "text/plain", WIDGET_VIEW}
    for part in (
        "gate-position",
        "production",
        "enrolled 50 %, treated 25 %",
        "enrolled 0 %, treated 0 %",
        roll_back.reason,
        "Roll back",
    ):
        assert part in data["text/plain"]
        assert part in data["text/html"]


def test_static_mode_builds_no_widget_and_no_comm(monkeypatch, workspace, roll_back):
    import ipywidgets

    monkeypatch.setenv("EXPNB_STATIC", "1")
    built = []
    ipywidgets.Widget.on_widget_constructed(built.append)
    try:
        panel = RampPanel(roll_back, workspace)
        data = bundle(panel)
        panel.press(roll_back.id)
    finally:
        ipywidgets.Widget.on_widget_constructed(None)
    assert set(data) == {"text/html", "text/plain"}
    assert built == []


def test_twin_shows_the_receipt_after_the_push(monkeypatch, workspace, roll_back):
    monkeypatch.setenv("EXPNB_STATIC", "1")
    panel = RampPanel(roll_back, workspace)
    panel.press(roll_back.id)
    for twin in ("text/html", "text/plain"):
        assert "after, as read back" in bundle(panel)[twin]
        assert "Done." in bundle(panel)[twin]


class Tags(HTMLParser):
    """Which tags a browser would see."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)


def test_names_are_escaped_in_html(workspace, plan_to, decide_like, roll_back):
    exposure = Exposure({NASTY: 50, "b": 50}, NASTY, 50, serve=NASTY)
    workspace.actor = NASTY
    plan = plan_to("ship", exposure, experiment=NASTY, before=replace(exposure, serve=""))
    panel = RampPanel(plan, workspace, decision=decide_like(plan, reasons=(NASTY,), notes=(NASTY,)))
    tags = Tags()
    tags.feed(bundle(panel)["text/html"])
    assert "img" not in tags.seen
    assert NASTY in bundle(panel)["text/plain"]


# --- state and script --------------------------------------------------------------------------


def test_traits_are_the_names_that_the_script_reads(live, workspace, roll_back):
    widget = RampPanel(roll_back, workspace).widget
    own = {name for name in widget.trait_names(sync=True) if not name.startswith("_")} - {
        "layout",
        "tabbable",
        "tooltip",
        "comm",
    }
    assert own == set(re.findall(r'model\.get\("(\w+)"\)', SCRIPT)) == {"state"}


def test_script_reads_only_fields_that_the_view_has():
    read = set(re.findall(r"\b(?:state|first)\.(\w+)", SCRIPT))
    assert read <= {field.name for field in fields(View)}
    assert read >= {"phase", "button", "question", "confirm", "error", "receipt", "approvals"}


def test_script_and_style_name_no_host_and_set_no_html():
    style = (HERE / "ramp_panel.css").read_text()
    for text in (SCRIPT, style):
        assert "//" not in re.sub(r"^\s*//.*|/\*.*?\*/|\s// .*", "", text, flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|import\s|@import|url\(|eval\(", text)


def test_state_stays_small_with_hundreds_of_rules(live, workspace, roll_back, decide_like):
    panel = RampPanel(roll_back, workspace, decision=decide_like(roll_back, rules=300))
    assert len(json.dumps(panel.widget.get_state(), default=str)) < 50_000
    assert panel.view.more_rules == 240


# --- pressing ----------------------------------------------------------------------------------


def test_a_press_applies_exactly_once_and_shows_what_was_read_back(live, workspace, roll_back):
    panel = RampPanel(roll_back, workspace)
    send(panel, kind="apply", plan=roll_back.id)
    assert workspace.applied == [roll_back]
    assert panel.view.phase == "done"
    assert dict(panel.view.receipt)["after, as read back"] == "enrolled 0 %, treated 0 %"
    assert [(bar.label, bar.enrolled) for bar in panel.view.bars] == [("before", 50), ("now", 0)]
    assert panel.widget.state["phase"] == "done"


def test_a_second_press_does_nothing_and_says_so(live, workspace, roll_back):
    panel = RampPanel(roll_back, workspace)
    for _ in range(2):
        send(panel, kind="apply", plan=roll_back.id)
    assert workspace.applied == [roll_back]
    assert "Already pushed at 2017-02-20 12:00:00 UTC" in panel.view.message
    assert panel.view.phase == "done"


def test_progress_is_shown_while_the_push_runs(live, workspace, roll_back):
    panel = RampPanel(roll_back, workspace)
    phases = []
    panel.widget.observe(lambda change: phases.append(change["new"]["phase"]), "state")
    send(panel, kind="apply", plan=roll_back.id)
    assert phases == ["pushing", "done"]


def test_a_flag_that_moved_before_the_press_is_a_sentence_and_changes_nothing(live, workspace, roll_back):
    panel = RampPanel(roll_back, workspace)
    theirs = workspace.flags.set(replace(roll_back.before, enrolled=25))
    send(panel, kind="apply", plan=roll_back.id)
    assert "changed since the plan was made: planned on version 7, found 8" in panel.view.error
    assert panel.view.phase == "blocked"
    assert workspace.flags.state == theirs
    assert panel.view.receipt == ()
    send(panel, kind="apply", plan=roll_back.id)
    assert len(workspace.applied) == 1


def test_a_flag_that_moved_before_the_panel_was_shown_leaves_no_button_to_press(workspace, roll_back):
    workspace.flags.set(replace(roll_back.before, enrolled=25))
    panel = RampPanel(roll_back, workspace)
    assert panel.view.phase == "blocked"
    assert "Nothing was pushed" in panel.view.error


def test_missing_approvals_disable_the_button_until_they_are_there(live, workspace, ramp_up):
    workspace.need = 1
    panel = RampPanel(ramp_up, workspace)
    assert panel.view.phase == "waiting"
    assert panel.view.approvals == "1 approval needed, 0 given; 1 missing. Somebody else has to approve it."
    workspace.agreed = ["ben"]
    send(panel, kind="refresh")
    assert panel.view.phase == "ready"
    assert panel.view.approvals == "1 approval needed, 1 given (ben)."


def test_a_forged_press_without_approvals_is_refused_by_the_workspace(live, workspace, ramp_up):
    workspace.need = 1
    panel = RampPanel(ramp_up, workspace)
    send(panel, kind="apply", plan=ramp_up.id)
    assert "needs 1 approval" in panel.view.error
    assert panel.view.phase == "waiting"
    assert workspace.flags.state.version == "7"


def test_a_press_on_another_plan_pushes_nothing(live, workspace, roll_back, ramp_up):
    panel = RampPanel(roll_back, workspace)
    send(panel, kind="apply", plan=ramp_up.id)
    assert workspace.applied == []
    assert "another plan" in panel.view.error


def test_a_press_on_a_hold_pushes_nothing(live, workspace, plan_to, roll_back):
    hold = plan_to("hold", roll_back.before)
    panel = RampPanel(hold, workspace)
    send(panel, kind="apply", plan=hold.id)
    assert workspace.applied == []


def test_an_error_before_the_push_can_be_tried_again(live, workspace, roll_back):
    workspace.fails = FlagFileError("flags.json", "is locked by another process. Try again.")
    panel = RampPanel(roll_back, workspace)
    send(panel, kind="apply", plan=roll_back.id)
    assert panel.view.error == "flag file 'flags.json' is locked by another process. Try again. Runbook: flag-file."
    assert panel.view.phase == "ready"
    workspace.fails = None
    send(panel, kind="apply", plan=roll_back.id)
    assert panel.view.phase == "done"


@pytest.mark.parametrize(
    "error", [PushUncertainError("the flag does not serve what was asked for."), RuntimeError("a bug")]
)
def test_after_an_uncertain_push_nothing_is_pushed_again(live, workspace, roll_back, error):
    workspace.fails = error
    panel = RampPanel(roll_back, workspace)
    for _ in range(2):
        send(panel, kind="apply", plan=roll_back.id)
    assert len(workspace.applied) == 1
    assert str(error) in panel.view.error
    assert panel.view.phase == "blocked"


def test_an_interrupted_push_is_not_left_as_progress(live, workspace, roll_back):
    workspace.fails = KeyboardInterrupt()
    panel = RampPanel(roll_back, workspace)
    with pytest.raises(KeyboardInterrupt):
        panel.press(roll_back.id)
    assert panel.view.phase == "blocked"
    assert "interrupted" in panel.view.error


def test_an_unreadable_flag_does_not_hide_the_way_back(workspace, roll_back):
    def fail(ref):
        raise FlagFileError("flags.json", "cannot be read.")

    workspace.flags.read = fail
    panel = RampPanel(roll_back, workspace)
    assert panel.view.phase == "ready"
    assert panel.view.error == "flag file 'flags.json' cannot be read. Runbook: flag-file."
