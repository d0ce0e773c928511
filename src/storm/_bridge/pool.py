"""The tables of a call, one or several, whose rows are taken together, one table below the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pandas as pd
from scipy import sparse

from storm._bridge.counts import read_counts
from storm._bridge.embedding import read_embedding, stack_embeddings
from storm._bridge.keys import Keys
from storm._bridge.log_values import read_log_values
from storm._bridge.placed import Labels, Places, read_labels, read_sections
from storm._bridge.study import labels_of, open_study
from storm._bridge.workspace import write_all
from storm._bridge.write import check_record_added
from storm._logging import logger
from storm.biology.distances import typical_pitch

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from storm._bridge.sections import Study

T = TypeVar("T")


def open_pool(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    keys: Keys,
    *,
    library_key: str | None = None,
    copy: bool = False,
    keys_added: Mapping[str, Iterable[str]] | None = None,
) -> Pool:
    """Find the tables of a call.

    Parameters
    ----------
    data
        One object or several.
    keys, library_key, copy, keys_added
        As in :func:`~storm._bridge.study.open_study`; no image is read.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`~storm._bridge.study.open_study`.
    """
    study = open_study(data, keys, library_key=library_key, image=False, copy=copy, keys_added=keys_added)
    names = labels_of(list(data)) if isinstance(data, list | tuple) else [""]
    return Pool(study, keys, study.library_key, names)


@dataclass(frozen=True, eq=False)
class Pool:
    """The tables of a call; what is read of them has a row for each row of the first, then of the second, and so on.

    Attributes
    ----------
    study
        The objects.
    keys
        What the user asked for, of all of them.
    library_key
        Column that names the sections of a table.
    names
        Names of the objects of a list; a single ``""`` where one object was given.
    """

    study: Study
    keys: Keys
    library_key: str | None
    names: list[str]

    @property
    def tables(self) -> list[AnnData]:
        """The tables."""
        return [work.table for work in self.study.works]

    @property
    def facts(self) -> dict[str, Any]:
        """What the record of a result says about the objects of a list; nothing of a single one."""
        return {} if self.names == [""] else {"objects": self.names}

    def check_record_added(self, key: str, *, made_by: str) -> None:
        """Raise unless a result that is no column can be recorded in each table."""
        self._of_each(lambda table: check_record_added(table, key, made_by=made_by))

    def labels(self, key: str, *, least: int = 1) -> Labels:
        """Read a column of domains; a domain is the same in all tables by its name.

        Raises
        ------
        KeyError, ValueError
            As :func:`~storm._bridge.placed.read_labels`; ``least`` counts the domains of all tables.
        """
        if len(self.names) == 1:
            return read_labels(self.tables[0], key, least=least)
        own = self._of_each(lambda table: read_labels(table, key, least=0))
        found = {name for labels in own for name in labels.names}
        # categories that a table lacks itself keep their place: "0", "1", "2" of the first two tables stay in order
        order = dict.fromkeys(str(name) for table in self.tables for name in _categories(table.obs[key]))
        names = [name for name in {**order, **dict.fromkeys(sorted(found))} if name in found]
        if len(names) < least:
            listed = ", ".join(map(repr, names)) or "none"
            msg = (
                f"obs[{key!r}] of {len(own)} objects holds {len(names)} domain(s) ({listed}), and at least {least} are "
                f"needed"
            )
            raise ValueError(msg)
        place = {name: at for at, name in enumerate(names)}
        # the last position is that of rows without a domain, whose code is -1
        codes = [np.array([*(place[name] for name in labels.names), -1])[labels.codes] for labels in own]
        return Labels(np.concatenate(codes), names)

    def places(self) -> Places:
        """Read where the rows lie, and of which section they are; of several objects in multiples of their pitch.

        Raises
        ------
        KeyError, ValueError
            As :func:`~storm._bridge.placed.read_sections`.
        """
        own = self._of_each(
            lambda owner: read_sections(owner, self.keys, library_key=self.library_key),
            of=[work.owner for work in self.study.works],
        )
        if len(own) == 1:
            return own[0]
        centres, sections, names = [], [], list[str]()
        for label, places in zip(self.names, own, strict=True):
            pitch = typical_pitch(places.centres, places.sections)
            centres.append(places.centres / pitch if pitch > 0 else places.centres)
            sections.append(np.where(places.sections < 0, -1, places.sections + len(names)))
            names += [f"{label}, {name}" for name in places.names] if places.names else [label]
        return Places(np.concatenate(centres), np.concatenate(sections), names)

    def log_values(
        self, layer: str | None = None, *, normalise: bool | Literal["auto"] = "auto"
    ) -> tuple[sparse.csr_matrix, np.ndarray, bool]:
        """Read expression on the log scale, of the genes that all tables have.

        Raises
        ------
        KeyError, ValueError
            As :func:`~storm._bridge.log_values.read_log_values`; if some tables hold counts and others logarithms, or
            they have no gene in common.
        """
        read = self._of_each(lambda table: read_log_values(table, layer, normalise=normalise))
        kinds = [normalised for *_, normalised in read]
        if len(set(kinds)) > 1:
            counts = [name for name, kind in zip(self.names, kinds, strict=True) if kind]
            others = [name for name, kind in zip(self.names, kinds, strict=True) if not kind]
            msg = (
                f"{', '.join(counts)} hold counts and {', '.join(others)} logarithms, which cannot be compared; name a "
                f"layer of the same kind in all of them, layer="
            )
            raise ValueError(msg)
        values, genes = _of_common_genes([matrix for matrix, *_ in read], [names for _, names, _ in read])
        return values, genes, kinds[0]

    def counts(self, layer: str | None = None) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Read raw counts of the genes that all tables have.

        Raises
        ------
        KeyError, ValueError
            As :func:`~storm._bridge.counts.read_counts`.
        """
        read = self._of_each(lambda table: read_counts(table, layer))
        return _of_common_genes([matrix for matrix, _ in read], [names for _, names in read])

    def counts_to_thin(
        self, layer: str | None = None, *, normalise: bool | Literal["auto"] = "auto"
    ) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Read raw counts where ``match_depth=True`` needs them.

        Raises
        ------
        KeyError
            As :meth:`counts`.
        ValueError
            If the values are none, saying for what they are needed.
        """
        if normalise is False:
            msg = (
                "match_depth=True thins counts, and normalise=False says that there are none; name their layer, layer="
            )
            raise ValueError(msg)
        try:
            return self.counts(layer)
        except ValueError as error:
            msg = f"match_depth=True thins counts; name the layer that holds them, layer=. {error}"
            raise ValueError(msg) from error

    def embedding(self, use_rep: str) -> Any:
        """Read an embedding, shape (rows, d); see :func:`~storm._bridge.embedding.stack_embeddings`."""
        return stack_embeddings(self._of_each(lambda table: read_embedding(table, use_rep)), name=use_rep)[0]

    def write(
        self,
        *,
        uns: Mapping[str, Mapping[str, Any]],
        obs: Mapping[str, Any] | None = None,
        obsm: Mapping[str, np.ndarray] | None = None,
        colours: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Write results into the tables, all of them or none: of ``obs`` and ``obsm`` its rows, else the same."""
        results, start = [], 0
        for work in self.study.works:
            rows = slice(start, start + work.table.n_obs)
            start = rows.stop
            slots: dict[str, Any] = {"uns": uns, "colours": colours}
            slots["obs"] = {key: values[rows] for key, values in (obs or {}).items()}
            slots["obsm"] = {key: values[rows] for key, values in (obsm or {}).items()}
            results.append((work, slots))
        write_all(results)

    def copies(self, data: Any) -> Any:
        """What ``copy=True`` returns: a list of objects where one was given, else the only one."""
        return self.study.copies(data)

    def _of_each(self, read: Callable[[Any], T], *, of: Sequence[Any] | None = None) -> list[T]:
        """What is read of each table, or of each of some other objects; errors begin with the name of its object."""
        results = []
        for name, one in zip(self.names, self.tables if of is None else of, strict=True):
            try:
                results.append(read(one))
            except (KeyError, ValueError, TypeError) as error:
                if name and error.args and isinstance(error.args[0], str):
                    error.args = (f"{name}: {error.args[0]}", *error.args[1:])
                raise
        return results


def _categories(column: pd.Series) -> list[Any]:
    return list(column.cat.categories) if isinstance(column.dtype, pd.CategoricalDtype) else []


def _of_common_genes(
    matrices: list[sparse.csr_matrix], names: list[np.ndarray]
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Matrices below each other, of the genes that all have, in the order of the first."""
    if len(matrices) == 1:
        return matrices[0], names[0]
    common = set(names[0]).intersection(*names[1:])
    genes = np.array([gene for gene in names[0] if gene in common], dtype=str)
    if not len(genes):
        listed = "; ".join(f"{list(map(str, own[:3]))}" for own in names)
        msg = f"the {len(names)} objects have no gene in common; they name genes like {listed}"
        raise ValueError(msg)
    if most := max(len(own) - len(genes) for own in names):
        logger.info("%d genes are in all %d objects; up to %d of one are not and are left out", len(genes), len(names),
                    most)  # fmt: skip
    parts = [matrix[:, pd.Index(own).get_indexer(genes)] for matrix, own in zip(matrices, names, strict=True)]
    return sparse.vstack(parts, format="csr"), genes
