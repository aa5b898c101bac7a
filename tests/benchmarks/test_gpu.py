"""The first day on a GPU: its rows, its kit, and that all of it runs where there is none."""

from __future__ import annotations

import importlib
import json
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_kit
from benchmarks.gpu_correct import HostDraws
from tests.virtual_cuda import CUDA, virtual_cuda


def day_of(out: Path, seconds: float = 60.0) -> gpu.Day:
    return gpu.Day("1", out, out / "kit", "cpu", True, time.monotonic() + seconds)


def test_a_row_that_fails_is_a_finding_and_all_is_written_as_it_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day = day_of(tmp_path)
    day.row("first", lambda: (1e-6, True))
    day.row("second", lambda: 1 // 0)  # type: ignore[arg-type, return-value] -- it raises
    known = json.loads((tmp_path / "gpu-1.json").read_text())["rows"]
    assert [(row["name"], row["passed"]) for row in known] == [("first", True), ("second", False)]
    assert known[1]["found"].startswith("ZeroDivisionError: ")
    shown = capsys.readouterr().out
    assert "FAILED" in shown and "1e-06" in shown


def test_no_row_begins_after_the_deadline(tmp_path: Path) -> None:
    day = day_of(tmp_path, seconds=1.0)
    day.row("late", lambda: pytest.fail("it began"))
    assert (day.rows[0].found, day.rows[0].passed) == ("left out: no time", None)


def test_a_command_that_takes_too_long_or_fails_says_so_in_one_line(tmp_path: Path) -> None:
    day = day_of(tmp_path)
    assert day.command("-c", "print(5)") == "5\n"
    with pytest.raises(RuntimeError, match="not done after 1 s"):
        day.command("-c", "import time; time.sleep(60)", seconds=1)
    with pytest.raises(RuntimeError, match="exit code 3: last"):
        day.command("-c", "import sys; print('first\\nlast', file=sys.stderr); sys.exit(3)")


def test_what_is_missing_is_unpacked_from_a_wheel_and_the_rest_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_kit, "CARRIED", {"surely_missing": "surely_missing", "click": "click"})
    monkeypatch.setattr(sys, "path", [*sys.path])
    wheels = tmp_path / "kit" / "wheels"
    wheels.mkdir(parents=True)
    for name in ("surely_missing", "click"):
        with zipfile.ZipFile(wheels / f"{name}-9.9-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "version = 9\n")
    assert gpu_kit.wheels_of(tmp_path / "kit", tmp_path / "unpacked") == ["surely_missing"]
    assert importlib.import_module("surely_missing").version == 9
    assert not (tmp_path / "unpacked" / "click").exists()
    assert gpu_kit.wheels_of(tmp_path / "no kit", tmp_path / "unpacked") == []


def test_the_kits_wheels_are_the_locks() -> None:
    locked = gpu_kit.locked()
    lines = (gpu_kit.ROOT / "requirements.lock").read_text().splitlines()
    assert {line.partition("==")[0].lower() for line in locked} == {
        name.lower() for name in gpu_kit.CARRIED
    }
    assert all(any(line.startswith(each) for line in lines) for each in locked)


def test_the_parts_before_the_kit_import_pythons_own_modules_alone() -> None:
    for module in (gpu, gpu_kit):
        used = {
            name.split(".")[0] for name, value in vars(module).items() if hasattr(value, "__spec__")
        }
        assert used <= sys.stdlib_module_names | {"gpu_kit"}


def test_noise_of_the_device_is_the_cpus_where_it_is_compared() -> None:
    torch.manual_seed(5)
    wanted = torch.randn(3), torch.rand(2), torch.randn(4)
    torch.manual_seed(5)
    with virtual_cuda():
        like = torch.zeros(4, device=CUDA)
        with HostDraws():
            found = (
                torch.randn(3, device=CUDA),
                torch.rand([2], device=CUDA),
                torch.randn_like(like),
            )
        for a, b in zip(found, wanted, strict=True):
            assert a.device == CUDA
            assert torch.equal(a.cpu(), b)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["1", "2", "3"])
def test_a_part_runs_where_there_is_no_gpu(part: str, tmp_path: Path) -> None:
    told = ["--size", "small", "--device", "cpu", "--out", str(tmp_path), "--minutes", "30"]
    assert gpu.main([part, *told, "--kit", str(tmp_path / "kit")]) == 0
    rows = json.loads((tmp_path / f"gpu-{part}.json").read_text())["rows"]
    assert len(rows) > 3
    assert all(row["passed"] is not False for row in rows)
