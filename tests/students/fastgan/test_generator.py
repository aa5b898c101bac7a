"""FastGAN: files of Projected GAN's classes and of FastGAN's own program, against PyTorch's layers.

The networks here are built of torch.nn and its spectral_norm, by the description of the papers, and
pickled under the names that the programs have; nothing of them is imported when they are read.
"""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

import checkpoints
import students
from refine_commands.network_facts import networks_of
from students.fastgan.generator import FastGANGenerator

NGF = 8
Z_DIM = 6
WIDTHS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}
CHANNELS = {r: int(NGF * width) for r, width in WIDTHS.items()}


def conv(*args: Any, **options: Any) -> nn.Module:
    return spectral_norm(nn.Conv2d(*args, **options))


class GLU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=1)
        return a * b.sigmoid()


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.sigmoid()


class NoiseInjection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight * torch.randn(len(x), 1, *x.shape[2:])


class CCBN(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = spectral_norm(nn.Linear(Z_DIM, channels))
        self.bias = spectral_norm(nn.Linear(Z_DIM, channels))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mean, var = self.get_buffer("stored_mean"), self.get_buffer("stored_var")
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * (1 + self.gain(y))[:, :, None, None] + self.bias(y)[:, :, None, None]


class InitLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        out = 2 * CHANNELS[4]
        first = spectral_norm(nn.ConvTranspose2d(Z_DIM, out, 4, bias=False))
        self.init = nn.Sequential(first, nn.BatchNorm2d(out), GLU())

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.init(z[:, :, None, None])


def block(given: int, out: int, *, double: bool) -> nn.Module:
    parts: list[nn.Module] = [nn.Upsample(scale_factor=2)]
    for i in range(1 + double):
        parts.append(conv(out if i else given, 2 * out, 3, padding=1, bias=False))
        parts += [NoiseInjection()] if double else []
        parts += [nn.BatchNorm2d(2 * out), GLU()]
    return nn.Sequential(*parts)


class UpBlockBigCond(nn.Module):
    def __init__(self, given: int, out: int) -> None:
        super().__init__()
        self.conv1 = conv(given, 2 * out, 3, padding=1, bias=False)
        self.conv2 = conv(out, 2 * out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = CCBN(2 * out), CCBN(2 * out)
        self.act, self.noise = GLU(), NoiseInjection()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = self.conv1(F.interpolate(x, scale_factor=2))
        x = self.conv2(self.act(self.bn1(self.noise(x), y)))
        return self.act(self.bn2(self.noise(x), y))


class UpBlockSmallCond(nn.Module):
    def __init__(self, given: int, out: int) -> None:
        super().__init__()
        self.conv = conv(given, 2 * out, 3, padding=1, bias=False)
        self.bn, self.act = CCBN(2 * out), GLU()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(F.interpolate(x, scale_factor=2)), y))


class SEBlock(nn.Module):
    def __init__(self, small: int, large: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.AdaptiveAvgPool2d(4),
            conv(small, large, 4, bias=False),
            Swish(),
            conv(large, large, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
        return large * self.main(small)


class FastganSynthesis(nn.Module):
    def __init__(self, resolution: int, classes: int, kind: str) -> None:
        super().__init__()
        self.resolution, self.kind, self.classes = resolution, kind, classes
        own = kind == "own"
        self.init = InitLayer()
        for r in [r for r in CHANNELS if 4 < r <= max(resolution, 256)]:
            double = kind == "big" or (own and r in (8, 32, 128, 512))
            labelled = UpBlockBigCond if double else UpBlockSmallCond
            sizes = CHANNELS[r // 2], CHANNELS[r]
            self.add_module(
                f"feat_{r}", labelled(*sizes) if classes else block(*sizes, double=double)
            )
        for r in [r for r in (64, 128, 256, 512) if r <= max(resolution, 256)]:
            self.add_module(f"se_{r}", SEBlock(CHANNELS[r // 16], CHANNELS[r]))
        self.to_big = conv(CHANNELS[resolution], 3, 3, padding=1, bias=not own)
        if own:
            self.to_128 = conv(CHANNELS[128], 3, 1, bias=False)
        if classes:
            self.embed = nn.Embedding(classes, Z_DIM)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        if self.kind != "own":
            z = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
        y = (self.embed(c.argmax(dim=1)),) if self.classes and c is not None else ()
        seen = {4: self.init(z)}
        for r in [r for r in CHANNELS if 4 < r <= self.resolution]:
            x = self.get_submodule(f"feat_{r}")(seen[r // 2], *y)
            seen[r] = self.get_submodule(f"se_{r}")(seen[r // 16], x) if 32 < r < 1024 else x
        x = self.to_big(seen[self.resolution])
        return x.tanh() if self.kind == "own" and self.resolution == 1024 else x


class FastganSynthesisCond(FastganSynthesis):
    pass


class DummyMapping(nn.Module):
    pass


class Generator(nn.Module):
    def __init__(self, resolution: int, c_dim: int, classes: int, kind: str) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = Z_DIM, c_dim, 0
        self.img_resolution, self.img_channels = resolution, 3
        self.mapping = DummyMapping()
        made = FastganSynthesisCond if classes else FastganSynthesis
        self.synthesis = made(resolution, classes, kind)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        return self.synthesis(z, c)


NAMES = {
    "pg_modules.networks_fastgan": (
        *(Generator, FastganSynthesis, FastganSynthesisCond, DummyMapping),
    ),
    "pg_modules.blocks": (
        *(InitLayer, UpBlockBigCond, UpBlockSmallCond, SEBlock, GLU, Swish, NoiseInjection, CCBN),
    ),
}


@pytest.fixture
def checkout(monkeypatch) -> None:
    """The classes above under the programs' names, as long as a test runs."""
    monkeypatch.setitem(sys.modules, "pg_modules", types.ModuleType("pg_modules"))
    for name, classes in NAMES.items():
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        for kind in classes:
            monkeypatch.setattr(kind, "__module__", name)
            monkeypatch.setattr(module, kind.__name__, kind, raising=False)


def trained(resolution: int, c_dim: int = 0, classes: int = 0, kind: str = "big") -> Generator:
    """A network all of whose numbers count, with u and v that training moved."""
    network = Generator(resolution, c_dim, classes, kind)
    for name, value in network.state_dict().items():
        if name.endswith("var"):
            value.mul_(1 + torch.rand_like(value))
        elif not name.endswith(("_u", "_v", "tracked")):
            value.add_(0.3 * torch.randn_like(value))
    network.train()
    if resolution < 1024:
        network(torch.randn(2, Z_DIM), torch.eye(c_dim)[[0, 1]] if c_dim else None)
    return network.eval()


def images(network: Any, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    torch.manual_seed(3)  # of the noise
    with torch.no_grad():
        return network(z, c)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))


KINDS = {
    "big": (128, 0, 0, "big"),
    "lite": (64, 0, 0, "lite"),
    "labels": (32, 3, 3, "big"),
    "more labels than classes": (32, 3, 1000, "lite"),
    "512": (512, 0, 0, "lite"),
}


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if way == "512" else ()) for way in KINDS]
)
def test_a_file_makes_the_images_of_its_program_and_is_written_back_for_it(way, tmp_path):
    network = trained(*KINDS[way])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G": network, "D": None, "G_ema": network}))
    student: Any = students.load(tmp_path / "a.pkl")
    assert isinstance(student, FastGANGenerator)
    assert (student.z_dim, student.c_dim) == (Z_DIM, KINDS[way][1])
    z = torch.randn(3, Z_DIM)
    c = torch.eye(3)[[0, 2, 1]] if student.c_dim else None
    same(images(student, z, c), images(network, z, c))
    assert {n: v.shape for n, v in student.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    with torch.no_grad():
        student.get_parameter("synthesis.to_big.weight_orig").mul_(1.5).add_(0.1)
    students.save(student, tmp_path / "b.pkl", like=tmp_path / "a.pkl")
    held = pickle.loads((tmp_path / "b.pkl").read_bytes())
    assert type(held["G_ema"]) is Generator
    same(images(held["G_ema"], z, c), images(student, z, c))
    held["G_ema"].load_state_dict(held["G"].state_dict())  # its hooks are in their places


def test_own_files_have_the_average_beside_or_instead(tmp_path):
    network, average = trained(256, kind="own"), trained(256, kind="own")
    state = {name: value.clone() for name, value in network.synthesis.state_dict().items()}
    learned = [p.detach() for p in average.synthesis.parameters()]
    torch.save({"g": state, "d": {}, "g_ema": learned}, tmp_path / "all_1.pth")
    torch.save({"g": {f"module.{n}": v for n, v in state.items()}, "d": {}}, tmp_path / "1.pth")
    z = torch.randn(2, Z_DIM)
    expected = images(network, z, None)
    same(images(students.load(tmp_path / "all_1.pth", network="G"), z, None), expected)
    same(images(students.load(tmp_path / "1.pth"), z, None), expected)
    with torch.no_grad():
        for mine, theirs in zip(network.synthesis.parameters(), learned, strict=True):
            mine.copy_(theirs)
    student = students.load(tmp_path / "all_1.pth")
    same(images(student, z, None), images(network, z, None))
    for name in ("all_1.pth", "1.pth"):
        with torch.no_grad():
            student.get_parameter("synthesis.to_big.weight_orig").add_(0.1)
        students.save(student, tmp_path / "b.pth", like=tmp_path / name)
        again, data = students.load(tmp_path / "b.pth"), torch.load(tmp_path / "b.pth")
        if name == "all_1.pth":  # u and v are those of g
            same(images(again, z, None), images(student, z, None))
            assert all(torch.equal(data["g"][key], value) for key, value in state.items())
        else:
            assert all(key.startswith("module.") for key in data["g"])
            mine, theirs = dict(student.named_parameters()), dict(again.named_parameters())
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    facts = networks_of(checkpoints.read(tmp_path / "1.pth"))["G_ema"]
    assert (facts.kind, facts.writer) == ("FastGAN generator", "FastGAN-pytorch")
    assert (facts.sizes["img_resolution"], facts.sizes["z_dim"]) == (256, Z_DIM)


@pytest.mark.slow
def test_own_files_of_1024_pixels_end_in_tanh(tmp_path):
    network = trained(1024, kind="own")
    torch.save({"g": network.synthesis.state_dict(), "d": {}}, tmp_path / "1.pth")
    z = torch.randn(1, Z_DIM)
    student = students.load(tmp_path / "1.pth")
    assert student.img_resolution == 1024
    same(images(student, z, None), images(network, z, None))


def make(**changes: Any) -> FastGANGenerator:
    sizes: dict[str, Any] = {"z_dim": 4, "c_dim": 0, "num_classes": 0, "img_channels": 3}
    network = FastGANGenerator(**{**sizes, "img_resolution": 32, "ngf": 8, "kind": "big"} | changes)
    for name, value in network.named_parameters():
        if "noise" in name or value.shape == (1,):
            value.data.fill_(0.5)
    return network.requires_grad_(False)


def test_an_image_does_not_depend_on_its_batch_nor_on_the_mode():
    network = make()
    z = torch.randn(4, 4)
    both = network(z, noise_mode="const")
    torch.testing.assert_close(network(z[2:], noise_mode="const"), both[2:])
    torch.testing.assert_close(network.train()(z, noise_mode="const"), both)
    assert not torch.equal(network(z), network(z))
    assert not torch.equal(network(z, noise_mode="none"), both)
    # The length of the latent is divided out.
    torch.testing.assert_close(network(3 * z, noise_mode="const"), both, rtol=1e-4, atol=1e-5)


def test_what_it_does_not_have_is_refused():
    with pytest.raises(ValueError, match="FastGAN generator has no truncation"):
        make()(torch.randn(1, 4), truncation_psi=0.7)
    with pytest.raises(ValueError, match="has 3 classes; give one-hot labels"):
        make(c_dim=3, num_classes=3)(torch.randn(1, 4))


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: setattr(g, "img_resolution", 96), "img_resolution is '96'; allowed: 32"),
        (lambda g: setattr(g, "img_resolution", 128), "tensors do not fit its options"),
        (lambda g: setattr(g, "img_resolution", "x"), "img_resolution is 'x'"),
        (lambda g: setattr(g, "c_dim", 9), "c_dim is '9'; it embeds 3 classes"),
        (lambda g: setattr(g, "c_dim", 0), "c_dim is '0'; it embeds 3 classes"),
        (lambda g: g.synthesis.init.init[0].weight_orig.data.fill_(torch.nan), "not finite"),
        (lambda g: delattr(g.synthesis, "to_big"), r"to_big.weight_orig is missing"),
    ],
)
def test_what_makes_no_network_is_named(change, message, tmp_path):
    network = Generator(32, 3, 3, "lite")
    change(network)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": network}))
    with pytest.raises(ValueError, match=message):
        students.load(tmp_path / "a.pkl")


class Hook:
    def __call__(self, *args: object) -> None:
        Path("pwned").touch()


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("place", ["_forward_pre_hooks", "_forward_hooks", "_state_dict_hooks"])
@pytest.mark.parametrize("kind", ["foreign", "changed norm", "holder of another", "print"])
def test_any_other_hook_refuses_the_network(place, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = Generator(32, 0, 0, "lite")
    layer: Any = network.synthesis.to_big
    norm = next(iter(layer._forward_pre_hooks.values()))
    hook: Any = Hook()
    if kind == "changed norm":
        hook = type(norm)(n_power_iterations=1)
        hook.extra = Hook()
    elif kind == "holder of another":
        holder: Any = type(next(iter(layer._state_dict_hooks.values())))
        hook = holder(Hook())
    elif kind == "print":
        hook = print
    getattr(layer, place)[7] = hook
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": network}))
    with pytest.raises(checkpoints.UnsafeCheckpoint, match="nothing in it was run"):
        students.load(tmp_path / "a.pkl")
    assert not (tmp_path / "pwned").exists()
