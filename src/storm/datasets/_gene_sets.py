"""Public collections of gene sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from storm._checks import check_choice
from storm._settings import settings
from storm.biology.enrichment import read_gmt
from storm.datasets._fetch import PublicFiles

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
#: Files of the other collections, which have no lasting address, in the folder ``genesets`` of a mirror.
_GMT = {
    "reactome": "reactome_*.gmt*",
    "go_bp": "go_bp_human.gmt*",
    "go_cc": "go_cc_human.gmt*",
    "go_mf": "go_mf_human.gmt*",
}


def gene_sets(
    name: Literal["hallmark", "reactome", "go_bp", "go_cc", "go_mf"] = "hallmark",
    *,
    species: Literal["human", "mouse"] = "human",
    path: str | Path | None = None,
) -> dict[str, list[str]]:
    """Read a public collection of gene sets, for :func:`storm.tl.enrich`.

    ``"hallmark"``, the paper's, is fetched from MICS-Lab/novae on GitHub at a fixed commit and verified by its sha256;
    MSigDB's terms (CC BY 4.0) apply to it. Reactome (CC0) and Gene Ontology (CC BY 4.0) are released anew every few
    months, at addresses that do not last: save their GMT file in the folder ``genesets`` of your mirror, as
    ``reactome_<date>.gmt`` or ``go_bp_human.gmt`` (gzipped or not), or give its path to
    :func:`storm.tl.enrich` directly. Sets of the ontology are named by their term and its number.

    Parameters
    ----------
    name
        ``"hallmark"``: 50 sets; ``"reactome"``: pathways; ``"go_bp"``, ``"go_cc"``, ``"go_mf"``: processes, places and
        functions of the Gene Ontology.
    species
        Whose genes; ``"mouse"`` for ``"hallmark"`` only.
    path
        Mirror: the folder that holds the file, or its parent; by default ``storm.settings.data_dir``, whose initial
        value is the environment variable ``STORM_DATA_DIR``.

    Returns
    -------
    dict
        Gene symbols of each set.

    Raises
    ------
    ValueError
        For a collection that does not exist, or a file that differs from the published one.
    FileNotFoundError
        If a file is neither in the mirror nor can be fetched; the message explains how to give a mirror.

    References
    ----------
    Liberzon et al., The Molecular Signatures Database hallmark gene set collection, Cell Systems 2015; Milacic et al.,
    The Reactome Pathway Knowledgebase 2024, Nucleic Acids Research; The Gene Ontology Consortium, Genetics 2023.
    """
    check_choice(name, ["hallmark", *_GMT], name="name")
    check_choice(species, ["human", "mouse"], name="species")
    if name == "hallmark":
        return _hallmark(species, path)
    if species != "human":
        msg = f"species={species!r}: {name!r} is there for 'human' only; give a GMT file of your own to storm.tl.enrich"
        raise ValueError(msg)
    given = path if path is not None else settings.data_dir
    folders = [] if given is None else [Path(given).expanduser(), Path(given).expanduser() / "genesets"]
    found = [file for folder in folders for file in sorted(folder.glob(_GMT[name]))]
    if not found:
        example = _GMT[name].replace("_*", "_2024-09-18").rstrip("*")
        msg = (
            f"the gene sets {name!r} have no lasting address: save their GMT file as genesets/{example} below "
            f"storm.settings.data_dir (or STORM_DATA_DIR, or path=), or give its path to storm.tl.enrich"
        )
        raise FileNotFoundError(msg)
    return read_gmt(found[-1], described=name.startswith("go_"))


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
