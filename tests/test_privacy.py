"""What never leaves the kernel: ids of units, small cells, and credentials of a connection."""

import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.test_workspace import decided

import expnb as xb
from expnb import errors
from expnb.cli import main
from expnb.reports import run_report
from expnb.spec.canonical import to_json

NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)
MARKER = "marker-user-"
HIDDEN = "marker-password"
SOURCES = {"cookie_cats.parquet", "hillstrom.parquet"}


def texts(path: Path) -> list[str]:
    """What a file says, also in its pictures and tables."""
    if path.suffix == ".parquet":
        return [pd.read_parquet(path).to_csv()]
    text = path.read_bytes().decode("utf-8", errors="replace")
    pictures = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", text)
    return [text, *(base64.b64decode(picture).decode() for picture in pictures)]


def leaks(root: Path, *markers: str) -> list[str]:
    """Files of a workspace, other than its data, in which a marker stands."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in SOURCES]
    assert files
    return [
        str(path.relative_to(root))
        for path in files
        if any(marker in text for text in texts(path) for marker in markers)
    ]


@pytest.fixture
def marked(demo, players):
    """The demo in which every unit carries a mark."""
    named = players.assign(userid=MARKER + players.userid.astype(str))
    named.to_parquet(demo.root / "cookie_cats.parquet")
    return demo


# --- ids of units -----------------------------------------------------------------------------------


def test_the_scan_finds_a_mark_wherever_it_stands(tmp_path):
    picture = base64.b64encode(f"<svg>{MARKER}1</svg>".encode()).decode()
    (tmp_path / "a.html").write_text(f'<img src="data:image/svg+xml;base64,{picture}">')
    (tmp_path / "b.sqlite").write_bytes(b"\x00\xff" + MARKER.encode())
    pd.DataFrame({"unit": [f"{MARKER}1"]}).to_parquet(tmp_path / "c.parquet")
    (tmp_path / "d.json").write_text("{}")
    assert leaks(tmp_path, MARKER) == ["a.html", "b.sqlite", "c.parquet"]


def test_no_id_is_in_ledger_decisions_caches_or_the_state_of_a_widget(marked):
    exp, decision = decided(marked, "gate_position")
    assert decision.action == "roll_back"
    plan = marked.plan(decision)
    panel = xb.widgets.RampPanel(plan, marked, decision=decision)
    panel.press(plan.id)
    assert panel.receipt is not None
    state = json.dumps(panel.widget.get_state(), default=str)
    shown = [repr(panel), repr(decision), decision._repr_html_(), decision.markdown(), repr(exp), state]
    assert not [text for text in shown if MARKER in text]
    assert not leaks(marked.root, MARKER)


def test_no_id_is_in_what_a_notebook_shows(marked):
    exp = marked.experiment("gate_position")
    cohort = xb.load_cohort(exp, marked.source(exp))
    posterior = xb.fit(exp, cohort)
    figure = xb.charts.effect(posterior)
    shown = [repr(cohort), cohort._repr_html_(), repr(cohort.cells), repr(posterior), posterior._repr_html_()]
    shown += [posterior.summary().to_csv(), figure.sentence, json.dumps(figure.spec()), figure.table.to_csv()]
    assert not [text for text in shown if MARKER in text]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: pd.concat([f, f.head(3)]),
        lambda f: pd.concat([f, f.head(2).assign(version="gate_40")]),
        lambda f: f.assign(userid=f.userid.where(f.index > 3)),
        lambda f: f.assign(version=f.userid),
        lambda f: f.assign(retention_7=f.userid),
    ],
    ids=["duplicates", "crossed units", "null units", "ids for arms", "ids for values"],
)
def test_no_id_is_in_an_error(marked, spoil):
    exp = marked.experiment("gate_position")
    with pytest.raises(errors.ExpnbError) as caught:
        xb.load_cohort(exp, spoil(pd.read_parquet(marked.source(exp))))
    assert MARKER not in str(caught.value)


@pytest.mark.slow
def test_no_id_is_in_an_executed_notebook_its_page_or_anything_else_of_a_report(marked):
    ws = xb.open_workspace(marked.root, clock=lambda: NOW)
    report = run_report(ws, "gate_position", parameters={"apply": True})
    assert report.decision["action"] == "roll_back"
    assert report.page.is_file()
    assert not leaks(ws.root, MARKER)


# --- small cells ------------------------------------------------------------------------------------


@pytest.fixture
def tiny(players):
    """17 players in one arm, 13 of whom came back, and 5000 in the other."""
    control = players[players.version == "gate_30"].head(5000)
    treated = players[players.version == "gate_40"].head(17)
    return pd.concat([control, treated.assign(retention_7=np.arange(17) < 13, retention_1=0)])


def test_an_arm_below_min_cell_holds_and_leaves_no_figure_in_ledger_or_files(demo, tiny):
    exp = demo.experiment("gate_position")
    posterior = xb.fit(exp, xb.load_cohort(exp, tiny))
    decision = demo.decide(exp, posterior)
    assert decision.action == "hold"
    assert any("fewer than 20 units in an arm" in reason for reason in decision.reasons)
    rate = f"{13 / 17:.3f}"
    written = [path.read_text() for path in (demo.root / "decisions").rglob("*.*")]
    recorded = json.dumps(to_json([entry.body for entry in demo.ledger.entries()]))
    panel = xb.widgets.RampPanel(demo.plan(decision), demo, decision=decision)
    shown = [*written, recorded, repr(panel), json.dumps(panel.view.state()), decision._repr_html_()]
    assert not [text for text in shown if rate in text or "NaN" in text or re.search(r"\b17 units|gate_40 17\b", text)]
    assert demo.ledger.verify()


def test_a_small_segment_is_in_no_output(demo, players):
    path = demo.root / "experiments" / "gate_position.toml"
    path.write_text(path.read_text().replace("[experiment]", '[experiment]\nsegments = ["country"]'))
    exp = xb.open_workspace(demo.root, clock=lambda: NOW).experiment("gate_position")
    country = np.where(players.index < 30, "Tuvalu", "elsewhere")
    posterior = xb.fit(exp, xb.load_cohort(exp, players.assign(country=country)))
    assert {effect.segment for effect in posterior.effects} == {"all", "country=elsewhere"}
    decision = demo.decide(exp, posterior)
    shown = [repr(posterior), posterior._repr_html_(), posterior.summary().to_csv(), repr(decision)]
    assert not [text for text in shown if "Tuvalu" in text]
    # The cells of a look stay on the machine, as cached cells do: it is replayed from them.
    assert leaks(demo.root, "Tuvalu") == [str(path.relative_to(demo.root)) for path in demo.looks_folder.rglob("*.*")]


# --- credentials ------------------------------------------------------------------------------------


@pytest.fixture
def connected(demo, monkeypatch):
    """The demo with its cohort in a warehouse that answers nobody."""
    path = demo.root / "experiments" / "gate_position.toml"
    stored = 'connection = "GAMES_WAREHOUSE"\ntable = "assignments"'
    path.write_text(re.sub(r'^source = ".*"$', stored, path.read_text(), flags=re.MULTILINE))
    monkeypatch.setenv("GAMES_WAREHOUSE", f"postgresql://analyst:{HIDDEN}@127.0.0.1:9/games")
    return xb.open_workspace(demo.root, clock=lambda: NOW)


def test_no_credential_is_in_a_specification_a_source_or_the_ledger(connected):
    exp = connected.experiment("gate_position")
    connected.register(exp)
    shown = [repr(exp), exp._repr_html_(), repr(connected.source(exp)), json.dumps(to_json(exp))]
    assert not [text for text in shown if HIDDEN in text]
    assert not leaks(connected.root, HIDDEN)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "snowflake", "no-such-warehouse"])
def test_no_credential_is_in_the_sentence_of_a_failed_connection(connected, monkeypatch, capsys, scheme):
    monkeypatch.setenv("GAMES_WAREHOUSE", f"{scheme}://analyst:{HIDDEN}@127.0.0.1:9/games")
    monkeypatch.chdir(connected.root)
    with pytest.raises(SystemExit) as done:
        main(("decide", "gate_position"))
    out, err = capsys.readouterr()
    assert done.value.code in {1, 2}
    assert err.startswith("expnb: ")
    assert HIDDEN not in out + err
    assert not leaks(connected.root, HIDDEN)


@pytest.mark.slow
def test_no_credential_is_in_a_report_that_failed(connected):
    with pytest.raises(errors.ReportError) as caught:
        run_report(connected, "gate_position")
    assert HIDDEN not in str(caught.value)
    assert list((connected.root / "reports").glob("*.ipynb"))
    assert not leaks(connected.root, HIDDEN)
