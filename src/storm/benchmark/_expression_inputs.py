"""What a comparison of expression is made from: measured sections, lists of genes, and predictions of the user's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, issparse

from storm._bridge.patients import patients_of
from storm._bridge.read import spots_of
from storm._bridge.select import is_spatialdata
from storm._checks import check_choice, check_genes, check_key
from storm._inference.head_reading import window_reach
from storm._inference.neighbourhoods import section_windows
from storm._logging import warn
from storm.benchmark._inputs import named_sections
from storm.benchmark._probes import Part
from storm.benchmark._tile_views import TILE, TileViews
from storm.data.genes import Vocabulary, as_symbols
from storm.pretraining.head_sections import HeadSection, not_measured, targets, variable_genes, with_common_library

if TYPE_CHECKING:
    from storm._bridge.keys import Keys
    from storm._bridge.sections import Section
    from storm._inference.device import Compute
    from storm._loading import StormModel
    from storm.benchmark._splits import Split

#: Lists of genes that are chosen by the expression of the sections of a split.
TRAIN, TEST = "train", "test"
#: Fewest spots of a section.
_LEAST = 3


@dataclass(frozen=True, eq=False)
class MeasuredSection:
    """The spots of a section that have counts and lie on the image.

    Attributes
    ----------
    name, patient
        What it is called, and whose it is, if somebody said.
    views
        Its image, of all its spots.
    rows
        Those spots among all of them, shape (n,).
    spots
        Counts and places of those, with the features of the model's tile encoder.
    obs_names
        Their names in the table, shape (n,).
    steps
        Their columns and rows, int, shape (n, 2).
    owner
        The object of the section.
    """

    name: str
    patient: str | None
    views: TileViews
    rows: np.ndarray
    spots: HeadSection
    obs_names: pd.Index
    steps: np.ndarray
    owner: Any

    def part(self, x: np.ndarray, y: np.ndarray | None) -> Part:
        """The section as a method sees it, with features (or patches) and, if it trains, expression and counts."""
        section = replace(self.spots, features=x) if x.ndim == 2 else self.spots
        if y is None:
            section = replace(section, counts=csr_matrix(section.counts.shape, dtype=section.counts.dtype))
        return Part(x, y, self.steps, section, self.patient)


def named_patients(
    data: Any,
    keys: Keys,
    *,
    groups: Sequence[Any] | Mapping[str, Any] | None,
    group_key: str | None,
    library_key: str | None,
) -> tuple[list[tuple[str, Section]], list[str] | None]:
    """The sections of a comparison by name, and whose they are; nothing of them is read.

    Parameters
    ----------
    data, keys, groups, group_key, library_key
        As :func:`storm.benchmark.expression`.

    Raises
    ------
    KeyError
        If a column, element or section does not exist.
    ValueError
        If a patient is missing, or something is ambiguous.
    """
    study, named = named_sections(data, keys, library_key=library_key, image=True)
    if isinstance(groups, Mapping):
        names = [name for name, _, _ in named]
        for name in groups:
            check_key(name, names, name="groups", where="the sections")
        groups = [groups.get(name) for name in names]
    return [(name, section) for name, section, _ in named], patients_of(study, groups, group_key)


def measured_sections(
    named: Sequence[tuple[str, Section]],
    patients: Sequence[str] | None,
    model: StormModel,
    compute: Compute,
    *,
    field_um: float | None,
    genes: Sequence[str],
) -> list[MeasuredSection]:
    """Read the sections of a comparison.

    Parameters
    ----------
    named, patients
        See :func:`named_patients`.
    model, compute, field_um
        What reads their tiles, and how.
    genes
        Genes that are asked for by name, whose spelling decides which column of ``var`` holds the names.

    Raises
    ------
    KeyError, ValueError
        If something is missing, or a section has fewer than three spots with counts on its image.
    """
    vocabulary = Vocabulary(tuple(genes)) if genes else model.vocabulary
    views, wholes, tables = [], [], []
    for name, section in named:
        try:
            selection = section.open()
            spots = spots_of(selection, counts=True, vocabulary=vocabulary)
            assert selection.table is not None
            view = TileViews(spots, selection.table, model, compute, field_um)
            counts, symbols = spots.expression
            whole = HeadSection(
                features=view.features(TILE),
                counts=counts,
                names=symbols.tolist(),
                symbols=as_symbols(symbols, model.vocabulary),
                train=np.ones(len(spots), dtype=bool),
                centres=spots.centres,
                reach=window_reach(section_windows(spots)),
            )
        except (KeyError, ValueError) as error:
            if error.args and isinstance(error.args[0], str):
                error.args = (f"section {name!r}: {error.args[0]}", *error.args[1:])
            raise
        views.append(view)
        wholes.append(whole)
        tables.append(selection.table)
    wholes, shares = with_common_library(wholes)
    if wholes[0].library.genes is not None:
        msg = (
            f"the sections measure different genes: {wholes[0].library} hold {min(shares):.0%} to {max(shares):.0%} of "
            f"their counts, and all methods predict {wholes[0].library.units}"
        )
        warn(msg)
    result = []
    for k, ((name, section), view, whole, table) in enumerate(zip(named, views, wholes, tables, strict=True)):
        rows = whole.rows
        if len(rows) < _LEAST:
            msg = f"section {name!r} has {len(rows)} spots with counts on its image; a correlation needs at least three"
            raise ValueError(msg)
        own = replace(
            whole,
            features=whole.features[rows],
            counts=whole.counts[rows],
            centres=whole.centres[rows],
            train=np.ones(len(rows), dtype=bool),
        )
        patient = None if patients is None else patients[k]
        steps = _steps(own.centres, section_windows(view.spots).pitch)
        result.append(MeasuredSection(name, patient, view, rows, own, table.obs_names[rows], steps, section.work.owner))
    return result


def _steps(centres: np.ndarray, pitch: float) -> np.ndarray:
    """Columns and rows of places, in units of their pitch, from 0."""
    return np.floor((centres - centres.min(axis=0)) / pitch + 0.5).astype(np.int64)


@dataclass(frozen=True)
class GeneList:
    """Genes to predict.

    Attributes
    ----------
    name
        Its name in the table.
    genes
        The genes, by the names of the user or of the first section.
    symbols
        The same by symbol where their Ensembl id is known.
    saw_test
        Whether expression of a section that is judged chose them; ``None`` where nobody knows.
    """

    name: str
    genes: tuple[str, ...]
    symbols: tuple[str, ...]
    saw_test: bool | None


def wanted_lists(genes: str | Sequence[str] | Mapping[str, str | Sequence[str]]) -> dict[str, str | list[str]]:
    """Lists of genes by name: of each the genes, or which sections choose them.

    Raises
    ------
    ValueError
        If there is none, a list is empty, or a word is unknown.
    """
    if isinstance(genes, Mapping):
        given = dict(genes)
    elif isinstance(genes, str):
        given = {genes: genes}
    else:
        given = {"given": genes}
    if not given:
        msg = "genes is empty; give 'train', 'test', a list of genes, or several by name"
        raise ValueError(msg)
    result: dict[str, str | list[str]] = {}
    for name, one in given.items():
        if isinstance(one, str):
            check_choice(one, (TRAIN, TEST), name="genes")
            result[str(name)] = one
        else:
            result[str(name)] = check_genes(one)
    return result


def gene_list(
    name: str,
    wanted: str | list[str],
    n_genes: int,
    sections: Sequence[MeasuredSection],
    split: Split,
    vocabulary: Vocabulary,
) -> GeneList:
    """The genes of a list in a split.

    Raises
    ------
    ValueError
        If the sections have no gene in common, or one does not measure a gene that was asked for.
    """
    used = [*split.train, *(i for i in split.test if i not in split.train)]
    parts = {i: sections[i].spots for i in used}
    saw_test: bool | None
    if isinstance(wanted, str):
        by = split.train if wanted == TRAIN else split.test
        others = [parts[i] for i in used if i not in by]
        genes = variable_genes([parts[i] for i in by], n_genes, measured_by=others)
        # a name in the table says how many, and chosen by which sections
        name, saw_test = f"{name} {len(genes)}", bool(set(by) & set(split.test))
    else:
        genes, saw_test = wanted, None
    symbols = as_symbols(genes, vocabulary)
    if missing := [genes[i] for i in not_measured(list(parts.values()), symbols)]:
        msg = f"{len(missing)} of {len(genes)} genes are not measured in every section: {sorted(missing)[:10]}"
        raise ValueError(msg)
    return GeneList(name, tuple(genes), tuple(symbols), saw_test)


def truth(section: MeasuredSection, genes: GeneList) -> np.ndarray:
    """Measured log1p-normalised expression of some genes, shape (n, g)."""
    return targets(section.spots, genes.symbols).toarray()


def given_predictions(
    predictions: Mapping[str, Any], sections: Sequence[MeasuredSection], *, taken: Collection[str]
) -> dict[str, dict[int, AnnData | pd.DataFrame]]:
    """The user's predictions by name: a table for each section, by its position, of those that there are.

    Raises
    ------
    KeyError
        If a table or section does not exist.
    TypeError
        If a table is neither an AnnData nor a data frame.
    ValueError
        If a name is one of a method, there is no table, or one lacks spots of its section.
    """
    names = [one.name for one in sections]
    result: dict[str, dict[int, AnnData | pd.DataFrame]] = {}
    for name, given in predictions.items():
        if name in taken:
            msg = f"predictions has the name {name!r}, which is that of a method; give it another one"
            raise ValueError(msg)
        if isinstance(given, str):
            tables = {}
            for k, one in enumerate(sections):
                held = one.owner.tables if is_spatialdata(one.owner) else {}
                check_key(given, list(held), name=f"predictions[{name!r}]", where=f"the tables of section {one.name!r}")
                tables[k] = held[given]
        elif isinstance(given, Mapping):
            for section in given:
                check_key(section, names, name=f"predictions[{name!r}]", where="the sections")
            tables = {names.index(section): table for section, table in given.items()}
        else:
            listed = [given] if isinstance(given, AnnData | pd.DataFrame) else list(given)
            if len(listed) != len(sections):
                msg = f"predictions[{name!r}] has {len(listed)} tables for {len(sections)} sections; give one for each"
                raise ValueError(msg)
            tables = dict(enumerate(listed))
        if not tables:
            msg = f"predictions[{name!r}] has no table; give one for each section that is judged"
            raise ValueError(msg)
        for k, table in tables.items():
            _check_table(table, sections[k], name=name)
        result[name] = tables
    return result


def _check_table(table: Any, section: MeasuredSection, *, name: str) -> None:
    where = f"predictions[{name!r}] of section {section.name!r}"
    if not isinstance(table, AnnData | pd.DataFrame):
        msg = f"{where} is a {type(table).__name__}; give an AnnData or a data frame: a row per spot, a column per gene"
        raise TypeError(msg)
    rows, columns = (table.obs_names, table.var_names) if isinstance(table, AnnData) else (table.index, table.columns)
    if rows.has_duplicates or columns.has_duplicates:
        msg = f"{where} has several rows or columns of one name; give each spot and gene once"
        raise ValueError(msg)
    lacking = section.obs_names.difference(rows)
    if len(lacking):
        msg = (
            f"{where} lacks {len(lacking)} of {len(section.obs_names)} spots, such as {lacking[:3].tolist()}; its rows "
            f"are named as those of the section's table"
        )
        raise ValueError(msg)


def predicted_values(table: AnnData | pd.DataFrame, section: MeasuredSection, genes: GeneList) -> np.ndarray:
    """A user's predictions of some genes for the spots of a section, shape (n, g).

    Raises
    ------
    ValueError
        If a gene is missing or a value is infinite.
    """
    columns = table.var_names if isinstance(table, AnnData) else table.columns
    if lacking := [gene for gene in genes.genes if gene not in columns]:
        msg = (
            f"the predictions lack {len(lacking)} of the {len(genes.genes)} genes of the list {genes.name!r}, such as "
            f"{lacking[:5]}; predict them, or compare on genes= that all methods predict"
        )
        raise ValueError(msg)
    if isinstance(table, AnnData):
        at = table.obs_names.get_indexer(section.obs_names)
        x: Any = table.X[:, table.var_names.get_indexer(list(genes.genes))][at]
        values = x.toarray() if issparse(x) else np.asarray(x)
    else:
        values = table.loc[section.obs_names, list(genes.genes)].to_numpy()
    values = np.asarray(values, dtype=np.float64)
    if np.isinf(values).any():
        msg = "the predictions hold infinite values; leave out what is not predicted as NaN"
        raise ValueError(msg)
    return values
