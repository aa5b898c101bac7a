"""What a refinement left of the images that people keep: of seeds, truncated seeds, and saved w.

A drift is the distance in feature space between an image before and after, as a share of the median
distance between two images of different latents before: 0 is the same image, 1 as another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import metrics
import students
from metrics.facts import DriftFacts
from metrics.reference import extract
from roles import Network, Student
from roles.pixels import to_uint8

NUM_LATENTS = 200
PSI = 0.7  # the truncation that StyleGAN's own scripts show images at
LARGE = 0.5  # of the distance between two images: people see another one


@dataclass(frozen=True)
class Kept:
    """What became of images that people keep: drift for each way, and the mapping network's."""

    drift: Sequence[DriftFacts]
    mapping_moved: float


def renew_w_avg(original: Student, refined: Student) -> None:
    """Estimate w_avg anew where the mapping network has moved; else it stays to the bit."""
    if moved(original, refined, "mapping"):
        students.estimate_w_avg(refined)


def moved(before: Network, after: Network, part: str) -> float:
    """Return the rms change of a part's parameters in units of their rms; 0 where there are none.

    Args:
        before: a network.
        after: another of the same architecture.
        part: name of a module in both.
    """
    a, b = getattr(before, part, None), getattr(after, part, None)
    if not isinstance(a, torch.nn.Module) or not isinstance(b, torch.nn.Module):
        return 0.0
    a, b = (torch.cat([p.detach().flatten() for p in side.parameters()]) for side in (a, b))
    return float((b - a).norm() / a.norm().clamp_min(1e-12))


@torch.no_grad()
def drift(
    before: Student, after: Student, features: metrics.AnyExtractor, *, seed: int
) -> list[DriftFacts]:
    """Return how far the images of NUM_LATENTS latents moved, for each way in which they are kept.

    Seeds without truncation, and where the students have a mapping network, seeds at PSI and the w
    of before through both.
    """
    z = before.sample_latents(NUM_LATENTS, generator=torch.Generator().manual_seed(seed))
    z = z.to(next(before.parameters()).device)
    labels = None
    if before.c_dim:
        labels = torch.eye(before.c_dim, device=z.device)[torch.arange(len(z)) % before.c_dim]
    ways: dict[str, Callable[[Student], torch.Tensor]] = {"seeds": lambda s: s(z, labels)}
    mapping = getattr(before, "mapping", None)
    if isinstance(mapping, torch.nn.Module) and hasattr(before, "synthesis"):
        ways = {"seeds": lambda s: s(z, labels, noise_mode="const")}
        if isinstance(getattr(mapping, "w_avg", None), torch.Tensor):
            ways[f"seeds at psi {PSI}"] = lambda s: s(
                z, labels, truncation_psi=PSI, noise_mode="const"
            )
        ws = mapping(z, labels)
        # By name, as the Student protocol has no synthesis: only some families do.
        ways["saved w"] = lambda s: getattr(s, "synthesis")(ws, noise_mode="const")  # noqa: B009
    found = []
    for way, images in ways.items():
        a, b = (extract(features, to_uint8(images(side)))[0] for side in (before, after))
        apart = float((a - a.roll(1, 0)).norm(dim=1).median())
        shares = (b - a).norm(dim=1) / max(apart, 1e-12)
        p50, p90 = (float(x) for x in shares.quantile(torch.tensor([0.5, 0.9]).double()))
        large = float((shares > LARGE).double().mean())
        found.append(DriftFacts(way=way, median=p50, p90=p90, large=large, num_images=len(shares)))
    return found
