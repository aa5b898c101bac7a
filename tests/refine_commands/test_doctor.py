"""`refine.py doctor`: what it finds on the machine that runs the tests."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from refine import main
from refine_commands.doctor import architecture, has_code_for
from stylegan_ops.kernels import build


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache and no kernels loaded."""
    monkeypatch.setenv("REFINE_CACHE_DIR", str(tmp_path))
    build.library.cache_clear()
    yield
    build.library.cache_clear()


def test_a_machine_without_a_compiler_is_sound_and_told_what_is_missing(fresh, monkeypatch):
    false = shutil.which("false")
    if false is None:
        pytest.skip("no command `false` here to stand for a broken compiler")
    monkeypatch.setenv("CXX", false)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    kernels = [line for line in result.output.splitlines() if "cpu: off" in line]
    assert len(kernels) == 1
    assert "torch's own are used" in kernels[0]


def test_a_kernel_that_differs_from_its_definition_is_named_and_ends_with_1(monkeypatch):
    if build.compiler() is None:
        pytest.skip("no C++ compiler here, so no CPU kernels")
    checks = {"bias_act": lambda: 0.1, "upfirdn2d": lambda: 0.0}
    monkeypatch.setattr("refine_commands.doctor.kernel_checks", lambda: checks)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "bias_act DIFFERS" in result.output
    assert "upfirdn2d equals" in result.output
    assert "REFINE_OPS=reference" in result.output


@pytest.mark.parametrize(
    ("arch", "known", "fits"),
    [
        ("sm_90", ["sm_80", "sm_90"], True),
        ("sm_89", ["sm_80", "sm_86"], True),  # binaries run on later minors
        ("sm_80", ["sm_86"], False),
        ("sm_75", ["sm_80", "sm_90"], False),
        ("sm_120", ["sm_100", "compute_90"], True),  # compiled there
        ("sm_100", ["sm_10", "sm_90a"], False),
        ("gfx90a", ["gfx900", "gfx90a", "gfx1100"], True),
        ("gfx1101", ["gfx900", "gfx1100"], False),
    ],
)
def test_a_device_runs_the_code_of_its_own_architecture(arch, known, fits):
    assert has_code_for(arch, known) == fits


def test_an_amd_device_is_called_by_its_own_architecture():
    of_amd: Any = SimpleNamespace(major=9, minor=0, gcnArchName="gfx90a:sramecc+:xnack-")
    of_nvidia: Any = SimpleNamespace(major=9, minor=0)
    assert (architecture(of_amd), architecture(of_nvidia)) == ("gfx90a", "sm_90")
