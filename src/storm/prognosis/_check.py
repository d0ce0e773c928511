"""``storm.prognosis.check``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from storm._bridge.cohort import Cohort, check_cohort
from storm._bridge.cohort_features import read_attributes
from storm._bridge.cohort_tables import DONE, FAILED, WAITING, unmatched

#: Kinds of problems that make a result wrong, not smaller.
_FATAL = ("duplicate slide", "negative time", "event neither 0 nor 1", "later than OS", "features lost")
#: Endpoints that cannot come after death of any cause.
_BEFORE_DEATH = ("DSS", "PFI", "PFS", "DFI", "DFS", "RFS")


def check(cohort: Cohort) -> pd.DataFrame:
    """Find what is wrong or missing in a cohort, by name.

    Parameters
    ----------
    cohort
        The cohort.

    Returns
    -------
    DataFrame
        A row for each finding: ``finding``, ``status`` (``"fail"`` for what makes results wrong, ``"warn"`` for what
        leaves patients or slides out), ``n`` and ``names`` (a tuple). Empty if there is none. Findings are patients
        without slides, slides without patients, slides that failed, wait or have lost their features, slides that are
        the same file, and, of each endpoint, patients without a time, with a time of 0 or below, with an event that is
        neither 0 nor 1, and with a time later than that of ``OS``.

    Raises
    ------
    TypeError
        If it is no cohort.

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(20, 40))
    >>> len(storm.prognosis.check(cohort))
    0
    """
    check_cohort(cohort)
    without, nobody = unmatched(cohort.patients, cohort.slides)
    status = cohort.slides["status"]
    findings = {
        "patient without slides": without,
        "slide without patient": nobody,
        "slide failed": list(status.index[status.str.startswith(FAILED)]),
        "slide waiting": list(status.index[status == WAITING]),
        "features lost": [one for one in status.index[status == DONE] if read_attributes(cohort.path_of(one)) is None],
        "duplicate slide": _duplicates(cohort.slides),
        "file missing": [
            slide
            for slide, path in cohort.slides.loc[status != DONE, "path"].items()
            if path and not Path(path).expanduser().exists()
        ],
    }
    for name in cohort.endpoints():
        findings |= {f"{name}: {finding}": who for finding, who in _endpoint(cohort, name).items()}
    rows = [
        (finding, "fail" if finding.split(": ")[-1] in _FATAL else "warn", len(who), tuple(map(str, who)))
        for finding, who in findings.items()
        if len(who)
    ]
    return pd.DataFrame(rows, columns=["finding", "status", "n", "names"])


def _duplicates(slides: pd.DataFrame) -> list[str]:
    done = slides[slides["sha256"] != ""]
    return list(done.index[done["sha256"].duplicated(keep=False)])


def _endpoint(cohort: Cohort, name: str) -> dict[str, list[str]]:
    time = pd.to_numeric(cohort.patients[f"{name}_time"], errors="coerce").astype(float)
    event = pd.to_numeric(cohort.patients[f"{name}_event"], errors="coerce").astype(float)
    found = {
        "no time or no event": time.isna() | event.isna(),
        "time of 0": time == 0,
        "negative time": time < 0,
        "event neither 0 nor 1": event.notna() & ~event.isin([0, 1]),
    }
    if name in _BEFORE_DEATH and "OS" in cohort.endpoints():
        found["later than OS"] = time > pd.to_numeric(cohort.patients["OS_time"], errors="coerce").astype(float)
    return {finding: list(rows.index[rows]) for finding, rows in found.items() if rows.any()}
