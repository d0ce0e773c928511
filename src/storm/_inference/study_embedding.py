"""The embedding of a study: opened, and its sections together or one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from storm._bridge.keys import Keys
from storm._bridge.study import open_study
from storm._checks import check_choice, check_positive, check_whole
from storm._inference.device import Compute
from storm._inference.joint import embed_together
from storm._inference.joint_steps import Part, finish, one_by_one
from storm._inference.record import wanted_image
from storm._inference.section_embedding import EmbedPlan, SectionEmbedding, embed_section
from storm._loading import READOUTS, StormModel
from storm._progress import over_sections
from storm._types import Batch, Field, Modality, Precision, Readout, WindowKind
from storm.data.journal import Journal, on_disk

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from storm._bridge.study import Section, Study


def open_embedding(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    keys: Keys,
    model: StormModel,
    *,
    modality: Modality,
    library_key: str | None,
    image_key: str | Mapping[str, str] | None,
    field_um: float | None,
    field: Field,
    readout: Readout | None,
    batch: Batch,
    key_added: str,
    device: str | Sequence[str],
    batch_size: int | None,
    seed: int,
    stride_um: float | None = None,
    window: WindowKind = "auto",
    radius_um: float | None = None,
    joint: bool = True,
    per_modality: bool = False,
    precision: Precision = "auto",
    copy: bool = False,
    label: str = "",
) -> tuple[Study, EmbedPlan]:
    """Check the arguments of :func:`storm.tl.embed`, and find the sections that they are about.

    Parameters
    ----------
    data, keys, model
        The objects, their elements, and the loaded model.
    label
        Name of a single object, where it is one of several that are opened one at a time.

    Returns
    -------
    study : Study
    plan : EmbedPlan

    Raises
    ------
    KeyError, ValueError, TypeError
        As :func:`storm.tl.embed`.
    """
    check_choice(modality, get_args(Modality), name="modality")
    check_choice(window, get_args(WindowKind), name="window")
    check_choice(batch, get_args(Batch), name="batch")
    readout = readout or model.settings["readout"]
    check_choice(readout, READOUTS, name="readout")
    check_whole(seed, name="seed", least=0)
    compute = Compute.of(device, precision=precision, batch_size=batch_size)
    field_um = model.tile_encoder.field_um if field_um is None else field_um
    check_positive(field_um, name="field_um", unit="µm")
    study = open_study(
        data,
        keys,
        library_key=library_key,
        image_key=image_key,
        image=wanted_image(modality),
        field_um=None if modality == "st" else field_um,
        stride_um=stride_um,
        copy=copy,
        keys_added={"obsm": [key_added, *(f"{key_added}_{name}" for name in ("he", "st") if per_modality)]},
        label=label,
    )
    plan = EmbedPlan(
        model=model,
        compute=compute,
        modality=modality,
        field_um=field_um,
        field=field,
        window=window,
        radius_um=radius_um,
        readout=readout,
        seed=seed,
        joint=joint,
        batch=batch,
    )
    return study, plan


def embed_sections(
    study: Study, plan: EmbedPlan, journals: Sequence[Journal]
) -> Iterator[tuple[Section, SectionEmbedding]]:
    """Embed the sections of a study: on shared axes, or each as if it were alone.

    Parameters
    ----------
    study
        The sections.
    plan
        How.
    journals
        That of each section.

    Yields
    ------
    section : Section
    result : SectionEmbedding

    Raises
    ------
    KeyError, ValueError
        As :func:`storm.tl.embed`; the text names the section.
    """
    expression = plan.modality != "he" and any(section.work.table.n_vars for section in study)
    if plan.joint and len(study) > 1 and plan.readout == "adaptive" and expression:
        with on_disk(journals) as folders:
            parts = [
                Part(section=section, plan=plan, journal=journal)
                for section, journal in zip(study, folders, strict=True)
            ]
            lasts = embed_together(one_by_one(parts), plan.model, batch=plan.batch, seed=plan.seed)
            for part, last in zip(parts, lasts, strict=True):
                yield part.section, finish(part, last)
        return
    for section, journal in zip(over_sections(study), journals, strict=True):
        with section.named():
            result = embed_section(section.open(), plan, journal)
        yield section, result
