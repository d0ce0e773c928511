"""``storm.prognosis.add_slides``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd

from storm._bridge.cohort import Cohort, check_cohort
from storm._bridge.cohort_facts import check_facts
from storm._bridge.cohort_tables import DONE, FAILED, names
from storm._bridge.cohort_writing import record, recover_slide, store_features
from storm._checks import check_choice, check_genes, check_positive
from storm._files import is_no_room
from storm._inference.device import Compute
from storm._inference.head_trust import useful_genes
from storm._inference.slide_features import SHARED_READOUTS, SlidePlan, slide_features
from storm._interrupt import says_how_to_go_on
from storm._loading import READOUTS, ExpressionHead, StormModel, load_model
from storm._logging import logger
from storm._progress import progress
from storm._types import Field, Precision, Standardise
from storm.io import slide as read_slide
from storm.model.weights import sha256


def add_slides(
    cohort: Cohort,
    paths: Sequence[str | Path] | None = None,
    *,
    model: str | StormModel = "storm-mini",
    modality: Literal["both", "he"] = "both",
    head: ExpressionHead | None = None,
    genes: Sequence[str] | None = None,
    readout: str = "window",
    field_um: float | None = None,
    field: Field = "exact",
    stride_um: float | None = None,
    um_per_px: float | None = None,
    device: str | Sequence[str] = "auto",
    batch_size: int | None = None,
    precision: Precision = "auto",
) -> pd.DataFrame:
    """Read slides, lay tiles over their tissue, and store the H&E embedding and the virtual genes of each tile.

    Each tile is encoded once. Slides that are done are left alone, so that the same call goes on after an interruption
    and tries failed slides again; a slide that cannot be read does not stop the others. Several processes may add
    slides of their own to one cohort at the same time; ``storm cohort add --workers`` and ``--scheduler`` do that.

    The H&E embedding is standardised by the model's training, never by the slide itself, so that slides can be laid
    beside each other. Virtual genes are as the head makes them: one that standardises each slide by itself
    (``head.standardise == "section"``; the first call warns in the log) tells what differs within a slide, and little
    of what slides differ in as a whole.

    Parameters
    ----------
    cohort
        The cohort; its slides are added to.
    paths
        Names of slides that have a ``path`` in ``cohort.slides``, or image files: each of the slide whose ``path`` it
        is, else of the one that has the file's name without its ending. By default all slides that have a ``path``.
    model
        Name of a packaged model, folder of a saved one, or a loaded :class:`~storm.StormModel`.
    modality
        ``"both"``: H&E embedding and virtual genes; ``"he"``: the embedding alone.
    head
        A head from :func:`storm.tl.fit_expression`; by default the model's own.
    genes
        Genes to predict, as the head names them; by default all that were predicted better than chance on held-out
        spots.
    readout
        ``"window"`` (output and input tokens of the neighbourhood, weighted by distance) or ``"center"`` (output token
        of the tile itself). The others of :func:`storm.tl.embed` give each slide axes of its own.
    field_um
        Edge of a tile's field in µm; by default that of the head, or of the model.
    field, device, batch_size, precision
        As in :func:`storm.tl.embed`.
    stride_um
        Distance between neighbouring tiles in µm; ``field_um`` by default.
    um_per_px
        µm per pixel of slides whose file does not say it. A column ``um_per_px`` of ``cohort.slides`` says it for each.

    Returns
    -------
    DataFrame
        The rows of ``cohort.slides`` that were asked for, with their new ``status``, ``n_tiles`` and ``sha256``. Failed
        slides are named in a warning in the log.

    Raises
    ------
    KeyError
        If files are of no slide of the cohort.
    TypeError
        If ``paths`` is no list of names or paths.
    ValueError
        If a slide is given twice, a read-out gives each slide axes of its own, a gene is not the head's, there is no
        head, or the cohort's features were made in another way (model, encoder, field, read-out, genes).
    OSError
        If the disk is full.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *prognosis prediction from whole-slide images*.

    Examples
    --------
    Slides in any format that :func:`storm.io.slide` reads; here one that is drawn:

    >>> import numpy as np
    >>> import pandas as pd
    >>> import tifffile
    >>> import storm
    >>> image = np.asarray(storm.datasets.toy("visium", n=100)["he"]["scale0"].image.transpose("y", "x", "c"))
    >>> tifffile.imwrite("S1.tif", image, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    >>> patients = pd.DataFrame({"DSS_time": [100.0], "DSS_event": [1]}, index=["P1"])
    >>> slides = pd.DataFrame({"patient": ["P1"], "path": ["S1.tif"]}, index=["S1"])
    >>> cohort = storm.prognosis.Cohort.create("cohort", patients=patients, slides=slides)
    >>> storm.prognosis.add_slides(cohort)["status"].tolist()
    ['done']
    """
    check_cohort(cohort)
    if um_per_px is not None:
        check_positive(um_per_px, name="um_per_px", unit="µm")
    files = _files(cohort, paths)
    plan = _plan(
        model,
        modality=modality,
        head=head,
        genes=genes,
        readout=readout,
        field_um=field_um,
        field=field,
        stride_um=stride_um,
        compute=Compute.of(device, precision=precision, batch_size=batch_size),
    )
    check_facts(cohort.facts, {**plan.facts(), "genes": plan.genes or []})
    if plan.head is not None and plan.standardise == "section" and not cohort.facts:
        logger.warning(
            "the head standardises each slide by itself: its virtual genes tell what differs within a slide, and "
            "little of what slides differ in as a whole"
        )
    todo = {slide: file for slide, file in files.items() if not recover_slide(cohort, slide)}
    if len(todo) < len(files):
        logger.info("%d of %d slides are done already", len(files) - len(todo), len(files))
    with says_how_to_go_on(partial(_what_is_kept, cohort, list(files))):
        for slide in progress(todo, desc="slides", unit="slide", shown=len(todo) > 1):
            try:
                _add(cohort, slide, todo[slide], plan, um_per_px=um_per_px)
            except OSError as error:
                if is_no_room(error):
                    raise
                _failed(cohort, slide, error)
            except Exception as error:  # noqa: BLE001  it becomes the slide's status, and the other slides are done
                _failed(cohort, slide, error)
    result = cohort.slides.loc[list(files)]
    failed = list(result.index[result["status"] != DONE])
    if failed:
        logger.warning("%d of %d slides failed: %s; cohort.slides says why", len(failed), len(result), names(failed))
    return result


def _what_is_kept(cohort: Cohort, slides: Sequence[str]) -> str:
    """What to say of an interruption."""
    done = int((cohort.slides.loc[list(slides), "status"] == DONE).sum())
    return f"{done} of {len(slides)} slides are done and kept in {cohort.folder}; the same call goes on with the others"


def _files(cohort: Cohort, paths: Sequence[str | Path] | None) -> dict[str, Path]:
    """The file of each slide that is asked for."""
    stored = {str(slide): Path(path) for slide, path in cohort.slides["path"].items() if path}
    if paths is None:
        return stored
    owner = {path.expanduser().absolute(): slide for slide, path in stored.items()}
    files: dict[str, Path] = {}
    unknown = []
    listed = [paths] if isinstance(paths, str | Path) else paths
    if not isinstance(listed, Iterable) or not all(isinstance(one, str | Path) for one in listed):
        msg = f"paths={paths!r} is no list of names of slides or of image files"
        raise TypeError(msg)
    for one in listed:
        file = stored.get(str(one), Path(one))
        slide = str(one) if str(one) in stored else owner.get(file.expanduser().absolute(), file.stem)
        if slide not in cohort.slides.index:
            unknown.append(str(one))
        elif slide in files:
            msg = f"slide {slide!r} is given twice: {files[slide]} and {file}; a slide has one file"
            raise ValueError(msg)
        files[slide] = file
    if unknown:
        msg = (
            f"{len(unknown)} files are of no slide of the cohort: {names(unknown)}; add a row for each to "
            f"cohort.slides, with its patient, then cohort.save()"
        )
        raise KeyError(msg)
    return files


def _plan(
    model: str | StormModel,
    *,
    modality: str,
    head: ExpressionHead | None,
    genes: Sequence[str] | None,
    readout: str,
    field_um: float | None,
    field: Field,
    stride_um: float | None,
    compute: Compute,
) -> SlidePlan:
    check_choice(modality, ("both", "he"), name="modality")
    if readout in READOUTS and readout not in SHARED_READOUTS:
        msg = f"readout={readout!r} gives each slide axes of its own, which cannot be compared; use 'window'"
        raise ValueError(msg)
    check_choice(readout, SHARED_READOUTS, name="readout")
    loaded = load_model(model)
    head = loaded.head if head is None else head
    if modality == "he":
        head = None
    elif head is None:
        msg = f"model {loaded.name!r} has no expression head; give head= from storm.tl.fit_expression, or modality='he'"
        raise ValueError(msg)
    elif head.model_sha256 != loaded.sha256:
        msg = f"the head was trained on another model than {loaded.name!r}; give model= the one that it was trained on"
        raise ValueError(msg)
    if field_um is None:
        field_um = (head and head.field_um) or loaded.tile_encoder.field_um
    for name, value in (("field_um", field_um), ("stride_um", stride_um)):
        if value is not None:
            check_positive(value, name=name, unit="µm")
    check_choice(field, get_args(Field), name="field")
    return SlidePlan(
        model=loaded,
        compute=compute,
        head=head,
        columns=np.arange(0) if head is None else _columns(head, genes),
        standardise=cast("Standardise", (head and head.standardise) or loaded.settings["standardise"]),
        readout=readout,
        field_um=field_um,
        field=field,
        stride_um=stride_um,
    )


def _columns(head: ExpressionHead, genes: Sequence[str] | None) -> np.ndarray:
    """Positions of the genes among the head's own."""
    if genes is None:
        kept, left_out = useful_genes(head, np.arange(len(head.genes)))
        if left_out:
            logger.info("%d of %d genes, no better than chance, are left out", len(left_out), len(head.genes))
        return kept
    position = {gene: k for k, gene in enumerate(head.genes)}
    wanted = check_genes(genes)
    if unknown := [gene for gene in wanted if gene not in position]:
        msg = f"{len(unknown)} of {len(wanted)} genes are not the head's: {names(unknown)}; head.genes lists its own"
        raise ValueError(msg)
    return np.array([position[gene] for gene in wanted])


def _add(cohort: Cohort, slide: str, path: Path, plan: SlidePlan, *, um_per_px: float | None) -> None:
    """Read a slide and store the features of its tiles."""
    own = cohort.slides.loc[slide].get("um_per_px")
    sdata = read_slide(path.expanduser(), um_per_px=um_per_px if own is None or pd.isna(own) else float(own))
    made = slide_features(sdata, plan, name=slide)
    store_features(
        cohort,
        slide,
        he=made.he,
        st=made.st,
        genes=plan.genes,
        xy_um=made.xy_um,
        per_tile=made.per_tile,
        facts=plan.facts(),
        sha256=_checksum(path.expanduser()),
        file=path.name,
        **made.attributes,
    )


def _checksum(path: Path) -> str:
    """Checksum of a file; of a folder, that of the names and checksums of all files in it."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


def _failed(cohort: Cohort, slide: str, error: Exception) -> None:
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    record(cohort, slide, status=f"{FAILED}{text or type(error).__name__}")
    logger.debug("slide %s", slide, exc_info=error)
