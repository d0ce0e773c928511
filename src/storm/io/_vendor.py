"""What the readers of vendors' folders share: finding files, calling spatialdata-io, checking and naming its tables."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.scale import TOLERANCE
from storm._keys import READ
from storm._logging import logger
from storm.io._placing import fit_scale

if TYPE_CHECKING:
    from anndata import AnnData

#: What spatialdata-io and spatialdata say about things that the readers here put right, or did not ask for.
_EXPECTED = (
    "The table is annotating",
    "Converting `region_key",
    "No full resolution image found",
    "No image path found",
    "File .* does not exist, skipping",
    "Variable names are not unique",
    "The dtype argument is deprecated",
    "Call to deprecated class Scaler",
    "The index of the",
    "Transforming to str index",
)


def find_folder(path: str | Path, *, platform: str, signs: Iterable[str]) -> Path:
    """The vendor's folder itself: ``path``, or ``outs`` below it.

    Parameters
    ----------
    path
        What the user gave.
    platform
        Its name, for errors.
    signs
        Patterns of files, one of which such a folder holds.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it holds none of the files.
    """
    path = Path(path)
    if not path.is_dir():
        msg = f"there is no folder {path}; give the folder that the {platform} software wrote"
        raise FileNotFoundError(msg)
    signs = list(signs)
    for folder in (path, path / "outs"):
        if any(next(folder.glob(sign), None) is not None for sign in signs):
            return folder
    msg = f"{path} is no {platform} folder: it holds none of {signs}, but {listed(path)}"
    raise FileNotFoundError(msg)


def listed(folder: Path, n: int = 12) -> str:
    """What a folder holds, in words."""
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir()) if folder.is_dir() else []
    return (", ".join(names[:n]) + (", …" if len(names) > n else "")) or "nothing"


def need(folder: Path, *names: str, what: str) -> Path:
    """The first of several files that exists; an error that lists the folder if none does."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    msg = f"{what} is missing: {folder} holds no {' or '.join(names)}, but {listed(folder)}"
    raise FileNotFoundError(msg)


def read_json(path: Path) -> dict[str, Any]:
    """A json file; an error that names it if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is no json: {error}; copy it again"
        raise ValueError(msg) from error


@contextmanager
def vendor_call(path: Path, *, platform: str):
    """Around a call of spatialdata-io: its expected warnings are silent, its errors name the folder."""
    try:
        # what it prints is for those who call it themselves
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            for message in _EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            yield
    except Exception as error:  # of any of the packages that it calls
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        msg = f"{path} cannot be read as a {platform} folder: {type(error).__name__}: {error}"
        raise kind(msg) from error


def read_barcodes(path: Path) -> np.ndarray:
    """Barcodes of a 10x matrix (``.h5``, or a folder with ``barcodes.tsv.gz``)."""
    import h5py

    try:
        if path.is_dir():
            file = need(path, "barcodes.tsv.gz", "barcodes.tsv", what="the list of barcodes")
            return pd.read_csv(file, header=None, sep="\t")[0].to_numpy(dtype=str)
        with h5py.File(path) as file:
            return file["matrix/barcodes"][:].astype(str)
    except FileNotFoundError:
        raise
    except pd.errors.EmptyDataError:
        return np.array([], dtype=str)
    except (OSError, KeyError, ValueError) as error:
        msg = f"{path} cannot be read as a matrix of 10x Genomics: {error}; is it complete?"
        raise ValueError(msg) from error


def check_barcodes(barcodes: np.ndarray, placed: Iterable[str], *, counts: Path, positions: Path) -> None:
    """Raise if there are no barcodes, or some of them have no place.

    Parameters
    ----------
    barcodes
        Of the table of counts.
    placed
        Those with a position.
    counts, positions
        The two files, for the error.
    """
    if not len(barcodes):
        msg = (
            f"{counts} holds no barcodes: no spot of the capture area was called tissue. Check the tissue detection "
            f"of Space Ranger, or read all spots with filtered=False"
        )
        raise ValueError(msg)
    placed = pd.Index(placed).astype(str)
    there = pd.Index(barcodes).isin(placed)
    if there.all():
        return
    lost = barcodes[~there]
    if not len(placed):
        msg = f"{positions} holds no positions"
        raise ValueError(msg)
    msg = (
        f"{len(lost)} of {len(barcodes)} barcodes in {counts} have no position in {positions}, e.g. {str(lost[0])!r} "
        f"(positions are like {str(placed[0])!r}); "
        + ("the two files are of different samples" if not there.any() else "one of the files is incomplete")
    )
    raise ValueError(msg)


def check_counts(table: AnnData, path: Path) -> None:
    """Raise if a table has no observation, no gene, or no count at all."""
    if not table.n_obs or not table.n_vars or not table.X.sum():
        msg = f"{path}: the table of {table.n_obs} observations × {table.n_vars} genes holds no counts"
        raise ValueError(msg)


def as_table(table: AnnData, *, region: str, instance_key: str, uns: Mapping[str, Any] | None = None) -> AnnData:
    """The table as STORM's readers return it: CSR float32 counts that annotate one element.

    Parameters
    ----------
    table
        From spatialdata-io; changed.
    region
        Name of the annotated shapes.
    instance_key
        ``obs`` column with their instances.
    uns
        Added to ``uns``.
    """
    from scipy.sparse import csr_matrix
    from spatialdata.models import TableModel

    table.uns.pop(TableModel.ATTRS_KEY, None)
    table.X = csr_matrix(table.X, dtype=np.float32)
    table.obs["region"] = pd.Categorical([region] * table.n_obs)
    table.uns.update(uns or {})
    return TableModel.parse(table, region=region, region_key="region", instance_key=instance_key)


def facts(reader: str, *, folder: Path, scale: tuple[float, str], **more: Any) -> dict[str, Any]:
    """``attrs`` of an object: the platform, and what was read with which scale."""
    from spatialdata_io import __version__

    um_per_px, source = scale
    return {
        "platform": reader,
        "spatialdata_io_reader": reader,
        "spatialdata_io_software_version": __version__,
        READ: {
            "reader": reader,
            "folder": folder.name,
            "um_per_px": float(um_per_px),
            "um_per_px_source": source,
            **{key: value for key, value in more.items() if value is not None},
        },
    }


def pitch_scale(
    array_um: np.ndarray, pixels: np.ndarray, *, scale: tuple[float, str] | None, path: Path
) -> tuple[float, str] | None:
    """µm per pixel by the array's pitch; a warning if the platform's files say something else.

    Parameters
    ----------
    array_um
        Places on the array in µm, (n, 2).
    pixels
        The same in pixels of the full-resolution image.
    scale
        What the files say.
    path
        The folder, for the warning.
    """
    try:
        by_pitch, _ = fit_scale(array_um, pixels)
    except ValueError:  # fewer than three spots, or all on a line
        return None
    if scale is not None and not 1 / TOLERANCE < by_pitch / scale[0] < TOLERANCE:
        msg = (
            f"{path}: the pitch of the array implies {by_pitch:.4g} µm per pixel, but {scale[1]} says {scale[0]:.4g}, "
            f"which is used: positions and scale factors seem to be of different runs"
        )
        warnings.warn(msg, UserWarning, stacklevel=4)
    return by_pitch, "the pitch of the array"


def choose_image(
    image: Any, *, found: Callable[[], Path | None], reduced: Mapping[str, Path], missing: str
) -> tuple[Path | None, str | None]:
    """Which picture is meant by ``image=``: its path, and ``"hires"`` or ``"lowres"`` for a reduced one.

    Parameters
    ----------
    image
        A path, ``"hires"``, ``"lowres"``, ``None`` for the image that lies in the folder, ``False`` for none.
    found
        Looks for that image.
    reduced
        The reduced pictures that there are, by name.
    missing
        Said in a warning if there is no image and none was given.
    """
    if image is False:
        return None, None
    if isinstance(image, str) and image in ("hires", "lowres"):
        if image not in reduced:
            msg = f"image={image!r}: there is no tissue_{image}_image.png; there are {sorted(reduced) or 'none'}"
            raise FileNotFoundError(msg)
        return reduced[image], image
    if image is not None:
        return Path(image), None
    path = found()
    if path is None:
        hint = f", or image={sorted(reduced)[0]!r} for the reduced picture" if reduced else ""
        warnings.warn(
            f"{missing}: the object holds no H&E, only expression. Pass image= (the microscope's full-resolution "
            f"image){hint}, or image=False to read without one",
            UserWarning,
            stacklevel=4,
        )
    else:
        logger.info("H&E: %s", path)
    return path, None


def reduced_pictures(folder: Path) -> dict[str, Path]:
    """Reduced pictures of Space Ranger in a folder ``spatial``, by name."""
    names = {key: folder / f"tissue_{key}_image.png" for key in ("hires", "lowres")}
    return {key: path for key, path in names.items() if path.is_file()}


def reduced_sizes(pictures: Mapping[str, Path], factors: Mapping[str, Any]) -> dict[str, tuple[tuple[int, int], float]]:
    """Sizes (width, height) and scales of the reduced pictures, by file name."""
    from PIL import Image, UnidentifiedImageError

    sizes = {}
    for key, path in pictures.items():
        scale = factors.get(f"tissue_{key}_scalef")
        if not scale:
            continue
        try:
            with Image.open(path) as picture:
                sizes[path.name] = (picture.size, float(scale))
        except UnidentifiedImageError as error:
            msg = f"{path} cannot be read as an image: {error}"
            raise ValueError(msg) from error
    return sizes
