"""Genes from H&E: a trained head on a frozen network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from storm._loading.fields import Fields
from storm._loading.files import read_fields, write_json
from storm._loading.head_calibration import Intervals, Novelty, read_calibration, save_calibration
from storm.model.heads import ExpressionMLP
from storm.model.weights import build_from, save_weights

#: Format of a head's files.
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ExpressionHead:
    """Genes from H&E: a trained head, and how reliable each gene is.

    Attributes
    ----------
    genes
        Gene symbols, in the order of the head's output.
    reliability
        Pearson correlation between prediction and measurement of each gene on spots that the head was not trained on,
        float32, shape (n_genes,); NaN where it was not measured.
    module
        The head, from H&E tokens to log1p-normalised expression.
    model_sha256
        Checksum of the model whose tokens the head reads.
    reliability_min
        The same in the section where it is lowest, shape (n_genes,); ``None`` for a head that did not record it.
    n_sections, n_patients
        Sections it was trained on, and patients that were held out in turn; 1 where sections were.
    intervals
        Prediction intervals; ``None`` where there were too few held-out spots, or they were not asked for.
    novelty
        Tiles of the training, to compare others with; ``None`` where there were no others to calibrate by.
    notes
        What the head was trained on and how its reliability was measured; among them ``"field_um"``, ``"standardise"``
        and ``"library"``, see :attr:`field_um`, :attr:`standardise` and :attr:`units`.
    """

    genes: tuple[str, ...]
    reliability: np.ndarray
    module: ExpressionMLP
    model_sha256: str
    reliability_min: np.ndarray | None = None
    n_sections: int = 1
    n_patients: int = 1
    intervals: Intervals | None = None
    novelty: Novelty | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        known = self.reliability[np.isfinite(self.reliability)]
        r = f"median r {np.median(known):.2f} on held-out spots" if len(known) else "r not measured"
        intervals = "no intervals" if self.intervals is None else "with intervals"
        return f"ExpressionHead({len(self.genes)} genes, {self.n_sections} section(s) of training, {r}, {intervals})"

    @property
    def field_um(self) -> float | None:
        """Edge in µm of the H&E field that it was trained on; ``None`` for that of the model's tile encoder."""
        value = self.notes.get("field_um")
        return None if value is None else float(value)

    @property
    def standardise(self) -> str | None:
        """Statistics by which the features were standardised that it was trained on, ``"section"`` or ``"training"``.

        ``None`` for a head of version 0.1.0, which did it as its model does.
        """
        return self.notes.get("standardise")

    @property
    def measured_on(self) -> str:
        """What its reliability was measured on, in words: tissue, sections, and patients where they are known."""
        several = f"{self.n_sections} sections" if self.n_sections > 1 else "1 section"
        patients = f" of {self.n_patients} patients" if self.n_patients > 1 else ""
        tissue = self.notes.get("tissue")
        return f"{tissue}, {several}{patients}" if tissue else f"{several}{patients}"

    @property
    def units(self) -> str:
        """Unit of its predictions: which counts add up to the 10,000."""
        return str(self.notes.get("units", "log1p of counts per 10,000"))

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
            "reliability": _listed(self.reliability),
            "reliability_min": None if self.reliability_min is None else _listed(self.reliability_min),
            "n_sections": self.n_sections,
            "n_patients": self.n_patients,
            "calibration": save_calibration(path, self.intervals, self.novelty),
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
            If its files do not match their checksum or each other, a field has an impossible value, or weights are not
            finite real numbers.
        """
        path = Path(path)
        fields = read_fields(path / "head.json")
        version = fields.raw("format") if "format" in fields else None
        if version != FORMAT or isinstance(version, bool):
            msg = f"the head in {str(path)!r} has format {version!r}, this version reads {FORMAT}; update storm"
            raise ValueError(msg)
        genes, reliability = fields.texts("genes"), fields.numbers("reliability")
        if not genes or len(set(genes)) != len(genes):
            fields.refuse("genes", "a list of different genes that is not empty")
        lowest = fields.numbers("reliability_min") if _given(fields, "reliability_min") else None
        for name, values in (("reliability", reliability), ("reliability_min", lowest)):
            if values is not None and (len(values) != len(genes) or any(abs(r) > 1 for r in values)):
                fields.refuse(name, f"a list of {len(genes)} correlations, as many as there are genes")
        in_dim, hidden = fields.whole("in_dim"), fields.whole("hidden")
        model_sha256, notes = fields.sha256("model_sha256"), fields.mapping("notes")
        module = build_from(
            lambda: ExpressionMLP(in_dim, len(genes), hidden=hidden),
            path / "head.safetensors",
            expected=fields.sha256("sha256"),
            sizes={"in_dim": in_dim, "hidden": hidden, "number of genes": len(genes)},
        )
        intervals, novelty = None, None
        if _given(fields, "calibration"):
            intervals, novelty = read_calibration(path, fields.section("calibration"), n_genes=len(genes))
        return cls(
            genes=genes,
            reliability=np.array(reliability, dtype=np.float32),
            reliability_min=None if lowest is None else np.array(lowest, dtype=np.float32),
            # Heads of version 0.1.0 have none of these fields.
            n_sections=fields.whole("n_sections") if "n_sections" in fields else int(notes.get("n_sections", 1)),
            n_patients=fields.whole("n_patients") if "n_patients" in fields else 1,
            intervals=intervals,
            novelty=novelty,
            module=module,
            model_sha256=model_sha256,
            notes=notes,
        )


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def _given(fields: Fields, name: str) -> bool:
    return name in fields and fields.raw(name) is not None
