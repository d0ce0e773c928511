"""How long a pixel is: µm from arguments, transformations, platform metadata or a declared pitch. Never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storm._bridge.geometry import affine_of, length_scale, um_system
from storm._checks import check_positive
from storm._keys import READ, UM_PER_UNIT, storable
from storm._logging import warn
from storm.data.spots import ScaleInfo

#: Space Ranger's ``spot_diameter_fullres`` is the diameter of a theoretical spot of 65 µm, not of the 55 µm printed.
VISIUM_SPOT_UM = 65.0
#: Diameter of a spot as it is printed, which some readers store instead.
VISIUM_PRINTED_UM = 55.0
#: Distance of neighbouring spots on a Visium slide.
VISIUM_PITCH_UM = 100.0
#: µm per step of Space Ranger's array_col and array_row: neighbours in a row differ by two columns.
VISIUM_STEPS_UM = (50.0, 50.0 * 3**0.5)
#: Spots at the distance of the pitch that a spot on a lattice has in the median; in a scattered subset it has one.
_NEIGHBOURS = 3
#: Sources that differ by more than this factor contradict each other.
TOLERANCE = 1.05


#: µm per pixel, or per unit of the coordinates, beyond which a number is a slip: 0.1 nm and 10 cm.
RANGE_UM = (1e-4, 1e5)


def check_um_per_px(um_per_px: Any) -> None:
    """Raise unless a number can be the µm per pixel of an image, or per unit of coordinates."""
    check_positive(um_per_px, name="um_per_px", unit="µm per pixel of the full-resolution image")
    low, high = RANGE_UM
    if not low <= float(um_per_px) <= high:
        msg = f"um_per_px={um_per_px!r} is not the size of a pixel in µm: give a number from {low:g} to {high:g}"
        raise ValueError(msg)


class ScaleError(ValueError):
    """The length of a pixel is unknown, or two sources of it disagree."""


@dataclass(frozen=True)
class ScaleSources:
    """Everything that may say how long a pixel is.

    Attributes
    ----------
    coordinate_system
        System in which the elements meet; the scale is first found in µm per unit of it.
    image
        Full-resolution image element, or ``None``.
    shapes
        Element with the instances, or ``None``.
    centres
        Their centres in the coordinate system, (n, 2), or ``None``.
    uns
        ``uns`` of the table.
    attrs
        ``attrs`` of the SpatialData.
    spatial
        ``obsm["spatial"]`` of the same rows as ``centres``, or ``None``: by convention pixels of the full-resolution
        image.
    array
        Column and row of the same rows in the array of spots or bins, (n, 2), or ``None``.
    region
        Name of the annotated element: ``uns["spatial"]`` may hold several libraries by name.
    told
        µm per unit of the coordinate system as an earlier call was told, or ``None``.
    """

    coordinate_system: str | None = None
    image: Any = None
    shapes: Any = None
    centres: np.ndarray | None = None
    uns: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    spatial: np.ndarray | None = None
    array: np.ndarray | None = None
    region: str | None = None
    told: float | None = None

    @property
    def px_size(self) -> float:
        """Length of a pixel of the full-resolution image in units of the coordinate system; 1 without an image."""
        return 1.0 if self.image is None else self.length_of_unit(self.image)

    def length_of_unit(self, element: Any) -> float:
        """Length of an element's own unit in units of the coordinate system."""
        assert self.coordinate_system is not None  # there is one wherever there is an element
        return length_scale(affine_of(element, self.coordinate_system))


def resolve_scale(
    sources: ScaleSources, *, um_per_px: float | None = None, required: bool = True, name: str = "the image"
) -> ScaleInfo | None:
    """Find the µm per pixel, and name its source.

    In this order: the argument, what an earlier call was told, a transformation into a coordinate system in µm,
    metadata of the platform, the pitch of a declared platform. All but the last must agree within 5 %, except that the
    argument replaces what an earlier call was told, with a warning; the last is asked only if the others are silent.

    Parameters
    ----------
    sources
        What is known about the section.
    um_per_px
        The user's number: µm per pixel of the full-resolution image (without an image: per unit of the coordinates).
    required
        Whether an unknown scale is an error.
    name
        What the scale is needed for, for the error.

    Returns
    -------
    The scale; ``None`` if it is unknown and not required.

    Raises
    ------
    ScaleError
        If two sources disagree by more than 5 %, or none is there and one is required; a ValueError.
    """
    if um_per_px is not None:
        check_um_per_px(um_per_px)
    given, told = list(_given(sources, um_per_px)), list(_told(sources))
    if given and told and not _agree(given[0][0], told[0][0]):
        msg = (
            f"um_per_px={um_per_px:g} is used for {name}, in place of the {told[0][0] * sources.px_size:.4g} that an "
            f"earlier call was told"
        )
        warn(msg)
    candidates = [*(given or told), *_transformed(sources), *_from_metadata(sources)]
    if not candidates:
        candidates = list(_from_pitch(sources))
    if not candidates and required:
        raise ScaleError(_how_to_give(name))
    if not candidates:
        return None
    px_size = sources.px_size
    per_unit, source = candidates[0]
    for other, other_source in candidates[1:]:
        if not _agree(other, per_unit):
            msg = (
                f"two sources disagree about the µm per pixel of {name}: {per_unit * px_size:.4g} from {source}, "
                f"{other * px_size:.4g} from {other_source}; correct or remove the wrong one"
                f"{'' if given or not told else ' (storm.pp.set_scale replaces what a call was told)'}"
            )
            raise ScaleError(msg)
    return ScaleInfo(
        um_per_px=None if sources.image is None else per_unit * px_size, um_per_unit=per_unit, source=source
    )


def _given(sources: ScaleSources, um_per_px: float | None) -> Iterator[tuple[float, str]]:
    if um_per_px is not None:
        yield float(um_per_px) / sources.px_size, "the argument um_per_px"


def _told(sources: ScaleSources) -> Iterator[tuple[float, str]]:
    if sources.told is not None:
        yield sources.told, f"an earlier call, which was told it (obs[{UM_PER_UNIT!r}])"


def _transformed(sources: ScaleSources) -> Iterator[tuple[float, str]]:
    """µm per unit by way of an element that has a place in the coordinate system and in one in µm."""
    from storm._bridge.geometry import systems_of

    here = sources.coordinate_system
    if here is None:
        return
    if um_system([here]):
        yield 1.0, f"the coordinate system {here!r}{_by_reader(sources, 1.0)}"
        return
    for word, element in (("image", sources.image), ("shapes", sources.shapes)):
        target = None if element is None else um_system(systems_of(element))
        if target is not None:
            ratio = length_scale(affine_of(element, target)) / length_scale(affine_of(element, here))
            yield ratio, f"the transformation of the {word} into {target!r}{_by_reader(sources, ratio)}"


def _by_reader(sources: ScaleSources, um_per_unit: float) -> str:
    """Where a reader of :mod:`storm.io` had the number from, unless the image was placed anew since."""
    note = sources.attrs.get(READ)
    if not isinstance(note, Mapping):
        return ""
    note = {"reader": note.get("reader"), **note.get("libraries", {}).get(sources.region, note)}
    key = "image_um_per_px" if sources.image is not None and "image_um_per_px" in note else "um_per_px"
    number, source = note.get(key), note.get(f"{key}_source")
    if not source or not isinstance(number, int | float):
        return ""
    if sources.image is not None and not _agree(float(number), um_per_unit * sources.px_size):
        return ""
    return f", which storm.io.{note.get('reader')} has from: {source}"


def _agree(one: float, other: float) -> bool:
    return 1 / TOLERANCE < one / other < TOLERANCE


def _from_metadata(sources: ScaleSources) -> Iterator[tuple[float, str]]:
    """µm per unit from what the platform's software wrote about the full-resolution image."""
    for library, factors in _scalefactors(sources):
        where = f"uns['spatial'][{library!r}]['scalefactors']"
        px = _fullres_px(sources)
        if px is None:
            continue
        per_px, diameter = _length(factors, "microns_per_pixel"), _length(factors, "spot_diameter_fullres")
        bin_um = _length(factors, "bin_size_um")
        if per_px is not None:
            yield per_px / px, f"{where}['microns_per_pixel']"
        elif bin_um is not None and diameter is not None:
            yield bin_um / diameter / px, f"{where}['bin_size_um'] / ['spot_diameter_fullres']"
        elif diameter is not None and (
            "fiducial_diameter_fullres" in factors or declared_platform(sources) == "visium"
        ):
            yield VISIUM_SPOT_UM / diameter / px, f"{where}['spot_diameter_fullres'] (65 µm on Visium)"
    if declared_platform(sources) == "xenium" and hasattr(sources.shapes, "geometry"):
        um = 1 / sources.length_of_unit(sources.shapes)
        yield um, "the platform: shapes of Xenium are stored in µm"


def _length(factors: Mapping[str, Any], key: str) -> float | None:
    """A length out of metadata; ``None`` for what is not a positive number: zero, text, nothing."""
    value = factors.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if 0 < float(value) < np.inf else None


def _scalefactors(sources: ScaleSources) -> list[tuple[str, Mapping[str, Any]]]:
    spatial = sources.uns.get("spatial")
    if not isinstance(spatial, Mapping):
        return []
    found = [
        (str(key), library["scalefactors"])
        for key, library in spatial.items()
        if isinstance(library, Mapping) and isinstance(library.get("scalefactors"), Mapping)
    ]
    own = [(key, factors) for key, factors in found if storable(key) == sources.region]
    # of a study that was read as such, the factors of another library are not those of this one
    note = sources.attrs.get(READ)
    several = isinstance(note, Mapping) and sources.region in note.get("libraries", ())
    return own if own or several else found


def _fullres_px(sources: ScaleSources) -> float | None:
    """Length of a full-resolution pixel in units of the coordinate system.

    ``obsm["spatial"]`` holds the same centres in those pixels, so the ratio of the spreads tells; where it is missing,
    the shapes' own coordinates are taken as pixels, which is how spatialdata-io stores them.
    """
    if sources.spatial is not None and sources.centres is not None:
        here, px = _spread(sources.centres), _spread(sources.spatial)
        return here / px if here > 0 and px > 0 else None
    if sources.shapes is not None:
        return sources.length_of_unit(sources.shapes)
    return None


def declared_platform(sources: ScaleSources) -> str | None:
    """``"visium"``, ``"visium_hd"`` or ``"xenium"`` if the object declares it."""
    words = [sources.attrs.get(k) for k in ("spatialdata_io_reader", "platform")] + [sources.uns.get("platform")]
    spatial = sources.uns.get("spatial")
    for library in spatial.values() if isinstance(spatial, Mapping) else ():
        metadata = library.get("metadata") if isinstance(library, Mapping) else None
        words.append(metadata.get("chemistry_description") if isinstance(metadata, Mapping) else None)
    for word in (w.casefold() for w in words if isinstance(w, str)):
        if re.search(r"visium[ _-]?hd", word):
            return "visium_hd"
        if "visium" in word or word.startswith("spatial 3'"):
            return "visium"
        if "xenium" in word:
            return "xenium"
    return None


def _from_pitch(sources: ScaleSources) -> Iterator[tuple[float, str]]:
    """µm per unit from the known distance of neighbouring spots, where something vouches that these are neighbours.

    In a subset of a section, the nearest spot may lie several pitches away.
    """
    platform = declared_platform(sources)
    binned = re.search(r"square_(\d{3})um", sources.region or "")
    if platform == "visium":
        pitch_um, steps_um = VISIUM_PITCH_UM, VISIUM_STEPS_UM
    elif platform == "visium_hd" and binned:
        pitch_um = float(binned.group(1))
        steps_um = (pitch_um, pitch_um)
    else:
        return
    if sources.centres is None:
        return
    if sources.array is not None and len(sources.centres) > 1:
        here, um = _spread(sources.centres), _spread(sources.array * steps_um)
        if here > 0 and um > 0:
            yield um / here, f"the array positions at the pitch of {pitch_um:g} µm on {platform}"
            return
    pitch = _pitch(sources)
    if pitch is not None:
        yield pitch_um / pitch, f"the pitch of {pitch_um:g} µm on {platform}"


def _pitch(sources: ScaleSources) -> float | None:
    """Distance of neighbouring spots in units of the coordinates; ``None`` where nearest spots may not be neighbours.

    Two witnesses are asked: the size of the spots, and how many spots have several others at that very distance.
    """
    from scipy.spatial import cKDTree

    centres = sources.centres
    if centres is None or len(centres) < 7:
        return None
    distance = cKDTree(centres).query(centres, k=min(7, len(centres)))[0][:, 1:]
    pitch = float(np.median(distance[:, 0]))
    if pitch <= 0:
        return None
    around = (distance < TOLERANCE * pitch).sum(axis=1)
    if np.median(around) >= _NEIGHBOURS:
        return pitch
    radius = getattr(sources.shapes, "radius", None)
    if radius is None or declared_platform(sources) != "visium":
        return None
    diameter = 2 * float(np.median(radius)) * sources.length_of_unit(sources.shapes)
    sizes = (VISIUM_SPOT_UM, VISIUM_PRINTED_UM)
    return pitch if any(_agree(pitch / VISIUM_PITCH_UM, diameter / um) for um in sizes if diameter > 0) else None


def _spread(points: np.ndarray) -> float:
    """Root of the summed squared distances from the mean."""
    return float(np.sqrt(np.square(points - points.mean(axis=0)).sum()))


def _how_to_give(name: str) -> str:
    return (
        f"no µm scale is known for {name}: pass um_per_px= (µm per pixel of the full-resolution image; without an "
        f"image, per unit of the coordinates), or say it once with storm.pp.set_scale(data, um_per_px=...)"
    )
