"""A section, and what is read of it once for its report."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm._bridge.keys import Keys
from storm._bridge.select import is_spatialdata, select_table
from storm._bridge.standalone import standalone
from storm._report import facts, parts
from storm._report.card import ReportCard
from storm._report.page import Html, element
from storm.data.novelty import FIVEFOLD

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure
    from spatialdata import SpatialData


class Subject:
    """A section, and what is read of it once."""

    def __init__(
        self,
        data: SpatialData | AnnData,
        key: str,
        expression_key: str,
        places: Mapping[str, Any],
        layer: str | None,
        source: str | Path | None,
        n_genes: int,
    ) -> None:
        self.data, self.key, self.expression_key, self.n_genes = data, key, expression_key, n_genes
        self.places, self.layer, self.source = places, layer, source
        self.remarks: list[tuple[str, str, str]] = []
        self.table_key: str | None = None
        self.table: AnnData | None = None
        self.domains: facts.Domains | None = None
        self.prediction: facts.Prediction | None = None
        self.depth: facts.Depth | None = None
        self.ranking: facts.Ranking | str = ""
        if is_spatialdata(data) and not data.tables and places["table_key"] is None:
            return
        self.table_key, self.table = select_table(data, places["table_key"])
        keys = Keys(**{name: places[name] for name in ("table_key", "shapes_key", "coordinate_system", "um_per_px")})
        sections = standalone(
            data, keys, library_key=places["library_key"], image_key=places["image_key"], counts=False
        )
        self.domains = facts.domains_of(self.table, key, {one.name: one.rows for one in sections})
        self.prediction = facts.prediction_of(data, self.table, expression_key, table_key=self.table_key)
        self.depth = facts.depth_of(self.table, layer)
        if self.domains is not None and len(self.domains.names) > 1:
            self.ranking = facts.ranking_of(data, self.table, key, table_key=places["table_key"], layer=layer)
        lost = facts.unembedded(self.table)
        if lost:
            self.remarks.append(
                ("warn", f"{lost:,} of {self.table.n_obs:,} rows were not embedded", "They have no domain either.")
            )
        unusual = None if self.prediction is None else self.prediction.unusual
        if unusual is not None and unusual > FIVEFOLD:
            text = (
                "Their genes are predicted from tissue or stain that the model has hardly seen: do not rely on them "
                "without a measurement."
            )
            self.remarks.append(("warn", f"{100 * unusual:.0f} % of the tiles are unlike those of the training", text))

    def key_numbers(self) -> list[tuple[str, str]]:
        """Names and values of the numbers on top."""
        if self.table is None:
            return facts.contents(self.data)
        return parts.key_numbers(
            n_obs=self.table.n_obs,
            n_genes=self.table.n_vars,
            depth=self.depth,
            domains=self.domains,
            prediction=self.prediction,
        )

    def card(self, name: str, path: Path, *, verdict: str, flags: Sequence[str], picture: bytes) -> ReportCard:
        """The section in short."""
        return ReportCard(
            name=name,
            file=path,
            verdict=verdict,
            n_obs=None if self.table is None else self.table.n_obs,
            n_genes=None if self.table is None else self.table.n_vars,
            n_domains=None if self.domains is None else len(self.domains.names),
            n_predicted=None if self.prediction is None else len(self.prediction.genes),
            flags=tuple(flags),
            picture=picture,
        )

    def missing(self, what: str, python: str, command: str) -> Html:
        """What is not there, and what to type."""
        line = python
        if self.source is not None:
            given = Path(self.source)
            file = given.suffix == ".h5ad"  # which commands that write results do not open
            store = shlex.quote(str(given.with_suffix(".zarr") if file else given))
            line = f"storm {command.replace('STORE', store)}"
            if file:
                line = f"storm read h5ad {shlex.quote(str(given))} {store} && {line}"
        return element("p", what, " Type: ", element("code", line))

    @property
    def pictured(self) -> bool:
        """Whether there is an image: an element, or a picture that scanpy keeps in ``uns``."""
        if is_spatialdata(self.data):
            return bool(self.data.images)
        libraries = self.data.uns.get("spatial")
        entries = libraries.values() if isinstance(libraries, Mapping) else ()
        return any(isinstance(entry, Mapping) and entry.get("images") for entry in entries)

    def drawn(self, draw: Callable[..., Any], *arguments: Any, **options: Any) -> Figure | str:
        """A figure, or why it cannot be drawn."""
        import numpy as np

        try:
            axes = draw(self.data, *arguments, **options)
        except (ValueError, KeyError, TypeError, OSError) as error:
            return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        result: Figure = np.ravel(np.asarray(axes, dtype=object))[0].get_figure(root=True)
        return result
