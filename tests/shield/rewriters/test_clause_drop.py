import pytest
from hypothesis import given
from hypothesis import strategies as st

from shield.rewriters import REWRITERS, ClauseDrop


def proposals(prompt, limit=9):
    return list(ClauseDrop(limit).propose(prompt, ()))


def test_title_and_author():
    assert proposals("the silent orchard, a painting by mira voss") == [
        "the silent orchard by mira voss",
        "the silent orchard, a painting",
        "a painting by mira voss",
        "the silent orchard",
        "a painting",
    ]


def test_a_quoted_title_leaves_no_loose_end():
    made = proposals('a poster of "The Night", on a wall')
    assert made == ['a poster of "The Night"', "a poster, on a wall", "on a wall"]
    assert proposals("“The Night”") == []


@pytest.mark.parametrize("prompt", ["", "cat", "   ", ",,,", "a cat on a mat"])
def test_nothing_to_leave_out(prompt):
    assert proposals(prompt) == []


@given(st.text(alphabet='ab ,;by"', max_size=60), st.integers(0, 5))
def test_proposals_are_shorter_distinct_and_few(prompt, limit):
    made = list(ClauseDrop(limit).propose(prompt, ()))
    assert len(made) <= limit and len(set(made)) == len(made)
    assert all(p and p == p.strip() and p != prompt for p in made)


@pytest.mark.parametrize("name", REWRITERS)
def test_table(name):
    assert REWRITERS[name].name == name and REWRITERS[name].__module__ == f"shield.rewriters.{name}"
