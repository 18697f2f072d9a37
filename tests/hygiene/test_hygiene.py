"""Who holds what, which flags are stale, and when one may be deleted."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import expnb as xb
from expnb.decisions.plan import plan_change
from expnb.flags.flagd import FlagdFile
from expnb.hygiene.claims import layers, standing
from expnb.hygiene.removal import removal
from expnb.hygiene.stale import stale_flags
from expnb.spec.flag import Eligibility, FlagRef, FlagSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=90)
FILE = """
schema = 1
[experiment]
name = "{name}"
hypothesis = "It helps."
owner = "shop"
flag = "{flag}"
unit = "user"
variant = "arm"
control = "a"
weights = {{ a = 50, b = 50 }}
{more}

[[metrics]]
name = "bought"
kind = "conversion"
role = "goal"
rope = 0.01

[policy]
min_days = 0
"""


class Shop:
    """A workspace with a flag file, and experiments that are written in one line."""

    def __init__(self, root):
        self.root = root
        (root / "experiments").mkdir()
        (root / "expnb.toml").write_text('schema = 1\n[environments.production]\nflags = "flagd:flags.flagd.json"\n')
        self.backend = FlagdFile(root / "flags.flagd.json", "production")

    def write(self, name, more="", flag=""):
        text = FILE.format(name=name, flag=flag or f"{name}-flag", more=more)
        (self.root / "experiments" / f"{name}.toml").write_text(text)

    @property
    def workspace(self):
        return xb.open_workspace(self.root, clock=lambda: NOW)

    def standing(self, name):
        return standing(self.workspace, self.workspace.experiment(name))

    def problems(self, name):
        return list(self.standing(name).problems)

    def create(self, name, at=LONG_AGO, **changes):
        """The flag of an experiment, perhaps moved; both at one time."""
        experiment = self.workspace.experiment(name)
        ref = self.workspace.ref(experiment)
        spec = FlagSpec(ref, experiment.weights, experiment.control, experiment.eligibility)
        state = self.backend.create(spec, now=at)
        if changes:
            after = replace(state.exposure, **changes)
            self.backend.apply(plan_change("ramp_up", experiment, state, after, reason="so", now=at), now=at)

    def pushed(self, name, verb):
        """Write to the ledger that something was pushed."""
        experiment, state = self.workspace.experiment(name), self.workspace.flag(self.workspace.experiment(name))
        receipt = xb.flags.base.Receipt(state.ref, verb, state, state, NOW, "flagd:flags.flagd.json")
        body = {"experiment": name, "flag": experiment.flag, "environment": "production", "intent": 1, "actor": "ana"}
        body |= {"plan_id": "p", "applied": True, "receipt": receipt}
        self.workspace.ledger.append("outcome", body, happened_at=NOW, recorded_at=NOW)


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


HALF = 'layer = "checkout"\nslice = [0, 50]'
UPPER = 'layer = "checkout"\nslice = [50, 100]'


# --- collisions ---------------------------------------------------------------------------------


def test_experiments_of_one_layer_that_share_nothing_have_no_problem(shop):
    shop.write("left", HALF)
    shop.write("right", UPPER)
    assert shop.problems("left") == shop.problems("right") == []


def test_two_that_share_units_name_each_other_and_what_is_free(shop):
    shop.write("left", HALF)
    shop.write("right", 'layer = "checkout"\nslice = [40, 70]')
    (first,), (second,) = shop.problems("left"), shop.problems("right")
    assert "'right' (40 to 70 %) share 10 % of layer 'checkout', from 40 to 50 %" in first
    assert "Write slice = [50, 80]." in second
    assert "Write slice = [0, 40]." in first


def test_an_experiment_without_a_slice_holds_the_whole_layer(shop):
    shop.write("left", HALF)
    shop.write("all", 'layer = "checkout"')
    assert "share 50 % of layer" in shop.problems("all")[0]


def test_what_was_shipped_or_concluded_gives_its_slice_back(shop):
    for name in ("left", "shipped", "flat"):
        shop.write(name, HALF)
    shop.create("shipped", enrolled=100)
    assert len(shop.problems("left")) == 2
    shop_state = shop.workspace.flag(shop.workspace.experiment("shipped"))
    after = replace(shop_state.exposure, serve="b")
    experiment = shop.workspace.experiment("shipped")
    shop.backend.apply(plan_change("ship", experiment, shop_state, after, reason="so", now=NOW), now=NOW)
    assert len(shop.problems("left")) == 1
    shop.create("flat")
    shop.pushed("flat", "conclude_flat")
    assert shop.problems("left") == []


def test_an_open_flag_holds_its_slice_after_its_last_day(shop):
    shop.write("old", f"{HALF}\nstart = 2026-01-01\nend = 2026-01-31")
    shop.write("new", f"{HALF}\nstart = 2026-03-01\nend = 2026-03-31")
    assert shop.problems("new") == []
    shop.create("old", enrolled=50)
    assert "'old' (0 to 50 %)" in shop.problems("new")[0]


def test_an_open_flag_holds_what_it_was_made_with_not_what_the_file_says_now(shop):
    shop.write("old", HALF)
    shop.create("old", enrolled=50)
    shop.write("old", UPPER)
    shop.write("new", HALF)
    assert "'old' (0 to 50 %)" in shop.problems("new")[0]
    assert [row[:2] for row in shop.standing("old").layer.rows] == [
        ("0 to 50 %", "new"),
        ("0 to 50 %", "old"),
        ("50 to 100 %", "(free)"),
    ]
    (sentence,) = shop.problems("old")
    assert "who is eligible is fixed while a flag lives" in sentence


def test_two_experiments_on_one_flag_collide(shop):
    shop.write("first", flag="button")
    shop.write("second", flag="button")
    assert "both move the flag 'button'" in shop.problems("first")[0]


def test_a_flag_made_for_another_audience_is_a_problem(shop):
    shop.write("left", 'audience = { country = ["DE"] }')
    shop.create("left")
    assert shop.problems("left") == []
    shop.write("left", 'audience = { country = ["DE", "AT"] }')
    assert "lets in country DE, the experiment says country AT or DE" in shop.problems("left")[0]


def test_a_backend_that_cannot_serve_a_layer_is_named_at_once(shop):
    class AudienceOnly(FlagdFile):
        capabilities = replace(FlagdFile.capabilities, eligibility=("audience",))

    shop.write("left", f'{HALF}\naudience = {{ country = ["DE"] }}')
    workspace = shop.workspace
    object.__setattr__(workspace, "flags", AudienceOnly(shop.root / "flags.flagd.json", "production"))
    (sentence,) = standing(workspace, workspace.experiment("left")).problems
    assert sentence.startswith("the flags of production cannot serve layer ")


def test_an_experiment_that_cannot_be_read_does_not_hide_the_others(shop):
    shop.write("left", HALF)
    shop.write("right", HALF)
    shop.write("broken", "nonsense = 1")
    assert len(shop.problems("left")) == 1
    assert shop.standing("left").questions == ("experiment 'broken' cannot be read. Does it collide with 'left'?",)
    assert [len(one.claims) for one in layers(shop.workspace)] == [2]


def test_a_flag_from_before_the_holdout_is_asked_about(shop):
    shop.write("left")
    shop.create("left")
    config = shop.root / "expnb.toml"
    config.write_text(config.read_text() + "[defaults]\nholdout = 5\n")
    found = shop.standing("left")
    assert "keeps out 0 % of all units, expnb.toml now says 5 %" in found.questions[0]
    assert not found.problems


def test_a_flag_that_cannot_be_read_is_asked_about_where_it_matters(shop):
    shop.write("left", HALF)
    shop.write("alone")
    shop.create("left")
    path = shop.root / "flags.flagd.json"
    path.write_text(path.read_text()[:-20])
    assert "cannot be read, so only the files were compared" in shop.standing("left").questions[0]
    assert not shop.standing("alone").questions


# --- stale flags --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "changes", "words"),
    [
        ("expires = 2026-02-01", {"enrolled": 50}, "it expired on 2026-02-01, 28 days ago."),
        ("review_after = 2026-02-28", {"enrolled": 50}, "after 2026-02-28, 1 day ago."),
        ("", {"enrolled": 100}, "it stands at 100 %, unchanged for 90 days."),
        ("", {}, "it serves nobody anything new, unchanged for 90 days."),
        ("", {"serve": "b"}, "it serves b to everybody, unchanged for 90 days."),
    ],
)
def test_a_flag_that_should_be_gone_is_stale_and_says_why(shop, more, changes, words):
    shop.write("left", more)
    shop.create("left", **changes)
    (flag,) = stale_flags(shop.workspace).flags
    assert flag.flag == "left-flag"
    assert words in flag.reasons[0]
    assert "expnb remove left --code FOLDER" in flag.advice


@pytest.mark.parametrize(
    ("more", "changes", "at"),
    [
        ("expires = 2026-03-01", {"enrolled": 50}, LONG_AGO),
        ("", {"enrolled": 50}, LONG_AGO),
        ("", {"enrolled": 100}, NOW - timedelta(days=30)),
        ("", {"serve": "b", "holdback": 5}, LONG_AGO),
    ],
)
def test_a_flag_that_still_teaches_something_is_not_stale(shop, more, changes, at):
    shop.write("left", more)
    shop.create("left", at=at, **changes)
    found = stale_flags(shop.workspace)
    assert found.flags == ()
    assert found.looked_at == 1


def test_a_killed_flag_is_stale_after_its_days(shop):
    shop.write("left")
    shop.create("left", enrolled=50)
    shop.backend.kill(FlagRef("left-flag", "production"), now=LONG_AGO)
    assert "it is disabled, unchanged for 90 days." in stale_flags(shop.workspace).flags[0].reasons[0]


def test_a_flag_that_no_experiment_names_is_found_and_a_foreign_one_left_alone(shop):
    shop.write("left")
    shop.create("left", at=NOW)
    shop.backend.create(FlagSpec(FlagRef("orphan", "production"), {"a": 1, "b": 1}, "a", Eligibility()), now=NOW)
    path = shop.root / "flags.flagd.json"
    path.write_text(path.read_text().replace('"flags": {', '"flags": {"theirs": {"state": "ENABLED"},', 1))
    found = stale_flags(shop.workspace)
    assert [flag.flag for flag in found.flags] == ["orphan"]
    assert found.listed
    assert "1 of 2 flags in production are stale" in str(found)


def test_a_flag_that_cannot_be_read_is_told_and_hides_no_other(shop):
    shop.write("left")
    shop.write("torn")
    shop.create("left")
    shop.create("torn")
    path = shop.root / "flags.flagd.json"
    path.write_text(path.read_text().replace('"enrolled": 0', '"enrolled": 7', 1))
    found = stale_flags(shop.workspace)
    assert len(found.flags) == len(found.unread) == 1
    assert "not looked at" in found.markdown()


def test_a_backend_that_lists_no_flags_says_so(shop):
    class Silent(FlagdFile):
        names = None

    shop.write("left")
    shop.create("left", at=NOW)
    workspace = shop.workspace
    object.__setattr__(workspace, "flags", Silent(shop.root / "flags.flagd.json", "production"))
    assert "does not say which flags it holds" in str(stale_flags(workspace))


# --- removal ------------------------------------------------------------------------------------


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "page.py").write_text('new = client.get("left-flag")\n')
    return folder


def steps_of(shop, code, name="left"):
    found = removal(shop.workspace, shop.workspace.experiment(name), [code])
    return [step.done for step in found.steps], found


def test_a_removal_is_done_only_when_the_references_are_gone(shop, code):
    shop.write("left")
    shop.create("left", serve="b")
    done, found = steps_of(shop, code)
    assert done == [True, True, False]
    assert not found.done
    assert "page.py:1" in str(found)
    (code / "page.py").write_text("new = True\n")
    done, found = steps_of(shop, code)
    assert done == [True, True, True]
    assert found.done
    assert "delete it now" in found.title
    assert "Archive or delete left-flag" in found.markdown()


@pytest.mark.parametrize(
    ("changes", "done"),
    [
        ({"enrolled": 100}, [False, False, True]),
        ({"enrolled": 0}, [False, True, True]),
        ({"serve": "b", "holdback": 5}, [True, False, True]),
    ],
)
def test_a_flag_that_still_splits_or_was_never_decided_is_not_removed(shop, code, changes, done):
    (code / "page.py").write_text("new = True\n")
    shop.write("left")
    shop.create("left", **({"enrolled": 10} if changes == {"enrolled": 0} else changes))
    if changes == {"enrolled": 0}:
        state = shop.backend.read(FlagRef("left-flag", "production"))
        plan = plan_change(
            "roll_back",
            shop.workspace.experiment("left"),
            state,
            replace(state.exposure, **changes),
            reason="so",
            now=NOW,
        )
        shop.backend.apply(plan, now=NOW)
        shop.pushed("left", "roll_back")
    found, page = steps_of(shop, code)
    assert found == done
    assert not page.done


def test_a_concluded_flag_may_be_removed(shop, code):
    (code / "page.py").write_text("new = True\n")
    shop.write("left")
    shop.create("left")
    shop.pushed("left", "conclude_flat")
    assert steps_of(shop, code)[1].done


def test_a_flag_that_is_gone_is_not_removed_while_code_asks_for_it(shop, code):
    shop.write("left")
    shop.write("other")
    shop.create("other")
    assert steps_of(shop, code)[0] == [True, True, False]
    (code / "page.py").write_text("new = True\n")
    assert "it is gone, and no code asks for it" in steps_of(shop, code)[1].title


def test_the_records_of_the_workspace_are_no_code(shop):
    shop.write("left")
    shop.create("left", serve="b")
    (shop.root / "page.py").write_text("pass\n")
    found = removal(shop.workspace, shop.workspace.experiment("left"), [shop.root])
    assert found.search.references == ()
    assert found.done
