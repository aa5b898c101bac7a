"""`refine.py teachers`: published diffusion models that can teach, and those that fit a student."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from checkpoints import Json
    from teachers.catalogue import PublishedTeacher
    from teachers.matching import Match, Wanted

BEST = 3  # that are named where --teacher is missing or does not fit


@click.command("teachers")
@click.option(
    "--for",
    "student",
    metavar="PKL|URL|NAME",
    help="Rank those that fit this student: by the data that its file names, size and channels.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def teachers_command(student: str | None, as_json: bool) -> None:
    """List published diffusion models that can teach a generator.

    With their data, size, weights, licence, whether this version reads them, and where they are.
    """
    from teachers.catalogue import TEACHERS

    if student is None:
        rows = [facts_of(teacher) for teacher in TEACHERS]
        print(json.dumps(rows, indent=1) if as_json else "\n".join(table(TEACHERS)))
        return
    from teachers.matching import matches

    wanted = wanted_by(student)
    found = matches(wanted)
    if as_json:
        rows = [
            {**facts_of(m.teacher), "options": list(m.options), "remark": m.remark} for m in found
        ]
        shown = {**dataclasses.asdict(wanted), "data": sorted(wanted.data)}
        print(json.dumps({"student": shown, "teachers": rows}, indent=1))
        return
    print("\n".join(ranked(student, wanted, found)))


def facts_of(teacher: PublishedTeacher) -> dict[str, Json]:
    """Return a row of the table for --json."""
    from teachers.catalogue import LAYOUTS

    layout = LAYOUTS[teacher.layout]
    return {
        **dataclasses.asdict(teacher),
        "source": teacher.source,
        "kind": layout.what,
        "is_read": layout.is_read,
        "checked": layout.checked if layout.is_read else "",
    }


def table(teachers: Sequence[PublishedTeacher]) -> Iterator[str]:
    """Give the lines of the whole table, and of what its columns mean."""
    from teachers.catalogue import BY_HAND, LAYOUTS

    width = max(len(teacher.name) for teacher in teachers)
    title = f"{'teacher':<{width}}  {'data':<12}  size  classes  weights    memory"
    yield f"{title}  {'licence':<15}  file"
    for teacher in teachers:
        by_hand = "" if teacher.place != BY_HAND else ", by hand"
        read = "" if teacher.is_read else ", NOT YET READ"
        memory = "?" if teacher.memory_mib is None else f"{teacher.memory_mib} MiB"
        yield (
            f"{teacher.name:<{width}}  {teacher.data:<12}  {teacher.size:>4}  "
            f"{teacher.classes or '-':>7}  {teacher.weights:>5.0f} M  {memory:>8}  "
            f"{teacher.licence:<15}  "
            f"{teacher.layout}{by_hand}{read}"
        )
    yield ""
    yield "Memory: of the weights and a pass of one image; refine.py gan -n says what a run takes."
    yield "A name works as --teacher NAME and is fetched. By hand: fetch it, and give its path:"
    for page in dict.fromkeys(t.page for t in teachers if t.place == BY_HAND):
        yield f"  {page}  ({', '.join(sorted({t.data for t in teachers if t.page == page}))})"
    yield "What reading each kind of file was checked with; no published file was opened:"
    for name, layout in LAYOUTS.items():
        yield f"  {name}: {layout.what}; {layout.checked if layout.is_read else 'not yet read'}"
    yield "Which fit your generator: refine.py teachers --for my-gan.pkl"


def wanted_by(student: str) -> Wanted:
    """Return what a student is like, by its file alone.

    Raises:
        ValueError: the file cannot be read, or does not tell its images' size.
        OSError: it is not there.
    """
    from refine_commands.inspect import facts_of as read
    from teachers.matching import Wanted, named_data

    facts = read(student)
    sizes = facts.networks[facts.main].sizes
    if "img_resolution" not in sizes:
        raise ValueError(f"{student} does not tell the size of its images; give a generator's file")
    data = named_data([PurePosixPath(student).name])
    for path in texts_in(facts.others.get("training_set_kwargs")):
        parts = path.replace("\\", "/").split("/")
        data |= named_data(parts[-1:]) or named_data(["/".join(parts[-2:])])
    return Wanted(
        size=sizes["img_resolution"],
        channels=sizes.get("img_channels", 3),
        classes=sizes.get("c_dim", sizes.get("label_dim", 0)),
        data=data,
    )


def texts_in(value: Json) -> Iterator[str]:
    """Give the texts in what a file says of its data, paths among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts_in(part)


def ranked(student: str, wanted: Wanted, found: Sequence[Match]) -> Iterator[str]:
    """Give the lines of the teachers that fit a student, with the command of each."""
    data = " and ".join(sorted(wanted.data)) or "not named in it: choose what your images are like"
    classes = f"{wanted.classes} classes" if wanted.classes else "unconditional"
    yield f"{student}: {wanted.size} pixels, {wanted.channels} channels, {classes}; data: {data}"
    if not found:
        yield "No published teacher fits; train one on your images, or give --data."
    for number, match in enumerate(found, start=1):
        yield f"{number:>2}  {match.teacher.name}: {in_words(match)}"
        if match.teacher.is_read:
            yield f"    {command_for(student, match)}"


def in_words(match: Match) -> str:
    """Return what is to be known of a match: data, size, weights, licence, what is missing."""
    from teachers.catalogue import BY_HAND

    teacher = match.teacher
    parts = [
        f"{teacher.data}, {teacher.size} pixels",
        f"{teacher.weights:.0f} M weights",
        f"licence {teacher.licence}",
        *([match.remark] if match.remark else []),
        *([f"fetch it first from {teacher.page}"] if teacher.place == BY_HAND else []),
        *([] if teacher.is_read else ["not yet read"]),
    ]
    return ", ".join(parts)


def command_for(student: str, match: Match) -> str:
    """Return the command that refines a student by a match."""
    given = ["--student", student, "--teacher", match.teacher.name, *match.options]
    return f"refine.py gan {shlex.join(given)} --outdir runs"


def best_for(student: str) -> list[str]:
    """Return the best teachers for a student that this version reads, a line each.

    Empty where its file cannot be read, which the command itself complains of.
    """
    from teachers.matching import matches

    try:
        found = [match for match in matches(wanted_by(student)) if match.teacher.is_read]
    except (ValueError, OSError):
        return []
    return [f"{command_for(student, match)}   # {in_words(match)}" for match in found[:BEST]]
