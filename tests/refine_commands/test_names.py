"""One spelling: a flag is its Python name and its JSON key; the flags of before still work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from refine import main
from refine_commands.options import RENAMED, SETTINGS
from refiners.knob import knob_of
from refiners.runs.recipes import GAN_PRESETS

# A flag whose Python name would hide a keyword, a module or another flag.
OTHER_NAMES = {
    "--class": "label",
    "--format": "form",
    "--from": "start",
    "--json": "as_json",
    "--knobs": "explained",
    "--metrics": "names",
    "--set": "knobs",
}
FOR = {"export": "program", "teachers": "student"}  # --for of each command
ROOT = Path(__file__).parents[2]


def options_of(command: str) -> list[click.Option]:
    """Return the options of a command that a user may give."""
    return [p for p in main.commands[command].params if isinstance(p, click.Option)]


@pytest.mark.parametrize("command", main.commands)
def test_a_flag_is_its_python_name(command: str) -> None:
    for option in options_of(command):
        flag = option.opts[-1]
        name = flag.removeprefix("--").replace("-", "_")
        other = FOR[command] if name == "for" else OTHER_NAMES.get(flag)
        assert option.name in (name, other), flag


@pytest.mark.parametrize("command", ["gan", "distill"])
def test_a_flag_that_sets_a_setting_is_its_field(command: str) -> None:
    flags = {option.name: option.opts[-1] for option in options_of(command)}
    for name in SETTINGS.keys() - ({"train"} if command == "distill" else set()):
        assert flags[name] == f"--{name.replace('_', '-')}"


def test_a_flag_of_before_works_and_one_line_says_what_it_is_called_now(
    files: Path, refine_py: Callable[..., Result], tmp_path: Path
) -> None:
    given = (
        *("--student", files / "gan.pkl", "--teacher", files / "teacher.pkl"),
        *("--method", "diff-instruct", "--keep", "last", "--device", "cpu", "-n"),
        *("--outdir", tmp_path, "--kimg", "0.032", "--batch", "8"),
    )
    plans, said = [], []
    for aux, warmup in (
        ("--aux-steps", "--warmup=0.016"),
        ("--auxiliary-steps", "--warmup-kimg=0.016"),
    ):
        result = refine_py("gan", *given, aux, "3", warmup)
        assert result.exit_code == 0, result.output
        plans.append({k: v for k, v in json.loads(result.stdout).items() if k != "plan"})
        said.append(result.stderr)
    assert plans[0] == plans[1] and plans[0]["auxiliary_steps"] == 3
    assert said == ["--aux-steps is --auxiliary-steps now\n--warmup is --warmup-kimg now\n", ""]


def test_every_flag_of_before_is_in_the_change_log_beside_that_of_today() -> None:
    table = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for old, new in RENAMED.items():
        assert f"| `{old}` | `{new}` |" in table
        assert new in [option.opts[-1] for option in options_of("distill")]


def test_the_flags_that_set_a_setting_are_these() -> None:
    """StyleGAN's and EDM's words where they have one, else the full Python word."""
    assert [*SETTINGS] == [
        *("kimg", "batch", "glr", "lr", "beta1", "beta2", "weight_decay", "clip", "auxiliary_clip"),
        *("rampup_kimg", "rampup_updates", "decay_kimg"),
        *("ema", "ema_rampup_ratio", "warmup_kimg", "auxiliary_steps", "student_first"),
        *("fresh_images", "dropout", "dropout_in_gradient", "augment", "auxiliary_ema"),
        *("train", "seed", "tick", "snap", "max_hours", "patience_kimg", "stop_if"),
        *("ignore_health", "batch_gpu"),
        *("precision", "compile", "channels_last", "deterministic", "share_pass"),
    ]


def test_what_a_run_that_goes_on_may_change_is_this() -> None:
    free = {name for name, field in SETTINGS.items() if knob_of(field).free_on_resume}
    assert free == {
        "kimg",
        "tick",
        "snap",
        "max_hours",
        "patience_kimg",
        "stop_if",
        "ignore_health",
        "batch_gpu",
        "compile",
        "deterministic",
    }


def flags_in(text: str) -> list[str]:
    """Return the flags that a help lists."""
    return re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("command", ["gan", "distill"])
def test_help_is_short_in_groups_and_the_whole_is_behind_another_flag(
    refine_py: Callable[..., Result], command: str
) -> None:
    short, whole = (refine_py(command, flag).output for flag in ("--help", "--help-all"))
    for title in ("What:", "How long:", "Where:", "Report:"):
        assert f"\n{title}\n" in short
    assert len(flags_in(short)) <= 26
    assert set(flags_in(short)) < set(flags_in(whole))
    assert set(flags_in(whole)) == {*(o.opts[-1] for o in options_of(command)), "--help"}
    assert len(flags_in(whole)) == len(set(flags_in(whole)))


def default_of(flag: str, text: str) -> str | None:
    """Return the default that a help shows of a flag."""
    about = re.search(rf"^  {flag} (.*?)(?=^  -|^\w|\Z)", text, re.MULTILINE | re.DOTALL)
    assert about is not None
    found = re.search(r"\[default: (.*?)\]", " ".join(about[1].split()))
    return found and found[1]


@pytest.mark.parametrize("preset_first", [True, False])
def test_help_shows_the_default_of_every_setting_or_what_a_preset_has(
    refine_py: Callable[..., Result], preset_first: bool
) -> None:
    preset, whole = ("--preset", "demo"), ("--help-all",)
    order = (*preset, *whole) if preset_first else (*whole, *preset)
    for text, row in (
        (refine_py("gan", *whole).output, {}),
        (refine_py("gan", *order).output, GAN_PRESETS["demo"]),
    ):
        for name, field in SETTINGS.items():
            value = row.get(name, field.default)
            words = ("off", "on")[value] if isinstance(value, bool) else str(value)
            assert default_of(f"--{name.replace('_', '-')}", text) == (words or None)
        assert default_of("--set", text) == (" ".join(row.get("knobs", ())) or None)


def test_help_imports_no_torch() -> None:
    """It answers at once."""
    code = "import sys, refine; refine.main(['gan', '--help'], standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and "--student" in result.stdout
