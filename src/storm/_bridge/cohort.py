"""A cohort on disk: patients and slides as plain tables, features of tiles as zarr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.cohort_bags import Bag, read_bag
from storm._bridge.cohort_facts import read_facts
from storm._bridge.cohort_features import HE, ST, XY
from storm._bridge.cohort_follow_up import endpoints_of, usable_follow_up
from storm._bridge.cohort_tables import (
    DONE,
    FEATURES,
    PATIENTS,
    SLIDES,
    checked_patients,
    checked_slides,
    names,
    tables_lock,
    warn_unmatched,
    write_table,
)
from storm._logging import logger

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData

#: Slides of up to 8 MiB stay in memory once they were read, as long as all of them take no more than 1 GiB.
_SMALL, _HELD = 8 * 2**20, 2**30


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
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=20, n_tiles=(20, 40))
    >>> storm.prognosis.Cohort("cohort")
    Cohort('cohort'): 20 patients, 24 of 24 slides done, modalities ('he', 'st')
    >>> cohort.bag("P0001").he.shape[1]
    64
    """

    folder: Path
    patients: pd.DataFrame
    slides: pd.DataFrame
    facts: dict[str, Any]

    def __init__(self, folder: str | Path) -> None:
        if not isinstance(folder, str | Path):
            msg = f"folder={folder!r} is a {type(folder).__name__}; give the path of a cohort's folder"
            raise TypeError(msg)
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
        write_table(folder / SLIDES, table)
        write_table(folder / PATIENTS, people)
        return cls(folder)

    def reload(self) -> None:
        """Read the tables again, which another process may have changed."""
        if not (self.folder / PATIENTS).is_file() or not (self.folder / SLIDES).is_file():
            msg = (
                f"{self.folder} holds no cohort ({PATIENTS} and {SLIDES}); make one with "
                f"storm.prognosis.Cohort.create({str(self.folder)!r}, patients=…, slides=…)"
            )
            raise FileNotFoundError(msg)
        self.patients = pd.read_parquet(self.folder / PATIENTS)
        self.slides = pd.read_parquet(self.folder / SLIDES)
        self.facts = read_facts(self.folder)
        self.forget()

    def save(self) -> None:
        """Store ``patients`` and ``slides`` as they are now, after you have changed them."""
        people, table = checked_patients(self.patients), checked_slides(self.slides)
        warn_unmatched(people, table)
        with tables_lock(self.folder):
            write_table(self.folder / SLIDES, table)
            write_table(self.folder / PATIENTS, people)

    def __repr__(self) -> str:
        done = int((self.slides["status"] == DONE).sum())
        return (
            f"Cohort({str(self.folder)!r}): {len(self.patients)} patients, {done} of {len(self.slides)} slides done, "
            f"modalities {self.modalities}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_held": 0}

    def forget(self) -> None:
        """Drop what is open and held in memory: features of a slide have changed."""
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
        if not isinstance(patient, str) or patient not in self.patients.index:
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

        if not isinstance(slide, str) or slide not in self.slides.index:
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
        return read_bag([self._arrays(slide) for slide in slides], slides, n_tiles=n_tiles, rng=rng)

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
        with_slides = self.slides.loc[self.slides["status"] == DONE, "patient"]
        return usable_follow_up(self.patients, name, with_slides=set(with_slides))

    def endpoints(self) -> tuple[str, ...]:
        """Names of the endpoints: pairs of columns ``<name>_time`` and ``<name>_event`` of ``patients``."""
        return endpoints_of(self.patients)

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


def check_cohort(cohort: Any) -> None:
    """Raise unless ``cohort`` is one."""
    if not isinstance(cohort, Cohort):
        msg = f"cohort is a {type(cohort).__name__}; give a storm.prognosis.Cohort: Cohort(folder) opens one"
        raise TypeError(msg)


def check_no_cohort(folder: Path) -> None:
    """Raise if there is a cohort in a folder."""
    if (folder / PATIENTS).exists():
        msg = f"{folder} holds a cohort already; open it with Cohort({str(folder)!r}), or give another folder"
        raise FileExistsError(msg)


def _column_sums(array: zarr.Array | np.ndarray) -> np.ndarray:
    return np.asarray(array[...]).sum(axis=0, dtype=np.float64)
