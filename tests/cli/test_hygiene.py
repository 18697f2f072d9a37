"""check, layers, stale and remove, as they are typed."""

import json
import re

import pytest

LAYERED = 'flag = "gate-position"\nlayer = "levels"\nslice = [0, 50]\n'


@pytest.fixture
def layered(demo):
    """The demo with two experiments in one layer: one half each, the second without a flag yet."""
    path = demo.root / "experiments" / "gate_position.toml"
    text = path.read_text()
    second = text.replace('"gate_position"', '"second"').replace('flag = "gate-position"\n', LAYERED)
    second = second.replace("gate-position", "second-flag")

    def write(part):
        path.with_name("second.toml").write_text(second.replace("[0, 50]", part))

    third = second.replace('"second"', '"third"').replace("second-flag", "third-flag")
    path.with_name("third.toml").write_text(third)
    return write


def test_check_finds_a_collision_and_says_what_is_free(run, layered):
    layered("[30, 60]")
    code, out, err = run("check", "second")
    assert code == 2
    assert "eligible: 30 to 60 % of layer levels" in out
    assert "layer levels" in out
    assert "'third' (0 to 50 %) share 20 % of layer 'levels', from 30 to 50 %" in err
    assert "Write slice = [50, 80]." in err
    layered("[50, 80]")
    code, out, err = run("check", "second")
    assert (code, err) == (0, "")
    assert "80 to 100 %  (free)" in out


def test_check_finds_two_experiments_on_one_flag(run, demo):
    path = demo.root / "experiments" / "gate_position.toml"
    path.with_name("twin.toml").write_text(path.read_text().replace('"gate_position"', '"twin"'))
    code, _, err = run("check", "twin")
    assert code == 2
    assert "both move the flag 'gate-position'" in err


def test_layers_shows_who_holds_what(run, layered):
    layered("[50, 80]")
    code, out, _ = run("layers")
    assert code == 0
    assert [
        name for line in out.splitlines() for name in ("third", "second", "(free)") if f" {name} " in f"{line} "
    ] == [
        "third",
        "second",
        "(free)",
    ]
    told = json.loads(run("layers", "--json")[1])
    assert told[0]["free"] == [[80.0, 100.0]]


def test_layers_without_any_says_how_to_name_one(run):
    assert 'Write layer = "checkout"' in run("layers")[1]


def test_stale_says_what_should_be_gone_and_exits_with_10(run, demo):
    for path in (demo.root / "experiments").glob("*.toml"):
        path.write_text(re.sub(r"review_after = .*\n", "", path.read_text()))
    code, out, _ = run("flags", "--stale", "--idle-days", "100000")
    assert code == 0
    assert "0 of 2 flags in production are stale" in out
    path = demo.root / "experiments" / "gate_position.toml"
    path.write_text(
        path.read_text().replace('flag = "gate-position"\n', 'flag = "gate-position"\nexpires = 2017-03-01\n')
    )
    code, out, _ = run("flags", "--stale", "--idle-days", "100000")
    assert code == 10
    assert "it expired on 2017-03-01" in out
    assert "expnb remove gate_position --code FOLDER" in out
    assert json.loads(run("flags", "--stale", "--json")[1])["flags"][0]["flag"]


def test_stale_refuses_days_that_cannot_be(run):
    code, _, err = run("flags", "--stale", "--idle-days", "-1")
    assert code == 2
    assert "--idle-days is -1" in err


def test_remove_lists_the_lines_that_name_the_flag_and_is_0_only_without_any(run, demo):
    app = demo.root / "app"
    app.mkdir()
    (app / "game.py").write_text('gate = client.get_string_value("gate-position", "gate_30")\n')
    code, out, _ = run("remove", "gate_position", "--code", "app")
    assert code == 10
    assert "app/game.py:1: gate = client.get_string_value" in out
    (app / "game.py").write_text('gate = "gate_40"\n')
    code, out, _ = run("remove", "gate_position", "--code", "app")
    assert code == 10
    assert "[x] no code names it" in out
    assert "[ ] shipped or concluded" in out
    assert run("rollback", "gate_position", "--reason", "over")[0] == 0
    told = json.loads(run("remove", "gate_position", "--code", "app", "--json")[1])
    assert [step["done"] for step in told["removal"]["steps"]] == [False, True, True]
    path = demo.root / "flags.flagd.json"
    flags = json.loads(path.read_text())
    del flags["flags"]["gate-position"]
    path.write_text(json.dumps(flags))
    code, out, _ = run("remove", "gate_position", "--code", "app")
    assert code == 0
    assert "it is gone, and no code asks for it" in out


def test_remove_without_a_folder_of_code_is_bad_input(run):
    code, _, err = run("remove", "gate_position")
    assert code == 2
    assert "--code src --code app" in err
