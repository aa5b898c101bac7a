"""The command line: bad input is one line and exit code 2; runs end with the files they promise."""

from __future__ import annotations

import errno
import io
import json
import pickle
import shutil
import zipfile
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import checkpoints
import refine
import students
import teachers
from metrics import Moments, Statistics
from metrics.spaces.features import Classifier, ClassifierFeatures, save_features
from refine import as_note, main
from refine_commands.generate import parse_seeds
from refiners import REFINERS
from refiners.base import WithPairs
from refiners.runs.endings import RunFailed, Wrecked
from refiners.runs.provenance import software
from refiners.runs.recipes import GAN_PRESETS, methods_of
from students import originals
from students.stylegan2.generator import Generator
from teachers.edm import EDMPrecond


def write_student(path, *, c_dim=0, resolution=32, channels=1):
    torch.manual_seed(0)
    network = Generator(
        z_dim=8,
        c_dim=c_dim,
        w_dim=8,
        img_resolution=resolution,
        img_channels=channels,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 64, "channel_max": 4},
    )
    network.requires_grad_(False).eval()
    generators = [originals.describe(network) for _ in range(2)]
    discriminator = checkpoints.describe(
        torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 2)}).requires_grad_(False)
    )
    file = {
        "training_set_kwargs": {"path": "x.zip"},
        "G": generators[0],
        "D": discriminator,
        "G_ema": generators[1],
    }
    checkpoints.write(file, path)
    return path


def write_teacher(path, *, label_dim=0, label_dropout=0.0, resolution=32, channels=1):
    torch.manual_seed(1)
    network = EDMPrecond(
        img_resolution=resolution,
        img_channels=channels,
        label_dim=label_dim,
        model_type="SongUNet",
        model_channels=4,
        channel_mult=[1, 1],
        num_blocks=1,
        attn_resolutions=[],
        dropout=0.0,
        label_dropout=label_dropout,
    )
    teachers.save(network.eval().requires_grad_(False), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    write_student(folder / "gan.pkl")
    write_teacher(folder / "teacher.pkl")
    torch.manual_seed(2)
    network = Classifier(img_resolution=32, img_channels=1, widths=(2, 2, 4), num_features=6)
    features = ClassifierFeatures(network)
    images = torch.randint(0, 256, [100, 1, 32, 32], dtype=torch.uint8)
    statistics = Statistics.of(Moments.of(features(images)[0]), space="test space")
    save_features(folder / "features.npz", network, statistics, name="test space")
    return folder


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def gan(files, outdir, *more, student=None, teacher=None):
    pair = (
        "--student",
        student or files / "gan.pkl",
        "--teacher",
        teacher or files / "teacher.pkl",
    )
    return run("gan", *pair, "--outdir", outdir, "--device", "cpu", *more)


TINY = (
    *(
        "--kimg",
        "0.032",
        "--batch",
        "8",
        "--warmup-kimg",
        "0.016",
        "--tick",
        "0.016",
        "--snap",
        "1",
    ),
    *("--num", "100", "--teacher-images", "100", "--teacher-steps", "2"),
    *("--set", "num_reference=100", "--set", "num_features=8", "--set", "memory=20"),
)


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """Folder with the run folder of one tiny run, 00000-same, and the weights that it ended with.

    Its reference is there; a test that adds to the folder works on a copy.
    """
    out = tmp_path_factory.mktemp("runs")
    reference = ("--reference", files / "features.npz", "--num", "100")
    result = gan(files, out, *TINY, *reference, "--desc", "same")
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def runs(finished, tmp_path):
    """Copy of it."""
    return shutil.copytree(finished, tmp_path / "runs")


def result_in(outdir):
    """Return the pickle that a run hands back."""
    return sorted(outdir.glob("*/result.pkl"))[-1]


def assert_refused(result, outdir, *words):
    """One line that names what was got, exit code 2, and nothing on disk."""
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert result.exit_code == 2, result.output
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
    assert not outdir.exists() or not any(outdir.iterdir())


def test_a_run_ends_with_every_file_it_promises(finished):
    (folder,) = finished.iterdir()
    names = {path.name for path in folder.iterdir()}
    promised = {
        *("training_options.json", "log.txt", "stats.jsonl", "metric-frechet_distance.jsonl"),
        *("fakes_init.png", "fakes_final.png", "fakes000000_032.png"),
        *("network-snapshot-000000_032.pkl", "training-state-000000_032.pt"),
        *("report.json", "report.md", "report.html"),
    }
    assert promised <= names
    report = json.loads((folder / "report.json").read_text())
    options = json.loads((folder / "training_options.json").read_text())
    assert software().items() <= report["provenance"].items() & options.items()
    assert report["comparison"]["num_images"] == 100
    assert report["comparison"]["space"]["name"] == "test space"
    kimg = [point["kimg"] for point in report["curve"]]
    assert kimg == sorted(kimg)
    assert kimg[0] == 0


def test_the_written_pickle_differs_from_the_users_only_in_G_ema(files, finished):
    written = result_in(finished)
    before, after = (cast("Any", checkpoints.read(path)) for path in (files / "gan.pkl", written))
    assert list(before) == list(after)
    assert before["training_set_kwargs"] == after["training_set_kwargs"]
    for name in ("G", "D"):
        a, b = checkpoints.tensors(before[name]), checkpoints.tensors(after[name])
        assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = checkpoints.tensors(before["G_ema"]), checkpoints.tensors(after["G_ema"])
    assert list(a) == list(b)
    assert any(not torch.equal(a[key], b[key]) for key in a)


def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(files, finished, tmp_path):
    whole, parts = finished, tmp_path / "parts"
    short = ("--kimg", "0.016", *TINY[2:])
    assert gan(files, parts, *short).exit_code == 0
    assert gan(files, parts, *TINY, "--resume", "latest").exit_code == 0
    assert len(list(parts.iterdir())) == 1
    # What was trained, not result.pkl: the judge also saw where the short run ended.
    name = "network-snapshot-000000_032.pkl"
    ends = [next(folder.glob(f"*/{name}")) for folder in (whole, parts)]
    weights = [students.load(path).state_dict() for path in ends]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_an_existing_run_is_never_overwritten(files, runs):
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    quick = ("--desc", "same", "--metrics", "none", "--keep", "last")
    assert gan(files, runs, *TINY, *quick).exit_code == 0
    assert sorted(path.name for path in runs.iterdir()) == ["00000-same", "00001-same"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_dry_run_writes_nothing_and_prints_every_option(files, tmp_path):
    result = gan(files, tmp_path / "out", *TINY, "--dry-run")
    assert result.exit_code == 0
    assert json.loads(result.output)["batch"] == 8
    assert not (tmp_path / "out").exists()


def test_bad_files_are_refused_in_one_line_before_anything_is_written(files, tmp_path):
    out = tmp_path / "out"
    assert_refused(gan(files, out, student=tmp_path / "no.pkl"), out, "no.pkl")
    cut = tmp_path / "cut.pkl"
    cut.write_bytes((files / "gan.pkl").read_bytes()[:5000])
    assert_refused(gan(files, out, student=cut), out, "cut.pkl")
    other = tmp_path / "other.pkl"
    other.write_bytes(pickle.dumps({"a": [1, 2, 3]}))
    assert_refused(gan(files, out, student=other), out, "other.pkl", "no network")
    assert_refused(gan(files, out, teacher=other), out, "other.pkl")
    assert_refused(gan(files, out, student=files / "teacher.pkl"), out, "teacher")
    assert_refused(gan(files, out, teacher=files / "gan.pkl"), out, "student")


def test_pairs_that_do_not_fit_are_refused_with_what_differs(files, tmp_path):
    out = tmp_path / "out"
    small = write_teacher(tmp_path / "small.pkl", resolution=16)
    colour = write_teacher(tmp_path / "colour.pkl", channels=3)
    classes = write_teacher(tmp_path / "classes.pkl", label_dim=10)
    dropout = write_teacher(tmp_path / "dropout.pkl", label_dim=10, label_dropout=0.1)
    labelled = write_student(tmp_path / "labelled.pkl", c_dim=10)
    assert_refused(gan(files, out, teacher=small), out, "32", "16")
    assert_refused(gan(files, out, teacher=colour), out, "img_channels 1", "3")
    assert_refused(gan(files, out, teacher=classes), out, "unconditional", "10 classes")
    assert_refused(gan(files, out, student=labelled), out, "10 classes", "none")
    assert gan(files, out, "--dry-run", teacher=dropout).exit_code == 0
    assert gan(files, out, "--dry-run", student=labelled, teacher=classes).exit_code == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("--kimg", "0"), ("--kimg", "-1"), ("--kimg", "nan"), ("--batch", "0")],
        *[("--glr", "0"), ("--lr", "inf"), ("--warmup-kimg", "-1"), ("--train", "nose")],
        *[("--set", "student_sigma=flat"), ("--set", "nonsense"), ("--set", "sigma_data=x")],
    ],
)
def test_options_out_of_range_are_refused(files, tmp_path, option, value):
    out = tmp_path / "out"
    assert_refused(gan(files, out, option, value), out)


def test_a_folder_that_cannot_be_written_is_refused(files, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    result = gan(files, blocked, *TINY)
    assert result.exit_code == 2
    assert "cannot make a run folder" in result.output
    assert blocked.read_text() == "in the way"


def test_bad_references_are_refused(files, tmp_path):
    out = tmp_path / "out"
    empty = tmp_path / "empty.zip"
    zipfile.ZipFile(empty, "w").close()
    objects = tmp_path / "objects.npz"
    np.savez(objects, mu=np.array([{}], dtype=object), sigma=np.eye(1))
    for reference in (tmp_path / "no.npz", empty, objects):
        assert_refused(gan(files, out, "--reference", reference), out, reference.name)


def test_resuming_needs_a_run_and_the_same_options(files, runs, tmp_path):
    out = tmp_path / "out"
    assert_refused(gan(files, out, "--resume", "latest"), out, "training-state")
    reference = ("--reference", files / "features.npz", "--num", "100")
    result = gan(files, runs, *TINY, *reference, "--glr", "0.5", "--resume", "latest")
    assert result.exit_code == 2
    assert "glr" in result.output


def test_an_image_depends_on_its_seed_alone(files, tmp_path):
    for name, seeds in (("a", "0-3"), ("b", "3,1")):
        result = run(
            "generate",
            "--network",
            files / "gan.pkl",
            "--seeds",
            seeds,
            "--outdir",
            tmp_path / name,
            "--device",
            "cpu",
        )
        assert result.exit_code == 0, result.output
    for seed in (1, 3):
        name = f"seed{seed:04d}.png"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a/seed0000.png").read_bytes() != (tmp_path / "a/seed0001.png").read_bytes()


def test_seed_ranges_are_read_as_StyleGAN_reads_them():
    assert parse_seeds("0-3,7") == [0, 1, 2, 3, 7]
    for text in ("", "3-1", "a", "1-", "-1", "0-99999999"):
        with pytest.raises(ValueError, match="--seeds"):
            parse_seeds(text)


def test_inspect_shows_networks_and_runs_nothing(files, tmp_path):
    result = run("inspect", files / "gan.pkl", "--json")
    facts = json.loads(result.output)
    assert set(facts["networks"]) == {"G", "D", "G_ema"}
    assert facts["networks"]["G_ema"]["options"]["img_resolution"] == 32
    hostile = tmp_path / "hostile.pkl"
    mark = tmp_path / "ran"
    buffer = io.BytesIO()
    pickle.dump(Runs(str(mark)), buffer)
    hostile.write_bytes(buffer.getvalue())
    result = run("inspect", hostile)
    assert result.exit_code == 2
    assert "system" in result.output
    assert not mark.exists()


class Runs:
    """Pickles to a call of os.system."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.mark}",)


def test_report_of_a_generator_against_itself_resolves_no_difference(files, tmp_path):
    pkl = files / "gan.pkl"
    result = run(
        "report",
        "--before",
        pkl,
        "--after",
        pkl,
        "--reference",
        files / "features.npz",
        "--outdir",
        tmp_path,
        "--num",
        "100",
        "--device",
        "cpu",
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert {d["verdict"] for d in report["comparison"]["differences"]} == {"not resolved"}
    assert {d["change"] for d in report["comparison"]["differences"]} == {0.0}


def test_the_command_line_names_exactly_the_methods_of_the_table():
    of_pairs = {name for name, method in REFINERS.items() if issubclass(method, WithPairs)}
    assert of_pairs == {"dmd"}
    assert set(methods_of("gan")) == set(REFINERS) - of_pairs


@pytest.mark.parametrize("preset", GAN_PRESETS)
def test_a_preset_stands_in_for_defaults_and_flags_beat_it_in_any_order(files, tmp_path, preset):
    expected = {**GAN_PRESETS[preset], "batch": 7}
    expected.pop("knobs", None)
    for arguments in (("--preset", preset, "--batch", "7"), ("--batch", "7", "--preset", preset)):
        shown = json.loads(gan(files, tmp_path, "-n", *arguments).output)
        assert {key: shown[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 2), (FileNotFoundError("x"), 2), (RunFailed("x"), 1), (MemoryError(), 1),
        (OSError(errno.ENOSPC, "full"), 1), (ConnectionError("x"), 1), (Wrecked("x"), 3),
        (KeyboardInterrupt(), 130), (KeyError("x"), None),
    ],
)  # fmt: skip
def test_an_error_has_one_exit_code(error: BaseException, code: int | None) -> None:
    assert refine.exit_code(error) == code


def test_a_warning_of_ours_is_a_line_and_others_say_where_they_come_from():
    said = as_note(UserWarning("one\n\x1b[1mtwo"), UserWarning, "/x/students/a.py", 3)
    assert said == "Note: one \\x1b[1mtwo\n"
    other = as_note("odd", DeprecationWarning, "/x/site-packages/torch/a.py", 3)
    assert other == "/x/site-packages/torch/a.py:3: DeprecationWarning: odd\n"
