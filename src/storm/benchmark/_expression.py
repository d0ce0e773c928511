"""``storm.benchmark.expression``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from storm._bridge.keys import Keys
from storm._checks import check_choice, check_positive, check_whole
from storm._inference.device import Compute
from storm._loading import StormModel, load_model
from storm._progress import progress
from storm.benchmark._expression_inputs import (
    gene_list,
    given_predictions,
    measured_sections,
    named_patients,
    predicted_values,
    wanted_lists,
)
from storm.benchmark._expression_judge import Judge
from storm.benchmark._expression_methods import ALL, DEFAULT
from storm.benchmark._expression_runs import runs_of
from storm.benchmark._probes import Training
from storm.benchmark._splits import make_splits

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData

    from storm.encoders import EncoderInfo


def expression(
    sections: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    methods: Sequence[str] | None = None,
    *,
    group_key: str | None = None,
    groups: Sequence[Any] | Mapping[str, Any] | None = None,
    splits: str | Mapping[str, tuple[Any, Any]] = "patients",
    genes: str | Sequence[str] | Mapping[str, str | Sequence[str]] = "train",
    n_genes: int = 500,
    encoders: Sequence[str | EncoderInfo] | None = None,
    predictions: Mapping[str, str | Mapping[str, AnnData | pd.DataFrame] | Sequence[AnnData | pd.DataFrame]]
    | None = None,
    seeds: Iterable[int] = range(3),
    backbone: str | EncoderInfo | None = None,
    epochs: int | None = None,
    model: str | Path | StormModel = "storm-mini",
    library_key: str | None = None,
    image_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    field_um: float | None = None,
    layer: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Compare methods that predict genes from H&E, on sections with measured counts.

    All methods have the same spots, genes, targets and splits. A method sees the counts of the sections that train it,
    and of those that are judged the image alone. Nothing is written into the sections.

    Parameters
    ----------
    sections
        Sections with counts and H&E, also by name. Those of one table are told apart by ``library_key``.
    methods
        Names out of ``storm.benchmark.methods(task="expression")``; ``None`` for the default ones, an empty list for
        none.
    group_key, groups
        Patient of each section: a column of ``obs``, or a list (or names of sections with their patients).
    splits
        ``"patients"``: each patient is held out in turn. ``"sections"``: each section from the others *of its patient*,
        which is easier than a new patient, and marked in the table. Or sections to train on and to judge, by the name
        of the split: ``{"C to B": (["C2", "C3"], ["B4"])}``; a patient on both sides is refused.
    genes
        ``"train"``: the ``n_genes`` that vary most in the sections of the split that train. ``"test"``: in those that
        are judged. A list of genes. Or several of these by name. Results of different lists cannot be compared.
    n_genes
        Length of the lists that the sections choose.
    encoders
        What the probes read, each of them all of these: tile encoders by name (``"timm:…"`` and ``"random:…"``
        included) or loaded; ``"model"``, the model's own; ``"storm"``, the features of STORM's head. By default
        ``["model"]``. Embeddings are standardised within their section.
    predictions
        Predictions of your own by name, log1p of counts per 10,000, a row for each spot, named as those of the
        section's table, and a column for each gene: the key of a table that all objects have, a table for each section,
        or for some by name. Sections that are judged without one are left out for that name. That nobody trained on
        the sections that are judged is yours to see to.
    seeds
        Seeds of the methods that are random; the others run with the first.
    backbone
        The network of methods that are trained on images: an encoder, by default that of their paper.
    epochs
        Passes of the networks over the training spots; by default each method's own number.
    model
        The model of STORM's methods, and its tile encoder. It must not have been trained on the sections.
    library_key, image_key, table_key, shapes_key, coordinate_system, um_per_px, layer, device, batch_size
        As in :func:`storm.tl.embed`.
    field_um
        Edge of the field around each spot, in µm; by default each encoder's own.

    Returns
    -------
    DataFrame
        A row per method, split, list of genes, section, gene and seed: ``method``, ``encoder``, ``split``,
        ``same_patient`` (whether training sections are of the patient that is judged), ``genes`` (the list),
        ``genes_saw_test`` (whether a section that is judged chose it), ``section``, ``patient``, ``seed``, ``gene``,
        ``n``, ``pearson`` (within the section), ``pearson_pooled`` (over all sections of the split), ``spearman``,
        ``rmse``, ``ssim``, ``truth_mean``, ``truth_zeros`` (see :func:`storm.metrics.expression_report`), ``train_r``
        (correlation of the gene on spots held out of *training*, by ridge regression on the model's tiles, by which
        genes are ranked for all methods alike) and ``seconds`` (training and prediction in the split, without the
        features; NaN for predictions of your own).

    Raises
    ------
    KeyError
        If a column, element, key or section does not exist.
    ValueError
        If a method is unknown, patients are missing or on both sides of a split, genes are not measured in all
        sections, a section has fewer than three spots with counts on its image, or predictions do not fit.

    Examples
    --------
    >>> import storm
    >>> a, b = (storm.datasets.toy("visium", n=150, seed=seed) for seed in (0, 1))
    >>> table = storm.benchmark.expression(
    ...     {"a": a, "b": b}, ["mean", "ridge"], groups=["p1", "p2"], n_genes=20, seeds=[0], device="cpu"
    ... )
    >>> storm.benchmark.summary(table)[["method", "split", "genes"]].shape
    (4, 3)

    Notes
    -----
    Methods that are trained on images (``methods("images", task="expression")``) want a GPU, and hold the patches of
    all sections in memory, 150 kB a spot. The others run on a CPU.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *predicting Visium ST from H&E*. The papers of the comparators
    are named in :doc:`/api/benchmark`.
    """
    names = (
        list(DEFAULT) if methods is None else list(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    )
    for name in names:
        check_choice(name, ALL, name="methods")
    if not names and not predictions:
        msg = "there is nothing to compare: methods and predictions are empty"
        raise ValueError(msg)
    if not isinstance(seeds, Iterable):
        msg = f"seeds={seeds!r} is a {type(seeds).__name__}; give several, for example range(5)"
        raise TypeError(msg)
    wanted_seeds = [check_whole(seed, name="seeds", least=0) for seed in seeds]
    if not wanted_seeds:
        msg = "seeds is empty; give for example range(3)"
        raise ValueError(msg)
    n_genes = check_whole(n_genes, name="n_genes")
    epochs = None if epochs is None else check_whole(epochs, name="epochs")
    if field_um is not None:
        check_positive(field_um, name="field_um", unit="µm")
    lists = wanted_lists(genes)
    keys = Keys(
        image_key=image_key, table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system,
        um_per_px=um_per_px, layer=layer,
    )  # fmt: skip
    compute = Compute.of(device, batch_size=batch_size)
    named, patients = named_patients(sections, keys, groups=groups, group_key=group_key, library_key=library_key)
    divided = make_splits(splits, [name for name, _ in named], patients)
    loaded = load_model(model)
    runs = runs_of(names, encoders, backbone, loaded)
    by_name = {gene for one in lists.values() if not isinstance(one, str) for gene in one}
    measured = measured_sections(named, patients, loaded, compute, field_um=field_um, genes=sorted(by_name))
    own = given_predictions(predictions or {}, measured, taken=ALL)
    chosen = [
        (split, gene_list(name, wanted, n_genes, measured, split, loaded.vocabulary))
        for split in divided
        for name, wanted in lists.items()
    ]
    tables: list[pd.DataFrame] = []
    bar = progress(total=len(chosen) * len(runs), desc="methods", unit="run")
    with bar:
        for split, listed in chosen:
            judge = Judge(split, listed, measured)
            for run in runs:
                try:
                    seen = judge.seen(run)
                    for seed in wanted_seeds if run.random else wanted_seeds[:1]:
                        how = Training(seed=seed, device=compute.device, epochs=epochs, backbone=run.backbone)
                        started = time.perf_counter()
                        predicted = judge.predict(run, seen, how)
                        seconds = time.perf_counter() - started
                        tables.append(judge.rows(predicted, run.method, run.encoder, seed, seconds))
                except (KeyError, ValueError) as error:
                    if error.args and isinstance(error.args[0], str):
                        error.args = (f"method {run.method!r}, split {split.name!r}: {error.args[0]}",)
                    raise
                bar.update()
            for name, given in own.items():
                values = {k: predicted_values(given[k], measured[k], listed) for k in split.test if k in given}
                if values:
                    tables.append(judge.rows(values, name, "", wanted_seeds[0], float("nan")))
    if not tables:
        msg = "no section that is judged has predictions; the splits judge "
        msg += ", ".join(sorted({measured[k].name for split in divided for k in split.test}))
        raise ValueError(msg)
    return pd.concat(tables, ignore_index=True)
