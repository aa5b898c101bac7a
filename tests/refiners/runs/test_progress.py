"""How far a stage is, in lines where there is no terminal."""

from __future__ import annotations

import pytest

from refiners.runs.progress import SECONDS, Progress, in_words


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_a_minute_has_one_line_with_what_how_far_and_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    stage = Progress("images", 1000, clock=clock)
    for done in range(10, 401, 10):  # five images a second: 400 in 80 s
        clock.now = done / 5
        stage.reach(done)
    assert capsys.readouterr().err.splitlines() == ["images: 300 of 1000 (30 %), 2 min left"]
    clock.now += SECONDS
    stage.reach(700, what="more")
    assert capsys.readouterr().err == "more: 700 of 1000 (70 %), 60 s left\n"


def test_what_was_done_before_took_no_time_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    stage = Progress("refine", 1000, clock=clock)
    stage.begin(900)
    clock.now = SECONDS
    stage.reach(950)
    assert capsys.readouterr().err == "refine: 950 of 1000 (95 %), 60 s left\n"


@pytest.mark.parametrize("shown", [False, True])
def test_where_a_bar_is_asked_for_or_none_there_are_no_lines(
    capsys: pytest.CaptureFixture[str], shown: bool
) -> None:
    clock = Clock()
    stage = Progress("refine", 10, shown=shown, clock=clock)
    clock.now = 2 * SECONDS
    stage.reach(5)
    stage.close()
    said = capsys.readouterr().err
    assert "left\n" not in said
    assert ("refine" in said) is shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (120, "2 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min")],
)
def test_a_time_is_said_in_its_largest_units(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
