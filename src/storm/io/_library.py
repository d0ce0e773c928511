"""One library of an AnnData: its scale, its spots and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.places import array_positions
from storm._bridge.remembered import recalled_um
from storm._bridge.scale import (
    TOLERANCE,
    VISIUM_PITCH_UM,
    VISIUM_SPOT_UM,
    VISIUM_STEPS_UM,
    ScaleSources,
    declared_platform,
    resolve_scale,
)
from storm._checks import check_positive
from storm._keys import storable
from storm._logging import logger, warn
from storm.io._array_picture import rgb_of_array
from storm.io._open import Opened, open_image
from storm.io._placing import check_array, fit_scale
from storm.io._pyramid import pyramid
from storm.io._scale import BEYOND, check_full_resolution, note_image_scale, share_beyond
from storm.io._space_ranger import under_tissue
from storm.io._vendor import number

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame

#: Early versions of Space Ranger wrote diameters that were 7 % too large. Coordinates in µm, or in pixels of a reduced
#: picture, differ from pixels by more than this factor.
_NOT_PIXELS = 1.25
#: An image: a path, an array (height, width, 3), the name of a picture in ``uns``, ``False`` for none.
ImageSource = str | Path | np.ndarray | bool | None


class Library:
    """A library of an AnnData.

    Attributes
    ----------
    name
        Its name.
    centres
        x and y in pixels of the full-resolution image, float64 (n, 2).
    um_per_px, source
        µm per pixel of that image, and where they come from.

    Parameters
    ----------
    name
        Its name.
    adata
        The AnnData.
    rows
        Numbers of its rows.
    centres
        x and y of these rows.
    entry
        Its entry in ``uns["spatial"]``; empty where there is none.
    image
        What the user gave as its image.
    um_per_px, spot_um
        What the user gave as the scale, and as the diameter of a spot in µm.

    Raises
    ------
    ValueError
        If the scale is unknown, or two sources of it disagree.
    """

    def __init__(
        self,
        name: str,
        *,
        adata: AnnData,
        rows: np.ndarray,
        centres: np.ndarray,
        entry: Mapping[str, Any],
        image: ImageSource,
        um_per_px: float | None,
        spot_um: float | None,
    ) -> None:
        self.name, self.centres, self._wanted, self._spot_um = name, centres, image, spot_um
        factors, pictures = entry.get("scalefactors"), entry.get("images")
        self._factors: Mapping[str, Any] = factors if isinstance(factors, Mapping) else {}
        self._pictures: Mapping[str, Any] = pictures if isinstance(pictures, Mapping) else {}
        self._on_tissue = under_tissue(adata.obs.iloc[rows])
        sources = ScaleSources(
            centres=centres,
            spatial=centres,
            array=array_positions(adata, rows),
            uns={"platform": adata.uns.get("platform"), "spatial": {name: entry}},
            region=name,
            told=recalled_um(adata, rows, name=f"library {name!r}"),
        )
        self._platform = declared_platform(sources)
        scale = resolve_scale(sources, um_per_px=um_per_px, required=False, name=f"library {name!r}")
        self._opened = self._given()
        if scale is not None:
            self.um_per_px, self.source = scale.um_per_unit, scale.source
        elif self._opened is not None and self._opened.um_per_px is not None:
            self.um_per_px, self.source = self._opened.um_per_px, self._opened.source
        else:
            silent = "" if self._opened is None else f", and {self._opened.path.name} does not tell"
            sized = spot_um is not None or number(self._factors.get("spot_diameter_fullres")) is not None
            missing = not sized and self._platform != "visium"
            also = "; and spot_um= (diameter of its spots in µm), not known either" if missing else ""
            msg = (
                f"no µm scale is known for library {name!r}: its scale factors hold {list(self._factors) or 'nothing'}"
                f"{silent}; pass um_per_px= (µm per pixel of the full-resolution image; where libraries differ, "
                f"um_per_px={{{name!r}: …}}){also}"
            )
            raise ValueError(msg)
        if sources.array is not None:
            self._check_pitch(sources.array, others=[key for key in adata.obsm if key != "spatial"])

    def _check_pitch(self, array: np.ndarray, *, others: list[str]) -> None:
        """Compare the scale with the places on the array, which tell whether the coordinates are in pixels."""
        bin_um = number(self._factors.get("bin_size_um"))
        if bin_um is not None:
            steps, pitch_um = (bin_um, bin_um), bin_um
        elif "fiducial_diameter_fullres" in self._factors or self._platform == "visium":
            steps, pitch_um = VISIUM_STEPS_UM, VISIUM_PITCH_UM
        else:
            return
        where = f"library {self.name!r}"
        try:
            by_pitch, _ = fit_scale(array * steps, self.centres)
        except ValueError:  # fewer than three spots, or all on a line
            return
        check_array(array * steps, self.centres, pitch_um=pitch_um, path=where)
        ratio = by_pitch / self.um_per_px
        text = (
            f"{where}: the array's pitch of {pitch_um:g} µm implies {by_pitch:.4g} µm per unit of obsm['spatial'], and "
            f"{self.source} gives {self.um_per_px:.4g} µm per pixel"
        )
        if not 1 / _NOT_PIXELS < ratio < _NOT_PIXELS:
            msg = (
                f"{text}. obsm['spatial'] must hold x and y in pixels of the full-resolution image: if another key "
                f"does, of {others or 'none'}, copy it there; else correct the scale"
            )
            raise ValueError(msg)
        if not 1 / TOLERANCE < ratio < TOLERANCE:
            warn(f"{text}, which is used; correct it if the pitch is right")

    def circles(self, instances: np.ndarray, *, systems: tuple[str, str]) -> GeoDataFrame:
        """The spots as circles in pixels.

        Parameters
        ----------
        instances
            Their ids.
        systems
            Names of the coordinate systems in pixels and in µm.
        """
        import geopandas as gpd
        import shapely
        from spatialdata.models import ShapesModel

        spot_um = self._spot_um
        if spot_um is not None:
            check_positive(spot_um, name="spot_um", unit="µm")
        diameter = number(self._factors.get("spot_diameter_fullres"))
        if spot_um is not None or (diameter is None and self._platform == "visium"):
            diameter = float(VISIUM_SPOT_UM if spot_um is None else spot_um) / self.um_per_px
        if diameter is None:
            msg = (
                f"the size of the spots of library {self.name!r} is not known: its scale factors hold no "
                f"spot_diameter_fullres; pass spot_um= (diameter in µm)"
            )
            raise ValueError(msg)
        circles = gpd.GeoDataFrame(
            {"radius": np.full(len(instances), diameter / 2)}, geometry=shapely.points(self.centres), index=instances
        )
        return ShapesModel.parse(circles, transformations=self._placed(1.0, systems))

    def image(self, *, systems: tuple[str, str]) -> tuple[Any | None, dict[str, Any]]:
        """The image as an element, or ``None``, and facts about it and the scale.

        Parameters
        ----------
        systems
            Names of the coordinate systems in pixels and in µm.
        """
        facts: dict[str, Any] = {"um_per_px": float(self.um_per_px), "um_per_px_source": self.source}
        opened = self._opened
        if opened is None:
            if self._wanted is False or (self._wanted is None and not self._pictures):
                return None, facts
            key = str(self._wanted or self._finest())
            opened, step = self._reduced(key)
            facts |= {
                "image": key,
                "image_um_per_px": float(self.um_per_px * step),
                "image_um_per_px_source": f"{self.source}, and tissue_{key}_scalef",
            }
            return opened.element(self._placed(step, systems)), facts
        sizes = {self._where(key): (self._open(key).size, factor) for key, factor in self._scales().items()}
        check_full_resolution(opened, self.centres[self._on_tissue], reduced=sizes)
        note_image_scale(opened, self.um_per_px)
        return opened.element(self._placed(1.0, systems)), facts | {"image": opened.path.name}

    def _placed(self, step: float, systems: tuple[str, str]) -> dict[str, Any]:
        """Transformations of something whose unit is ``step`` pixels of the full-resolution image."""
        from spatialdata.transformations import Identity, Scale

        pixels, um = systems
        um_per_unit = self.um_per_px * step
        return {
            pixels: Identity() if step == 1 else Scale([step, step], axes=("x", "y")),
            um: Scale([um_per_unit, um_per_unit], axes=("x", "y")),
        }

    def _given(self) -> Opened | None:
        """The full-resolution image, or ``None`` if there is none or a reduced picture is to serve."""
        wanted: Any = self._wanted
        if wanted is None or wanted is False:
            return None
        if isinstance(wanted, str) and wanted in {"hires", "lowres", *self._pictures}:
            return None
        if isinstance(wanted, str | Path):
            return open_image(wanted)
        if isinstance(wanted, bool) or not hasattr(wanted, "shape") or not hasattr(wanted, "dtype"):
            msg = f"image is a {type(wanted).__name__}; give a path, an array (height, width, 3), or False for none"
            raise TypeError(msg)
        name = f"image of library {self.name!r}"
        return Opened(Path(name), pyramid(rgb_of_array(wanted, name=name)), None, "")

    def _where(self, key: str) -> str:
        return f"uns['spatial'][{self.name!r}]['images'][{key!r}]"

    def _open(self, key: str) -> Opened:
        name = self._where(key)
        return Opened(Path(name), pyramid(rgb_of_array(self._pictures[key], name=name)), None, "")

    def _scales(self) -> dict[str, float]:
        """Pixels per pixel of the full-resolution image of each picture that has a scale factor."""
        factors = {key: number(self._factors.get(f"tissue_{key}_scalef")) for key in self._pictures}
        return {key: factor for key, factor in factors.items() if factor is not None}

    def _finest(self) -> str:
        scales = self._scales()
        if not scales:
            first = next(iter(self._pictures))
            msg = (
                f"the pictures of library {self.name!r}, {list(self._pictures)}, have no scale factors "
                f"('tissue_{first}_scalef'; there are {list(self._factors) or 'none'}), so their place is not known; "
                f"add these to uns['spatial'][{self.name!r}]['scalefactors'], pass image=, or image=False for none"
            )
            raise ValueError(msg)
        return max(scales, key=lambda key: scales[key])

    def _reduced(self, key: str) -> tuple[Opened, float]:
        """A picture out of ``uns``, and the length of its pixels in those of the full-resolution image."""
        scales = self._scales()
        if key not in scales:
            msg = (
                f"image={key!r}: library {self.name!r} has no such picture with a scale factor; it has "
                f"{list(scales) or 'none'}"
            )
            raise ValueError(msg)
        opened = self._open(key)
        centres = self.centres[self._on_tissue] * scales[key]
        beyond = share_beyond(opened, centres)
        if beyond > BEYOND:
            (x0, y0), (x1, y1) = centres.min(axis=0), centres.max(axis=0)
            msg = (
                f"{beyond:.0%} of the spots lie beyond {self._where(key)} ({opened.size[0]} × {opened.size[1]} px): by "
                f"obsm['spatial'] and 'tissue_{key}_scalef' they span x {x0:.0f} to {x1:.0f} and y {y0:.0f} to "
                f"{y1:.0f} of its pixels. obsm['spatial'] must hold x and y in pixels of the full-resolution image: "
                f"are they of another image, in µm, or swapped?"
            )
            raise ValueError(msg)
        um = self.um_per_px / scales[key]
        logger.warning(
            "images[%r] is the reduced picture %r with %.3g µm per pixel; give the microscope's image if you have it",
            f"{storable(self.name)}_he",
            key,
            um,
        )
        return opened, 1 / scales[key]
