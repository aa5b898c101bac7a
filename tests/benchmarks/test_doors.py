"""Files changed at random, and those that once broke a rule, open or are refused in words."""

from __future__ import annotations

import random

import pytest

from benchmarks import doors


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    return folder, doors.doors(folder)


def test_each_door_takes_its_own_file_and_none_that_is_changed_breaks_the_rule(every):
    folder, found = every
    for door in found:
        assert doors.fault(door.opens, folder / door.name) == ""
        rng, path = random.Random(door.name), folder / f"changed-{door.name}"
        for _ in range(12):
            path.write_bytes(doors.changed(door.raw, rng))
            assert doors.fault(door.opens, path) == "", door.name


@pytest.mark.parametrize(
    ("error", "said"),
    [(ValueError("why"), ""), (ValueError(), "ValueError without"), (KeyError(3), "KeyError: 3")],
)
def test_an_error_is_allowed_by_its_kind_and_its_text(error, said, tmp_path):
    def opens(path):
        raise error

    assert doors.fault(opens, tmp_path).startswith(said)
    assert bool(doors.fault(opens, tmp_path)) == bool(said)


def test_every_file_that_once_broke_the_rule_opens_or_is_refused(every):
    opens = {door.name: door.opens for door in every[1]}
    for path in sorted(doors.CORPUS.glob("*-*")):
        assert doors.fault(opens[path.name.partition("-")[2]], path) == "", path.name
