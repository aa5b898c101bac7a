"""One published step of each method, its equations written out anew, against ours at like noise.

Loss by loss as the papers and their public code have it, with their scalings (means over pixels in
DMD's family and in progressive distillation, sums elsewhere), on networks of EDM's form. What is
left of differences is listed in docs/methods.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, softplus

from refiners import DISTILLERS, REFINERS, ImageSet, Inputs, Refinement, Settings
from refiners.guided import GuidedDenoiser
from teachers.edm import EDMPrecond

N, PIXELS = 6, 64
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-8}


def small_edm(classes: int = 0) -> EDMPrecond:
    """A DDPM++ in float64 without dropout, whose last layers are not the zeros of a new one."""
    network = EDMPrecond(
        8, 1, classes, model_type="SongUNet", model_channels=8, channel_mult=[1], num_blocks=1,
        dropout=0.0, label_dropout=0.1 if classes else 0,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.double().eval()


class World:
    """Teacher, auxiliary, images of the student and real ones."""

    def __init__(self, name: str, **knobs: Any):
        torch.manual_seed(5)
        self.method = REFINERS[name](**knobs)
        self.teacher, auxiliary = small_edm(), small_edm()
        self.bare: Any = auxiliary
        self.auxiliary: Any = auxiliary
        if hasattr(self.method, "with_head"):
            self.auxiliary = self.method.with_head(auxiliary, teacher=self.teacher)
        self.x_0 = torch.randn(N, 1, 8, 8).double() * 0.5
        self.real = torch.randn(N, 1, 8, 8).double() * 0.5

    def ours(self) -> Tensor:
        """Return the method's pixel gradient."""
        torch.manual_seed(9)
        networks = {"teacher": self.teacher, "auxiliary": self.auxiliary}
        return self.method.pixel_gradient(self.x_0, None, **networks)

    def our_auxiliary_loss(self) -> Tensor:
        """Return what the auxiliary is trained by."""
        torch.manual_seed(9)
        networks = {"auxiliary": self.auxiliary}
        loss = self.method.auxiliary_loss(self.x_0, None, **networks)
        if hasattr(self.method, "head_loss"):
            loss = loss + self.method.head_loss(self.x_0, None, self.real, None, **networks)
        return loss

    def slope(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the slope of a published loss, which is a mean over samples, per sample."""
        torch.manual_seed(9)
        x_0 = self.x_0.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(x_0), x_0)
        return slope * N

    def features(self, network: Any, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return D(x; sigma) and what the last layer of the encoder gives."""
        seen: list[Tensor] = []
        *_, last = network.model.enc.values()
        handle = last.register_forward_hook(lambda module, given, out: seen.append(out))
        denoised = network(x, sigma)
        handle.remove()
        return denoised, seen[0]

    def logits(self, network: Any, x: Tensor, sigma: Tensor) -> Tensor:
        """Return those of the head on a network's features."""
        return self.auxiliary.head(self.features(network, x, sigma)[1]).flatten()


def wide(sigma: Tensor) -> Tensor:
    return sigma.reshape(-1, 1, 1, 1)


def lognormal() -> Tensor:
    return (torch.randn([N]) * 1.2 - 1.2).exp()


def karras(low: float, high: float) -> Tensor:
    """Levels of EDM's sampler at times that are uniform."""
    first, last = high ** (1 / 7), low ** (1 / 7)
    return (first + torch.rand([N]) * (last - first)) ** 7


def sid_sigma() -> Tensor:
    """Uniform over the lower 800 of 1000 times, which the published code writes so."""
    first, last = 80 ** (1 / 7), 0.002 ** (1 / 7)
    t = (1 - torch.rand([N])) * 0.8  # the stream's other end: u and 1 - u have one law
    return (first + (1 - t) * (last - first)) ** 7


def noised(x: Tensor, sigma: Tensor) -> Tensor:
    return x + wide(sigma) * torch.randn_like(x)


def edm_loss(auxiliary: Any, y: Tensor, sigma: Tensor) -> Tensor:
    """EDM's loss as published for the auxiliaries: pixel sum, sample mean."""
    weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    return (wide(weight) * (auxiliary(noised(y, sigma), sigma) - y) ** 2).sum() / N


def test_diff_instruct() -> None:
    world = World("diff-instruct")

    def loss(x_0: Tensor) -> Tensor:
        sigma = lognormal()
        with torch.no_grad():
            x = noised(x_0, sigma)
            difference = world.bare(x, sigma) - world.teacher(x, sigma)
        return (difference * x_0).sum() / N

    torch.testing.assert_close(world.ours(), world.slope(loss), **CLOSE)
    torch.manual_seed(9)
    expected = edm_loss(world.bare, world.x_0, lognormal())
    torch.testing.assert_close(world.our_auxiliary_loss(), expected, **CLOSE)


def test_sds() -> None:
    world = World("sds")

    def loss(x_0: Tensor) -> Tensor:
        sigma = karras(0.02, 20)
        with torch.no_grad():
            eps = torch.randn_like(x_0)
            x = x_0 + wide(sigma) * eps
            predicted = (x - world.teacher(x, sigma)) / wide(sigma)
        # DreamFusion: w(t) (eps_hat - eps) dx/dtheta, w = sigma here.
        return (wide(sigma) * (predicted - eps) * x_0).sum() / N

    torch.testing.assert_close(world.ours(), world.slope(loss), **CLOSE)


def matching_loss(world: World, x_0: Tensor, sigma: Tensor, scale: Any = 1) -> Tensor:
    """DMD's first loss by the trick of its Algorithm 2: half a mean square to a fixed target."""
    with torch.no_grad():
        x = noised(x_0, sigma)
        p_real, p_fake = x_0 - world.teacher(x, sigma), x_0 - world.bare(x, sigma)
        grad = (p_real - p_fake) / p_real.abs().mean(dim=[1, 2, 3], keepdim=True)
    return 0.5 * mse_loss(x_0, (x_0 - scale * grad).detach())


def dmd_auxiliary_loss(world: World) -> Tensor:
    sigma = karras(0.002, 80)
    weight = sigma**-2 + 1 / 0.5**2
    square = (world.bare(noised(world.x_0, sigma), sigma) - world.x_0) ** 2
    return (wide(weight) * square).mean()


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_dmd(weight: float) -> None:
    world = World("dmd", regression=weight)
    expected = world.slope(lambda x_0: matching_loss(world, x_0, karras(0.0032, 72.1)))
    torch.testing.assert_close(world.ours(), PIXELS * expected, **CLOSE)
    torch.manual_seed(9)
    expected = PIXELS * dmd_auxiliary_loss(world)
    torch.testing.assert_close(world.our_auxiliary_loss(), expected, **CLOSE)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).square().mean(dim=[1, 2, 3]) + (x * y).mean(dim=[1, 2, 3]).tanh()

    # lambda LPIPS(G(z), y), a mean over the pairs.
    expected = world.slope(lambda x_0: weight * distance(x_0, world.real).mean())
    found = world.method.pair_gradient(world.x_0, world.real, distance=distance)
    torch.testing.assert_close(found, PIXELS * expected, **CLOSE)


def test_dmd2() -> None:
    world = World("dmd2")

    def loss(x_0: Tensor) -> Tensor:
        matching = matching_loss(world, x_0, karras(0.0032, 72.1))
        sigma = karras(0.002, 80)
        fooled = world.logits(world.bare, noised(x_0, sigma), sigma)
        return matching + 3e-3 * softplus(-fooled).mean()

    torch.testing.assert_close(world.ours(), PIXELS * world.slope(loss), **CLOSE)
    torch.manual_seed(9)
    denoising = dmd_auxiliary_loss(world)
    logits = []
    for images in (world.real, world.x_0):
        sigma = karras(0.002, 80)
        logits.append(world.logits(world.bare, noised(images, sigma), sigma))
    true, made = logits
    expected = denoising + 1e-2 * (softplus(made) + softplus(-true)).mean()
    torch.testing.assert_close(world.our_auxiliary_loss(), PIXELS * expected, **CLOSE)


@pytest.mark.parametrize("divergence", ["kl", "js", "rkl"])
def test_f_distill(divergence: str) -> None:
    world = World("f-distill", divergence=divergence)

    def loss(x_0: Tensor) -> Tensor:
        state = torch.get_rng_state()
        sigma = karras(0.0032, 72.1)
        with torch.no_grad():
            ratio = world.logits(world.teacher, noised(x_0, sigma), sigma).exp().clamp(0.1, 20)
            bins = ((sigma.double() - 0.002) / 7.9998).floor().clamp(0, 9)
            means = torch.stack([ratio[bins == b].mean() for b in bins])
            ratio = ratio / means
            h = {"kl": ratio, "js": 1 - 1 / (1 + ratio), "rkl": torch.ones_like(ratio)}[divergence]
            # In the square the scale stands twice; its slope has it once.
            h = wide(h / h.mean())
        torch.set_rng_state(state)
        matching = matching_loss(world, x_0, karras(0.0032, 72.1), h)
        sigma = karras(0.002, 80)
        fooled = world.logits(world.teacher, noised(x_0, sigma), sigma)
        return matching + 1e-3 * softplus(-fooled).mean()

    torch.testing.assert_close(world.ours(), PIXELS * world.slope(loss), **CLOSE)
    torch.manual_seed(9)
    expected = dmd_auxiliary_loss(world)
    for images, sign in ((world.real, -1), (world.x_0, 1)):
        sigma = karras(0.002, 80)
        logits = world.logits(world.teacher, noised(images, sigma), sigma)
        expected = expected + softplus(sign * logits).mean()
    torch.testing.assert_close(world.our_auxiliary_loss(), PIXELS * expected, **CLOSE)


@pytest.mark.parametrize("alpha", [1.0, 1.2])
def test_sid(alpha: float) -> None:
    world = World("sid", alpha=alpha)

    def loss(x_0: Tensor) -> Tensor:
        sigma = karras(0.002, 24.4)
        x = noised(x_0, sigma)
        y_real, y_fake = world.teacher(x, sigma), world.bare(x, sigma)
        with torch.no_grad():
            factor = (x_0 - y_real).abs().mean(dim=[1, 2, 3], keepdim=True)
        every = (y_real - y_fake) * ((y_real - x_0) - alpha * (y_real - y_fake)) / factor
        return 100 * every.sum() / N

    torch.testing.assert_close(100 * world.ours(), world.slope(loss), **CLOSE)
    torch.manual_seed(9)
    expected = edm_loss(world.bare, world.x_0, lognormal())
    torch.testing.assert_close(world.our_auxiliary_loss(), expected, **CLOSE)


def test_sids_levels_are_the_lower_800_of_edms_1000() -> None:
    """The published (80^(1/7) + (1 - t) (.002^(1/7) - 80^(1/7)))^7, t uniform in [0, .8]."""
    torch.manual_seed(9)
    published = sid_sigma()
    torch.manual_seed(9)
    torch.testing.assert_close(karras(0.002, 24.4), published, rtol=1e-3, atol=0)


def test_sida() -> None:
    world = World("sida")

    def loss(x_0: Tensor) -> Tensor:
        sigma = karras(0.002, 24.4)
        x = noised(x_0, sigma)
        y_real = world.teacher(x, sigma)
        y_fake, features = world.features(world.bare, x, sigma)
        y_d = features.mean(dim=1, keepdim=True)
        with torch.no_grad():
            factor = (x_0 - y_real).abs().mean(dim=[1, 2, 3], keepdim=True)
        every = (y_real - y_fake) * ((y_real - x_0) - (y_real - y_fake)) / factor
        bce = binary_cross_entropy_with_logits(y_d.clamp(-10, 10), torch.ones_like(y_d))
        gan = (bce / factor).mean(dim=[1, 2, 3], keepdim=True) * PIXELS
        return 0.5 * (100 * every.sum() / N) + 0.5 * (0.01 * gan.sum() / N)

    torch.testing.assert_close(50 * world.ours(), world.slope(loss), **CLOSE)

    torch.manual_seed(9)
    y, sigma = world.x_0, lognormal()
    weight = wide((sigma**2 + 0.5**2) / (sigma * 0.5) ** 2)
    n = torch.randn_like(y) * wide(sigma)
    y_fake, fake = world.features(world.bare, y + n, sigma)
    _, true = world.features(world.bare, world.real + n, sigma)
    terms = []
    for features, wanted in ((true, torch.ones), (fake, torch.zeros)):
        logits = features.mean(dim=1, keepdim=True)
        terms.append(binary_cross_entropy_with_logits(logits, wanted(logits.shape).double()))
    loss_d = weight * sum(terms) / 2
    expected = (weight * (y_fake - y) ** 2).sum() / N + loss_d.sum() / N
    torch.testing.assert_close(world.our_auxiliary_loss(), expected, **CLOSE)


def test_sim() -> None:
    world = World("sim")
    c = 0.00054 * math.sqrt(PIXELS)

    def loss(x_0: Tensor) -> Tensor:
        sigma = karras(0.002, 24.4)
        x = noised(x_0, sigma)
        variance = wide(sigma) ** 2
        s_q, s_p = ((d(x, sigma) - x) / variance for d in (world.bare, world.teacher))
        y, of_sample = s_q - s_p, (x_0 - x) / variance
        length = (y.square().sum(dim=[1, 2, 3]) + c**2).sqrt()
        inner = (y * (s_q - of_sample)).sum(dim=[1, 2, 3])
        # Theorem 3.1 with the pseudo-Huber distance of the scores; the weight is sigma^2.
        return (sigma**2 * -inner / length).sum() / N

    torch.testing.assert_close(world.ours(), world.slope(loss), **CLOSE)
    torch.manual_seed(9)
    expected = edm_loss(world.bare, world.x_0, lognormal())
    torch.testing.assert_close(world.our_auxiliary_loss(), expected, **CLOSE)


def test_uni_instruct_with_the_forward_kl() -> None:
    """The published run: SIM's loss by SiD's divisor, times the ratio, which is a constant."""
    world = World("uni-instruct")

    def loss(x_0: Tensor) -> Tensor:
        sigma = karras(0.002, 24.4)
        x = noised(x_0, sigma)
        y_real = world.teacher(x, sigma)
        y_fake, features = world.features(world.bare, x, sigma)
        y_d = features.mean(dim=1, keepdim=True)
        with torch.no_grad():
            factor = (x_0 - y_real).abs().mean(dim=[1, 2, 3], keepdim=True)
            ratio = y_d.mean(dim=[1, 2, 3], keepdim=True).exp().clamp(0.1, 20)
            ratio = ratio / ratio.sum() * N
        every = ratio * (y_real - y_fake) * (y_fake - x_0) / factor
        bce = binary_cross_entropy_with_logits(y_d.clamp(-10, 10), torch.ones_like(y_d))
        return 100 * every.sum() / N + (0.01 * PIXELS * bce / factor).sum() / N

    torch.testing.assert_close(100 * world.ours(), world.slope(loss), **CLOSE)
    sida = World("sida")
    torch.testing.assert_close(world.our_auxiliary_loss(), sida.our_auxiliary_loss(), **CLOSE)


@pytest.mark.parametrize("weight", ["snr_trunc", "snr_plus_1"])
def test_progressive(weight: str) -> None:
    """Algorithm 2 in variance-preserving coordinates, for a student of 4 steps."""
    method: Any = DISTILLERS["progressive"](weight=weight)
    torch.manual_seed(5)
    student, teacher = small_edm(), small_edm()
    x = torch.randn(N, 1, 8, 8).double() * 0.5
    torch.manual_seed(9)
    networks = {"student": student, "teacher": teacher, "original": teacher}
    ours = method.loss(x, None, num_steps=4, **networks)

    def levels(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """logSNR = -2 ln tan(a u + b), and the scales of image and noise."""
        b = math.atan(0.002)
        a = math.atan(80) - b
        snr = (a * u.double() + b).tan() ** -2
        return wide((snr / (1 + snr)).sqrt()), wide((1 / (1 + snr)).sqrt()), snr

    def x_of(network: Any, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return network(z / alpha, (sigma / alpha).flatten())

    torch.manual_seed(9)
    i = torch.randint(1, 5, [N])  # the published i + 1
    eps = torch.randn_like(x)
    alpha, sigma, snr = levels(i / 4)
    z = alpha * x + sigma * eps
    with torch.no_grad():
        now = (alpha, sigma)
        at, x_pred = z, x_of(teacher, z, *now)
        for part in (0.5, 1.0):
            then = levels((i - part) / 4)[:2]
            at = then[0] * x_pred + then[1] / now[1] * (at - now[0] * x_pred)
            if part < 1:
                now, x_pred = then, x_of(teacher, at, *then)
        ratio = then[1] / sigma
        target = (at - ratio * z) / (then[0] - ratio * alpha)
        # The last step returns the last x.
        target = torch.where(wide(i) == 1, x_pred, target)
    x_mse = (target - x_of(student, z, alpha, sigma)).square().mean(dim=[1, 2, 3])
    eps_mse = snr * x_mse
    each = torch.maximum(x_mse, eps_mse) if weight == "snr_trunc" else x_mse + eps_mse
    torch.testing.assert_close(ours, PIXELS * each.mean(), **CLOSE)


def test_guided() -> None:
    """Meng et al. 2023, Eq. 1 and 2: the student with its weight against both of the teacher's."""
    method: Any = DISTILLERS["guided"](weight="snr_plus_1")
    torch.manual_seed(5)
    original = small_edm(2)
    student: Any = GuidedDenoiser(copy.deepcopy(original), layer="model.map_layer0").double()
    torch.nn.init.normal_(student.embed.weight, std=0.1)
    x, labels = torch.randn(N, 1, 8, 8).double() * 0.5, torch.eye(2)[torch.arange(N) % 2].double()
    torch.manual_seed(9)
    networks = {"student": student, "teacher": student, "original": original}
    ours = method.loss(x, labels, num_steps=0, **networks)
    torch.manual_seed(9)
    w = 4 * torch.rand([N])
    b = math.atan(0.002)
    sigma = ((math.atan(80) - b) * torch.rand([N]).double() + b).tan().float()
    z = noised(x, sigma)
    target = wide(1 + w) * original(z, sigma, labels) - wide(w) * original(z, sigma)
    square = (student(z, sigma, labels, guidance=w) - target).square().mean(dim=[1, 2, 3])
    torch.testing.assert_close(ours, PIXELS * ((sigma**-2 + 1) * square).mean(), **CLOSE)


class OneStep(torch.nn.Module):
    """The denoiser at sigma 80, as DMD2's generator."""

    def __init__(self, denoiser: Any):
        super().__init__()
        self.denoiser = denoiser
        self.z_dim, self.c_dim = 64, 0
        self.img_resolution, self.img_channels = 8, 1

    def sample_latents(self, n: int, *, generator: Any = None) -> Tensor:
        return torch.randn([n, 64], generator=generator).double()

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.denoiser(80 * z.reshape(-1, 1, 8, 8), torch.full([len(z)], 80.0))


def test_dmd2s_loop_moves_every_weight_as_the_published_one() -> None:
    """Student first, then five updates of the auxiliary, on its images and on four new batches."""
    seed, rate, steps = 3, 1e-2, 3
    torch.manual_seed(5)
    teacher, real = small_edm(), torch.randn(40, 1, 8, 8).double() * 0.5
    method: Any = REFINERS["dmd2"]()
    settings = Settings(
        **{**method.settings, "kimg": 1, "batch": N, "glr": rate, "lr": rate, "seed": seed}
    )
    student: Any = OneStep(copy.deepcopy(teacher))
    source = ImageSet(real)
    job: Any = Refinement(student, teacher, method, settings, inputs=Inputs(source))
    world = World("dmd2")
    world.teacher, world.auxiliary = teacher, copy.deepcopy(job.auxiliary)
    world.bare = world.auxiliary.denoiser
    generator = OneStep(copy.deepcopy(teacher))
    start = copy.deepcopy(generator.state_dict())

    options: Any = {"lr": rate, "betas": (0.9, 0.999), "weight_decay": 0.01, "fused": True}
    # Adam's eps stands beside gradients of means there, of sums here.
    g_optimizer = torch.optim.AdamW(generator.parameters(), eps=1e-8 / PIXELS, **options)
    guidance = torch.optim.AdamW(world.auxiliary.parameters(), eps=1e-8 / PIXELS, **options)
    iteration = 0
    for step in range(steps):
        torch.manual_seed(seed * 1_000_003 + step)
        for turn in range(5):
            for optimizer in (g_optimizer, guidance):
                optimizer.param_groups[0]["lr"] = rate * min(1, iteration / 500)
            images = generator(generator.sample_latents(N))
            if turn == 0:
                matching = matching_loss(world, images, karras(0.0032, 72.1))
                sigma = karras(0.002, 80)
                fooled = world.logits(world.bare, noised(images, sigma), sigma)
                g_optimizer.zero_grad()
                (matching + 3e-3 * softplus(-fooled).mean()).backward()
                torch.nn.utils.clip_grad_norm_(generator.parameters(), 10.0)
                g_optimizer.step()
            world.x_0 = images.detach()
            denoising = dmd_auxiliary_loss(world)
            stream = torch.Generator().manual_seed(int(torch.randint(2**32, [])))
            logits = []
            for y in (source(N, stream)[0], world.x_0):
                sigma = karras(0.002, 80)
                logits.append(world.logits(world.bare, noised(y, sigma), sigma))
            told_apart = (softplus(logits[1]) + softplus(-logits[0])).mean()
            guidance.zero_grad()
            (denoising + 1e-2 * told_apart).backward()
            torch.nn.utils.clip_grad_norm_(world.auxiliary.parameters(), 10.0)
            guidance.step()
            iteration += 1
        job.advance()
    for ours, theirs in ((job.student, generator), (job.auxiliary, world.auxiliary)):
        for (name, a), b in zip(
            ours.state_dict().items(), theirs.state_dict().values(), strict=True
        ):
            assert (a - b).norm() <= 1e-5 * max(b.norm().item(), 1e-3), name
    moved = [(v - start[k]).norm() for k, v in generator.state_dict().items()]
    assert max(moved) > 1e-3
