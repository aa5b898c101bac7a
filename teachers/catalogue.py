"""Published diffusion models of images that can teach, as a table of facts.

The facts are from the publishers' own pages and papers; weights are counted from the names and
shapes of their networks, which tests rebuild, or are a paper's own number. None of the published
files was opened here. LAYOUTS says which layouts of files are read and what that was checked with;
a model's place is an address that we fetch, an id of the Hugging Face Hub, or a page from which the
file has to be fetched by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from checkpoints import ADDRESSES

HUB, BY_NAME, BY_HAND = "hub", "name", "page"

EDM_LICENCE = "CC BY-NC-SA 4.0"
UNSTATED = "not stated"
ILVR = "https://github.com/jychoi118/ilvr_adm"
P2 = "https://github.com/jychoi118/P2-weighting"
SCORE_SDE = "https://github.com/yang-song/score_sde_pytorch"
LATENT = "https://github.com/CompVis/latent-diffusion"


@dataclass(frozen=True)
class Layout:
    """How files of a kind are laid out, and who reads them.

    Attributes:
        what: the kind in words.
        reader: the module of teachers that reads them; None where there is none yet.
        checked: what reading was checked with.
    """

    what: str
    reader: str | None
    checked: str

    @property
    def is_read(self) -> bool:
        """Whether this version reads such files."""
        return self.reader is not None and find_spec(f"teachers.{self.reader}") is not None


_SMALL = "the original code's outputs on small networks of this layout"
_SHAPES = f"{_SMALL}; names and shapes of the published networks"

LAYOUTS = {
    "edm": Layout("EDM pickle", "edm", _SHAPES),
    "edm2": Layout("EDM2 pickle of pixels", "edm2", _SHAPES),
    "diffusers": Layout("folder of diffusers with a UNet2DModel", "networks.unet2d", _SMALL),
    "guided-diffusion": Layout("guided-diffusion .pt", "guided_diffusion", _SHAPES),
    "consistency": Layout("EDM denoiser of consistency_models, .pt", "guided_diffusion", _SHAPES),
    "score-sde": Layout("score_sde_pytorch .pth", "score_sde", _SHAPES),
    "latent": Layout("latent diffusion: its images are codes of an autoencoder", None, "nothing"),
}


@dataclass(frozen=True)
class PublishedTeacher:
    """A published model.

    Attributes:
        name: what --teacher takes where `place` is BY_NAME or HUB; else the file's own name.
        data: what it was trained on, a key of DATA.
        size: height and width of its images.
        classes: how many it has; 0 is unconditional.
        weights: millions of them.
        memory_mib: weights in float32 and what D(x; sigma) of one image holds at its peak without
            gradients, in MiB, as our network of that shape has it on torch's device "meta"; None
            where we have none. What teaching takes beside it, `refine.py gan -n` measures.
        layout: a key of LAYOUTS.
        licence: of the file or, where that has none of its own, of the code that it came with.
        place: HUB, BY_NAME, or BY_HAND: from a page.
        page: where a file BY_HAND is.
    """

    name: str
    data: str
    size: int
    weights: float
    memory_mib: int | None
    layout: str
    licence: str
    place: str = BY_NAME
    classes: int = 0
    page: str = ""
    channels: int = 3

    @property
    def source(self) -> str:
        """The address that is fetched, or the page to fetch from by hand."""
        if self.place == HUB:
            return f"https://huggingface.co/{self.name}"
        return ADDRESSES[self.name] if self.place == BY_NAME else self.page

    @property
    def is_read(self) -> bool:
        """Whether this version reads its file."""
        return LAYOUTS[self.layout].is_read


# Data -> words that name it in paths and file names, in lower case and without their digits.
DATA = {
    "FFHQ": ("ffhq", "ffhqu"),
    "CelebA-HQ": ("celebahq", "celeba"),
    "MetFaces": ("metfaces", "metfacesu", "metface"),
    "AFHQ dog": ("afhqdog", "dog", "dogs"),
    "AFHQ v2": ("afhqv", "afhq", "afhqcat", "afhqwild"),
    "LSUN bedroom": ("bedroom", "bedrooms", "lsunbedroom"),
    "LSUN cat": ("cat", "cats", "lsuncat"),
    "LSUN church": ("church", "churches", "lsunchurch"),
    "LSUN horse": ("horse", "horses", "lsunhorse"),
    "CUB birds": ("cub", "bird", "birds"),
    "Flowers": ("flower", "flowers"),
    "CIFAR-10": ("cifar",),
    "ImageNet": ("imagenet", "ilsvrc"),
}
# Data of one kind of picture: a teacher of one knows much of the others.
KINDS = (
    ("FFHQ", "CelebA-HQ", "MetFaces"),
    ("AFHQ dog", "AFHQ v2", "LSUN cat", "LSUN horse"),
    ("LSUN bedroom", "LSUN church"),
)


def _edm(
    name: str, data: str, size: int, weights: float, memory_mib: int, *, classes: int = 0
) -> PublishedTeacher:
    return PublishedTeacher(
        name, data, size, weights, memory_mib, "edm", EDM_LICENCE, classes=classes
    )


def _edm2(name: str, weights: float, memory_mib: int) -> PublishedTeacher:
    return PublishedTeacher(
        name, "ImageNet", 64, weights, memory_mib, "edm2", EDM_LICENCE, classes=1000
    )


def _hub(name: str, data: str, size: int, weights: float, memory_mib: int) -> PublishedTeacher:
    return PublishedTeacher(name, data, size, weights, memory_mib, "diffusers", "Apache-2.0", HUB)


def _openai(
    name: str,
    data: str,
    size: int,
    weights: float,
    memory_mib: int,
    *,
    classes: int = 0,
    layout: str = "guided-diffusion",
) -> PublishedTeacher:
    return PublishedTeacher(name, data, size, weights, memory_mib, layout, "MIT", classes=classes)


def _by_hand(
    name: str,
    data: str,
    size: int,
    weights: float,
    memory_mib: int | None,
    layout: str,
    licence: str,
    page: str,
) -> PublishedTeacher:
    return PublishedTeacher(
        name, data, size, weights, memory_mib, layout, licence, BY_HAND, page=page
    )


def _adm_small(name: str, data: str, page: str) -> PublishedTeacher:
    """A model of P2-weighting's and ILVR's common network."""
    return _by_hand(name, data, 256, 93.6, 614, "guided-diffusion", UNSTATED, page)


def _ncsnpp(name: str, data: str, size: int, weights: float, memory_mib: int) -> PublishedTeacher:
    return _by_hand(name, data, size, weights, memory_mib, "score-sde", "Apache-2.0", SCORE_SDE)


TEACHERS = (
    _adm_small("ffhq_p2.pt", "FFHQ", P2),
    _adm_small("ffhq_baseline.pt", "FFHQ", P2),
    _adm_small("ffhq_10m.pt", "FFHQ", ILVR),
    _hub("google/ncsnpp-ffhq-256", "FFHQ", 256, 65.6, 523),
    _ncsnpp("ve/ffhq_256_ncsnpp_continuous", "FFHQ", 256, 65.6, 523),
    PublishedTeacher(
        "iddpm_ffhq512_ema500000", "FFHQ", 512, 159.8, 997, "guided-diffusion", "S-Lab 1.0"
    ),
    _hub("google/ncsnpp-ffhq-1024", "FFHQ", 1024, 105.8, 1251),
    _ncsnpp("ve/ffhq_1024_ncsnpp_continuous", "FFHQ", 1024, 105.8, 1251),
    _edm("edm-ffhq-64x64-uncond-vp", "FFHQ", 64, 61.8, 266),
    _edm("edm-ffhq-64x64-uncond-ve", "FFHQ", 64, 62.8, 269),
    _adm_small("celebahq_p2.pt", "CelebA-HQ", P2),
    _hub("google/ddpm-ema-celebahq-256", "CelebA-HQ", 256, 113.7, 722),
    _hub("google/ddpm-celebahq-256", "CelebA-HQ", 256, 113.7, 722),
    _hub("google/ncsnpp-celebahq-256", "CelebA-HQ", 256, 65.6, 523),
    _ncsnpp("ve/celebahq_256_ncsnpp_continuous", "CelebA-HQ", 256, 65.6, 523),
    _adm_small("metface_p2.pt", "MetFaces", P2),
    _adm_small("metface_baseline.pt", "MetFaces", P2),
    _adm_small("afhq_p2.pt", "AFHQ dog", P2),
    _adm_small("afhq_baseline.pt", "AFHQ dog", P2),
    _adm_small("afhq_dog_4m.pt", "AFHQ dog", ILVR),
    _edm("edm-afhqv2-64x64-uncond-vp", "AFHQ v2", 64, 61.8, 266),
    _edm("edm-afhqv2-64x64-uncond-ve", "AFHQ v2", 64, 62.8, 269),
    _openai("lsun_bedroom", "LSUN bedroom", 256, 552.8, 2686),
    _openai("edm_bedroom256_ema", "LSUN bedroom", 256, 526.3, 2584, layout="consistency"),
    _openai("lsun_uncond_100M_1200K_bs128", "LSUN bedroom", 256, 113.7, 722),
    _openai("lsun_uncond_100M_2400K_bs64", "LSUN bedroom", 256, 113.7, 722),
    _hub("google/ddpm-ema-bedroom-256", "LSUN bedroom", 256, 113.7, 722),
    _hub("google/ddpm-bedroom-256", "LSUN bedroom", 256, 113.7, 722),
    _hub("google/ncsnpp-bedroom-256", "LSUN bedroom", 256, 65.6, 523),
    _ncsnpp("ve/bedroom_ncsnpp_continuous", "LSUN bedroom", 256, 65.6, 523),
    _openai("lsun_cat", "LSUN cat", 256, 552.8, 2686),
    _openai("edm_cat256_ema", "LSUN cat", 256, 526.3, 2584, layout="consistency"),
    _hub("google/ddpm-ema-cat-256", "LSUN cat", 256, 113.7, 722),
    _hub("google/ddpm-cat-256", "LSUN cat", 256, 113.7, 722),
    _hub("google/ddpm-ema-church-256", "LSUN church", 256, 113.7, 722),
    _hub("google/ddpm-church-256", "LSUN church", 256, 113.7, 722),
    _hub("google/ncsnpp-church-256", "LSUN church", 256, 65.6, 523),
    _ncsnpp("ve/church_ncsnpp_continuous", "LSUN church", 256, 65.6, 523),
    _openai("lsun_horse", "LSUN horse", 256, 552.8, 2686),
    _openai("lsun_horse_nodropout", "LSUN horse", 256, 552.8, 2686),
    _adm_small("cub_p2.pt", "CUB birds", P2),
    _adm_small("cub_baseline.pt", "CUB birds", P2),
    _adm_small("flower_p2.pt", "Flowers", P2),
    _adm_small("flower_baseline.pt", "Flowers", P2),
    _edm("edm-cifar10-32x32-uncond-vp", "CIFAR-10", 32, 55.7, 224),
    _edm("edm-cifar10-32x32-uncond-ve", "CIFAR-10", 32, 56.4, 226),
    _edm("edm-cifar10-32x32-cond-vp", "CIFAR-10", 32, 55.7, 224, classes=10),
    _edm("edm-cifar10-32x32-cond-ve", "CIFAR-10", 32, 56.4, 226, classes=10),
    _openai("cifar10_uncond_50M_500K", "CIFAR-10", 32, 52.5, 207),
    _openai("cifar10_uncond_vlb_50M_500K", "CIFAR-10", 32, 52.5, 207),
    _hub("google/ddpm-cifar10-32", "CIFAR-10", 32, 35.7, 142),
    _openai("imagenet64_uncond_100M_1500K", "ImageNet", 64, 121.1, 490),
    _openai("imagenet64_uncond_vlb_100M_1500K", "ImageNet", 64, 121.1, 490),
    _openai("256x256_diffusion_uncond", "ImageNet", 256, 552.8, 2686),
    _openai("imagenet64_cond_270M_250K", "ImageNet", 64, 273.0, 1084, classes=1000),
    _openai("64x64_diffusion", "ImageNet", 64, 295.9, 1191, classes=1000),
    _openai("128x128_diffusion", "ImageNet", 128, 421.5, 1752, classes=1000),
    _openai("256x256_diffusion", "ImageNet", 256, 553.8, 2689, classes=1000),
    _openai("512x512_diffusion", "ImageNet", 512, 559.0, 3799, classes=1000),
    _openai("edm_imagenet64_ema", "ImageNet", 64, 295.9, 1191, classes=1000, layout="consistency"),
    _edm("edm-imagenet-64x64-cond-adm", "ImageNet", 64, 295.9, 1206, classes=1000),
    _edm2("edm2-img64-xs-0134217-0.110", 124.7, 526),
    _edm2("edm2-img64-s-1073741-0.075", 280.2, 1171),
    _edm2("edm2-img64-m-2147483-0.060", 497.8, 2071),
    _edm2("edm2-img64-l-1073741-0.040", 777.5, 3226),
    _edm2("edm2-img64-xl-0671088-0.040", 1119.3, 4636),
    _by_hand("ffhq.zip", "FFHQ", 256, 274.1, None, "latent", "MIT", LATENT),
    _by_hand("celeba.zip", "CelebA-HQ", 256, 274.1, None, "latent", "MIT", LATENT),
    _by_hand("lsun_bedrooms.zip", "LSUN bedroom", 256, 274.1, None, "latent", "MIT", LATENT),
    _by_hand("lsun_churches.zip", "LSUN church", 256, 295.0, None, "latent", "MIT", LATENT),
    PublishedTeacher(
        "CompVis/ldm-celebahq-256", "CelebA-HQ", 256, 274.1, None, "latent", "Apache-2.0", HUB
    ),
)
