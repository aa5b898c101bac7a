"""Part 1 of the first day on a GPU: is what it computes right (benchmarks/gpu.py).

Each method makes a step on the device and on the CPU from the same weights, latents and noise: the
noise that is drawn on the device is drawn by the CPU meanwhile, and sent. Their figures and the
student's gradient are compared, relative to the CPU's in float32.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import stylegan_ops as ops
import teachers
from benchmarks.gpu import Day, Finding
from refiners import DISTILLERS, REFINERS, Distillation, ImageSet, Inputs, PairSet, Refinement
from refiners.base import WithPairs
from refiners.moments import newton_inverse_root, roots
from refiners.runs.starting import compares_images
from refiners.training.precision import arithmetic
from refiners.training.settings import Settings
from students.stylegan2.generator import Generator
from stylegan_ops.kernels import gpu
from teachers.edm import EDMPrecond

CLASSES = 3
LIMIT = 1e-3  # of a step in float32, relative
LOOSE = 0.2  # of one in tf32 or bf16, beyond which something is wrong and not rounded
DRAWN = (torch.randn, torch.rand, torch.randn_like, torch.rand_like, torch.randint, torch.normal)
SMALL = {"num_reference": 100, "num_features": 16, "memory": 100}


class HostDraws(TorchFunctionMode):
    """Draws on the CPU, and sends, what is asked for on a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, or draw by it on the CPU."""
        kwargs = dict(kwargs or {})
        if func not in DRAWN:
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        if func in (torch.randn_like, torch.rand_like):
            device = args[0].device if device is None else device
            args = (torch.empty_like(args[0], device="cpu"), *args[1:])
        found = func(*args, **kwargs)
        return found if device is None else found.to(device)


def teacher_of(resolution: int) -> EDMPrecond:
    """Return a small denoiser with classes, dropout of labels and attention."""
    torch.manual_seed(0)
    network = EDMPrecond(
        resolution, 3, CLASSES, model_type="SongUNet", model_channels=16, channel_mult=[1, 2],
        num_blocks=1, attn_resolutions=[resolution // 2], label_dropout=0.1, use_fp16=True,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def student_of(resolution: int) -> Generator:
    """Return a small StyleGAN2 generator with classes."""
    torch.manual_seed(1)
    synthesis = {"channel_base": 1024, "channel_max": 32, "num_fp16_res": 2, "conv_clamp": 256}
    return Generator(
        z_dim=32, c_dim=CLASSES, w_dim=32, img_resolution=resolution, img_channels=3,
        mapping_kwargs={"num_layers": 2}, synthesis_kwargs=synthesis,
    )  # fmt: skip


def begin(name: str, device: str, resolution: int, **changes: Any) -> Refinement:
    """Begin a run of a method, the same on each device."""
    torch.manual_seed(2)
    method: Any = REFINERS[name](**(SMALL if "moments" in name else {}))
    images = torch.randint(0, 256, [200, 3, resolution, resolution], dtype=torch.uint8)
    labels = torch.eye(CLASSES)[torch.arange(200) % CLASSES]
    inputs = Inputs(
        ImageSet(images, labels) if compares_images(method) else None,
        PairSet(torch.randn(200, 32), images, labels)
        if issubclass(REFINERS[name], WithPairs)
        else None,
    )
    told: dict[str, Any] = {"kimg": 10.0, "batch": 16, "warmup_kimg": 0.0, "precision": "fp32"}
    pair = student_of(resolution).to(device), teacher_of(resolution).to(device)
    settings = Settings(**{**told, **changes})
    return Refinement(*pair, method, settings, inputs=inputs)


def figures_of(job: Any) -> dict[str, float]:
    """Return the figures of one step."""
    return {**job.advance(), **job.settle()}


def gradient_of(job: Refinement) -> torch.Tensor:
    """Return the student's last gradient, in one row."""
    grads = [p.grad for p in job.student.parameters() if p.grad is not None]
    return torch.cat([g.detach().flatten().cpu() for g in grads])


def off_by(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return how far a is from b, relative to the norm of b."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def step_beside_cpu(day: Day, name: str, precision: str, limit: float) -> Finding:
    """Compare a step of a method with that of the CPU."""
    r = 8 if day.small else 16
    on_cpu, there = begin(name, "cpu", r), begin(name, day.device, r, precision=precision)
    wanted = figures_of(on_cpu)
    with HostDraws():
        found = figures_of(there)
    worst = off_by(gradient_of(there), gradient_of(on_cpu))
    for key, value in wanted.items():
        worst = max(worst, abs(found[key] - value) / max(abs(value), 1e-12))
    return worst, math.isfinite(worst) and worst < limit


def distillation_beside_cpu(day: Day, name: str) -> Finding:
    """Compare a step of a distillation with that of the CPU."""
    r = 8 if day.small else 16

    def job(device: str) -> Distillation:
        torch.manual_seed(3)
        images = ImageSet(torch.randn(50, 3, r, r), torch.eye(CLASSES)[torch.arange(50) % CLASSES])
        settings = Settings(kimg=1.0, batch=8, precision="fp32")
        method = DISTILLERS[name](num_steps=2)
        return Distillation(teacher_of(r).to(device), method, settings, real_images=images)

    wanted = figures_of(job("cpu"))
    with HostDraws():
        found = figures_of(job(day.device))
    worst = max(abs(found[key] - value) / max(abs(value), 1e-12) for key, value in wanted.items())
    return worst, worst < LIMIT


def sampler_beside_cpu(day: Day) -> Finding:
    """Compare images of the sampler."""
    r = 8 if day.small else 32
    latents, labels = torch.randn(4, 3, r, r), torch.eye(CLASSES)[[0, 1, 2, 0]]
    denoiser = teacher_of(r)
    denoiser.use_fp16 = False
    wanted = teachers.sample(denoiser, latents, labels=labels, num_steps=6)
    there = denoiser.to(day.device)
    with arithmetic(Settings(precision="fp32"), torch.device(day.device)):
        found = teachers.sample(
            there, latents.to(day.device), labels=labels.to(day.device), num_steps=6
        )
    worst = off_by(found, wanted)
    return worst, worst < LIMIT


def operation_beside_cpu(day: Day, name: str, dtype: torch.dtype) -> Finding:
    """Compare an operation's value and first gradient with those of the CPU in float64."""
    draw = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    f = ops.setup_filter([1, 3, 3, 1])
    r = 16 if day.small else 64  # as large as kernels are called for
    x, b, w, s = normal(4, 16, r, r), normal(16), normal(16, 16, 3, 3) / 12, normal(4, 16)
    # Sums that halves hold exactly, off 0 and the clamp: at a kink a rounding flips the slope.
    at, by = (8 * x).round() / 8 + 1 / 16, (8 * b).round() / 8
    calls: dict[str, tuple[Any, list[torch.Tensor]]] = {
        "bias_act": (lambda x, b: ops.bias_act(x, b, act="lrelu", clamp=2.0), [at, by]),
        "upfirdn2d": (lambda x: ops.upfirdn2d(x, f.to(x.device), up=2, padding=[2, 1, 2, 1]), [x]),
        "filtered_lrelu": (
            lambda x, b: ops.filtered_lrelu(
                x, f.to(x.device), f.to(x.device), b, up=2, down=2, padding=3
            ),
            [x, b],
        ),
        "modulated_conv2d": (lambda x, w, s: ops.modulated_conv2d(x, w, s, padding=1), [x, w, s]),
    }
    call, inputs = calls[name]

    def both(device: str, kind: torch.dtype) -> list[torch.Tensor]:
        leaves = [t.to(device, kind).requires_grad_() for t in inputs]
        y = call(*leaves)
        return [y, *torch.autograd.grad(y, leaves, y.detach())]  # slopes of order one

    wanted = both("cpu", torch.float64)
    with arithmetic(Settings(precision="fp32"), torch.device(day.device)):
        found = both(day.device, dtype)
    worst = max(off_by(a, b) for a, b in zip(found, wanted, strict=True))
    limit = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    return worst, worst < limit


def weights_of(job: Refinement) -> torch.Tensor:
    """Return the student's and the auxiliary's weights in one row."""
    state = job.state_dict()
    networks = [state[name] for name in ("student", "average", "auxiliary") if name in state]
    return torch.cat([t.detach().flatten().cpu().float() for n in networks for t in n.values()])


def resumed(day: Day, *, deterministic: bool) -> Finding:
    """Compare a run of four steps with one that was written after two and continued."""
    r, name = 8 if day.small else 16, "diff-instruct"
    whole, first, second = (
        begin(name, day.device, r, deterministic=deterministic) for _ in range(3)
    )
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(2):
        second.advance()
    worst = off_by(weights_of(second), weights_of(whole))
    return worst, worst == 0 if deterministic else worst < LIMIT


def repeated(day: Day) -> Finding:
    """Compare two runs of one seed under --deterministic, to the bit, for each method."""
    r, differing = 8 if day.small else 16, []
    for name in REFINERS:
        runs = [begin(name, day.device, r, deterministic=True) for _ in range(2)]
        for job in runs:
            for _ in range(3):
                job.advance()
        if not torch.equal(*map(weights_of, runs)):
            differing.append(name)
    return ", ".join(differing) or "all methods the same to the bit", not differing


@contextmanager
def counted_waits(device: str) -> Iterator[list[str]]:
    """Give the list of what CUDA says of operations inside for which the host waits."""
    found: list[str] = []
    if not device.startswith("cuda"):
        yield found
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")
        found += [str(w.message) for w in told if "synchroniz" in str(w.message)]


def waits(day: Day, name: str) -> Finding:
    """Count what CUDA says the host waits for in a step; the event is not among them."""
    job = begin(name, day.device, 8 if day.small else 16, precision="auto", auxiliary_steps=2)
    for _ in range(2):
        job.advance()
    with counted_waits(day.device) as found:
        job.advance()
    return len(found), not found


def inverse_root(day: Day) -> Finding:
    """Compare the inverse root by products on the device with that by eigenvalues on the CPU."""
    n = 32 if day.small else 256
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q
    values = torch.logspace(0, -6, n, dtype=torch.float64)
    symmetric = (basis * values) @ basis.T
    worst = off_by(newton_inverse_root(symmetric.to(day.device)), roots(symmetric)[1])
    return worst, worst < 1e-6


def kernels(day: Day) -> Finding:
    """Say whether the GPU's own kernels are used."""
    why = gpu.refusal() if day.device.startswith("cuda") else "no GPU"
    return why or "used, equal to their definitions", None


def doctor(day: Day) -> Finding:
    """Return what doctor says of the devices."""
    found = json.loads(day.command("refine.py", "doctor", "--json", seconds=240))
    about = [row["finding"] for row in found if row["subject"] in ("torch", "cuda")]
    return "; ".join(about), True


def tests(day: Day) -> Finding:
    """Run the tests that need a GPU."""
    said = day.command("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", seconds=240)
    return said.strip().splitlines()[-1], True


def rows(day: Day) -> None:
    """Carry out the part."""
    day.row("doctor", lambda: doctor(day))
    for name in REFINERS:
        day.row(f"step of {name}, fp32, beside the CPU",
                lambda name=name: step_beside_cpu(day, name, "fp32", LIMIT))  # fmt: skip
    for name in DISTILLERS:
        day.row(f"step of {name}, fp32, beside the CPU",
                lambda name=name: distillation_beside_cpu(day, name))  # fmt: skip
    low = ("tf32", "bf16") if day.device.startswith("cuda") else ("bf16",)
    for name in ("diff-instruct", "dmd2", "adversarial-moments"):
        for precision in low:
            day.row(f"drift of {name} in {precision}",
                    lambda n=name, p=precision: step_beside_cpu(day, n, p, LOOSE))  # fmt: skip
    day.row("kernels by Triton", lambda: kernels(day))
    day.row("sampler, beside the CPU", lambda: sampler_beside_cpu(day))
    for name in ("bias_act", "upfirdn2d", "filtered_lrelu", "modulated_conv2d"):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            day.row(f"{name}, {str(dtype)[6:]}, beside the CPU",
                    lambda name=name, d=dtype: operation_beside_cpu(day, name, d))  # fmt: skip
    day.row("inverse root by products", lambda: inverse_root(day))
    for name in REFINERS:
        day.row(f"waits of a step of {name}", lambda name=name: waits(day, name))
    day.row("resumed", lambda: resumed(day, deterministic=False))
    day.row("resumed, deterministic", lambda: resumed(day, deterministic=True))
    day.row("two runs of a seed, deterministic", lambda: repeated(day))
    if not day.small:
        day.row("pytest -m gpu", lambda: tests(day))
