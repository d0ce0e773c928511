"""H&E patches of a given field in µm, read in the order of the image's chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from psutil import virtual_memory

from storm._checks import check_positive, check_whole
from storm.data.prefetch import prefetched
from storm.data.resample import Resampler
from storm.data.sources import Source
from storm.data.sweep import Sweep

#: Increased whenever the pixels of a patch change, so that results from other pixels are not taken for the same.
READER_VERSION = 2

#: Factor by which the pixels of a level may be coarser than those of the patch before the next finer level is read.
_LEVEL_TOLERANCE = 1.05

#: Bytes that the pixels of one field, or one batch of patches, may take. A field of 20 mm at 1 µm/px takes 1.2 GB.
_MAX_BYTES = 4_000_000_000
#: Edge of a field, in edges of the image, beyond which it shows hardly anything but what lies outside.
_MAX_FIELD = 4


@dataclass(frozen=True, eq=False)
class ImageLevel:
    """One level of an image pyramid.

    Attributes
    ----------
    source
        The pixels.
    um_to_px
        Affine map (x, y in µm) → (x, y in pixels), shape (2, 3), in the convention of pixel *edges*: pixel i spans
        [i, i + 1).
    """

    source: Source
    um_to_px: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.asarray(self.um_to_px, dtype=np.float64)
        if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or np.linalg.det(matrix[:, :2]) == 0:
            msg = f"um_to_px must be an invertible affine map of shape (2, 3), got {matrix.tolist()}"
            raise ValueError(msg)
        object.__setattr__(self, "um_to_px", matrix)

    @property
    def um_per_px(self) -> float:
        """µm per pixel (square root of the pixel's area)."""
        return float(abs(np.linalg.det(self.um_to_px[:, :2])) ** -0.5)

    @property
    def um_per_px_coarsest(self) -> float:
        """µm per pixel along the direction in which a pixel is longest."""
        return float(1 / np.linalg.svd(self.um_to_px[:, :2], compute_uv=False)[-1])

    def to_px(self, points_um: np.ndarray) -> np.ndarray:
        """Map points (n, 2) from µm to pixels."""
        return points_um @ self.um_to_px[:, :2].T + self.um_to_px[:, 2]


class PatchReader:
    """Reader of patches of an H&E image around centres in µm.

    A patch is a square of ``field_um`` whose edges are parallel to the axes of the µm frame, cut with sub-pixel
    precision and resized with an antialiasing filter. Patches come in an order in which every chunk of the pyramid
    level is decoded once: the image is swept in bands along its longer axis, and a chunk is dropped after the last
    patch that needs it, so that about one row of chunks (or as many as a field covers) is in memory at a time.

    The reader has no reference to a container and can be pickled.

    Parameters
    ----------
    levels
        Levels of the pyramid, in any order.
    fill
        Grey value beyond the image; white is the background of H&E.
    """

    def __init__(self, levels: Sequence[ImageLevel], *, fill: int = 255) -> None:
        if not levels:
            msg = "a PatchReader needs at least one image level"
            raise ValueError(msg)
        self.levels = tuple(sorted(levels, key=lambda level: level.um_per_px))
        self.fill = int(fill)

    @property
    def um_per_px(self) -> float:
        """µm per pixel of the finest level."""
        return self.levels[0].um_per_px

    @property
    def extent_um(self) -> tuple[float, float, float, float]:
        """Box around the image in µm: x0, y0, x1, y1."""
        level = self.levels[0]
        width, height = level.source.width, level.source.height
        corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], dtype=np.float64)
        corners_um = (corners - level.um_to_px[:, 2]) @ np.linalg.inv(level.um_to_px[:, :2]).T
        (x0, y0), (x1, y1) = corners_um.min(axis=0).tolist(), corners_um.max(axis=0).tolist()
        return x0, y0, x1, y1

    def inside(self, centres_um: np.ndarray) -> np.ndarray:
        """Which centres lie on the image, bool, shape (n,); a centre of NaN does not."""
        level = self.levels[0]
        px = level.to_px(_as_centres(centres_um))
        with np.errstate(invalid="ignore"):
            return np.all((px >= 0) & (px < (level.source.width, level.source.height)), axis=1)

    def level_for(self, field_um: float, out_px: int) -> int:
        """Index of the coarsest level that is not coarser than the patch (within 5 %), or of the finest if all are."""
        wanted = field_um / out_px * _LEVEL_TOLERANCE
        return max((k for k, level in enumerate(self.levels) if level.um_per_px_coarsest <= wanted), default=0)

    def read(self, centres_um: np.ndarray, *, field_um: float, out_px: int) -> np.ndarray:
        """Read all patches into memory.

        Parameters
        ----------
        centres_um
            x and y of the centres in µm, shape (n, 2).
        field_um
            Edge of the field in µm.
        out_px
            Edge of the patches in pixels.

        Returns
        -------
        ndarray
            uint8, shape (n, out_px, out_px, 3), in the order of the centres; patches around centres outside the image
            are filled with ``fill``.

        Raises
        ------
        ValueError
            If a size is not positive, ``centres_um`` is not (n, 2), or the patches do not fit into memory.
        """
        centres_um = _as_centres(centres_um)
        out_px = _check_geometry(field_um, out_px)
        free = virtual_memory().available
        needed = 3 * out_px**2 * len(centres_um)
        if needed > free:
            msg = (
                f"{len(centres_um)} patches of out_px={out_px} take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB of "
                f"memory are free; read them batch by batch, with iter_patches"
            )
            raise ValueError(msg)
        out = np.full((len(centres_um), out_px, out_px, 3), self.fill, dtype=np.uint8)
        for index, patches in self.iter_patches(centres_um, field_um=field_um, out_px=out_px, prefetch=0):
            out[index] = patches
        return out

    def iter_patches(
        self,
        centres_um: np.ndarray,
        *,
        field_um: float,
        out_px: int,
        batch_size: int = 256,
        prefetch: int = 2,
        threads: int = 1,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over batches of patches in the order of the chunks.

        Parameters
        ----------
        centres_um
            x and y of the centres in µm, shape (n, 2). Those that are not inside the image are left out.
        field_um
            Edge of the field in µm.
        out_px
            Edge of the patches in pixels.
        batch_size
            Patches per batch; the last batch may be smaller.
        prefetch
            Number of batches that a background thread reads ahead; 0 to read in the calling thread. Closing the
            generator stops the thread, and an error in the thread is raised here.
        threads
            Number of threads that decode chunks for it; order and pixels are the same with any.

        Yields
        ------
        index : ndarray
            Rows of ``centres_um``, int64, shape (b,).
        patches : ndarray
            uint8, shape (b, out_px, out_px, 3).

        Raises
        ------
        ValueError
            If a size is not positive, ``centres_um`` is not (n, 2), or a field or a batch would take more than 4 GB.
        """
        centres_um = _as_centres(centres_um)
        out_px, size = _check_geometry(field_um, out_px), check_whole(batch_size, name="batch_size")
        job = self._job(centres_um, field_um, out_px)
        batch_bytes = 3 * out_px**2 * min(size, max(len(job.index), 1))
        if batch_bytes > _MAX_BYTES:
            msg = (
                f"a batch of {min(size, len(job.index))} patches of out_px={out_px} takes {batch_bytes / 1e9:.3g} GB, "
                f"and at most {_MAX_BYTES / 1e9:.2g} GB are allowed; choose smaller patches or a smaller batch_size"
            )
            raise ValueError(msg)
        compiled = job.resample.compiles(len(job.index))

        def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            n, done = len(job.index), 0
            for canvas in Sweep(job.source, rects=job.rects, fill=self.fill, max_rows=size, threads=threads):
                shift = np.array([canvas.x0, canvas.y0] * 2)
                first = 0
                while first < len(canvas.rows):
                    filled = done % size
                    if filled == 0:
                        index = np.empty(min(size, n - done), dtype=np.int64)
                        patches = np.empty((len(index), out_px, out_px, 3), dtype=np.uint8)
                    rows = canvas.rows[first : first + len(index) - filled]
                    part = slice(filled, filled + len(rows))
                    index[part] = job.index[rows]
                    rects, boxes = job.rects[rows] - shift, job.boxes[rows] - shift
                    job.resample.many(canvas.pixels, rects, boxes=boxes, out=patches[part], compiled=compiled)
                    first, done = first + len(rows), done + len(rows)
                    if part.stop == len(index):
                        yield index, patches

        return prefetched(batches, depth=prefetch) if prefetch else batches()

    def iter_canvases(
        self,
        centres_um: np.ndarray,
        *,
        field_um: float,
        out_px: int,
        batch_size: int = 256,
        max_px: int = 16_000_000,
        prefetch: int = 2,
        threads: int = 1,
    ) -> Iterator[PatchCanvas]:
        """Iterate over canvases from which an accelerator cuts the patches itself, see :mod:`storm.data.crop`.

        A canvas is sent to the accelerator once, as bytes, whereas overlapping patches would be sent pixel by pixel.

        Parameters
        ----------
        centres_um
            x and y of the centres in µm, shape (n, 2). Those that are not inside the image are left out.
        field_um
            Edge of the field in µm.
        out_px
            Edge of the patches in pixels; the pyramid level is chosen by it.
        batch_size
            Largest number of patches on a canvas; it has fewer where patches lie far apart.
        max_px
            Largest number of pixels of a canvas, 3 bytes each; a single patch (or the patches that begin within
            1024 px) may take more.
        prefetch, threads
            Number of canvases that a background thread reads ahead, and of threads that decode, as in
            :meth:`iter_patches`.

        Yields
        ------
        PatchCanvas

        Raises
        ------
        ValueError
            If the axes of the image and of the µm frame are not parallel, so that a patch is not a box of the image
            (see :meth:`boxes_suffice`); or as in :meth:`iter_patches`.
        """
        centres_um = _as_centres(centres_um)
        out_px, size = _check_geometry(field_um, out_px), check_whole(batch_size, name="batch_size")
        if not self.boxes_suffice(field_um, out_px):
            msg = "the image is rotated or sheared in the µm frame, so that its patches are not boxes: use iter_patches"
            raise ValueError(msg)
        job = self._job(centres_um, field_um, out_px)

        def canvases() -> Iterator[PatchCanvas]:
            sweep = Sweep(
                job.source, rects=job.rects, fill=self.fill, max_px=max_px, max_rows=size, threads=threads, order="K"
            )
            for canvas in sweep:
                boxes = job.boxes[canvas.rows] - np.array([canvas.x0, canvas.y0] * 2)
                yield PatchCanvas(job.index[canvas.rows], canvas.pixels, boxes, **job.resample.turn)

        return prefetched(canvases, depth=prefetch) if prefetch else canvases()

    def boxes_suffice(self, field_um: float, out_px: int) -> bool:
        """Whether patches are boxes of the image, up to flips and quarter turns, so that canvases can be read."""
        level = self.levels[self.level_for(field_um, out_px)]
        return Resampler(level.um_to_px, field_um=field_um, out_px=out_px).straight

    def check_field(self, field_um: float) -> None:
        """Raise if a field is so much larger than the image that it must be a slip, such as nm for µm.

        Raises
        ------
        ValueError
            If its edge is more than four times the longer edge of the image.
        """
        x0, y0, x1, y1 = self.extent_um
        longest = max(x1 - x0, y1 - y0)
        if field_um > _MAX_FIELD * longest:
            msg = (
                f"field_um={field_um:g} is {field_um / longest:.3g} times as wide as the whole image, which is "
                f"{x1 - x0:.0f} × {y1 - y0:.0f} µm; give the edge of the H&E field around each centre in µm, for "
                f"example 112"
            )
            raise ValueError(msg)

    def _job(self, centres_um: np.ndarray, field_um: float, out_px: int) -> _Job:
        level = self.levels[self.level_for(field_um, out_px)]
        width, height = (np.abs(level.um_to_px[:, :2]).sum(axis=1) * field_um).tolist()
        if 3 * width * height > _MAX_BYTES:
            msg = (
                f"field_um={field_um:g} covers {width:.4g} × {height:.4g} pixels of the image at {level.um_per_px:.3g} "
                f"µm/px; they take {3 * width * height / 1e9:.3g} GB for each patch, and at most "
                f"{_MAX_BYTES / 1e9:.2g} GB are allowed: choose a smaller field, or add coarser levels to the image"
            )
            raise ValueError(msg)
        resample = Resampler(level.um_to_px, field_um=field_um, out_px=out_px)
        index = np.flatnonzero(self.inside(centres_um))
        boxes = resample.boxes(centres_um[index])
        return _Job(level.source, resample, index, boxes, resample.rects(boxes))


@dataclass(frozen=True, eq=False)
class PatchCanvas:
    """Pixels of a part of an image, and the boxes of some patches in it.

    Attributes
    ----------
    index
        Rows of the centres, int64 (b,).
    pixels
        uint8, shape (3, h, w), in memory as the chunks of the image are: planes, or channels side by side. Pixels
        beyond the image are filled, and pixels that no patch needs are arbitrary.
    boxes
        x0, y0, x1, y1 of each patch in pixels of the canvas, float64, shape (b, 4), within the canvas.
    flip_x, flip_y, turned
        Steps that bring a patch, cut along the image's axes, upright in the µm frame: mirror it along x, mirror it
        along y, and then swap its axes.
    """

    index: np.ndarray
    pixels: np.ndarray
    boxes: np.ndarray
    flip_x: bool = False
    flip_y: bool = False
    turned: bool = False


@dataclass(frozen=True, eq=False)
class _Job:
    """Patches to read from one level: rows of the centres on the image, boxes and rectangles in pixels of the level."""

    source: Source
    resample: Resampler
    index: np.ndarray
    boxes: np.ndarray
    rects: np.ndarray


def _as_centres(centres_um: np.ndarray) -> np.ndarray:
    centres = np.asarray(centres_um, dtype=np.float64)
    if centres.ndim != 2 or centres.shape[1] != 2:
        msg = f"centres must be x and y in µm, shape (n, 2); got shape {centres.shape}"
        raise ValueError(msg)
    return centres


def _check_geometry(field_um: float, out_px: int) -> int:
    """Return ``out_px`` as an int, after both sizes were checked."""
    check_positive(field_um, name="field_um", unit="µm")
    return check_whole(out_px, name="out_px")
