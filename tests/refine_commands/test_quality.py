"""The table of speed options: each of its rows can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from refine_commands.journey import Job

from benchmarks.methods import chosen
from benchmarks.quality import BASE, ON_CPU, OPTIONS, main
from refiners.runs.recipes import GAN_PRESETS, USUAL_METHOD, method_with
from refiners.runs.starting import settings_of
from refiners.training.shared_pass import check_shared_pass


@pytest.mark.parametrize("name", OPTIONS)
def test_every_row_differs_from_the_base_by_what_it_says(name):
    options = {**BASE, **OPTIONS[name]}
    changed = {key for key, value in options.items() if BASE.get(key) != value}
    assert changed == set(OPTIONS[name])
    settings = settings_of({k: v for k, v in options.items() if k != "knobs"}, Job("", "", Path()))
    check_shared_pass(method_with(USUAL_METHOD["gan"], options["knobs"], "gan"), settings)


def test_the_demo_is_the_row_of_the_least_work_and_longer():
    assert {**GAN_PRESETS["demo"], "kimg": BASE["kimg"]} == {**BASE, **OPTIONS["the least work"]}


def test_the_default_list_names_rows():
    (default,) = [p.default for p in main.params if p.name == "options"]
    assert chosen(str(default), OPTIONS) == ON_CPU


def test_an_option_that_there_is_not_is_named(tmp_path):
    result = CliRunner().invoke(main, ["--outdir", str(tmp_path), "--options", "fp32,fp7"])
    assert result.exit_code == 2
    assert "'fp7'" in result.output
    assert not list(tmp_path.iterdir())
