"""The example runs as a program of its own, and the generator it is given learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).resolve().parent.parent.parent
LONGEST = 40  # lines of an example: more is a program, not an example


@pytest.mark.slow
def test_a_generator_of_ones_own_is_refined_in_forty_lines(files, tmp_path):
    program = CHECKOUT / "examples" / "wrap_any_generator.py"
    assert len(program.read_text().splitlines()) < LONGEST
    arguments = ["examples.wrap_any_generator", files / "teacher.pkl", tmp_path, "0.064"]
    result = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    weights = torch.load(tmp_path / "generator.pt", weights_only=True)
    assert list(weights) == [f"module.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")]
    assert all(bool(value.isfinite().all()) for value in weights.values())
    (run,) = (folder for folder in tmp_path.iterdir() if folder.is_dir())
    assert (run / "stats.jsonl").stat().st_size > 0
