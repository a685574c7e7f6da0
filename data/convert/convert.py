"""Region features and captions in published forms → a data set in SCAN's form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..._text import Lines
from ...errors import DataError
from ..scan import read_ids
from .captions import SPLITS, Captioned, read_captioned
from .item import Source
from .match import Names, some
from .sources import open_source
from .writing import SplitJob, check_free, write

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class ConvertOptions:
    """How a data set is converted, named as the command's options."""

    captions: Path | None = None  # None: features alone
    split: str | None = None  # the only split of a captions file that has splits; else the split to write, test
    names: Path | None = None  # of the features, where the source has none
    ids: Path | None = None  # of a plain list of captions: its images, per image or per caption
    captions_per_image: int | None = None  # the first ones of each image; None: all
    skip_unmatched: bool = False
    dtype: str = "float32"
    overwrite: bool = False


@dataclass(frozen=True)
class ConvertedSplit:
    """What was written of one split."""

    split: str
    images: int
    captions: int
    regions: tuple[int, int]  # fewest and most of an image


def convert(
    sources: Sequence[Path],
    output: Path,
    options: ConvertOptions,
    progress: Callable[[str], None] = lambda message: None,
    *,
    bars: bool = False,
) -> list[ConvertedSplit]:
    """Write the splits of a data set in the folder `output`, one image in memory at a time.

    After an interruption, the same call resumes. Raises DataError for a form that isn't read, saying how to convert it,
    for damaged content and for captions whose images have no features; OutputError if a split exists or can't be
    written; MissingError without the package that reads the form.
    """
    options = replace(options, split=options.split and SPLITS.get(options.split, options.split))
    split = options.split or "test"
    if options.captions is None or options.split is not None:  # before minutes of reading
        check_free(output, split, overwrite=options.overwrite)
    captioned = None if options.captions is None else read_captioned(options.captions)
    names = None if options.names is None else read_ids(options.names)
    source = open_source(list(sources), names, bars)
    progress(f"{sources[0]}: {len(source.names):,} images of up to {source.regions.max()} regions")
    if captioned is None:
        jobs = [SplitJob(split, range(len(source.names)), source.names, None)]
    else:
        if isinstance(captioned, Lines):
            captioned = _of_plain_list(captioned, source, options)
        jobs = _jobs(captioned, source, options, progress)
    for job in jobs:
        check_free(output, job.split, overwrite=options.overwrite)
    is_new = not output.exists()
    try:
        for job in jobs:
            write(replace(job, dtype=options.dtype), source, output, overwrite=options.overwrite, progress=bars)
    except BaseException:
        with suppress(OSError):
            if is_new:
                output.rmdir()  # if it is still empty
        raise
    return [_report(job, source) for job in jobs]


def _of_plain_list(lines: Lines, source: Source, options: ConvertOptions) -> list[Captioned]:
    """The captions of a plain list, in the order of --ids or of the features."""
    ids: Sequence[str] = source.names if options.ids is None else read_ids(options.ids)
    if len(ids) == len(lines):
        groups: dict[str, list[str]] = {}
        for name, line in zip(ids, lines, strict=True):
            groups.setdefault(name, []).append(line)
        return [Captioned(name, (), group) for name, group in groups.items()]
    if len(lines) % len(ids):
        raise DataError(
            f"{lines.name} has {len(lines):,} captions for {len(ids):,} images, which doesn't divide; name the image of"
            " each caption: --ids FILE"
        )
    each = len(lines) // len(ids)
    return [Captioned(name, (), list(lines[n * each : (n + 1) * each])) for n, name in enumerate(ids)]


def _jobs(
    captioned: list[Captioned], source: Source, options: ConvertOptions, progress: Callable[[str], None]
) -> list[SplitJob]:
    """A job per split; splits of the captions whose images all lack features are left out, with a message."""
    wanted = options.split
    splits: dict[str, list[Captioned]] = {}
    for image in captioned:
        splits.setdefault(image.split or wanted or "test", []).append(image)
    if wanted is not None and wanted not in splits:
        raise DataError(f"{options.captions} has the splits {', '.join(splits)}, not {wanted}; name one: --split")
    if wanted is not None:
        splits = {wanted: splits[wanted]}
    found, jobs = Names(source.names), []
    for split, images in splits.items():
        what = (
            f"{options.captions}"
            if len(splits) == 1 and split == "test"
            else f"the split {split} of {options.captions}"
        )
        if len(splits) > 1 and not any(found.find(image) is not None for image in images):
            progress(f"{what} is left out: none of its {len(images):,} images has features")
            continue
        jobs.append(_job(split, found.matched(images, what, skip=options.skip_unmatched), options))
    if not jobs:
        found.matched(captioned, str(options.captions), skip=False)  # raises, naming some
    used = {number for job in jobs for number in job.images}
    unused = [name for number, name in enumerate(source.names) if number not in used]
    if unused and wanted is None:
        progress(f"{len(unused):,} images without captions are left out: {some(unused)}")
    return jobs


def _job(split: str, matched: list[tuple[int, Captioned]], options: ConvertOptions) -> SplitJob:
    each = options.captions_per_image
    for _, image in matched:
        if each is not None and len(image.captions) < each:
            raise DataError(
                f"{options.captions}: image {image.name!r} has {len(image.captions)} captions, fewer than"
                f" {each}; name a smaller --captions-per-image, or leave it out for all captions"
            )
    groups = [image.captions[:each] for _, image in matched]
    counts = [len(group) for group in groups]
    ids = [image.name for _, image in matched]
    if min(counts) != max(counts):  # then a name per caption says whose it is
        ids = np.repeat(np.array(ids, object), counts).tolist()
    return SplitJob(split, [number for number, _ in matched], ids, [text for group in groups for text in group])


def _report(job: SplitJob, source: Source) -> ConvertedSplit:
    regions = source.regions[np.asarray(job.images, np.int64)]
    captions = 0 if job.captions is None else len(job.captions)
    return ConvertedSplit(job.split, len(job.images), captions, (int(regions.min()), int(regions.max())))
