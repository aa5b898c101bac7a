"""The tables of methods, name -> frozen dataclass: a new method is a row here and a file beside.

A row names its class, which is imported when it is asked for: names alone cost no torch. What the
programs and docs/methods.md say of a method stands in its class: its fields are knobs, and

    equation      the gradient or loss in the notation of docs/methods.md
    source        authors, year and number, as there
    needs         what it takes, where base has no protocol for that
    init_sigma    where a one-step student begins, G(z) = D(sigma z; sigma)
    settings      what a run of it begins from in place of the usual settings, if anything
    couples_samples  whether a sample's gradient depends on the others of the batch
    begins        for a command, the knobs that it sets where no flag says otherwise; the defaults
                  are the published ones, made for long runs on large networks
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module


class Table(MutableMapping[str, type]):
    """Names and classes, these as they are or by where they stand."""

    def __init__(self, rows: Mapping[str, type | str]):
        self.rows = dict(rows)

    def __getitem__(self, name: str) -> type:
        row = self.rows[name]
        if isinstance(row, str):
            module, _, attribute = row.rpartition(".")
            row = getattr(import_module(module), attribute)
        return row

    def __setitem__(self, name: str, row: type | str) -> None:
        self.rows[name] = row

    def __delitem__(self, name: str) -> None:
        del self.rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


# By a pixel gradient: what refines a generator, or makes one of a denoiser in one step.
REFINERS = Table(
    {
        "diff-instruct": "refiners.diff_instruct.DiffInstruct",
        "diff-instruct-moments": "refiners.moments.DiffInstructMoments",
        "adversarial-moments": "refiners.adversarial_moments.AdversarialMoments",
        "sds": "refiners.sds.SDS",
        "dmd": "refiners.dmd.DMD",
        "dmd2": "refiners.dmd2.DMD2",
        "f-distill": "refiners.f_distill.FDistill",
        "sid": "refiners.sid.SiD",
        "sida": "refiners.sida.SiDA",
        "sim": "refiners.sim.SIM",
        "uni-instruct": "refiners.uni_instruct.UniInstruct",
    }
)
# By images: what makes a denoiser need fewer steps.
DISTILLERS = Table(
    {
        "progressive": "refiners.progressive.Progressive",
        "guided": "refiners.guided.Guided",
    }
)
