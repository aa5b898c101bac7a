"""The benchmark of the operations times every one of them, and says how far apart the ways are."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks import ops
from stylegan_ops.kernels.choice import available


def test_every_operation_is_timed_beside_its_definition():
    if not available():
        pytest.skip("no C++ compiler here, so no CPU kernels")
    shown = CliRunner().invoke(ops.main, ["--size", "small", "--repeats", "1"])
    assert shown.exit_code == 0, shown.output
    rows = shown.output.splitlines()[3:]
    names = {case.name for case in ops.cases("small", "cpu")}
    assert len(rows) == 2 * len(names)
    assert {row[:26].strip() for row in rows} == names
    assert all(float(row.split()[-1]) < 1e-5 for row in rows[::2])


def test_a_ratio_is_how_many_times_faster_the_kernel_is():
    kernel, reference = ({"forward": s, "forward + backward": s} for s in (0.001, 0.003))
    result = {
        "name": "bias_act",
        "shape": [1, 2, 3, 4],
        "difference": 0.0,
        "bytes": 10**6,
        "copy_bytes_per_second": 2.0 * 10**9,
        "seconds": {"kernel": kernel, "reference": reference},
    }
    about = dict.fromkeys(ops.machine.describe(), None)
    row = ops.table([result], about).splitlines()[3]
    assert "1.00" in row
    assert "3.00x" in row
    assert "50%" in row
