"""`refine.py doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import click

# Extra package -> what it is for.
OPTIONAL = {
    "diffusers": "folders of diffusers with kinds of blocks that are not built here",
    "huggingface_hub": "models of the Hugging Face Hub that need a token",
    "onnx": "export --format onnx",
    "tensorboard": "training curves in TensorBoard",
    "transformers": "--features dinov2 and clip",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SMALLEST_TORCH = (2, 6)


DIFFERS = "DIFFERS from its definition"

Finding = tuple[str, str]  # what it is about, and what was found


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def doctor(as_json: bool) -> None:
    """Say what works here: torch, devices, kernels, caches, optional packages."""
    found: list[Finding] = []
    for part in (of_torch, of_devices, of_kernels, of_caches, of_optional):
        for subject, finding in part():
            found.append((subject, finding))
            if not as_json:
                print(f"{subject:<12}{finding}")
    if as_json:
        rows = [{"subject": subject, "finding": finding} for subject, finding in found]
        print(json.dumps(rows, indent=1))
    if any(DIFFERS in finding for _, finding in found):
        raise click.ClickException(
            "a kernel gives other numbers than its definition; set REFINE_OPS=reference, which "
            "switches kernels off, and report this with the lines above"
        )


def of_torch() -> Iterator[Finding]:
    """Versions; a torch that is too old ends the command."""
    import torch

    yield ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if found < SMALLEST_TORCH:
        raise ValueError(
            f"torch is {torch.__version__}; 2.6 or newer is needed: pip install -U torch"
        )


def of_devices() -> Iterator[Finding]:
    """Each device, and whether this torch has code for it."""
    import torch

    others = {
        "mps": ("Apple's", torch.backends.mps.is_available()),
        "xpu": ("Intel's", torch.xpu.is_available()),
    }
    for name, (whose, there) in others.items():
        if there:
            yield (
                name,
                f"{whose} GPU; --device {name} uses it, in float32, which nobody has tried",
            )
    if not torch.cuda.is_available():
        is_built = torch.version.cuda is not None or torch.version.hip is not None
        why = "no GPU is seen" if is_built else "this torch is built for CPUs"
        rest = "" if any(there for _, there in others.values()) else "; everything runs on the CPU"
        yield ("cuda", f"no ({why}){rest}")
        return
    known = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        arch = architecture(facts)
        verdict = (
            ""
            if has_code_for(arch, known)
            else (f"; this torch has no code for it, only for {', '.join(known)}")
        )
        memory = facts.total_memory / 2**30
        yield ("cuda", f"{index}: {facts.name}, {arch}, {memory:.0f} GiB{verdict}")


class DeviceFacts(Protocol):
    """What torch.cuda says of a device that its architecture is told by."""

    major: int
    minor: int


def architecture(facts: DeviceFacts) -> str:
    """Return what compilers call a device: sm_90, or on ROCm gfx90a, without its features."""
    gcn = getattr(facts, "gcnArchName", "")
    return gcn.partition(":")[0] or f"sm_{facts.major}{facts.minor}"


def has_code_for(arch: str, known: Sequence[str]) -> bool:
    """Whether code for one of these architectures, or its intermediate form, runs on a device.

    NVIDIA's binaries run on later minors of their major version, and compute_NN is compiled for
    any that is newer; AMD's run on their own architecture alone.
    """
    if not arch.startswith("sm_"):
        return arch in (name.partition(":")[0] for name in known)
    number = int(arch.removeprefix("sm_"))
    for name in known:
        kind, _, digits = name.partition("_")
        n = int("".join(filter(str.isdigit, digits)) or 0)  # sm_90a is sm_90 and more
        same = n // 10 == number // 10 or kind == "compute"
        if kind in ("sm", "compute") and same and n <= number:
            return True
    return False


def of_kernels() -> Iterator[Finding]:
    """Each kernel, compiled and compared with its definition."""
    import torch

    from stylegan_ops.kernels import gpu
    from stylegan_ops.kernels.build import BuildError, library

    if os.environ.get("REFINE_OPS") == "reference":
        yield ("kernels", "off by REFINE_OPS=reference; checked all the same")
    if torch.cuda.is_available():
        why = gpu.refusal()
        off = f"off, torch's own are used: {why}"
        yield ("kernels", f"cuda: {off if why else 'by Triton, equal to their definitions'}")
    try:
        library()
    except BuildError as error:
        yield ("kernels", f"cpu: off, torch's own are used, slower with equal results: {error}")
        return
    for kernel, check in kernel_checks().items():
        worst = check()
        agrees = worst < 1e-5  # float32, results of order one
        verdict = "equals its definition" if agrees else DIFFERS
        yield ("kernels", f"cpu: {kernel} {verdict} to {worst:.0e}")


def kernel_checks() -> dict[str, Callable[[], float]]:
    """Return for each kernel a function that gives its largest difference to the definition."""
    import torch

    import stylegan_ops as ops
    from stylegan_ops.kernels.winograd import conv3x3

    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    x, b = normal(2, 4, 9, 11), normal(4)
    f = ops.setup_filter([1, 3, 3, 1])
    weight, styles = normal(3, 4, 3, 3) / 6, normal(2, 4)

    def difference(
        op: Callable[..., torch.Tensor], *tensors: torch.Tensor, **settings: object
    ) -> float:
        ways = [op(*tensors, **settings, impl=impl) for impl in ("cpu", "reference")]
        return float((ways[0] - ways[1]).abs().max())

    def convolution() -> float:
        x = normal(2, 4, 9, 11)
        ours, torchs = conv3x3(x, weight), torch.nn.functional.conv2d(x, weight, padding=1)
        return float((ours - torchs).abs().max())

    return {
        "bias_act": lambda: difference(ops.bias_act, x, b, act="lrelu", clamp=1.0),
        "upfirdn2d": lambda: difference(ops.upfirdn2d, x, f, up=2, padding=[2, 1]),
        "filtered_lrelu": lambda: difference(
            ops.filtered_lrelu, x, f, f, b, up=2, down=2, padding=3
        ),
        "modulated_conv2d": lambda: difference(ops.modulated_conv2d, x, weight, styles, padding=1),
        "convolution": convolution,
    }


def of_caches() -> Iterator[Finding]:
    """Each cache folder with its size."""
    from checkpoints.web.cache import default_folder
    from stylegan_ops.kernels.build import cache_folder

    for subject, folder in (("networks", default_folder()), ("kernels", cache_folder())):
        own = [file for file in folder.glob("*") if file.is_file()] if folder.is_dir() else []
        size = sum(file.stat().st_size for file in own) / 2**20
        yield ("cache", f"{subject}: {folder}, {len(own)} files, {size:.1f} MiB")


def of_optional() -> Iterator[Finding]:
    """Which extras are there, and how to get the others."""
    for package, purpose in OPTIONAL.items():
        there = importlib.util.find_spec(package) is not None
        yield (
            "optional",
            f"{package}: " + (purpose if there else f"pip install {package} for {purpose}"),
        )
    given = os.environ.get("REFINE_CHROMIUM")
    names = [given] if given else list(BROWSERS)
    browser = next((found for name in names if (found := shutil.which(name))), None)
    found = Path(browser) if browser else "none; only the tests of the report's page want one"
    yield ("optional", f"chromium: {found}")
