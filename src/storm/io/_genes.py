"""Which features of a vendor's table are genes: not controls, blanks, antibodies or guides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from storm._logging import logger, warn
from storm.data.genes import is_gene

#: Words in the kinds of features that are part of every run and measure nothing of the tissue.
_CONTROL_KINDS = ("control", "codeword", "blank")
#: Kind under which controls are counted that are recognised by their names only.
BY_NAME = "controls (by their names)"


def gene_mask(features: pd.DataFrame, path: Path) -> tuple[np.ndarray, dict[str, int]]:
    """Which features are genes, bool (n,), and how many of each other kind there are.

    What is left out is reported: controls, which are part of every run, in the log; antibodies, guides and other
    measurements of the tissue in a warning.

    Parameters
    ----------
    features
        One row per feature, with ``name`` and, where the file gives it, ``type``.
    path
        The file, for the report.
    """
    names = features["name"].astype(str).to_numpy() if "name" in features else np.array([], dtype=str)
    kinds = features["type"].astype(str).to_numpy() if "type" in features else None
    gene = is_gene(names, kinds)
    left_out: dict[str, int] = {}
    for k in np.flatnonzero(~gene):
        kind = "" if kinds is None else kinds[k]
        word = BY_NAME if kind.strip().casefold() in ("", "gene expression") else kind
        left_out[word] = left_out.get(word, 0) + 1
    if gene.any():
        report_left_out(left_out, path)
    return gene, left_out


def report_left_out(left_out: Mapping[str, int], path: Path) -> None:
    """Report features that are not genes, by kind: controls in the log, anything else in a warning."""
    controls = {kind: n for kind, n in left_out.items() if any(word in kind.casefold() for word in _CONTROL_KINDS)}
    others = {kind: n for kind, n in left_out.items() if kind not in controls}
    text = "%s: left out, because they are not genes: %s"
    if controls:
        logger.warning(text, path.name, _listed(controls))
    if others:
        warn(text % (path.name, _listed(others)))


def _listed(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items())
