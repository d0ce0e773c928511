"""One split and list of genes of a comparison of expression: predictions of its sections, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm.benchmark._expression_inputs import truth
from storm.benchmark._probes import training_reliability
from storm.benchmark._tile_views import TILE
from storm.metrics.expression import pearson_per_gene
from storm.metrics.report import expression_report

if TYPE_CHECKING:
    from storm.benchmark._expression_inputs import GeneList, MeasuredSection
    from storm.benchmark._expression_runs import Run
    from storm.benchmark._probes import Training
    from storm.benchmark._splits import Split


class Judge:
    """What is measured in a split, and scores of predictions against it.

    Parameters
    ----------
    split
        Sections that train, and those that are judged.
    genes
        The genes.
    sections
        All sections of the comparison.

    Attributes
    ----------
    truth
        Measured expression of each section of the split, by its position.
    train_r
        Correlation of each gene on spots that are held out of training, the mean over folds, shape (g,).
    """

    def __init__(self, split: Split, genes: GeneList, sections: Sequence[MeasuredSection]) -> None:
        self.split, self.genes, self.sections = split, genes, sections
        self.truth = {i: truth(sections[i], genes) for i in {*split.train, *split.test}}
        ranks = [
            training_reliability(
                [sections[i].part(sections[i].views.features(TILE)[sections[i].rows], self.truth[i]) for i in train]
            )
            for train in dict.fromkeys(train for train, _ in split.folds)
        ]
        known = np.isfinite(ranks)
        total = np.where(known, ranks, 0).sum(axis=0)
        self.train_r = np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)

    def seen(self, run: Run) -> dict[int, np.ndarray]:
        """What a method reads of the sections of a split."""
        return {
            i: (one.views.patches(run.field_um, run.px) if run.px else one.views.features(run.reads))[one.rows]
            for i, one in ((i, self.sections[i]) for i in self.truth)
        }

    def predict(self, run: Run, seen: Mapping[int, np.ndarray], how: Training) -> dict[int, np.ndarray]:
        """Expression of the sections that are judged, each by what was trained in its fold."""
        predicted: dict[int, np.ndarray] = {}
        for train, test in self.split.folds:
            values = run.predict(
                [self.sections[i].part(seen[i], self.truth[i]) for i in train],
                [self.sections[i].part(seen[i], None) for i in test],
                how,
            )
            predicted.update(zip(test, values, strict=True))
        return predicted

    def rows(
        self, predicted: Mapping[int, np.ndarray], method: str, encoder: str, seed: int, seconds: float
    ) -> pd.DataFrame:
        """A row for each gene and section that was predicted."""
        at = list(predicted)
        names = {self.sections[i].name: self.sections[i].patient for i in at}
        measured = np.concatenate([self.truth[i] for i in at])
        values = np.concatenate([predicted[i] for i in at])
        who: dict[str, Any] = {}
        if not self.split.same_patient:
            who["patients"] = np.repeat([str(self.sections[i].patient) for i in at], [len(self.truth[i]) for i in at])
            who["trained_on"] = [str(self.sections[i].patient) for i in self.split.train]
        report = expression_report(
            measured,
            values,
            genes=self.genes.genes,
            slides=np.repeat(list(names), [len(self.truth[i]) for i in at]),
            coords=np.concatenate([self.sections[i].spots.centres for i in at]),
            **who,
        )
        both = pearson_per_gene(measured, values)
        first = {
            "method": method,
            "encoder": encoder,
            "split": self.split.name,
            "same_patient": self.split.same_patient,
            "genes": self.genes.name,
            "genes_saw_test": pd.array([self.genes.saw_test] * len(report), dtype="boolean"),
            "section": report["slide"],
            "patient": report["slide"].map(names),
            "seed": seed,
            "gene": report["gene"],
            "n": report["n"],
            "pearson": report["pearson"],
            "pearson_pooled": np.tile(both, len(at)),
        }
        scores = report[["spearman", "rmse", "ssim", "truth_mean", "truth_zeros"]]
        last = {"train_r": np.tile(self.train_r, len(at)), "seconds": seconds}
        return pd.concat([pd.DataFrame(first), scores, pd.DataFrame(last, index=report.index)], axis=1)
