"""Each benchmark runs at a tiny size, beside a checkout whose networks are ours under its names."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import checkpoints
from benchmarks import e2e, files, fuzz, metrics, passes, step, teach
from benchmarks.published import cifar_student
from students import originals
from stylegan_ops.kernels.choice import available

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the originals' repositories."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "training").mkdir()
    for name, text in {
        "training/networks.py": "from students.stylegan2.generator import Generator\n"
        "from teachers.edm import EDMPrecond\n",
        "training/loss.py": "from benchmarks.published import PlainLoss\n"
        "class EDMLoss(PlainLoss):\n"
        "    def __call__(self, net, images, labels=None):\n"
        "        return super().__call__(net, images, labels)\n",
        "training/di_loss.py": "from benchmarks.published import PlainLoss as DI_EDMLoss\n",
        "legacy.py": "import students\ndef load_network_pkl(file):\n"
        "    return {name: students.load(file.name, network=name) for name in ('G', 'G_ema')}\n",
    }.items():
        (folder / name).write_text(text)
    return folder


def run(command: object, *arguments: object) -> str:
    shown = CliRunner().invoke(command, [str(a) for a in arguments])  # type: ignore[arg-type] -- a group is a command too
    assert shown.exit_code == 0, shown.output
    return shown.output


def test_every_operation_is_timed_beside_its_definition() -> None:
    if not available():
        pytest.skip("no C++ compiler here, so no CPU kernels")
    rows = run(passes.main, "ops", "--size", "small", "--repeats", 1).splitlines()[2:]
    names = {case.name for case in passes.cases("small")}
    assert len(rows) == 2 * len(names)
    assert {row[:26].strip() for row in rows} == names
    assert all(float(row.split()[-1]) < 1e-5 for row in rows[::2])


def test_a_ratio_is_how_many_times_as_fast_as_its_definition_the_kernel_is() -> None:
    times = {"forward": {"min": 0.001}, "forward + backward": {"min": 0.001}}
    slow = {name: {"min": 3 * of["min"]} for name, of in times.items()}
    row = passes.ops_table(
        [
            {
                "name": "bias_act",
                "shape": [1, 2],
                "bytes": 10**6,
                "copy_bytes_per_second": 2e9,
                "difference": 0.0,
                "seconds": {"kernel": times, "reference": slow},
            }
        ]
    ).splitlines()[1]
    assert row.split()[-4:] == ["1.00", "3.00x", "50%", "0e+00"]


@pytest.mark.parametrize("kind", ["generator", "denoiser"])
def test_a_network_is_timed_beside_the_original_of_the_same_weights(
    checkout: Path, kind: str
) -> None:
    sizes = ["--width", 1 / 16, "--batch", 1, "--repeats", 1]
    shown = run(passes.main, kind, "--official", checkout, *sizes)
    assert float(shown.splitlines()[1].split()[-1]) < 1e-5  # rounding of another layout
    assert "original" in shown


def test_a_network_of_guided_diffusion_is_timed_alone() -> None:
    sizes = ["--width", 64, "--resolution", 32, "--repeats", 1]
    assert "ours                 forward" in run(passes.main, "adm", *sizes)


def test_our_steps_and_the_published_loops_end_at_the_same_weights(
    checkout: Path, tmp_path: Path
) -> None:
    found = tmp_path / "found.json"
    run(step.main, "agreement", "--steps", 3, "--official", checkout, "--json", found)
    errors = json.loads(found.read_text())
    for network in ("student", "its average", "auxiliary"):
        assert errors[network][0] < 1e-5
    assert errors["for scale, student to teacher"][0] > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("student", ["edm", "stylegan2"])
def test_a_step_is_timed_beside_the_official_loops(checkout: Path, student: str) -> None:
    folders = ["--official", checkout, "--official-gan", checkout]
    sizes = ["--width", 1 / 16, "--batch", 1, "--repeats", 1]
    shown = run(step.main, "time", "--student", student, *folders, *sizes)
    assert "times as fast" in shown


@pytest.mark.slow
def test_commands_are_timed_from_their_start_to_the_pickle() -> None:
    assert "gan --help" in run(e2e.main, "start", "--commands", "pass,gan --help", "--repeats", 1)
    assert "times as fast" in run(e2e.main, "refine", "--kimg", 0.032, "--repeats", 1)


@pytest.mark.slow
def test_files_are_read_in_more_time_than_their_bytes() -> None:
    shown = run(files.main, "load", "--repeats", 1, ROOT / "refine_demo" / "teacher.pkl")
    assert [line.split()[2] for line in shown.splitlines()[2:]] == ["bytes", "plain", "teacher"]


@pytest.mark.slow
def test_an_export_gives_its_images_in_the_original_program(checkout: Path, tmp_path: Path) -> None:
    student = cifar_student(1 / 16, 8)
    networks = {"G": student, "G_ema": copy.deepcopy(student)}
    records = {name: originals.describe(net) for name, net in networks.items()}
    path = tmp_path / "student.pkl"
    checkpoints.write(records, path)
    assert "changed: none" in run(files.main, "export", path, "--official", checkout)


@pytest.mark.slow
def test_metrics_are_timed_beside_the_tools_that_are_here() -> None:
    shown = run(metrics.main, "--dims", 8, "--images", 4, "--repeats", 1)
    assert "frechet, 8 dimensions / scipy" in shown


def test_a_fuzzer_changes_files_and_finds_none_that_breaks_the_rule() -> None:
    raws = [(ROOT / "refine_demo" / "teacher.pkl").read_bytes()]
    assert list(fuzz.explore(raws, count=3, seed=0)) == []


def test_a_teachers_step_beside_the_same_maths_has_the_same_losses(checkout: Path) -> None:
    tiny = [part for net in ("model_channels=4", "channel_mult=1,1,1,1") for part in ("--net", net)]
    shown = run(teach.main, "--official", checkout, *tiny, "--batch", 4, "--steps", 3)
    apart = float(shown.split("differ by at most ")[1].split()[0])
    assert apart < 1e-3
    assert "times as fast" in shown
