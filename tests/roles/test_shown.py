"""What is shown of a file fits on a line and cannot speak to the terminal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.shown import MOST, shown


@given(st.text(max_size=300))
def test_text_is_cut_and_its_escapes_are_made_visible(text):
    for quoted in (True, False):
        said = shown(text, quoted=quoted)
        assert len(said) <= MOST and said.isascii() and said.isprintable()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ab", "'ab'"),
        ("\x1b[31m", r"'\x1b[31m'"),
        (0.5, "0.5"),
        (np.float32(0.5), "0.5"),
        (True, "True"),
        (None, "None"),
        (10**100, "a whole number of 333 bits"),
        ({1: 2}, "a dict of 1 items"),
        (b"abc", "a bytes"),
    ],
)
def test_a_value_is_shown_by_what_it_is(value, said):
    assert shown(value) == said


def test_lists_that_share_their_parts_cost_nothing_to_show():
    value: list[object] = []
    for _ in range(60):
        value = [value] * 1000
    assert shown(value) == "a list of 1000 items"
