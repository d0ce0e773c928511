"""Checks between sections: whether what is computed of them together can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from storm.data.libraries import NEARLY_ALL, shared_library
from storm.pp._estimate import duration, size_of
from storm.pp._reading import text_of
from storm.pp._report import CheckReport, Row

#: Pitches of one platform differ by less than this factor.
_PITCH = 1.05
#: Degrees between the mean colours of two stains: 0.3 to 3.6 between sections of one source (ten sections of three
#: sources), 1.9 to 25 between sources (seven).
_STAIN_DEGREES = 4.0
#: Factor between the densities of two stains, and between the resolutions of two images, from which one is warned.
_DENSITY, _RESOLUTION = 1.5, 2.0
#: Words for the kinds of lattice.
_LATTICES = {"hex": "a hexagonal lattice", "square": "a square lattice", "knn": "no lattice (cells)"}
#: Spots below which a lattice is not told from scattered cells.
_FEW = 7
#: Sections that are named in a row.
_NAMED = 4


@dataclass(frozen=True, eq=False)
class Checked:
    """A section that was checked.

    Attributes
    ----------
    name
        Its name.
    report
        Its own report.
    genes
        Symbol of each gene; ``None`` without counts.
    totals
        Counts of each gene over all spots, shape (genes,).
    """

    name: str
    report: CheckReport
    genes: Sequence[str] | None
    totals: np.ndarray | None

    def fact(self, row: str, name: str) -> Any:
        """A number behind a row of the report; ``None`` without."""
        return self.report[row].facts.get(name) if row in self.report else None


def section_row(section: Checked) -> Row:
    """The report of a section in one row."""
    parts = []
    if (placed := section.fact("places", "placed")) is not None:
        parts.append(f"{placed:,} spots")
    if (kind := section.fact("pitch", "kind")) is not None:
        unit = "µm" if section.fact("pitch", "um") else "units"
        parts.append(f"{_LATTICES[kind]}, {section.fact('pitch', 'pitch'):.4g} {unit}")
    if "patch" in section.report:
        parts.append(f"image at {section.fact('scale', 'um_per_px'):.3g} µm/px")
    if (median := section.fact("counts", "median")) is not None:
        parts.append(f"median {median:,.0f} counts")
    if (n_genes := section.fact("genes", "n_genes")) is not None:
        known = section.fact("genes", "matched") + section.fact("genes", "aliased")
        parts.append(f"{known:,} of {n_genes:,} genes known")
    bad = sorted((row for row in section.report.rows if row.verdict in ("fail", "warn")), key=lambda row: row.verdict)
    text = "; ".join(f"{row.name}{' fails' * (row.verdict == 'fail')}: {row.value}" for row in bad)
    return Row(section.name, "; ".join(parts) or "cannot be read", section.report.verdict, text)


def comparison_rows(sections: Sequence[Checked]) -> list[Row]:
    """Rows about what differs between sections, and what they need together."""
    rows = [_platforms(sections), _scales(sections), _genes(sections), _images(sections), _stains(sections)]
    return [row for row in [*rows, *_needs(sections)] if row is not None]


def _platforms(sections: Sequence[Checked]) -> Row | None:
    """Kinds of lattice, and pitches."""
    kinds = _by([section for section in sections if (section.fact("places", "placed") or 0) >= _FEW], "pitch", "kind")
    if not kinds:
        return None
    facts: dict[str, Any] = {"kinds": sorted(kinds)}
    if len(kinds) > 1:
        listed = "; ".join(f"{_LATTICES[kind]}: {_names(own)}" for kind, own in kinds.items())
        text = (
            "a neighbourhood is something else on each, and so are counts per spot: domains found together may follow "
            "the platform; look at storm.pl.proportions, and at each platform alone"
        )
        return Row("platforms", listed, "warn", text, facts)
    (kind,) = kinds
    known = [section for section in kinds[kind] if section.fact("pitch", "um")]
    pitches = [section.fact("pitch", "pitch") for section in known]
    if kind == "knn" or len(known) < 2:
        return Row("platforms", f"all have {_LATTICES[kind]}", "ok", facts=facts)
    low, high = int(np.argmin(pitches)), int(np.argmax(pitches))
    facts |= {"pitch_least": float(pitches[low]), "pitch_most": float(pitches[high])}
    value = f"all have {_LATTICES[kind]}, {_span(pitches[low], pitches[high])} µm"
    if pitches[high] <= _PITCH * pitches[low]:
        return Row("platforms", value, "ok", facts=facts)
    text = (
        f"{known[low].name!r} has {pitches[low]:.4g} µm, {known[high].name!r} {pitches[high]:.4g}: other platforms, or "
        f"a wrong scale of one of them. A neighbourhood of as many spots covers another area of tissue"
    )
    return Row("platforms", value, "warn", text, facts)


def _scales(sections: Sequence[Checked]) -> Row | None:
    """Known for some and unknown for others."""
    unknown = [section for section in sections if section.fact("pitch", "um") is False]
    if not unknown or len(unknown) == len(sections):
        return None
    text = "distances in µm cannot be compared: give um_per_px= (µm per unit of the coordinates) for these"
    return Row("scales", f"unknown for {_names(unknown)}", "warn", text, {"unknown": len(unknown)})


def _genes(sections: Sequence[Checked]) -> Row | None:
    counted = [section for section in sections if section.genes is not None and section.totals is not None]
    if not counted:
        return None
    if len(counted) < len(sections):
        without = [section for section in sections if section.genes is None]
        text = "a joint embedding has expression of all or of none: leave these out, or use modality='he'"
        return Row("genes", f"no counts of {_names(without)}", "warn", text)
    sets = [{str(name).upper() for name in section.genes or ()} for section in counted]
    common, sizes = set.intersection(*sets), [len(own) for own in sets]
    facts: dict[str, Any] = {"common": len(common), "least": min(sizes), "most": max(sizes)}
    if len(common) == max(sizes):
        return Row("genes", f"all measure the same {len(common):,}", "ok", facts=facts)
    value = f"{len(common):,} are measured by all, of {min(sizes):,} to {max(sizes):,}"
    try:
        _, shares = shared_library(
            [section.genes or () for section in counted],
            [section.totals for section in counted if section.totals is not None],
        )
    except ValueError as error:
        return Row("genes", value, "fail", text_of(error), facts)
    facts |= {"share_least": min(shares), "share_most": max(shares)}
    value += f"; these hold {min(shares):.1%} to {max(shares):.1%} of a section's counts"
    if min(shares) >= NEARLY_ALL:
        return Row("genes", value, "ok", facts=facts)
    worst = counted[int(np.argmin(shares))]
    text = (
        f"what is computed together uses the common genes, and {worst.name!r} loses the most. If the sections are of "
        f"one panel, name its genes in the same way, symbols or Ensembl ids"
    )
    return Row("genes", value, "warn", text, facts)


def _images(sections: Sequence[Checked]) -> Row | None:
    """Missing for some, or of other resolutions."""
    with_image = [section for section in sections if "patch" in section.report]
    if not with_image:
        return None
    if len(with_image) < len(sections):
        without = [section for section in sections if "patch" not in section.report]
        text = "H&E of all or of none: add their images, leave these sections out, or use modality='st'"
        return Row("images", f"none was read of {_names(without)}", "warn", text, {"without": len(without)})
    um = [section.fact("scale", "um_per_px") for section in with_image]
    fine, coarse = int(np.argmin(um)), int(np.argmax(um))
    value = f"{_span(um[fine], um[coarse])} µm/px"
    facts = {"finest": float(um[fine]), "coarsest": float(um[coarse])}
    if um[coarse] <= _RESOLUTION * um[fine]:
        return Row("images", value, "ok", facts=facts)
    text = (
        f"the image of {with_image[coarse].name!r} is {um[coarse] / um[fine]:.2g} times coarser than that of "
        f"{with_image[fine].name!r}: what a tile shows differs, and so will its embedding"
    )
    return Row("images", value, "warn", text, facts)


def _stains(sections: Sequence[Checked]) -> Row | None:
    """How far the colours of tissue are apart."""
    stained = [section for section in sections if np.isfinite(section.fact("kind", "stain") or [np.nan]).all()]
    if len(stained) < 2:
        return None
    densities = np.array([section.fact("kind", "stain") for section in stained])
    lengths = np.linalg.norm(densities, axis=1)
    directions = densities / lengths[:, None]
    angles = np.degrees(np.arccos(np.clip(directions @ directions.T, -1, 1)))
    a, b = max(combinations(range(len(stained)), 2), key=lambda pair: angles[pair])
    ratio = float(lengths.max() / lengths.min())
    facts = {"degrees": float(angles[a, b]), "density_ratio": ratio}
    value = f"colours of tissue (optical density) up to {angles[a, b]:.1f}° apart, darkness up to × {ratio:.2g}"
    if angles[a, b] <= _STAIN_DEGREES and ratio <= _DENSITY:
        return Row("stains", value, "ok", facts=facts)
    pair = (a, b) if angles[a, b] > _STAIN_DEGREES else (int(lengths.argmin()), int(lengths.argmax()))
    text = (
        f"most apart are {stained[pair[0]].name!r} and {stained[pair[1]].name!r}: another stain, batch or scanner. "
        f"Tile embeddings are standardised for each section, which takes away most of it; for the rest normalise the "
        f"stains, or embed with modality='st'"
    )
    return Row("stains", value, "warn", text, facts)


def _needs(sections: Sequence[Checked]) -> list[Row]:
    """Time and memory of all sections, which are computed one after the other."""
    rows = []
    seconds = [value for section in sections if (value := section.fact("time", "seconds")) is not None]
    if seconds:
        value = f"about {duration(sum(seconds))} for {len(seconds)} sections"
        rows.append(Row("time", value, "info", facts={"seconds": float(sum(seconds))}))
    sizes = [value for section in sections if (value := section.fact("memory", "bytes")) is not None]
    if sizes:
        value = f"about {size_of(max(sizes))}, for the largest section"
        rows.append(Row("memory", value, "info", facts={"bytes": max(sizes)}))
    return rows


def _by(sections: Iterable[Checked], row: str, name: str) -> dict[Any, list[Checked]]:
    """Sections by a fact; those without it are left out."""
    groups: dict[Any, list[Checked]] = {}
    for section in sections:
        value = section.fact(row, name)
        if value is not None:
            groups.setdefault(value, []).append(section)
    return groups


def _span(low: float, high: float) -> str:
    """Two numbers with three figures, or one if they are alike."""
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"


def _names(sections: Sequence[Checked]) -> str:
    """Some names in words."""
    names = [repr(section.name) for section in sections[:_NAMED]]
    more = len(sections) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
