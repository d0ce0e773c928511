"""Public signatures of cell types."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from storm._checks import check_choice
from storm.datasets._fetch import PublicFiles

#: File in a mirror, address and sha256 of each signature.
_FILES = {
    "til10": (
        "til10_signature.txt",
        "https://github.com/icbi-lab/quanTIseq/raw/1b121a27c174de9f8a9cbfc3ab0b47cea64c0629/quantiseq/deconvolution/"
        "TIL10_signature.txt",
        "cf410d0631a367761556545f463609e3f425c0f7cdb9aa42390afca13c5cea26",
    ),
    "mcp": (
        "mcpcounter_genes.txt",
        "https://github.com/ebecht/MCPcounter/raw/b6eac73e91c246fcff0bb1a5c68a816cd588fc48/Signatures/genes.txt",
        "408f6c5d02c8f9bd2f1599c598367881853520934f8ce398a4886a8b296922bb",
    ),
}


def signatures(name: Literal["til10", "mcp"] = "til10", *, path: str | Path | None = None) -> pd.DataFrame:
    """Read a public signature of cell types, for :func:`storm.tl.composition`.

    Fetched from the authors' repositories at fixed commits and verified by their sha256, unless a mirror holds them.
    LM22, the signature of CIBERSORT, may not be distributed: register with its authors, and give
    :func:`storm.tl.composition` the path of your copy.

    Parameters
    ----------
    name
        ``"til10"``: quanTIseq's mean expression of 170 genes in ten types of immune cells (BSD-3-Clause); ``"mcp"``:
        MCP-counter's markers of ten populations, 111 genes (CC0).
    path
        Mirror: the folder that holds the files, or its parent; by default ``storm.settings.data_dir``, whose initial
        value is the environment variable ``STORM_DATA_DIR``.

    Returns
    -------
    DataFrame
        A row per gene and a column per type: expression (TPM), or for ``"mcp"`` 1 for its markers and 0 elsewhere.

    Raises
    ------
    ValueError
        For a signature that does not exist, or a file that differs from the published one.
    FileNotFoundError
        If a file is neither in the mirror nor can be fetched; the message explains how to give a mirror.

    References
    ----------
    Finotello et al., Molecular and pharmacological modulators of the tumor immune contexture revealed by deconvolution
    of RNA-seq data, Genome Medicine 2019; Becht et al., Genome Biology 2016.

    Examples
    --------
    >>> import storm
    >>> til10 = storm.datasets.signatures("til10")  # doctest: +SKIP
    """
    check_choice(name, list(_FILES), name="name")
    file, address, digest = _FILES[name]
    files = PublicFiles.open("signatures", marker=file, path=path, registry={file: digest}, url=lambda _: address)
    frame = pd.read_csv(files.get(file), sep="\t")
    if name == "til10":
        return frame.set_index("ID").rename_axis(None)
    return (
        pd.crosstab(frame["HUGO symbols"], frame["Cell population"])
        .clip(upper=1)
        .rename_axis(None)
        .rename_axis(None, axis=1)
    )
