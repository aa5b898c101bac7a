"""`refine.py gan` with the teachers whose files are named tensors, and no option of a method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import students
from teachers.networks.denoising_unet import DenoisingUNet, Kind
from teachers.networks.guided_unet import GuidedUNet, Heads
from teachers.networks.score_unet import ScoreUNet
from teachers.noise_scales import schedule

TINY = (
    *("--kimg", "0.016", "--batch", "8", "--glr", "0.01", "--seed", "1", "--device", "cpu"),
    *("--teacher-images", "100", "--teacher-steps", "2", "--num", "100"),
    *("--set", "num_reference=100", "--set", "num_features=8", "--set", "memory=20"),
)


def off_zero(net: Any) -> dict[str, torch.Tensor]:
    """Return its tensors, moved so that every part counts."""
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return net.state_dict()


def guided_unet(*, classes: int = 0, channels: int = 1, **others: Any) -> dict[str, torch.Tensor]:
    options: dict[str, Any] = {
        "model_channels": 32,
        "channel_mult": (1, 1),
        "num_res_blocks": (1, 1),
        "attention_levels": (False, True),
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        "heads": Heads(num_heads=2),
    }
    made = 2 * channels if "qkv_ndim" not in others else channels
    return off_zero(GuidedUNet(channels, made, num_classes=classes, **{**options, **others}))


def score_unet(**others: Any) -> dict[str, object]:
    options: dict[str, Any] = {
        "name": "ncsnpp",
        "nf": 8,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_levels": (False, True),
        "embedding_type": "fourier",
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "fir": True,
    }
    state = off_zero(ScoreUNet(1, **{**options, **others}))
    fourier = [name for name in state if name == "all_modules.0.W"]
    levels = torch.linspace(3.9, -4.6, 100, dtype=torch.float64).exp()
    return {
        "model": {"module.sigmas": levels, **{f"module.{n}": t for n, t in state.items()}},
        "ema": {"shadow_params": [t for n, t in state.items() if n not in fourier]},
    }


@pytest.fixture
def taught(files, refine_py, tmp_path):
    """Refine a student by the teacher in a file with facts, and return the run's folder."""

    def call(name: str, data: object, facts: dict[str, Any], *more: str, student="gan.pkl") -> Path:
        torch.save(data, tmp_path / name)
        said = [text for fact in facts.items() for text in ("--teacher-set", "{}={}".format(*fact))]
        given = ("--student", files / student, "--teacher", tmp_path / name, *said)
        result = refine_py("gan", *given, "--outdir", tmp_path / "runs", *TINY, *more)
        assert result.exit_code == 0, result.output
        (folder,) = (tmp_path / "runs").iterdir()
        before, after = (students.load(p) for p in (files / student, *folder.glob("network*.pkl")))
        old = before.state_dict()
        changed = [k for k, t in after.state_dict().items() if not torch.equal(t, old[k])]
        assert any(name.startswith("synthesis.") for name in changed)
        written = json.loads((folder / "training_options.json").read_text())
        assert written["method"] == "adversarial-moments"
        assert written["teacher_set"] == facts
        assert (folder / "report.html").is_file() and (folder / "result.pkl").is_file()
        return folder

    return call


STEPS = {"noise_schedule": "linear", "diffusion_steps": 1000}


def test_a_network_of_guided_diffusion(taught):
    log = taught("a.pt", guided_unet(), {"image_size": 16, "num_heads": 2, **STEPS}) / "log.txt"
    assert "the discriminator is grown on the teacher's features" in log.read_text()
    # It is not trained, so it does not denoise.
    assert "warning: the teacher denoises worse than a linear filter" in log.read_text()


def test_a_network_of_score_sde_teaches_a_larger_student_through_the_bridge(taught):
    facts = {"image_size": 8, "fir": True}
    more = ("--adapt", "area", "--class-map", "none")
    log = (taught("c.pth", score_unet(), facts, *more, student="large.pkl") / "log.txt").read_text()
    assert "the teacher sees the student's 32 x 32 images whole, as 8 x 8" in log


@pytest.mark.slow
def test_an_edm_network_of_consistency_models(taught):
    data = guided_unet(qkv_ndim=4, heads=Heads(num_heads=2, use_new_attention_order=True))
    taught("edm.pt", data, {"image_size": 16, "num_heads": 2, "preconditioning": "edm"})


@pytest.mark.slow
def test_a_network_of_improved_diffusion(taught):
    data = guided_unet(use_scale_shift_norm=False, resblock_updown=False)
    facts = {"noise_schedule": "cosine", "diffusion_steps": 4000, "rescale_timesteps": True}
    taught("i.pt", data, {"image_size": 16, "num_heads": 2, **facts})


@pytest.mark.slow
def test_a_network_with_classes_teaches_under_its_own_numbers(taught, tmp_path):
    (tmp_path / "classes.txt").write_text("2\n0\n")
    facts = {"image_size": 16, "num_heads": 2, **STEPS}
    more = ("--adapt", "area", "--class-map", str(tmp_path / "classes.txt"))
    taught("a.pt", guided_unet(classes=3, channels=3), facts, *more, student="large.pkl")


@pytest.mark.slow
@pytest.mark.parametrize("sde", ["vpsde", "subvpsde"])
def test_a_ddpmpp_network_of_score_sde(taught, sde):
    plain = {"progressive": "none", "progressive_input": "none", "embedding_type": "positional"}
    facts = {"image_size": 16, "sde": sde, "continuous": True, "fir": False}
    taught("c.pth", score_unet(**plain, fir=False), facts)


@pytest.mark.slow
def test_a_milestone_of_denoising_diffusion(taught):
    kinds = (Kind(2, 4, 2, True), Kind(2, 4, 2, False), Kind(2, 4, 2, False))
    net = DenoisingUNet(1, dim=8, widths=(8, 8, 16), attention=kinds, self_condition=False)
    a = schedule("linear", 500)
    betas = 1 - a / torch.cat([torch.ones(1, dtype=a.dtype), a[:-1]])
    state = {f"ema_model.model.{name}": tensor for name, tensor in off_zero(net).items()}
    state |= {"ema_model.betas": betas.float(), "ema_model.loss_weight": a.float()}  # that of v
    taught("model-1.pt", {"ema": state, "version": "2.3.1"}, {"image_size": 16})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dmd2", "diff-instruct-moments", "sid"])
def test_methods_with_and_without_a_head(taught, refine_py, files, tmp_path, method):
    torch.save(guided_unet(), tmp_path / "a.pt")
    facts = {"image_size": 16, "num_heads": 2, **STEPS}
    (tmp_path / "a.pt.json").write_text(json.dumps(facts))
    given = ("--student", files / "gan.pkl", "--teacher", tmp_path / "a.pt")
    tiny = TINY[: TINY.index("--set")]
    result = refine_py("gan", *given, "--outdir", tmp_path / "runs", "--method", method, *tiny)
    assert result.exit_code == 0, result.output


def test_facts_that_are_missing_are_said_before_anything_is_written(files, refine_py, tmp_path):
    torch.save(guided_unet(), tmp_path / "a.pt")
    given = ("--student", files / "gan.pkl", "--teacher", tmp_path / "a.pt")
    result = refine_py("gan", *given, "--outdir", tmp_path / "runs", "--teacher-set", "num_heads=2")
    assert result.exit_code == 2
    assert "does not hold image_size (pixels); noise_schedule (linear or cosine)" in result.output
    assert "--teacher-set KEY=VALUE" in result.output
    result = refine_py("gan", *given, "--outdir", tmp_path / "runs", "--teacher-set", "num_heads")
    assert "--teacher-set is 'num_heads'; give KEY=VALUE, as num_heads=4" in result.output
    assert not (tmp_path / "runs").exists()


def test_distill_says_that_it_writes_no_such_file(refine_py, tmp_path):
    torch.save(guided_unet(), tmp_path / "a.pt")
    facts = {"image_size": 16, "num_heads": 2, **STEPS}
    (tmp_path / "a.json").write_text(json.dumps(facts))
    result = refine_py("distill", "--teacher", tmp_path / "a.pt", "--outdir", tmp_path / "runs")
    assert result.exit_code == 2
    assert "the student is written in the layout of a pickle of EDM" in result.output
    assert not (tmp_path / "runs").exists()
