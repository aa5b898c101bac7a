"""DMD2 and f-distill: the head on the auxiliary, and what it adds to both networks' losses."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import softplus

import teachers
from refiners import ImageSet, Inputs
from refiners.dmd import DMD
from refiners.dmd2 import DMD2
from refiners.f_distill import FDistill, level_by_sigma
from refiners.head import HeadedDenoiser
from refiners.sida import SiDA
from refiners.sigma_laws import add_noise, denoising_loss
from refiners.uni_instruct import UniInstruct
from teachers.edm import EDMPrecond
from teachers.edm2 import Precond

LAW = "karras:0.05,3"
LAWS: dict[str, Any] = {"student_sigma": LAW, "head_sigma": LAW, "layer": "enc"}


class Judge(torch.nn.Module):
    """A headed denoiser that is known: D = x / (1 + sigma^2), logit = the sum over pixels."""

    def __init__(self, eyes: Any = None) -> None:
        super().__init__()
        self.eyes = eyes or self
        self.img_resolution, self.img_channels, self.label_dim = 4, 1, 0
        self.sigma_min, self.sigma_max = 0.0, math.inf
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, labels: Any = None) -> torch.Tensor:
        return x / (1 + sigma.square()[:, None, None, None])

    def judge(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append((x.detach(), sigma, labels))
        return self.eyes(x, sigma), x.sum(dim=[1, 2, 3])[:, None]


def gradients(methods: list[Any], auxiliary: Any, teacher: Any) -> list[torch.Tensor]:
    """The methods' gradients on the same samples with the same noise."""
    x_0 = torch.randn(16, 1, 4, 4)
    found = []
    for method in methods:
        torch.manual_seed(1)
        found.append(method.pixel_gradient(x_0, None, teacher=teacher, auxiliary=auxiliary))
    return found


@pytest.mark.parametrize("bins", [1, 4, 16, 100])
def test_f_distill_with_the_reverse_kl_is_dmd2_and_without_the_gan_dmd(
    gaussian: Any, bins: int
) -> None:
    teacher = gaussian(0.3, 0.5)
    rkl = FDistill(divergence="rkl", bins=bins, **LAWS)
    a, b = gradients([rkl, DMD2(student_gan=1e-3, **LAWS)], Judge(teacher), teacher)
    assert torch.equal(a, b)
    rkl = FDistill(divergence="rkl", bins=bins, student_gan=0, **LAWS)
    a, b = gradients([rkl, DMD("karras:0.05,3")], Judge(teacher), teacher)
    assert torch.equal(a, b)


def test_dmd2s_gradient_is_dmds_plus_the_slope_of_the_softplus(gaussian: Any) -> None:
    judge = Judge()
    both, alone = gradients(
        [DMD2(student_gan=0.5, **LAWS), DMD("karras:0.05,3")], judge, gaussian(0.3, 0.5)
    )
    # d/dx softplus(-h) = -sigmoid(-h) dh/dx, and dh/dx is 1 here; a c h w = 0.5 16.
    h = judge.seen[-1][0].sum(dim=[1, 2, 3])
    expected = -0.5 * 16 * torch.sigmoid(-h)[:, None, None, None].expand(-1, 1, 4, 4)
    torch.testing.assert_close(both - alone, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", ["kl", "js"])
def test_f_distill_weighs_each_sample_by_the_clipped_ratio_of_the_laws(
    gaussian: Any, divergence: str
) -> None:
    teacher = gaussian(0.3, 0.5)
    judge = Judge(teacher)
    weighted, plain = gradients(
        [FDistill(divergence, bins=1, student_gan=0, **LAWS), DMD("karras:0.05,3")], judge, teacher
    )
    # Xu et al. 2025: r = exp(logit) in [0.1, 20], of mean 1; h = r or r / (1 + r), of mean 1.
    ratio = [min(max(math.exp(x.sum().item()), 0.1), 20.0) for x in judge.seen[0][0]]
    ratio = [r * len(ratio) / sum(ratio) for r in ratio]
    h = torch.tensor([r if divergence == "kl" else r / (1 + r) for r in ratio])
    torch.testing.assert_close(
        weighted, (h / h.mean())[:, None, None, None] * plain, rtol=1e-4, atol=1e-6
    )


def test_ratios_have_a_mean_of_one_in_each_of_ten_even_bins_of_sigma() -> None:
    ratio, sigma = torch.rand(500) + 0.1, 0.002 + 80 * torch.rand(500)
    levelled = level_by_sigma(ratio, sigma, 10)
    for low in range(10):
        chosen = (sigma >= 0.002 + 7.9998 * low) & (sigma < 0.002 + 7.9998 * (low + 1))
        assert chosen.sum() > 20
        assert levelled[chosen].mean().item() == pytest.approx(1)
        factor = levelled[chosen] / ratio[chosen]
        torch.testing.assert_close(factor, factor[:1].expand(len(factor)))
    outside = torch.tensor([0.001, 0.003, 79.0, 300.0])
    expected = torch.tensor([0.5, 1.5, 0.25, 1.75])
    torch.testing.assert_close(
        level_by_sigma(torch.tensor([1.0, 3.0, 1.0, 7.0]), outside, 10), expected
    )


def test_heads_loss_is_the_published_softplus_of_both_kinds_each_at_its_own_levels() -> None:
    judge = Judge()
    x_0, real = torch.randn(8, 1, 4, 4), torch.randn(8, 1, 4, 4)
    labels, real_labels = torch.eye(8), torch.eye(8).flip(0)
    method = DMD2(auxiliary_gan=0.25, **LAWS)
    loss = method.head_loss(x_0, labels, real, real_labels, auxiliary=judge)
    (true, true_level, true_seen), (theirs, level, seen) = judge.seen
    assert not torch.isclose(level, true_level).any()
    assert seen is labels and true_seen is real_labels
    terms = softplus(theirs.sum(dim=[1, 2, 3])) + softplus(-true.sum(dim=[1, 2, 3]))
    assert loss.item() == pytest.approx(0.25 * 16 * terms.mean().item(), rel=1e-5)


def test_a_head_trained_by_its_loss_tells_the_kinds_apart(point_denoiser: Any) -> None:
    method = DMD2(**LAWS)
    network = method.with_head(point_denoiser(), teacher=point_denoiser())
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        real, made = torch.randn(64, 2, 1, 1) + 2, torch.randn(64, 2, 1, 1) - 2
        optimiser.zero_grad()
        method.head_loss(made, None, real, None, auxiliary=network).backward()
        optimiser.step()
    level = torch.full([2], 0.1)
    _, logits = network.judge(torch.tensor([2.0, -2.0])[:, None, None, None].expand(2, 2, 1, 1),
                              level)  # fmt: skip
    assert logits[0, 0] > 1 > -1 > logits[1, 0]


def test_the_denoiser_under_a_head_denoises_as_before(point_denoiser: Any) -> None:
    denoiser = point_denoiser()
    torch.nn.init.normal_(denoiser.out.weight)
    headed: Any = HeadedDenoiser(copy.deepcopy(denoiser), layer="enc")
    x, sigma = torch.randn(5, 2, 1, 1), torch.rand(5) + 0.1
    assert torch.equal(headed(x, sigma), denoiser(x, sigma))
    denoised, logits = headed.judge(x, sigma)
    assert torch.equal(denoised, denoiser(x, sigma))
    assert logits.shape == (5, 1)
    assert headed.heard is None  # nothing is held beyond a call


@pytest.mark.parametrize("kind", ["SongUNet", "DhariwalUNet"])
def test_the_head_of_a_u_net_sees_its_innermost_level(kind: str) -> None:
    sizes: dict[str, Any] = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
    network = EDMPrecond(16, 1, model_type=kind, **sizes)
    headed: Any = DMD2().with_head(network, teacher=network)
    convolutions = [m for m in headed.head if isinstance(m, torch.nn.Conv2d)]
    assert [m.in_channels for m in convolutions] == [16, 16, 16]  # innermost: 16 channels, 8 x 8
    _, logits = headed.judge(torch.randn(3, 1, 16, 16), torch.ones(3))
    assert logits.shape == (3, 1)


def test_what_the_head_sees_of_any_u_net_is_the_last_of_its_features(
    tmp_path: Path, write_diffusers: Any
) -> None:
    sizes: dict[str, Any] = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
    attention = {"attn_resolutions": [8], "channels_per_head": 8}
    write_diffusers(tmp_path / "a", num_class_embeds=3)
    plain = EDMPrecond(16, 1, label_dim=3, model_type="SongUNet", **sizes)
    networks: list[Any] = [
        plain,
        EDMPrecond(16, 1, label_dim=3, **sizes),
        Precond(16, 1, label_dim=3, **sizes, **attention),
        teachers.load(tmp_path / "a"),
        teachers.Relabelled(plain, [2, 0, 1]),
        teachers.Relabelled(teachers.load(tmp_path / "a"), [2, 0, 1]),
    ]
    x, sigma, labels = torch.randn(2, 1, 16, 16), torch.tensor([0.5, 2.0]), torch.eye(3)[[0, 2]]
    for network in networks:
        network.eval()
        headed = DMD2().with_head(network, teacher=network)
        seen: list[torch.Tensor] = []
        headed.head.register_forward_hook(
            lambda module, given, out, seen=seen: seen.append(given[0])
        )
        denoised, _ = headed.judge(x, sigma, labels)
        torch.testing.assert_close(seen[0], network.features(x, sigma, labels)[-1])
        torch.testing.assert_close(denoised, network(x, sigma, labels))


def test_eyes_that_are_guided_see_with_the_label_and_by_their_own_names() -> None:
    sizes: dict[str, Any] = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
    plain = EDMPrecond(16, 1, label_dim=3, model_type="SongUNet", label_dropout=0.1, **sizes)
    for parameter in plain.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    plain.eval()
    x, sigma, labels = torch.randn(2, 1, 16, 16), torch.tensor([0.5, 2.0]), torch.eye(3)[[0, 2]]
    for guided in (
        teachers.classifier_free(plain, weight=2.0),
        teachers.classifier_free(teachers.Relabelled(plain, [2, 0, 1]), weight=2.0),
    ):
        headed: Any = FDistill().with_head(plain, teacher=guided)
        seen: list[torch.Tensor] = []
        headed.head.register_forward_hook(
            lambda module, given, out, seen=seen: seen.append(given[0])
        )
        denoised, _ = headed.judge(x, sigma, labels)
        torch.testing.assert_close(seen[0], guided.features(x, sigma, labels)[-1])
        torch.testing.assert_close(denoised, guided(x, sigma, labels))


def test_a_denoiser_whose_innermost_layer_has_no_name_asks_for_one(point_denoiser: Any) -> None:
    denoiser = point_denoiser()
    with pytest.raises(ValueError, match=r"gives no features.*needs none \(--method diff-instruct"):
        DMD2().with_head(denoiser, teacher=denoiser)
    for method in (FDistill(), SiDA(), UniInstruct()):
        with pytest.raises(ValueError, match="gives no features"):
            method.check_teacher(denoiser)
    DMD2(**LAWS).check_teacher(denoiser)  # whose layer is named
    denoiser.features = lambda x, sigma, labels: [x, x[:, :, ::2, ::2]]
    with pytest.raises(ValueError, match="name the innermost of its encoder by --set layer=NAME"):
        DMD2().with_head(denoiser, teacher=denoiser)


def test_on_eight_by_eight_features_the_head_is_the_published_one() -> None:
    sizes: dict[str, Any] = {"model_channels": 64, "channel_mult": [1], "num_blocks": 1}
    network = EDMPrecond(8, 1, model_type="SongUNet", **sizes)
    head: Any = DMD2().with_head(network, teacher=network).head
    described = [
        (type(m).__name__, *(getattr(m, k, None) for k in ("kernel_size", "stride", "num_groups")))
        for m in head
    ]
    # conv4 s2, GN32, SiLU, conv4 to a pixel, GN32, SiLU, conv1.
    assert described == [
        *(("Conv2d", (4, 4), (2, 2), None), ("GroupNorm", None, None, 32)),
        ("SiLU", None, None, None),
        *(("Conv2d", (4, 4), (1, 1), None), ("GroupNorm", None, None, 32)),
        *(("SiLU", None, None, None), ("Conv2d", (1, 1), (1, 1), None)),
    ]


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        ("model.enc", "layer is 'model.enc', which this teacher lacks; it has enc, enc.0"),
        ("idle", "'idle' takes no part in denoising"),
    ],
)
def test_a_layer_that_cannot_be_judged_is_refused(
    point_denoiser: Any, layer: str, complaint: str
) -> None:
    denoiser = point_denoiser()
    denoiser.idle = torch.nn.Identity()
    with pytest.raises(ValueError, match=complaint):
        HeadedDenoiser(denoiser, layer=layer)


def test_the_loop_adds_the_heads_loss_to_the_denoising_loss(
    refinement: Any, point_student: Any, point_denoiser: Any
) -> None:
    method = DMD2(auxiliary_sigma="karras:0.05,3", **LAWS)
    given: list[torch.Tensor] = []

    def real_images(n: int, generator: torch.Generator) -> tuple[torch.Tensor, None]:
        given.append(torch.randn([n, 2, 1, 1], generator=generator))
        return given[-1], None

    inputs = Inputs(real_images=real_images)
    job = refinement(point_student(), point_denoiser(), method, seed=2, inputs=inputs)
    auxiliary = copy.deepcopy(job.auxiliary)
    loss = job.advance()["Loss/auxiliary"]
    torch.manual_seed(2 * 1_000_003)
    x_0 = job.student(job.student.sample_latents(16)).detach()
    expected = denoising_loss(auxiliary, x_0, None, law="karras:0.05,3", sigma_data=0.5)
    torch.randint(2**32, [])  # which seeds the source
    expected = expected + method.head_loss(x_0, None, given[0], None, auxiliary=auxiliary)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_f_distills_head_looks_through_the_frozen_teacher(point_denoiser: Any) -> None:
    teacher, auxiliary = point_denoiser(), point_denoiser()
    torch.nn.init.normal_(teacher.out.weight)
    headed: Any = FDistill(layer="enc").with_head(auxiliary, teacher=teacher)
    theirs = {id(p) for p in teacher.parameters()}
    assert not theirs & {id(p) for p in headed.parameters()}
    assert copy.deepcopy(headed).eyes.network is teacher
    assert not any("eyes" in name for name in headed.state_dict())
    x, sigma = torch.randn(5, 2, 1, 1), torch.rand(5) + 0.1
    denoised, logits = headed.judge(x, sigma)
    assert torch.equal(denoised, teacher(x, sigma))
    assert torch.equal(headed(x, sigma), auxiliary(x, sigma))
    features = teacher.enc(torch.zeros(1, 4, 1, 1))  # the head's input is as wide
    assert headed.head[0].in_channels == features.shape[1] and logits.shape == (5, 1)
    # What judges is no part of the auxiliary: its slope is of the head alone.
    FDistill(layer="enc").head_loss(x, None, x + 1, None, auxiliary=headed).backward()
    assert all(p.grad is None for p in auxiliary.parameters())
    assert all(p.grad is not None for p in headed.head.parameters())


def test_the_head_is_trained_and_averaged_with_the_auxiliary(
    refinement: Any, point_student: Any, point_denoiser: Any
) -> None:
    inputs = Inputs(real_images=ImageSet(torch.randn(50, 2, 1, 1)))
    job = refinement(point_student(), point_denoiser(), DMD2(**LAWS), inputs=inputs)
    before = copy.deepcopy(job.auxiliary_average.head.state_dict())
    for _ in range(3):
        job.advance()
    after = job.auxiliary_average.head.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert torch.isfinite(add_noise(torch.zeros(1, 2, 1, 1), torch.ones(1))).all()


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"student_gan": -1.0}, "student_gan is -1.0; it must be at least 0"),
        ({"auxiliary_gan": math.inf}, "auxiliary_gan is inf"),
        ({"head_sigma": "head"}, "law of sigma is 'head'"),
        ({"sigma_data": math.inf}, "sigma_data is inf"),
    ],
)
@pytest.mark.parametrize("method", [DMD2, FDistill])
def test_a_knob_out_of_range_is_refused_by_name(
    method: Any, knobs: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        method(**knobs)


def test_f_distills_own_knobs_are_checked_too() -> None:
    with pytest.raises(ValueError, match="divergence is 'tv'; allowed are rkl, kl, js"):
        FDistill(divergence="tv")
    with pytest.raises(ValueError, match="bins is 0"):
        FDistill(bins=0)
