"""The tables of methods and of speed options: each row can be run, and none is run twice."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

from benchmarks.quality import (
    BASE,
    ON_CPU,
    OPTIONS,
    chosen,
    main,
    mean_and_interval,
    options,
    row,
)
from refiners.runs.recipes import GAN_PRESETS, method_with
from refiners.training.settings import Settings
from refiners.training.shared_pass import check_shared_pass


@pytest.mark.parametrize("name", OPTIONS)
def test_every_row_differs_from_the_base_by_what_it_says(name):
    of_row = {**BASE, **OPTIONS[name]}
    changed = {key for key, value in of_row.items() if BASE.get(key) != value}
    assert changed == set(OPTIONS[name])
    knobs = of_row.pop("knobs")
    settings = Settings(**of_row)
    check_shared_pass(method_with(GAN_PRESETS["demo"]["method"], knobs, "gan"), settings)


def test_the_demo_is_the_row_of_the_least_work_and_longer():
    row = {**GAN_PRESETS["demo"], "kimg": BASE["kimg"]}
    assert row.pop("method") == "diff-instruct-moments"
    assert row == {**BASE, **OPTIONS["the least work"]}


def test_the_default_list_names_rows():
    (default,) = [p.default for p in options.params if p.name == "options"]
    assert chosen(str(default), OPTIONS) == ON_CPU


def test_an_option_that_there_is_not_is_named(tmp_path):
    result = CliRunner().invoke(
        main, ["options", "--outdir", str(tmp_path), "--options", "fp32,fp7"]
    )
    assert result.exit_code == 2
    assert "'fp7'" in result.output
    assert not list(tmp_path.iterdir())


def made_up(before, after, **more):
    change = after - before
    distance = {"before": before, "after": after, "low": change - 1, "high": change + 1}
    return {"frechet_distance": distance, "seconds": 10.0, **more}


def test_the_interval_over_seeds_is_students():
    """Of 1, 2, 3: deviation 1, t with 2 degrees of freedom 4.303, so 4.303 / sqrt 3."""
    mean, reach = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert math.isclose(reach, 4.302653 / math.sqrt(3), rel_tol=1e-6)


def test_a_row_is_the_mean_over_the_seeds_that_ended():
    score = {"recall": {"before": 0.1, "after": 0.25, "low": 0, "high": 0}}
    cells = row("sid", [made_up(40, 30, **score), made_up(40, 20), {"diverged": "nan"}]).split("|")
    shown = [cell.strip() for cell in cells[1:-1]]
    assert shown[:3] == ["sid (1 diverged)", "2", "40.0 → 25.0"]
    assert shown[3] == "-78.5 to +48.5"  # -15 -+ 12.706 * 7.071 / sqrt 2
    assert shown[4:] == ["", "", "0.100 → 0.250", "10"]
    assert "-11.0 to -9.0 (one seed)" in row("sid", [made_up(40, 30)])
    assert row("sds", [{"diverged": "nan"}]).count("|") == row("sid", [made_up(1, 2)]).count("|")


def test_a_call_writes_the_table_and_a_second_one_runs_nothing_again(files, tmp_path):
    arguments = [
        *("methods", "--outdir", tmp_path, "--methods", "diff-instruct,sds", "--seeds", "1"),
        *("--kimg", "0.016", "--warmup-kimg", "0.008", "--batch", "8", "--num", "100"),
        *("--teacher-images", "100", "--teacher-steps", "2", "--device", "cpu"),
        *("--student", files / "gan.pkl", "--teacher", files / "teacher.pkl"),
        *("--reference", files / "features.npz"),
    ]
    first = CliRunner().invoke(main, [str(a) for a in arguments])
    assert first.exit_code == 0, first.output
    facts = json.loads((tmp_path / "table.json").read_text())
    assert set(facts["runs"]) == {"diff-instruct", "sds"}
    table = (tmp_path / "table.md").read_text()
    assert "| sds | 1 |" in table
    folders = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/report.json")}
    assert len(folders) == 2
    second = CliRunner().invoke(main, [str(a) for a in arguments])
    assert second.exit_code == 0, second.output
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*/report.json")} == folders
    assert json.loads((tmp_path / "table.json").read_text())["runs"] == facts["runs"]


@pytest.mark.parametrize("methods", ["nose", "dmd", ""])
def test_a_method_that_there_is_not_is_refused(tmp_path, methods):
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["methods", "--outdir", str(out), "--methods", methods])
    assert result.exit_code == 2
    assert f"{methods!r} is unknown" in result.output
    assert not out.exists()
