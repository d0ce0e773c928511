"""Mouse cortex, STARmap (Wang et al. 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from storm._checks import check_choice
from storm.datasets._spots import read_mirrored

if TYPE_CHECKING:
    from anndata import AnnData

_FILES = {"visual": "STARmap_VC.h5ad", "prefrontal": "STARmap_mPFC_BZ5.h5ad"}


def starmap(section: Literal["visual", "prefrontal"] = "visual", *, path: str | Path | None = None) -> AnnData:
    """Read a section of mouse cortex in which single cells were imaged, with its layers.

    STARmap: 1,207 cells × 1,020 genes of the visual cortex, 1,049 × 166 of the medial prefrontal cortex. There is no
    picture, and the µm per unit of the coordinates are not known.

    Read from a mirror folder only: the .h5ad files were made from the supplements of other packages
    (zhaofangyuan98/SDMBench, zhengli09/BASS-Analysis), so that no single address holds them.

    Parameters
    ----------
    section
        ``"visual"`` or ``"prefrontal"``.
    path
        Mirror: the folder that holds ``STARmap_VC.h5ad`` and ``STARmap_mPFC_BZ5.h5ad``, or its parent (with the folder
        ``domains``); by default ``storm.settings.data_dir``, whose initial value is the environment variable
        ``STORM_DATA_DIR``.

    Returns
    -------
    AnnData
        Raw counts (CSR float32), ``obsm["spatial"]``, and in ``obs`` the annotated ``"layer"`` and ``"cell_type"``.

    Raises
    ------
    ValueError
        For a section that does not exist.
    FileNotFoundError
        If no mirror is given, or it does not hold the section.

    References
    ----------
    X. Wang et al., Three-dimensional intact-tissue sequencing of single-cell transcriptional states, Science 361,
    eaat5691 (2018).

    Examples
    --------
    >>> import storm
    >>> adata = storm.datasets.starmap("visual")  # doctest: +SKIP
    """
    check_choice(section, tuple(_FILES), name="section")
    _, adata = read_mirrored("domains", _FILES[section], path)
    adata.obs = adata.obs[["truth", "cell"]].rename(columns={"truth": "layer", "cell": "cell_type"})
    return adata
