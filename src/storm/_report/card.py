"""What an index says of a section."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ReportCard:
    """A section in an index of reports, see :func:`storm.write_report_index`.

    Attributes
    ----------
    name
        Name of the section.
    file
        Its report; ``None`` if there is none.
    verdict
        The worst verdict of :func:`storm.pp.check`: ``"ok"``, ``"warn"`` or ``"fail"``.
    n_obs, n_genes, n_domains, n_predicted
        Numbers of rows, of genes measured, of domains, and of genes predicted from H&E; ``None`` for none.
    flags
        What to look at, in a few words each.
    picture
        Small picture of the domains, or else of the H&E, as the content of a JPEG file; empty for none.
    error
        Why there is no report.
    """

    name: str
    file: Path | None = None
    verdict: str = "fail"
    n_obs: int | None = None
    n_genes: int | None = None
    n_domains: int | None = None
    n_predicted: int | None = None
    flags: tuple[str, ...] = ()
    picture: bytes = field(default=b"", repr=False)
    error: str = ""
