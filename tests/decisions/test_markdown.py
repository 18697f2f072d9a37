"""Pages in Markdown show every text as it is, and numbers as they are written."""

from dataclasses import replace

import pytest

from expnb.decisions.markdown import escape_markdown

NASTY = "<img src=x onerror=alert(1)>\n\n# Ship"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (NASTY, r"\<img src=x onerror=alert(1)\> # Ship"),
        ("a|b *c* `d` [e](f)", r"a\|b \*c\* \`d\` \[e\](f)"),
        ("# Ship", r"\# Ship"),
        ("- Ship", r"\- Ship"),
        ("=== Ship", r"\=== Ship"),
        ("--- Ship", r"\--- Ship"),
        ("1. Ship", r"1\. Ship"),
        ("&lt;b> > _c_", r"\&lt;b\> \> \_c\_"),
    ],
)
def test_markdown_of_others_is_text(text, shown):
    assert escape_markdown(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "enrolled 5 % -> 25 %, treated 8.333 %",
        "-4.31 % (95 % HDI -5.1 to +0.2 %); p = 4.3e-253",
        "14 days of data are in (7 needed before a verdict on the goal).",
        "retention_7 under gate_40: raw effect +1.2 €",
        "student_t(4, 0, 0.03), data 18f26d9d",
        "1.5 units",
    ],
)
def test_numbers_arrows_and_names_stay_as_they_are(text):
    assert escape_markdown(text) == text


def test_the_page_of_a_decision_has_no_text_of_others_as_its_own(ask, goal):
    decision = ask(goal=replace(goal, note="a|b"))
    bad = replace(decision.rules[0], metric="a|b", variant=NASTY, sentence=NASTY)
    page = replace(decision, rules=(bad,), reasons=(NASTY,), notes=(NASTY,), outlook=(NASTY,), prior=NASTY).markdown()
    assert page.count("<") == page.count(r"\<") == 6
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        f"# gate_position: {decision.title}",
        "## Know besides",
        "## More data",
        "## Every rule",
    ]
    (row,) = [line for line in page.splitlines() if "harm" in line]
    assert row.replace(r"\|", "").count("|") == 6
