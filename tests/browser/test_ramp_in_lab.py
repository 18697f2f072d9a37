"""The main job in JupyterLab: see the effect, see the plan, press the button, see the flag move."""

import json

import nbformat
import pytest

import expnb as xb

pytestmark = pytest.mark.browser

GATE = """\
import expnb as xb
ws = xb.open_workspace(".", actor="ana")
exp = ws.experiment("gate_position")
posterior = xb.fit(exp, xb.load_cohort(exp, ws.source(exp)), seed=20)
decision = ws.decide(exp, posterior)
plan = ws.plan(decision)"""
EMAIL = """\
mail = ws.experiment("email_campaign")
effects = xb.fit(mail, xb.load_cohort(mail, ws.source(mail)), seed=20)
step = ws.decide(mail, effects)
ramp = ws.plan(step)"""
CELLS = (
    GATE,
    "xb.charts.effect(posterior)",
    "xb.widgets.RampPanel(plan, ws, decision=decision)",
    EMAIL,
    "xb.charts.effect(effects)",
    "xb.widgets.RampPanel(ramp, ws, decision=step)",
    "print('every cell ' + 'has run')",
)
CHARTS = ".jp-RenderedVegaLite"


@pytest.fixture(scope="module")
def page(watched, lab, open_and_run):
    """A notebook with both experiments of the demo, run once."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, lab.root / "ramp.ipynb")
    open_and_run("ramp.ipynb")
    return watched.page


@pytest.fixture
def panel(page):
    """The panel of the experiment that is rolled back."""
    return page.locator(".expnb-ramp").nth(0)


@pytest.fixture
def mail(page):
    """The panel of the experiment that is ramped up."""
    return page.locator(".expnb-ramp").nth(1)


def read(locator) -> str:
    """What a person reads; numbers and their signs of percent are held together by a hard space."""
    return locator.inner_text().replace("\u00a0", " ")


def enrolled(lab, name: str) -> float:
    """What the flag file says, read without the notebook."""
    workspace = xb.open_workspace(lab.root)
    return workspace.flag(workspace.experiment(name)).exposure.enrolled


@pytest.mark.parametrize("colours", ["Dark", "Light"])
def test_charts_are_drawn_natively_with_their_labels(page, theme, colours):
    theme(colours)
    drawn = page.locator(CHARTS)
    assert drawn.count() == 2
    for chart, label in ((drawn.nth(0), "P(better) 0.2 %"), (drawn.nth(1), "P(better) over 99.99 %")):
        assert chart.locator("svg.marks").count() == 1
        assert label in chart.locator("svg.marks").text_content()


def test_charts_offer_no_way_to_the_online_editor(page):
    assert page.locator(f"{CHARTS} a", has_text="Editor").count() == 0


@pytest.mark.parametrize("colours", ["Dark", "Light"])
def test_panel_shows_where_the_flag_is_where_it_goes_and_why(page, panel, theme, photograph, colours):
    theme(colours)
    text = read(panel)
    for part in (
        "gate_position",
        "flag gate-position",
        "production",
        "Roll back",
        "enrolled 50 %, treated 25 %",
        "enrolled 0 %, treated 0 %",
        "Goal retention_7 under gate_40 is harmed",
        "No approval needed",
        "unenforced",
    ):
        assert part in text
    assert [read(button) for button in panel.get_by_role("button").all()] == ["Roll back: close the gate (50 % → 0 %)"]
    cells = page.locator(".jp-CodeCell")
    photograph(f"panel_{colours.lower()}", cells.nth(1), cells.nth(2))
    photograph(f"three_arms_{colours.lower()}", cells.nth(4), cells.nth(5))


def test_panel_stays_whole_at_twice_the_zoom(page, panel, photograph):
    room = page.viewport_size
    page.set_viewport_size({"width": room["width"] // 2, "height": room["height"]})
    try:
        page.wait_for_timeout(300)  # Lab lays itself out anew
        wide, shown = panel.evaluate("node => [node.scrollWidth, node.clientWidth]")
        assert wide <= shown
        photograph("narrow", panel, panel)
    finally:
        page.set_viewport_size(room)
        page.wait_for_timeout(300)


def test_rules_unfold_by_keyboard(page, panel):
    panel.locator("summary").focus()
    page.keyboard.press("Enter")
    assert panel.locator("details").get_attribute("open") is not None
    assert "sample_ratio" in panel.locator("details").inner_text()
    page.keyboard.press("Enter")


def test_escape_takes_the_question_back_and_returns_the_focus(page, lab, panel):
    panel.get_by_role("button", name="Roll back").focus()
    page.keyboard.press("Enter")
    panel.get_by_role("group", name="Really roll back").wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("() => document.activeElement.textContent").startswith("Roll back")
    assert enrolled(lab, "gate_position") == 50


def test_keyboard_alone_rolls_back_and_the_flag_file_changes(page, lab, panel, photograph):
    panel.locator("summary").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent").startswith("Roll back")
    page.keyboard.press("Enter")
    question = panel.get_by_role("group", name="Really roll back")
    question.wait_for()
    assert "from 25 % to 0 %" in read(question)
    page.keyboard.press("Enter")  # a key that is held down confirms nothing
    assert enrolled(lab, "gate_position") == 50
    photograph("confirm", panel, panel)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    panel.locator(".expnb-ramp-receipt").wait_for()
    assert enrolled(lab, "gate_position") == 0
    receipt = read(panel.locator(".expnb-ramp-receipt"))
    assert "enrolled 50 %, treated 25 %" in receipt
    assert "enrolled 0 %, treated 0 %" in receipt
    assert panel.get_by_role("button").count() == 0
    photograph("receipt", panel, panel)
    outcomes = [
        entry
        for entry in xb.open_workspace(lab.root).ledger.entries(kind="outcome")
        if entry.body["experiment"] == "gate_position"
    ]
    assert [entry.body["applied"] for entry in outcomes] == [True]


def test_flag_that_somebody_else_changed_is_refused_in_a_sentence(page, lab, mail, photograph):
    workspace = xb.open_workspace(lab.root, actor="somebody_else")
    workspace.kill(workspace.experiment("email_campaign"))
    before = json.loads((lab.root / "flags.flagd.json").read_text())
    mail.get_by_role("button", name="Ramp up: 25 % → 50 % enrolled").click()
    mail.get_by_role("button", name="Yes, ramp up").click()
    alert = mail.get_by_role("alert")
    alert.filter(has_text="changed since the plan was made").wait_for()
    assert "Nothing was pushed" in read(alert)
    assert mail.get_by_role("button").count() == 0
    assert json.loads((lab.root / "flags.flagd.json").read_text()) == before
    photograph("conflict", mail, mail)
