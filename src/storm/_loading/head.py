"""Genes from H&E: a trained head on a frozen network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from storm._loading.files import read_json, write_json
from storm.model.heads import ExpressionMLP
from storm.model.weights import load_weights, save_weights

#: Format of a head's files.
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ExpressionHead:
    """Genes from H&E: a trained head and how far to trust each gene.

    Attributes
    ----------
    genes
        Gene symbols, in the order of the head's output.
    reliability
        Pearson correlation of each gene on spots that the head was not trained on, shape (n_genes,); NaN where it was
        not measured.
    module
        The head, from H&E tokens to log1p-normalised expression.
    model_sha256
        Checksum of the model whose tokens it reads.
    notes
        What it was trained on and how its reliability was measured.
    """

    genes: tuple[str, ...]
    reliability: np.ndarray
    module: ExpressionMLP
    model_sha256: str
    notes: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the head into a folder (safetensors, json).

        Parameters
        ----------
        path
            Folder; made if it does not exist.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        checksum = save_weights(self.module, path / "head.safetensors")
        layer = self.module.hidden[0]
        values = {
            "format": FORMAT,
            "genes": list(self.genes),
            "reliability": [None if np.isnan(r) else round(float(r), 4) for r in self.reliability],
            "in_dim": layer.in_features,
            "hidden": layer.out_features,
            "model_sha256": self.model_sha256,
            "notes": self.notes,
            "sha256": checksum,
        }
        write_json(path / "head.json", values)

    @classmethod
    def load(cls, path: str | Path) -> ExpressionHead:
        """Read a head that :meth:`save` wrote.

        Parameters
        ----------
        path
            The folder.

        Returns
        -------
        ExpressionHead

        Raises
        ------
        FileNotFoundError
            If the folder holds no head.
        ValueError
            If its files do not fit their checksum or each other.
        """
        path = Path(path)
        values = read_json(path / "head.json")
        if values.get("format") != FORMAT:
            found = values.get("format")
            msg = f"the head in {str(path)!r} has format {found!r}, this version reads {FORMAT}; update storm"
            raise ValueError(msg)
        module = ExpressionMLP(values["in_dim"], len(values["genes"]), hidden=values["hidden"])
        load_weights(module, path / "head.safetensors", expected=values["sha256"])
        reliability = np.array([np.nan if r is None else r for r in values["reliability"]], dtype=np.float32)
        return cls(
            genes=tuple(values["genes"]),
            reliability=reliability,
            module=module.requires_grad_(False).eval(),
            model_sha256=values["model_sha256"],
            notes=values["notes"],
        )
