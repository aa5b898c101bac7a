"""A teacher of one's own images, from a zip to result.pkl."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import checkpoints
import image_sets
import teachers
from refiners.denoising import Denoising
from refiners.runs.flops import flops_of_pass
from refiners.runs.interrupts import Stopped
from refiners.runs.memorisation import Memory
from refiners.runs.teach import TeachJob, Watcher, taught
from refiners.runs.teacher_sampler import TeacherSampler
from refiners.runs.training_images import TrainingImages, read_training_images
from refiners.runs.validation import NUM_LEVELS, Validation
from refiners.training.inputs import ImageSet
from teachers.edm import EDMPrecond

ROOT = Path(__file__).parents[3]
TINY = ("model_channels=4", "channel_mult=1,1,1,1", "attn_resolutions=", "dropout=0.1")
SHORT: dict[str, Any] = {"tick": 0.032, "snap": 1}


def pictures(n: int, *, side: int = 32, channels: int = 1) -> np.ndarray:
    """Bars of random place, width and shade."""
    rng = np.random.default_rng(0)
    found = np.zeros([n, channels, side, side], dtype=np.uint8)
    for image in found:
        at, width = rng.integers(0, side - 8), rng.integers(2, 8)
        image[:, :, at : at + width] = rng.integers(80, 256)
    return found


@pytest.fixture(scope="module", autouse=True)
def _few_steps() -> Iterator[None]:
    """Samples of these networks show nothing, however many steps they take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refiners.runs.teach.STEPS", 2)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "bars.zip"
    image_sets.write_zip(path, pictures(120), np.arange(120) % 3)
    return path


def job(data: Path, outdir: Path, **changes: Any) -> TeachJob:
    given: dict[str, Any] = {"net": TINY, "kimg": 0.064, "batch": 16, "settings": SHORT}
    return TeachJob(str(data), outdir=outdir, device="cpu", progress=False, **{**given, **changes})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    outdir = tmp_path_factory.mktemp("whole")
    job(data, outdir).run()
    return outdir / "00000-bars-teacher-small-kimg0.064-batch16"


def test_a_run_writes_teachers_that_edm_reads_and_what_was_seen(whole: Path) -> None:
    record = checkpoints.read(whole / "result.pkl")
    assert isinstance(record, dict) and record.keys() == {
        "ema", "loss_fn", "augment_pipe", "dataset_kwargs",
    }  # fmt: skip
    teacher = teachers.load(whole / "result.pkl")
    assert isinstance(teacher, EDMPrecond)
    assert (teacher.label_dim, teacher.label_dropout, teacher.img_resolution) == (3, 0.1, 32)
    assert teacher.model.init_kwargs["augment_dim"] == 9
    names = {path.name for path in whole.iterdir()}
    for kind in ("network-snapshot-{}.pkl", "fakes{}.png", "nearest{}.png"):
        assert {kind.format("000000_032"), kind.format("000000_064")} <= names
    assert {"reals.png", "validation.png", "fakes_final.png", "stats.jsonl"} <= names
    told = lines(whole / "metric-validation.jsonl")
    assert [line["kimg"] for line in told] == [0.032, 0.064]
    for line in told:
        assert len(line["held_out_over_sigma"]) == len(line["sigma"]) == NUM_LEVELS
        assert line["held_out"] == pytest.approx(np.mean(line["held_out_over_sigma"]))
        assert 0 <= line["near_copies"] <= 1
    # The result is the snapshot of the lowest held-out loss.
    best = min(told, key=lambda line: line["held_out"])
    name = f"network-snapshot-000000_{round(best['kimg'] * 1000):03d}.pkl"
    same = teachers.load(whole / name).state_dict()
    assert all(torch.equal(same[key], value) for key, value in teacher.state_dict().items())


def test_a_run_that_is_continued_ends_as_the_undisturbed_one(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    job(data, tmp_path, kimg=0.032).run()
    job(data, tmp_path, resume="latest").run()
    (folder,) = tmp_path.iterdir()
    mine, theirs = (
        torch.load(path / "training-state-000000_064.pt", weights_only=True)
        for path in (folder, whole)
    )
    for name in ("network", "ema"):
        assert all(torch.equal(mine[name][key], theirs[name][key]) for key in theirs[name])
    assert mine["best"]["score"] == theirs["best"]["score"]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bits(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "refine.py", "teach", "--data", data, "--outdir", tmp_path]
    command += ["--batch", 16, "--tick", 0.032, "--snap", 1, "--device", "cpu"]
    command += [part for net in TINY for part in ("--net", net)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for kimg in (0.064, 0.096):
        given = [*map(str, command), "--kimg", str(kimg)]
        given += ["--resume", "latest"] if kimg > 0.064 else []
        process = subprocess.Popen(given, cwd=ROOT, env=environment)
        if kimg == 0.064:
            while not list(tmp_path.glob("*/training-state-000000_032.pt")):
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        process.wait()
    job(data, tmp_path / "other", kimg=0.096).run()
    mine, theirs = (
        torch.load(next(place.glob("0*/training-state-000000_096.pt")), weights_only=True)
        for place in (tmp_path, tmp_path / "other")
    )
    assert all(torch.equal(mine["ema"][key], theirs["ema"][key]) for key in theirs["ema"])


def test_a_run_that_is_ended_early_has_a_teacher_that_was_judged_even_if_it_was_measuring(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, calls = Watcher.measure, []

    def left_once(self: Watcher, student: Any, num_images: int) -> Any:
        calls.append(num_images)
        if len(calls) == 1:  # as the last hour leaves it
            raise Stopped("measuring")
        return measured(self, student, num_images)

    monkeypatch.setattr(Watcher, "measure", left_once)
    settings = {"tick": 0.016, "snap": 1, "stop_if": "Loss/loss>0"}
    job(data, tmp_path, kimg=100.0, settings=settings).run()
    (log,) = tmp_path.glob("*/log.txt")
    said = log.read_text(encoding="utf-8")
    assert "stopped at kimg 0.016 by stop_if" in said
    assert "the result is the network at kimg 0.016" in said
    assert calls == [16, 16]


def test_a_teacher_can_be_trained_on_from_a_file(data: Path, whole: Path, tmp_path: Path) -> None:
    start = str(whole / "result.pkl")
    checked = job(data, tmp_path, start=start, net=(), kimg=0.016).check()
    assert checked.settings.lr == 2e-4
    found = Validation(checked.images, checked.method, seed=0, device=torch.device("cpu")).losses(
        checked.network, "held_out"
    )
    best = min(line["held_out"] for line in lines(whole / "metric-validation.jsonl"))
    assert sum(found) / NUM_LEVELS == pytest.approx(best, rel=1e-4)
    with pytest.raises(ValueError, match="--net num_blocks is given with --from"):
        job(data, tmp_path, start=start, net=["num_blocks=2"]).check()
    with pytest.raises(ValueError, match="give one of them"):
        job(data, tmp_path, start=start, size="base").check()


def test_low_rank_training_writes_a_whole_teacher_and_the_changes_beside(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="rank=2 is given without --from"):
        job(data, tmp_path, knobs={"rank": 2}).check()
    base = teachers.load(whole / "result.pkl").state_dict()
    start = str(whole / "result.pkl")
    job(data, tmp_path, start=start, net=(), knobs={"rank": 2}, kimg=0.016).run()
    (folder,) = tmp_path.iterdir()
    found = teachers.load(folder / "result.pkl").state_dict()
    kept = safetensors.torch.load_file(folder / "low-rank.safetensors")
    layers = {name.removesuffix(".up") for name in kept if name.endswith(".up")}
    assert layers
    (last,) = folder.glob("network-snapshot-*.pkl")
    moved = teachers.load(last).state_dict()
    assert not all(torch.equal(base[key], moved[key]) for key in base)
    for layer in layers:
        product = (kept[f"{layer}.up"] @ kept[f"{layer}.down"])[:, :, None, None]
        torch.testing.assert_close(base[f"{layer}.weight"] + product, found[f"{layer}.weight"])


def write(path: Path, **files: object) -> Path:
    path.mkdir()
    for name, image in files.items():
        image_sets.save_png(path / f"{name}.png", np.asarray(image))
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: write(path), "0 images, expected 1"),
        (lambda path: write(path, a=np.zeros([32, 32], np.uint8)), "has 1 images; a teacher takes"),
    ],
)
def test_too_few_images_are_one_line(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        job(make(tmp_path / "few"), tmp_path / "out").run()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def many(path: Path, odd: np.ndarray, labels: object = None) -> Path:
    plain = {f"i{i:03d}": np.zeros([32, 32], np.uint8) for i in range(110)}
    write(path, **{**plain, "odd": odd})
    if labels is not None:
        (path / "dataset.json").write_text(json.dumps({"labels": labels}))
    return path


@pytest.mark.parametrize(
    ("odd", "labels", "said"),
    [
        (np.zeros([64, 64], np.uint8), None, "convert the data set to one"),
        (np.zeros([32, 32, 3], np.uint8), None, "convert the data set to one"),
        (np.zeros([32, 32], np.uint8), [["i000.png", 1]], "110 of 111 images lack one"),
    ],
)
def test_mixed_images_and_labels_of_some_are_one_line(
    tmp_path: Path, odd: np.ndarray, labels: object, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        job(many(tmp_path / "mixed", odd, labels), tmp_path / "out").run()
    assert not (tmp_path / "out").exists()


def test_a_size_that_no_teacher_has_names_the_command_and_the_bridge(tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    image_sets.write_zip(path, pictures(100, side=512))
    with pytest.raises(ValueError, match=r"--resolution 256' makes them, and 'gan --adapt area'"):
        job(path, tmp_path / "out").check()


def test_a_tenth_is_held_out_and_every_image_is_in_one_part_with_its_label(tmp_path: Path) -> None:
    path, images = tmp_path / "set.zip", pictures(130)
    images[:, 0, 0, 0] = np.arange(130)  # to know them by
    image_sets.write_zip(path, images, np.arange(130) % 2)
    found = read_training_images(str(path), seed=4)
    assert len(found.held_out.images) == 13
    for part in (found.seen, found.held_out):
        numbers = part.images[:, 0, 0, 0].long()
        assert torch.equal(numbers, numbers.sort().values)
        assert torch.equal(part.images, torch.from_numpy(images)[numbers])
        assert part.labels is not None and torch.equal(part.labels.argmax(dim=1), numbers % 2)
    both = torch.cat([found.seen.images, found.held_out.images])[:, 0, 0, 0]
    assert sorted(both.tolist()) == [*range(130)]


def test_many_images_lie_in_a_file_and_read_the_same(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = read_training_images(str(data), seed=0)
    monkeypatch.setattr("refiners.runs.training_images.IN_MEMORY", 1000)
    paged = read_training_images(str(data), seed=0)
    assert torch.equal(in_memory.seen.images, paged.seen.images)
    assert torch.equal(in_memory.held_out.images, paged.held_out.images)


class Repeating(torch.nn.Module):
    """A student of a list of images."""

    z_dim, c_dim, img_resolution, img_channels = 1, 0, 32, 1

    def __init__(self, images: torch.Tensor):
        super().__init__()
        self.at, self.images = 0, torch.nn.Parameter(images.float() / 127.5 - 1)

    def sample_latents(self, n: int, *, generator: object = None) -> torch.Tensor:
        return torch.zeros(n, 1)

    def forward(self, z: torch.Tensor, c: object = None) -> torch.Tensor:
        self.at += len(z)
        return self.images[torch.arange(self.at - len(z), self.at) % len(self.images)]


def test_copies_are_found_and_shown_beside_their_originals(data: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, [300, 1, 32, 32], dtype=torch.uint8, generator=generator)
    seen, fresh = ImageSet(noise[:200]), noise[200:]
    memory = Memory(seen, ImageSet(fresh[:20]), xflip=False, seed=0)
    assert memory.usual == 0
    copies = memory.look(Repeating(noise[50:114]))
    assert copies.share == 1
    assert torch.equal(copies.pictures[:8], copies.pictures[8:])
    assert memory.look(Repeating(fresh[20:84])).share == 0
    mixed = torch.cat([fresh[20:52], noise[:32]])
    assert memory.look(Repeating(mixed)).share == 0.5


def test_mirrored_copies_are_copies_where_images_are_mirrored() -> None:
    noise = torch.randint(0, 256, [100, 1, 32, 32], dtype=torch.uint8)
    for xflip, share in ((False, 0.0), (True, 1.0)):
        memory = Memory(ImageSet(noise), ImageSet(noise[:1]), xflip=xflip, seed=0)
        assert memory.look(Repeating(noise.flip(3))).share == share


def test_validation_of_an_exact_denoiser_is_one_at_each_level() -> None:
    class Exact(torch.nn.Module):
        label_dim = 0

        def forward(self, x: Any, sigma: Any, labels: Any = None) -> Any:
            s = sigma[:, None, None, None].square()
            return 0.25 / (0.25 + s) * x

    torch.manual_seed(0)
    parts = ImageSet(0.5 * torch.randn(300, 1, 32, 32)), ImageSet(0.5 * torch.randn(60, 1, 32, 32))
    images = TrainingImages(*parts, label_dim=0, remark="")
    validation = Validation(images, Denoising(), seed=0, device=torch.device("cpu"))
    exact: Any = Exact()
    line: dict[str, Any] = validation.line(exact, 1.0)
    for part in ("seen", "held_out"):
        assert line[f"{part}_over_sigma"] == pytest.approx([1.0] * NUM_LEVELS, rel=0.03)
    assert line["sigma"] == pytest.approx(
        sorted(np.exp(-1.2 + 1.2 * np.array([-1.534, -0.887, -0.489, -0.157, 0.157, 0.489, 0.887,
                                             1.534]))), rel=1e-3)  # fmt: skip
    assert validation.line(exact, 1.0) == line


def test_flops_are_those_of_a_network_counted_by_hand() -> None:
    network = EDMPrecond(
        img_resolution=8, img_channels=1, model_type="SongUNet", model_channels=4,
        channel_mult=[1], num_blocks=1, attn_resolutions=[],
    ).eval()  # fmt: skip
    c, pixels = 4, 64
    conv = lambda into, out, k=3: 2 * into * out * k * k * pixels  # noqa: E731
    affine = 2 * 16 * c
    block = 2 * conv(c, c) + affine
    up = conv(2 * c, c) + conv(c, c) + conv(2 * c, c, 1) + affine
    attention = conv(c, 3 * c, 1) + conv(c, c, 1) + 4 * c * pixels**2
    embedding = 2 * c * 16 + 2 * 16 * 16
    # Encoder: a convolution and a block; decoder: two blocks, the first attends, and two that take
    # the encoder's; a convolution to the image.
    expected = conv(1, c) + block + 2 * block + attention + 2 * up + conv(c, 1) + embedding
    assert flops_of_pass(network) == expected


def test_a_teacher_of_the_same_images_is_made_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = job(data, tmp_path, kimg=0.016)
    first = taught(asked)
    assert taught(asked) == first
    assert "is there" in capsys.readouterr().out
    assert len(list(tmp_path.glob("0*"))) == 1
    assert isinstance(teachers.load(first), EDMPrecond)


def test_the_plan_says_what_was_found_and_what_a_gpu_may_take(data: Path, tmp_path: Path) -> None:
    plan: dict[str, Any] = job(data, tmp_path).check().plan()
    assert "120 images of 32 x 32, 1 channels, of 3 classes: 108" in plan["data_found"]
    assert plan["plan"]["memory_mib"].keys() >= {"network", "ema", "optimisers", "activations"}
    assert "not measured" in plan["estimate_for_a_gpu"]["note"]
    assert not list(tmp_path.iterdir())


def test_its_sampler_shows_the_teacher_itself() -> None:
    teacher = EDMPrecond(
        img_resolution=8, img_channels=1, model_type="SongUNet", model_channels=4,
        channel_mult=[1], num_blocks=1, attn_resolutions=[],
    ).eval()  # fmt: skip
    sampler = TeacherSampler(teacher, num_steps=3)
    z = torch.randn(2, 64)
    expected = teachers.sample(teacher, z.reshape(2, 1, 8, 8), num_steps=3)
    torch.testing.assert_close(sampler(z), expected)
