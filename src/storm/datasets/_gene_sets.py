"""Public collections of gene sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from storm._checks import check_choice
from storm._settings import settings
from storm.biology.enrichment import read_gmt
from storm.datasets._fetch import PublicFiles, check_sha256, fetch_trusted

#: Files of the hallmark sets in MICS-Lab/novae, their commits and sha256, by species.
_HALLMARK = {
    "human": (
        "hallmarks_pathways_human.json",
        "11ded911e9876019bf1baaaefec2cf442eec876c/tutorials/hallmarks_pathways.json",
        "921b18c0f3f238b10432eb4b16ba5ed0471ef26dd9f2e4d99323d8b9e7ec6f21",
    ),
    "mouse": (
        "hallmarks_pathways_mouse.json",
        "6ca520a59528129b742ebfc5079b53dfdbe8e156/tutorials/mouse_hallmarks.json",
        "bc887c6a83e59396348e474514b4a6cfaa9cfc9a12db58a5fa8776d0d9acea2e",
    ),
}
#: Files of the other collections in the folder ``genesets`` of a mirror.
_GMT = {
    "reactome": "reactome_*.gmt*",
    "go_bp": "go_bp_human.gmt*",
    "go_cc": "go_cc_human.gmt*",
    "go_mf": "go_mf_human.gmt*",
}
#: The release of MSigDB that holds them at an address of its own, by species, and their names in it.
_RELEASE = {"human": "2024.1.Hs", "mouse": "2024.1.Mm"}
_AT_MSIGDB = {
    "human": {"reactome": "c2.cp.reactome", "go_bp": "c5.go.bp", "go_cc": "c5.go.cc", "go_mf": "c5.go.mf"},
    "mouse": {"reactome": "m2.cp.reactome", "go_bp": "m5.go.bp", "go_cc": "m5.go.cc", "go_mf": "m5.go.mf"},
}
_MSIGDB = "https://data.broadinstitute.org/gsea-msigdb/msigdb/release"


def gene_sets(
    name: Literal["hallmark", "reactome", "go_bp", "go_cc", "go_mf"] = "hallmark",
    *,
    species: Literal["human", "mouse"] = "human",
    path: str | Path | None = None,
    sha256: str | None = None,
) -> dict[str, list[str]]:
    """Read a public collection of gene sets, for :func:`storm.tl.enrich`.

    ``"hallmark"``, the paper's, is fetched from MICS-Lab/novae on GitHub at a fixed commit and verified by its sha256;
    MSigDB's terms (CC BY 4.0) apply to it.

    The others are read from the folder ``genesets`` of a mirror, as ``reactome_<date>.gmt`` or ``go_bp_human.gmt``
    (gzipped or not), or else fetched from release 2024.1 of MSigDB. Nobody publishes checksums of these files. What was
    fetched first is therefore trusted: its sha256 is written to the log and beside the file in the cache, and the file
    is verified by it from then on. To have the same sets on another machine, give it as ``sha256``. The sets of a
    mirror and of MSigDB have different names and dates, so that results differ a little.

    Parameters
    ----------
    name
        ``"hallmark"``: 50 sets; ``"reactome"``: pathways; ``"go_bp"``, ``"go_cc"``, ``"go_mf"``: processes, places and
        functions of the Gene Ontology.
    species
        Whose genes. A mirror has ``"mouse"`` for ``"hallmark"`` only; the others of the mouse are fetched.
    path
        Mirror: the folder that holds the file, or its parent; by default ``storm.settings.data_dir``, whose initial
        value is the environment variable ``STORM_DATA_DIR``.
    sha256
        What the file of ``"reactome"`` or a ``"go_…"`` must have, from a mirror as after a download.

    Returns
    -------
    dict
        Gene symbols of each set.

    Raises
    ------
    ValueError
        For a collection that does not exist, or a file that differs from the published one, from the one that was
        fetched first, or from ``sha256``.
    FileNotFoundError
        If ``path`` holds no such file, or it can be fetched neither; the message explains how to give a mirror.

    References
    ----------
    Liberzon et al., The Molecular Signatures Database hallmark gene set collection, Cell Systems 2015; Milacic et al.,
    The Reactome Pathway Knowledgebase 2024, Nucleic Acids Research; The Gene Ontology Consortium, Genetics 2023.

    Examples
    --------
    >>> import storm
    >>> hallmark = storm.datasets.gene_sets("hallmark")  # doctest: +SKIP
    """
    check_choice(name, ["hallmark", *_GMT], name="name")
    check_choice(species, ["human", "mouse"], name="species")
    if name == "hallmark":
        if sha256 is not None:
            msg = "sha256= is for the collections without a published one; 'hallmark' is verified by its own"
            raise ValueError(msg)
        return _hallmark(species, path)
    found = _in_mirror(name, path) if species == "human" else None
    if found is not None:
        check_sha256(found, sha256)
        return read_gmt(found, described=found.name.startswith("go_"))
    file = f"{_AT_MSIGDB[species][name]}.v{_RELEASE[species]}.symbols.gmt"
    example = _GMT[name].replace("_*", "_2024-09-18").rstrip("*")
    address = f"{_MSIGDB}/{_RELEASE[species]}/{file}"
    if path is not None:
        what = f"holds no genesets/{example}" if species == "human" else "is a mirror, which has no such sets of mouse"
        msg = (
            f"path={str(path)!r} {what}; leave path= out to have {address} fetched, or give storm.tl.enrich a GMT file"
        )
        raise FileNotFoundError(msg)
    hint = (
        f"save it as genesets/{example} below storm.settings.data_dir (or STORM_DATA_DIR), or give storm.tl.enrich the "
        f"path of a GMT file"
    )
    return read_gmt(fetch_trusted("genesets", file, address, sha256=sha256, check=read_gmt, hint=hint))


def _in_mirror(name: str, path: str | Path | None) -> Path | None:
    """The newest file of a collection in the mirror."""
    given = path if path is not None else settings.data_dir
    folders = [] if given is None else [Path(given).expanduser(), Path(given).expanduser() / "genesets"]
    found = [file for folder in folders for file in sorted(folder.glob(_GMT[name]))]
    return found[-1] if found else None


def _hallmark(species: str, path: str | Path | None) -> dict[str, list[str]]:
    file, source, digest = _HALLMARK[species]
    files = PublicFiles.open(
        "genes",
        marker=file,
        path=path,
        registry={file: digest},
        url=lambda _: f"https://github.com/MICS-Lab/novae/raw/{source}",
    )
    entries = json.loads(files.get(file).read_text(encoding="utf-8"))
    return {name: list(entry["geneSymbols"]) for name, entry in entries.items()}
