"""The embedding of a study: its sections one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from storm._inference.joint import embed_together
from storm._inference.section_embedding import EmbedPlan, SectionEmbedding, embed_section
from storm.data.journal import Journal

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
        yield from embed_together(study, plan, journals)
        return
    for section, journal in zip(study, journals, strict=True):
        with section.named():
            result = embed_section(section.open(), plan, journal)
        yield section, result
