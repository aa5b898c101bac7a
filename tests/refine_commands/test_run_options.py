"""Options of how a run is carried: continued, begun elsewhere, ended early, planned, shared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import image_sets
import students
import teachers
from refine import main

ROOT = Path(__file__).parents[2]
# The quickest run that there is: no judge, no report's figures, no images of the teacher.
QUICK = (
    *("--kimg", "0.032", "--batch", "8", "--tick", "0.016", "--snap", "9"),
    *("--keep", "last", "--metrics", "none", "--method", "diff-instruct", "--device", "cpu"),
)


@pytest.fixture
def gan(files: Path, refine_py: Callable[..., Result]) -> Callable[..., Result]:
    """Call gan with the settings of a quick run."""

    def call(outdir: Path, *more: Any, warmup: str | None = "0.016") -> Result:
        pair = ("--student", files / "gan.pkl", "--teacher", files / "teacher.pkl")
        told = () if warmup is None else ("--warmup-kimg", warmup)
        return refine_py("gan", *pair, "--outdir", outdir, *QUICK, *told, *more)

    return call


def weights_in(outdir: Path) -> dict[str, torch.Tensor]:
    """Return the weights in the last snapshot of the only run below a folder."""
    return students.load(sorted(outdir.glob("*/result.pkl"))[-1]).state_dict()


def refusal(result: Result) -> str:
    """Return the one line in which a command refuses."""
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert (result.exit_code, len(lines)) == (2, 1), result.output
    return lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--resume", "latest", "--transfer", "{files}/gan.pkl"), "choose one"),
        (("--resume", "{files}/gan.pkl"), "to start anew from a network's weights use --transfer"),
        (("--resume", "nowhere"), "which does not exist; give latest, the folder of a run or its"),
        (("--resume", "{files}"), "of a run to continue, or its folder"),
        (("--resume", "{files}/features.npz"), "give latest, the folder of a run or its"),
        (("--class-map", "nowhere"), "cannot be read (No such file or directory); give a file"),
        (("--class-map", "{files}/gan.pkl"), "cannot be read (no text); give a file"),
        (("--student", "{files}/features.npz"), "is an .npz of NumPy arrays, no network"),
        (("--student", "{files}/teacher.pkl"), "holds EDMPrecond, a denoiser, and no G_ema"),
        (("--features", "inception", "--metrics", "auto"), "there is no --reference"),
        (("--guide", "{files}/teacher.pkl"), "which is no guidance; give 2"),
        (("--transfer", "{files}/teacher.pkl"), "teacher.pkl"),
        (("--transfer", "{files}/no.pt"), "no.pt cannot be read as a training state"),
        (("--precision", "fp8"), "precision is 'fp8'; allowed are auto, fp32, tf32, bf16"),
        (("--precision", "tf32"), "GPUs alone have"),
        (("--share-pass", "--auxiliary-ema", "0"), "give both one law"),
        (("--batch-gpu", "9"), "batch_gpu is 9, above the batch of 8"),
        (("--batch-gpu", "some"), "'some' is neither a whole number nor auto"),
        (("--max-hours", "-1"), "max_hours is -1.0; it must be at least 0"),
        (("--stop-if", "Loss"), "allowed are NAME>NUMBER and NAME<NUMBER"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(
    gan: Any, files: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "out"
    assert words in refusal(gan(out, *(o.format(files=files) for o in options)))
    assert not out.exists()


def test_the_batch_has_to_be_a_multiple_of_the_processes(
    gan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    line = refusal(gan(tmp_path / "out"))
    assert "batch is 8, which 3 processes cannot share; give a multiple of 3" in line


def test_of_the_processes_on_a_machine_one_says_what_is_wrong(
    gan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    result = gan(tmp_path / "out", "--precision", "fp8")
    assert (result.exit_code, result.output) == (2, "")


def test_what_trains_on_images_takes_no_transfer(
    files: Path, refine_py: Callable[..., Result], tmp_path: Path
) -> None:
    given = ("--teacher", files / "teacher.pkl", "--outdir", tmp_path / "out", "--device", "cpu")
    result = refine_py("distill", *given, "--method", "progressive", "--transfer", "x.pkl")
    assert "progressive takes no --transfer" in refusal(result)


def test_a_run_goes_on_from_its_state_wherever_that_is(gan: Any, tmp_path: Path) -> None:
    whole, parts, other = (tmp_path / name for name in ("whole", "parts", "other"))
    assert gan(whole).exit_code == 0
    assert gan(parts, "--kimg", "0.016").exit_code == 0
    (folder,) = parts.iterdir()
    result = gan(other, "--resume", folder / "training-state-000000.pt")
    assert result.exit_code == 0, result.output
    assert f"continuing {folder}" in result.output
    assert not other.exists()
    a, b = weights_in(whole), weights_in(parts)
    assert all(torch.equal(a[name], b[name]) for name in a)


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return all weights as one vector."""
    return torch.cat([tensor.flatten().double() for tensor in weights.values()])


@pytest.mark.parametrize(
    ("flag", "least", "most"),
    [
        (("--precision", "bf16"), 1e-5, 0.2),
        pytest.param(
            ("--compile",),
            0.0,
            0.1,
            # What torch says of itself while it compiles is no error of ours.
            marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")],
        ),
    ],
    ids=str,
)
@pytest.mark.usefixtures("any_shape")  # torch.compile traces with tensors that are no tensors
def test_a_run_that_computes_otherwise_moves_the_weights_alike(
    gan: Any, files: Path, tmp_path: Path, flag: tuple[str, ...], least: float, most: float
) -> None:
    for name, more in (("plain", ()), ("other", flag)):
        result = gan(tmp_path / name, *more)
        assert result.exit_code == 0, result.output
    start = flat(students.load(files / "gan.pkl").state_dict())
    plain, other = (flat(weights_in(tmp_path / name)) for name in ("plain", "other"))
    assert least < (plain - other).norm() / (plain - start).norm() < most


def test_a_longer_run_continues_with_the_warm_up_that_it_had(gan: Any, tmp_path: Path) -> None:
    assert gan(tmp_path, "--kimg", "0.016", warmup=None).exit_code == 0
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "training_options.json").read_text())["warmup_kimg"] == 0.008
    result = gan(tmp_path, "--resume", "latest", warmup=None)
    assert result.exit_code == 0, result.output
    assert f"continuing {folder}" in result.output
    told = gan(tmp_path, "--resume", "latest", warmup="0.016")
    assert "warmup_kimg 0.008 -> 0.016" in refusal(told)


def assert_starts_from(gan: Any, out: Path, source: Path, weights: Any) -> None:
    """A run with --transfer begins at these weights; a rate of almost 0 leaves them as they are."""
    still = ("--glr", "1e-30", "--warmup-kimg", "0", "--kimg", "0.008")
    result = gan(out, *still, "--transfer", source)
    assert result.exit_code == 0, result.output
    ended = weights_in(out)
    for name, value in weights.items():
        # Its running mean of w alone follows the batches, as it always does.
        if name != "mapping.w_avg":
            torch.testing.assert_close(ended[name], value, rtol=0, atol=1e-6)


def test_transfer_starts_anew_from_another_networks_weights(
    gan: Any, files: Path, tmp_path: Path
) -> None:
    moved = students.load(files / "gan.pkl")
    for parameter in moved.parameters():
        parameter.data += 0.1
    students.save(moved, tmp_path / "moved.pkl", like=files / "gan.pkl")
    assert_starts_from(gan, tmp_path / "out", tmp_path / "moved.pkl", moved.state_dict())
    other = files / "large.pkl"
    line = refusal(gan(tmp_path / "none", "--transfer", other))
    assert "large.pkl has float32" in line and "the same architecture" in line
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_transfer_starts_anew_from_the_networks_of_a_state(gan: Any, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert gan(first, "--glr", "0.01", "--rampup-kimg", "0", "--ema", "0").exit_code == 0
    (state,) = first.glob("*/training-state-*.pt")
    assert_starts_from(gan, tmp_path / "out", state, weights_in(first))


def test_a_run_that_ends_early_names_its_last_snapshot_by_where_it_ended(
    gan: Any, tmp_path: Path
) -> None:
    long = ("--kimg", "9", "--batch", "8", "--tick", "0.016")
    result = gan(tmp_path, *long, "--stop-if", "Loss/auxiliary>0")
    assert result.exit_code == 0, result.output
    assert "stopped at kimg 0.016 by stop_if Loss/auxiliary>0" in result.output
    (folder,) = tmp_path.iterdir()
    names = {path.name for path in folder.glob("*.pkl")}
    assert names == {"network-snapshot-000000_016.pkl", "result.pkl"}
    assert (folder / "report.html").exists()


def test_a_gpu_without_memory_ends_the_command_in_one_line(
    gan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(torch.optim.Adam, "step", fail)
    result = gan(tmp_path)
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert (result.exit_code, len(lines)) == (1, 1), result.output
    assert lines[0].startswith("Error: CUDA out of memory; the run stopped at kimg 0")


def bytes_of(network: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())


@pytest.mark.parametrize("method", ["diff-instruct", "diff-instruct-moments", "dmd2"])
def test_a_dry_run_says_what_memory_holds_and_what_a_step_costs(
    gan: Any, files: Path, tmp_path: Path, method: str
) -> None:
    result = gan(tmp_path / "out", "--method", method, "--batch-gpu", "auto", "-n")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.output)
    assert shown["batch_gpu"] == 0  # a CPU takes all at a time
    memory, step = shown["plan"]["memory_mib"], shown["plan"]["step"]
    student = students.load(files / "gan.pkl")
    teacher = teachers.load(files / "teacher.pkl")
    for name, network in (("student", student), ("average", student), ("teacher", teacher)):
        assert memory[name] == pytest.approx(bytes_of(network) / 2**20, abs=0.06)
    assert memory["auxiliary"] >= memory["teacher"]
    assert memory["optimisers"] == pytest.approx(2 * memory["gradients"], abs=0.11)
    assert memory["activations"] > 0
    parts = sum(size for name, size in memory.items() if name != "total")
    assert memory["total"] == pytest.approx(parts, abs=1)
    assert step["images_per_sec"] == pytest.approx(8 / step["seconds"], rel=0.05)
    assert shown["plan"]["run"]["steps"] == 4 + 2
    assert not (tmp_path / "out").exists()


def torchrun(*arguments: Any, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Call the command line in several processes of one thread."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", str(processes), "--", str(ROOT / "refine.py")),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def pickles(outdir: Path, load: Callable[..., Any]) -> dict[str, torch.Tensor]:
    (folder,) = outdir.iterdir()
    return load(folder / "result.pkl").state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["moments", "dmd", "progressive"])
def test_two_processes_of_torchrun_write_one_run_that_ends_where_one_process_does(
    files: Path, refine_py: Callable[..., Result], tmp_path: Path, case: str
) -> None:
    tiny = (
        *("--kimg", "0.032", "--batch", "8", "--tick", "0.016", "--snap", "1", "--device", "cpu"),
        *("--teacher-images", "100", "--teacher-steps", "2", "--num", "100"),
        *("--metrics", "none", "--teacher", files / "teacher.pkl"),
    )
    few = ("--set", "num_reference=100", "--set", "num_features=8", "--set", "memory=20")
    warmup = ("--warmup-kimg", "0.016")
    last = ("--keep", "last")
    command, load = {
        "moments": (("gan", "--student", files / "gan.pkl", *few, *warmup), students.load),
        "dmd": (("distill", "--method", "dmd", "--pairs", "20", *last, *warmup), teachers.load),
        "progressive": (
            ("distill", "--method", "progressive", "--set", "num_steps=2"),
            teachers.load,
        ),
    }[case]
    pieces = ("--batch-gpu", "4")  # which draw the noise of two processes
    alone = refine_py(*command, *tiny, *pieces, "--outdir", tmp_path / "one")
    assert alone.exit_code == 0, alone.output
    shared = torchrun(*command, *tiny, "--outdir", tmp_path / "two")
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout.count("tick 1 ") == 1
    one, two = (
        {path.name for path in next((tmp_path / name).iterdir()).iterdir()}
        for name in ("one", "two")
    )
    assert one == two
    a, b = (pickles(tmp_path / name, load) for name in ("one", "two"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_bad_input_under_torchrun_is_one_line_of_ours(files: Path, tmp_path: Path) -> None:
    pair = ("--student", files / "gan.pkl", "--teacher", files / "gan.pkl")
    result = torchrun("gan", *pair, "--outdir", tmp_path / "out")
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(lines) == 1 and "student" in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--student", "{files}/other.pkl"), "student_sha256 "),
        (("--teacher", "{files}/other-teacher.pkl"), "teacher_sha256 "),
        (("--num", "200"), "num 5000 -> 200"),
        (("--keep", "best"), "keep last -> best"),
        (("--teacher-steps", "7"), "teacher_steps 6 -> 7"),
        (("--adapt", "area"), "adapt none -> area"),
        (("--reference", "{files}/features.npz", "--metrics", "auto"), "reference_sha256 none -> "),
        (("--data", "{files}/data"), "data_sha256 none -> "),
    ],
)
def test_a_run_of_other_input_does_not_continue_and_the_difference_is_named(
    gan: Any, begun: Path, files: Path, more: tuple[str, ...], words: str
) -> None:
    (folder,) = begun.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    line = refusal(gan(begun, "--resume", "latest", *(m.format(files=files) for m in more)))
    assert words in line and "with other input (" in line
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_same_files_elsewhere_continue_a_run(gan: Any, files: Path, tmp_path: Path) -> None:
    assert gan(tmp_path / "out", "--kimg", "0.016").exit_code == 0
    for name in ("gan.pkl", "teacher.pkl"):
        shutil.copy(files / name, tmp_path / f"my-{name}")
    moved = ("--student", tmp_path / "my-gan.pkl", "--teacher", tmp_path / "my-teacher.pkl")
    result = gan(tmp_path / "out", "--resume", "latest", *moved)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def begun(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 0.016 kimg, and files of other networks and data beside the usual."""
    student, teacher = students.load(files / "gan.pkl"), teachers.load(files / "teacher.pkl")
    for network in (student, teacher):
        next(network.parameters()).data.flatten()[0] += 1e-3
    students.save(student, files / "other.pkl", like=files / "gan.pkl")
    teachers.save(teacher, files / "other-teacher.pkl")
    (files / "data").mkdir()
    for i in range(100):
        image_sets.save_png(files / "data" / f"{i}.png", np.full((16, 16), i, np.uint8))
    outdir = tmp_path_factory.mktemp("begun")
    pair = ("--student", str(files / "gan.pkl"), "--teacher", str(files / "teacher.pkl"))
    short = ("--kimg", "0.016", "--warmup-kimg", "0.016")
    result = CliRunner().invoke(main, ["gan", *pair, "--outdir", str(outdir), *QUICK, *short])
    assert result.exit_code == 0, result.output
    return outdir
