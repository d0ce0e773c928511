"""HER2-positive breast tumours, legacy Spatial Transcriptomics (Andersson et al. 2021)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from storm._logging import logger
from storm.datasets._fetch import PublicFiles, read_registry

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Commits of almaan/her2st that brought the counts, and everything else, into its folder data/.
_COUNTS_COMMIT = "e75e5c53a994726a8ad251aaf653a02d7932eb6a"
_COMMIT = "9f2260c6aa8347996955d53f0a5f06ac14c93470"


def her2st(section: str = "C2", *, path: str | Path | None = None, image: bool = True) -> SpatialData:
    """Read a section of HER2-positive breast cancer.

    Legacy Spatial Transcriptomics: 100 µm spots on a square lattice of 200 µm pitch. Sections B1–B6, C1–C6, D1–D6,
    E1–E3, F1–F3, G1–G3 and H1–H3; H&E at about 0.69 µm per pixel for B4 and C2–C6; a pathologist's labels of every
    spot for B1, C1, D1 and G2.

    The files come from a mirror folder if one is given, else from the public repository almaan/her2st on GitHub, at
    fixed commits, each verified by its sha256 and kept in ``storm.settings.cache_dir``. Pinned are the counts and spots
    of these 30 sections, the six images and the four tables of labels; the hashes were taken from a mirror. A mirror's
    copies of these files are verified in the same way. It may hold more of the repository (sections A1–A6, further
    images and labels), which is taken as it is.

    Parameters
    ----------
    section
        Name of the section, for example ``"C2"``.
    path
        Mirror: the folder that holds ``ST-cnts``, or its parent (with the folder ``her2st`` or ``data``); by default
        ``storm.settings.data_dir``, whose initial value is the environment variable ``STORM_DATA_DIR``.
    image
        Whether to read the H&E image, where there is one (about 280 MB in memory).

    Returns
    -------
    SpatialData
        The object that :func:`storm.io.st` returns. ``obs["label"]`` is categorical where there are labels. The
        µm per pixel are fitted to the 200 µm pitch, section by section (0.686–0.689; ``uns["st"]``).

    Raises
    ------
    ValueError
        For a section that does not exist, or a file that differs from the published one.
    FileNotFoundError
        If a file is neither in the mirror nor can be fetched; the message explains how to give a mirror.

    References
    ----------
    A. Andersson et al., Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type
    interactions, Nature Communications 12, 6012 (2021).

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.her2st("C2")  # doctest: +SKIP
    """
    from storm.io._st import st

    files = PublicFiles.open("her2st", marker="ST-cnts", path=path, registry=read_registry("her2st"), url=_url)
    everywhere = [*files.registry, *files.local("ST-*/**/*.*")]
    sections = sorted({m[1] for f in everywhere if (m := re.fullmatch(r"ST-cnts/(\w+)\.tsv\.gz", f))})
    if section not in sections:
        msg = f"section={section!r} does not exist; there are {sections}"
        raise ValueError(msg)
    picture = next((f for f in everywhere if f.startswith(f"ST-imgs/{section[0]}/{section}/")), None)
    sdata = st(
        files.get(f"ST-cnts/{section}.tsv.gz"),
        files.get(f"ST-spotfiles/{section}_selection.tsv"),
        files.get(picture) if image and picture else None,
    )
    table = sdata.tables["table"]
    table.uns["st"]["section"] = section
    labels = f"ST-pat/lbl/{section}_labeled_coordinates.tsv"
    if labels in everywhere:
        table.obs["label"] = _labels(files.get(labels), table.obs_names)
    return sdata


def _url(file: str) -> str:
    commit = _COUNTS_COMMIT if file.startswith("ST-cnts/") else _COMMIT
    return f"https://github.com/almaan/her2st/raw/{commit}/data/{file}"


def _labels(path: Path, names: pd.Index) -> pd.Series:
    """Labels of the spots; the file places them by adjusted array coordinates, and some rows have none."""
    from storm.io._st import array_names

    frame = pd.read_csv(path, sep="\t")
    placed = frame.dropna(subset=["x", "y"])
    labels = pd.Series(placed["label"].to_numpy(), index=array_names(placed["x"], placed["y"]))
    labels = labels[~labels.index.duplicated()]
    of_spots = labels.reindex(names)
    counts = (len(frame) - len(labels), int(of_spots.isna().to_numpy().sum()))
    if any(counts):
        logger.info("%s: %d labels without a place, %d spots without a label", path.name, *counts)
    return of_spots.astype("category")
