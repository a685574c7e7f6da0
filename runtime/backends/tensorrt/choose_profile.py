"""Chooses the profile for a call, and derives the limits on items, tiles and batches from an engine's profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ....bundle import CAPTIONS, IMAGES, INPUTS, REGIONS, WORDS
from ....engines.profiles import Profile, Range, Shape, Sizes
from ....errors import InputError
from ....tiling import TileSize


def choose_profile(graph: str, profiles: Sequence[Profile], sizes: Sizes) -> tuple[int, Sizes]:
    """The index of the profile tuned for the nearest sizes, and the sizes to run at.

    Raises InputError, naming the graph, the sizes and every profile, if the call is too large for all of them.
    """
    fitting = [(index, fitted) for index, profile in enumerate(profiles) if (fitted := profile.fit(sizes)) is not None]
    if not fitting:
        raise InputError(
            f"the engine's {graph} does not take {_text({axis: str(size) for axis, size in sizes.items()})}; its"
            f" profiles take {'; '.join(map(_profile_text, profiles))}. Build it with a larger --profile"
        )
    return min(fitting, key=lambda pair: profiles[pair[0]].distance(sizes))


def sizes_of(graph: str, shapes: Mapping[str, Shape]) -> Sizes:
    """{axis: size} of a call's inputs {tensor: shape}."""
    return {
        axis: size for tensor, axes in INPUTS[graph].items() for axis, size in zip(axes, shapes[tensor], strict=False)
    }


def item_limits(profiles: Mapping[str, Sequence[Profile]]) -> dict[str, int]:
    """The most regions and words for which every graph has a profile, independent of each other."""

    def room(profile: Profile) -> int:
        return profile.axes[REGIONS].max * profile.axes[WORDS].max

    widest = max(profiles["scorer"], key=room)
    regions = max(profile.axes[REGIONS].max for profile in profiles["image_encoder"])
    words = max(profile.axes[WORDS].max for profile in profiles["text_encoder"])
    return {"regions": min(regions, widest.axes[REGIONS].max), "words": min(words, widest.axes[WORDS].max)}


def tile_limits(profiles: Sequence[Profile], regions: int, words: int) -> list[TileSize]:
    """The scorer's largest tiles for items of up to `regions` and `words`."""
    return [
        TileSize(profile.axes[IMAGES].max, profile.axes[CAPTIONS].max)
        for profile in profiles
        if profile.axes[REGIONS].max >= regions and profile.axes[WORDS].max >= words
    ]


def batch_limit(profiles: Sequence[Profile], batch: str, length: str, longest: int) -> int:
    """The most items of this length per encoder call; 1 if no profile takes them, so that running raises the error."""
    return max((p.axes[batch].max for p in profiles if p.axes[length].max >= longest), default=1)


def _profile_text(profile: Profile) -> str:
    def text(limits: Range) -> str:
        return str(limits.max) if limits.min == limits.max else f"{limits.min} to {limits.max}"

    return f"{profile.name}: {_text({axis: text(limits) for axis, limits in profile.axes.items()})}"


def _text(sizes: Mapping[str, str]) -> str:
    return " × ".join(f"{size} {axis}" for axis, size in sizes.items())
