"""The page of a search: the hits of each caption, as pictures where ids name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime import Gallery, Hit
from .find_pictures import PictureFolder, Thumbnail
from .template import render

# Makes a page of about five megabytes.
MOST_PICTURES = 500


@dataclass(frozen=True)
class ShownHit:
    """One hit: the item's id, or its index without ids; a thumbnail only if pictures are shown."""

    name: str
    score: float
    thumbnail: Thumbnail | None


def search_page(
    gallery_name: str,
    captions: Sequence[str],
    hit_lists: Sequence[Sequence[Hit]],
    gallery: Gallery,
    pictures: PictureFolder,
) -> str:
    """The page for the hits of each caption in a gallery.

    A missing picture is replaced by its id. If no hit has a picture, or from the 500th picture on, hits are text.
    Raises MissingError without Jinja2.
    """
    names = [[gallery.id_of(hit.index) for hit in hits] for hits in hit_lists]
    illustrated = gallery.ids is not None and any(pictures.path_of(name) for group in names for name in set(group))
    queries, left = [], MOST_PICTURES if illustrated else 0
    for caption, hits, group in zip(captions, hit_lists, names, strict=True):
        has_room = left >= len(hits)
        left -= len(hits) if has_room else left
        thumbnails = [pictures.thumbnail(name) if has_room else None for name in group]
        queries.append(
            (caption, [ShownHit(*row) for row in zip(group, (h.score for h in hits), thumbnails, strict=True)])
        )
    return render(
        "search.html.jinja",
        title=f"{captions[0]} in {gallery_name}"
        if len(captions) == 1
        else f"{len(captions)} captions in {gallery_name}",
        gallery=gallery_name,
        items=len(gallery.live),
        queries=queries,
        without_pictures=sum(bool(hits) and hits[0].thumbnail is None for _, hits in queries) if illustrated else 0,
        illustrated=illustrated,
    )
