"""Which features of a vendor's table are genes: not controls, blanks, antibodies or guides."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from storm._logging import logger

#: Kind of feature that 10x Genomics calls a gene.
_GENE = "gene expression"
#: Kinds of 10x Genomics that belong to every run and measure nothing of the tissue.
_CONTROL_KINDS = ("control", "codeword", "blank")
#: Names of features that measure nothing of the tissue: controls of Xenium, CosMx and MERSCOPE, spike-ins, and what
#: counting tools could not assign (``__ambiguous``).
_CONTROLS = re.compile(
    r"(negcontrol(probe|codeword)|unassignedcodeword|deprecatedcodeword|intergenic_region|blank|negprb|negative"
    r"|systemcontrol|falsecode)[-_ ]*(probe[-_ ]*)?\d+$|antisense_|ercc-\d{5}$|__",
    re.IGNORECASE,
)
#: Kind under which such a feature is counted.
_BY_NAME = "controls (by their names)"


def is_control(names: Iterable[str]) -> np.ndarray:
    """Which names are those that vendors give to controls and blanks, bool (n,)."""
    return np.array([_CONTROLS.match(name) is not None for name in names], dtype=bool)


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
    names = features["name"].astype(str) if "name" in features else pd.Series(dtype=str)
    kinds = features["type"].astype(str) if "type" in features else pd.Series("Gene Expression", index=names.index)
    gene = (kinds.str.strip().str.casefold() == _GENE).to_numpy(dtype=bool)
    control = gene & is_control(names)
    left_out = dict(Counter(kinds[~gene]))
    if control.any():
        left_out[_BY_NAME] = int(control.sum())
    gene &= ~control
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
        warnings.warn(text % (path.name, _listed(others)), UserWarning, stacklevel=5)


def _listed(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items())
