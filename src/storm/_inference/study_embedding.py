"""The embedding of a study: its sections one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from storm._inference.joint import embed_together
from storm._inference.joint_steps import Part, finish, one_by_one
from storm._inference.section_embedding import EmbedPlan, SectionEmbedding, embed_section
from storm.data.journal import Journal, on_disk

if TYPE_CHECKING:
    from storm._bridge.study import Section, Study


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
            for part, last in zip(
                parts, embed_together(one_by_one(parts), plan.model, batch=plan.batch, seed=plan.seed), strict=True
            ):
                yield part.section, finish(part, last)
        return
    for section, journal in zip(study, journals, strict=True):
        with section.named():
            result = embed_section(section.open(), plan, journal)
        yield section, result
