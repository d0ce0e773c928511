"""A cohort on disk: patients and slides as plain tables, features of tiles as zarr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm import __version__
from storm._bridge.cohort_features import HE, ST, XY, random_rows, read_rows
from storm._bridge.cohort_tables import (
    DONE,
    FORMAT,
    checked_patients,
    checked_slides,
    names,
    tables_lock,
    warn_unmatched,
    write_json,
    write_table,
)
from storm._logging import logger

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData

#: Facts that may differ between slides: a model is known by its checksum, whatever it is called where it lies.
NOTES = ("format", "storm_version", "model_name")
#: Slides of up to 8 MiB stay in memory once they were read, as long as all of them take no more than 1 GiB.
_SMALL, _HELD = 8 * 2**20, 2**30
_PATIENTS, _SLIDES, _FACTS, FEATURES = "patients.parquet", "slides.parquet", "cohort.json", "features"


@dataclass(frozen=True, eq=False, kw_only=True)
class Bag:
    """The tiles of a patient, of all slides one after the other.

    Attributes
    ----------
    he
        Embedding of each tile's H&E, float32, shape (n, d); ``None`` if the cohort has none.
    st
        Virtual expression of each tile, float32, shape (n, g); ``None`` if the cohort has none.
    xy_um
        Centres in µm of their own slide, float32, shape (n, 2).
    slide
        Which slide each tile is of: position in ``slides``, shape (n,).
    slides
        Names of the slides.
    """

    he: np.ndarray | None
    st: np.ndarray | None
    xy_um: np.ndarray
    slide: np.ndarray
    slides: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.xy_um)


class Cohort:
    """Patients, their slides, and the features of the slides' tiles, in one folder.

    The folder holds ``patients.parquet``, ``slides.parquet``, ``cohort.json`` (what made the features) and a zarr group
    for each slide in ``features/``. Any number of processes may add slides to it at the same time.

    Parameters
    ----------
    folder
        Folder of a cohort that :meth:`create` made.

    Attributes
    ----------
    folder
        The folder.
    patients
        A row for each patient, by name: clinical data under the names that they came with. An endpoint is a pair of
        columns, such as ``DSS_time`` and ``DSS_event``; ``site`` is read by :func:`storm.prognosis.split`.
    slides
        A row for each slide, by name: ``patient``, ``path``, ``status`` (``"waiting"``, ``"done"`` or ``"failed:"`` and
        the reason), ``n_tiles`` and ``sha256``.
    facts
        What made the features, the same for all slides: model, tile encoder, field, read-out, genes.

    Raises
    ------
    FileNotFoundError
        If there is no cohort in the folder.
    ValueError
        If its files are damaged, or were written by a later version.

    Examples
    --------
    >>> cohort = storm.prognosis.Cohort.create("kirc", patients=clinic, slides=slides)  # doctest: +SKIP
    >>> storm.prognosis.add_slides(cohort)  # doctest: +SKIP
    >>> cohort.bag("TCGA-B0-4690").he.shape  # doctest: +SKIP
    """

    folder: Path
    patients: pd.DataFrame
    slides: pd.DataFrame
    facts: dict[str, Any]

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._open: dict[str, dict[str, Any]] = {}
        self._held = 0
        self.reload()

    @classmethod
    def create(cls, folder: str | Path, *, patients: pd.DataFrame, slides: pd.DataFrame) -> Cohort:
        """Make the folder of a new cohort.

        Parameters
        ----------
        folder
            Folder to make.
        patients
            A row for each patient; the index, or a column ``patient``, has their names.
        slides
            A row for each slide; the index, or a column ``slide``, has their names, and the column ``patient`` whose
            they are. ``path`` is the image file, where STORM is to read it.

        Returns
        -------
        Cohort

        Raises
        ------
        FileExistsError
            If there is a cohort in the folder.
        KeyError
            If a column is missing.
        ValueError
            If a name is missing, given twice, or cannot be the name of a file.
        """
        folder = Path(folder)
        check_no_cohort(folder)
        people, table = checked_patients(patients), checked_slides(slides)
        warn_unmatched(people, table)
        (folder / FEATURES).mkdir(parents=True, exist_ok=True)
        write_table(folder / _SLIDES, table)
        write_table(folder / _PATIENTS, people)
        return cls(folder)

    def reload(self) -> None:
        """Read the tables again, which another process may have changed."""
        if not (self.folder / _PATIENTS).is_file() or not (self.folder / _SLIDES).is_file():
            msg = (
                f"{self.folder} holds no cohort ({_PATIENTS} and {_SLIDES}); make one with "
                f"storm.prognosis.Cohort.create({str(self.folder)!r}, patients=…, slides=…)"
            )
            raise FileNotFoundError(msg)
        self.patients = pd.read_parquet(self.folder / _PATIENTS)
        self.slides = pd.read_parquet(self.folder / _SLIDES)
        self.facts = self._read_facts()
        self._forget()

    def _read_facts(self) -> dict[str, Any]:
        path = self.folder / _FACTS
        if not path.is_file():
            return {}
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"{path} is damaged ({error}); restore it, or build the cohort again"
            raise ValueError(msg) from error
        if facts.get("format") != FORMAT:
            msg = f"{path} has format {facts.get('format')!r}, and this version of storm reads {FORMAT}; update storm"
            raise ValueError(msg)
        return facts

    def save(self) -> None:
        """Store ``patients`` and ``slides`` as they are now, after you have changed them."""
        people, table = checked_patients(self.patients), checked_slides(self.slides)
        warn_unmatched(people, table)
        with tables_lock(self.folder):
            write_table(self.folder / _SLIDES, table)
            write_table(self.folder / _PATIENTS, people)

    def __repr__(self) -> str:
        done = int((self.slides["status"] == DONE).sum())
        return (
            f"Cohort({str(self.folder)!r}): {len(self.patients)} patients, {done} of {len(self.slides)} slides done, "
            f"modalities {self.modalities}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_held": 0}

    def _forget(self) -> None:
        self._open, self._held = {}, 0

    # ---------------------------------------------------------------------------------------------- features

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each tile has: ``"he"`` (H&E embedding), ``"st"`` (virtual expression)."""
        return tuple(self.facts.get("modalities", ()))

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes of the virtual expression; empty without."""
        return tuple(self.facts.get("genes") or ())

    @property
    def he_dim(self) -> int:
        """Dimensions of the H&E embedding; 0 while there is none."""
        return int(self.facts.get("he_dim", 0))

    def path_of(self, slide: str) -> Path:
        """Folder of the features of a slide."""
        return self.folder / FEATURES / f"{slide}.zarr"

    def slides_of(self, patient: str) -> tuple[str, ...]:
        """Names of the slides of a patient that have features."""
        if patient not in self.patients.index:
            msg = f"there is no patient {patient!r}; cohort.patients lists {len(self.patients)}"
            raise KeyError(msg)
        mine = (self.slides["patient"] == patient) & (self.slides["status"] == DONE)
        return tuple(self.slides.index[mine])

    def features(self, slide: str) -> zarr.Group:
        """The stored arrays of a slide, for reading: ``he``, ``st``, ``xy_um`` and others, tiles in one random order.

        Parameters
        ----------
        slide
            Name of the slide.

        Raises
        ------
        KeyError
            If there is no such slide.
        ValueError
            If it has no features.
        """
        import zarr

        if slide not in self.slides.index:
            msg = f"there is no slide {slide!r}; cohort.slides lists {len(self.slides)}"
            raise KeyError(msg)
        path = self.path_of(slide)
        if not path.is_dir():
            status = self.slides.at[slide, "status"]
            msg = f"slide {slide!r} has no features (status {status!r}); storm.prognosis.add_slides makes them"
            raise ValueError(msg)
        return zarr.open_group(path, mode="r")

    def _arrays(self, slide: str) -> dict[str, zarr.Array | np.ndarray]:
        """The arrays of a bag, opened once; those of a small slide are held in memory."""
        if slide not in self._open:
            group = self.features(slide)
            arrays: dict[str, Any] = {name: group[name] for name in (*self.modalities, XY)}
            size = sum(array.nbytes for array in arrays.values())
            if size <= _SMALL and self._held + size <= _HELD:
                arrays = {name: array[...] for name, array in arrays.items()}
                self._held += size
            self._open[slide] = arrays
        return self._open[slide]

    def bag(self, patient: str, *, n_tiles: int | None = None, rng: np.random.Generator | None = None) -> Bag:
        """The tiles of all slides of a patient, or a random sample of them.

        Parameters
        ----------
        patient
            Name of the patient.
        n_tiles
            How many tiles to draw, over the slides in proportion to theirs; all by default, and where there are no
            more. Every tile is as likely as every other.
        rng
            Random generator; needed with ``n_tiles``.

        Returns
        -------
        Bag

        Raises
        ------
        KeyError
            If there is no such patient.
        ValueError
            If no slide of the patient has features, or ``n_tiles`` is given without ``rng``.
        """
        slides = self.slides_of(patient)
        if not slides:
            msg = f"no slide of patient {patient!r} has features; storm.prognosis.add_slides makes them"
            raise ValueError(msg)
        if n_tiles is not None and (rng is None or n_tiles < 1):
            msg = f"n_tiles={n_tiles!r} draws at random; give at least 1, and rng=numpy.random.default_rng(seed)"
            raise ValueError(msg)
        groups = [self._arrays(slide) for slide in slides]
        sizes = [int(group[XY].shape[0]) for group in groups]
        draws: list[int | None] = [None] * len(sizes)
        if n_tiles is not None and rng is not None and n_tiles < sum(sizes):
            draws = list(map(int, rng.multivariate_hypergeometric(sizes, n_tiles)))
        parts: dict[str, list[np.ndarray]] = {name: [] for name in (*self.modalities, XY)}
        index = []
        for at, (group, size, wanted) in enumerate(zip(groups, sizes, draws, strict=True)):
            if wanted == 0:
                continue
            runs, chosen = None, None
            if wanted is not None and wanted < size and rng is not None:
                runs, chosen = random_rows(size, wanted, rng)
            for name, rows in parts.items():
                rows.append(read_rows(group[name], runs, chosen))
            index.append(np.full(len(parts[XY][-1]), at, dtype=np.int64))
        joined = {name: np.concatenate(rows) if len(rows) > 1 else rows[0] for name, rows in parts.items()}
        return Bag(he=joined.get(HE), st=joined.get(ST), xy_um=joined[XY], slide=np.concatenate(index), slides=slides)

    # ---------------------------------------------------------------------------------------------- patients

    def endpoint(self, name: str) -> pd.DataFrame:
        """Follow-up of the patients who can be used for an endpoint.

        A patient is left out without a time, without an event column's value, with a time of 0, or without a slide that
        has features; a warning in the log names them.

        Parameters
        ----------
        name
            Name of the endpoint, such as ``"DSS"`` for the columns ``DSS_time`` and ``DSS_event``.

        Returns
        -------
        DataFrame
            ``time`` (float, in the unit of the column) and ``event`` (bool), by patient. ``attrs["left_out"]`` has the
            names of those who were left out, by reason.

        Raises
        ------
        KeyError
            If there are no such columns.
        ValueError
            If a time is negative or infinite, an event is neither 0 nor 1, or nobody is left.
        """
        time, event = self._follow_up(name)
        with_slides = set(self.slides.loc[self.slides["status"] == DONE, "patient"])
        missing = time.isna() | event.isna()
        reasons = {
            "no time or no event": missing,
            "a time of 0": ~missing & (time == 0),
            "no slide with features": ~missing & (time > 0) & ~self.patients.index.isin(with_slides),
        }
        left_out = {reason: list(self.patients.index[rows]) for reason, rows in reasons.items() if rows.any()}
        keep = ~np.logical_or.reduce([rows.to_numpy() for rows in reasons.values()])
        if not keep.any():
            listed = ", ".join(f"{len(who)} have {reason}" for reason, who in left_out.items())
            msg = f"no patient can be used for endpoint {name!r}: {listed or 'there are no patients'}"
            raise ValueError(msg)
        for reason, who in left_out.items():
            logger.warning("endpoint %s: %d patients are left out, with %s: %s", name, len(who), reason, names(who))
        table = pd.DataFrame({"time": time[keep].astype(float), "event": event[keep].astype(bool)})
        table.index.name = "patient"
        table.attrs["left_out"] = left_out
        return table

    def endpoints(self) -> tuple[str, ...]:
        """Names of the endpoints: pairs of columns ``<name>_time`` and ``<name>_event`` of ``patients``."""
        ends = [str(column).removesuffix("_time") for column in self.patients if str(column).endswith("_time")]
        return tuple(name for name in ends if f"{name}_event" in self.patients)

    def _follow_up(self, name: str) -> tuple[pd.Series, pd.Series]:
        wanted = (f"{name}_time", f"{name}_event")
        if absent := [column for column in wanted if column not in self.patients]:
            msg = f"endpoint {name!r} needs the columns {list(absent)} of patients; there are {list(self.endpoints())}"
            raise KeyError(msg)
        time, event = (_numbers(self.patients[column]) for column in wanted)
        if len(wrong := list(time.index[(time < 0) | np.isinf(time)])):
            msg = (
                f"{wanted[0]} is negative or infinite for {len(wrong)} patients, so that dates are out of order: "
                f"{names(wrong)}; mend them, or set them to NaN to leave them out"
            )
            raise ValueError(msg)
        if len(wrong := list(event.index[event.notna() & ~event.isin([0, 1])])):
            msg = f"{wanted[1]} is neither 0 nor 1 for {len(wrong)} patients: {names(wrong)}; 1 is an event"
            raise ValueError(msg)
        return time, event

    def to_anndata(self) -> AnnData:
        """Patients × the mean of each feature over a patient's tiles.

        Returns
        -------
        AnnData
            ``X`` float32: dimensions of the H&E embedding (``he_0``, …), then genes; ``var["modality"]`` tells which.
            ``obs`` has the columns of ``patients`` and ``n_tiles``. Patients without features are rows of NaN, and are
            counted in a warning in the log.

        Raises
        ------
        ValueError
            If no slide has features.
        """
        from anndata import AnnData

        if not self.modalities:
            msg = f"{self.folder} has no features yet; storm.prognosis.add_slides makes them"
            raise ValueError(msg)
        columns = {HE: [f"he_{k}" for k in range(self.he_dim)], ST: list(self.genes)}
        width = {name: len(columns[name]) for name in self.modalities}
        means = np.full((len(self.patients), sum(width.values())), np.nan, dtype=np.float32)
        n_tiles = np.zeros(len(self.patients), dtype=np.int64)
        for row, patient in enumerate(self.patients.index):
            slides = self.slides_of(patient)
            total = np.zeros(means.shape[1])
            for slide in slides:
                group = self._arrays(slide)
                total += np.concatenate([_column_sums(group[name]) for name in self.modalities])
                n_tiles[row] += group[XY].shape[0]
            if slides:
                means[row] = total / n_tiles[row]
        if (without := n_tiles == 0).any():
            who = list(self.patients.index[without])
            logger.warning("%d patients without features are rows of NaN: %s", len(who), names(who))
        var = pd.DataFrame(
            {"modality": [name for name in self.modalities for _ in columns[name]]},
            index=[one for name in self.modalities for one in columns[name]],
        )
        return AnnData(X=means, obs=self.patients.assign(n_tiles=n_tiles), var=var)

    # ---------------------------------------------------------------------------------------------- writing

    def adopt(self, facts: Mapping[str, Any], *, slide: str) -> None:
        """Make facts those of the cohort, or raise if it has others; called before a slide's features are written.

        Parameters
        ----------
        facts
            What made the features of the slide, with ``modalities``, ``he_dim`` and ``genes``.
        slide
            Its name, for the error.

        Raises
        ------
        ValueError
            If features of other slides were made in another way.
        """
        facts = json.loads(json.dumps(facts))  # as it is read back: a tuple is a list
        with tables_lock(self.folder):
            self.facts = self._read_facts()
            if not self.facts:
                self.facts = {"format": FORMAT, "storm_version": __version__, **facts}
                write_json(self.folder / _FACTS, self.facts)
                return
        self.check_facts(facts, slide=slide, whole=True)

    def check_facts(self, facts: Mapping[str, Any], *, slide: str = "", whole: bool = False) -> None:
        """Raise if the features of the cohort were made in another way.

        Parameters
        ----------
        facts
            What makes the features to be added.
        slide
            Name of their slide, for the error.
        whole
            Whether these are all facts: then one that the cohort has, and they have not, is another way too.

        Raises
        ------
        ValueError
            If they differ; the text names each difference.
        """
        own = {key: value for key, value in self.facts.items() if key not in NOTES}
        facts = {key: value for key, value in facts.items() if key not in NOTES}
        compared = dict.fromkeys([*own, *facts] if whole else facts) if own else {}
        other = [key for key in compared if own.get(key) != facts.get(key)]
        if other:
            listed = "; ".join(_difference(key, own.get(key), facts.get(key)) for key in other)
            which = f"features of slide {slide!r} were" if slide else "features would be"
            msg = (
                f"the {which} made in another way than those of the cohort, beside which they cannot be laid: "
                f"{listed}. Make them in the same way, or build another cohort"
            )
            raise ValueError(msg)

    def record(self, slide: str, **values: Any) -> None:
        """Store values of a slide's row of ``slides``; what other processes have stored meanwhile is kept.

        Parameters
        ----------
        slide
            Name of the slide.
        **values
            New values by column.
        """
        with tables_lock(self.folder):
            table = pd.read_parquet(self.folder / _SLIDES)
            for column, value in values.items():
                table.loc[slide, column] = value
            write_table(self.folder / _SLIDES, table)
        self.slides = table
        self._forget()


def check_no_cohort(folder: Path) -> None:
    """Raise if there is a cohort in a folder."""
    if (folder / _PATIENTS).exists():
        msg = f"{folder} holds a cohort already; open it with Cohort({str(folder)!r}), or give another folder"
        raise FileExistsError(msg)


def _numbers(column: pd.Series) -> pd.Series:
    """A column as float; text that is no number is an error that names it."""
    values = pd.to_numeric(column, errors="coerce").astype("Float64").astype(float)
    if len(wrong := list(column.index[column.notna() & values.isna()])):
        msg = f"{column.name} is no number for {len(wrong)} patients: {names(wrong)}; leave such cells empty"
        raise ValueError(msg)
    return values


def _column_sums(array: zarr.Array | np.ndarray) -> np.ndarray:
    return np.asarray(array[...]).sum(axis=0, dtype=np.float64)


def _difference(key: str, own: Any, new: Any) -> str:
    if isinstance(own, list | tuple) and isinstance(new, list | tuple):
        only = [len(set(one) - set(two)) for one, two in ((own, new), (new, own))]
        return f"{key} ({len(own)} in the cohort, {len(new)} here, {only[0]} and {only[1]} of them in one list only)"
    return f"{key} ({_short(own)} in the cohort, {_short(new)} here)"


def _short(value: Any) -> str:
    text = f"{len(value)} entries" if isinstance(value, list | dict) else repr(value)
    return text if len(text) <= 40 else f"{text[:36]}…'"
