"""``storm prognosis fit | predict | evaluate | explain``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

import storm
from storm._checks import check_new_key
from storm._files import replacing
from storm._progress import progress
from storm.cli._outcome_report import write_report
from storm.cli._stores import check_new_path
from storm.prognosis import Cohort, OutcomeFit


def run(options: dict[str, Any]) -> int:
    """Run a task, and return the exit status."""
    task = options.pop("task")
    tasks: dict[str, Callable[..., None]] = {
        "fit": _fit,
        "predict": _predict,
        "evaluate": _evaluate,
        "explain": _explain,
    }
    tasks[task](**options)
    return 0


def _fit(
    *,
    folder: Path,
    endpoint: str,
    out: Path,
    split: Path | None,
    fold: str | None,
    no_baselines: bool,
    network: Any,
    times: list[float],
    validation: list[str] | None,
    precision: Any,
    **how: Any,
) -> None:
    cohort = Cohort(folder)
    config = OutcomeFit(**{one.name: how.pop(one.name) for one in fields(OutcomeFit)})
    folds = None if split is None else _folds(split)
    if folds is not None and fold is None:
        if validation is not None or precision != "auto":
            msg = "--validation and --precision are for one model; leave them out, or give a --fold"
            raise ValueError(msg)
        networks = [network] if no_baselines else [network, *(n for n in ("abmil", "mean") if n != network)]
        risks = storm.prognosis.cross_validate(
            cohort, folds, endpoint=endpoint, networks=networks, times=times, config=config, out=out, **how
        )
        _write(risks, out / "risks.csv", index=False)
        for name, own in risks.groupby("network", sort=False):
            print(f"{name}: {len(own)} patients in {own['fold'].nunique()} folds")
        print(f"{out / 'risks.csv'}: judge it with storm prognosis evaluate --network {networks[0]}")
        return
    patients = None
    if folds is not None:
        names = folds["fold"].astype(str)
        if fold not in set(names):
            msg = f"--fold {fold}: {split} has the folds {sorted(set(names))}"
            raise ValueError(msg)
        patients = list(folds.index[names != fold])
    elif fold is not None:
        msg = f"--fold {fold} needs --split, a table of storm cohort split"
        raise ValueError(msg)
    if validation is not None:
        how["validation"] = _share_or_names(validation)
    model = storm.prognosis.fit(
        cohort,
        endpoint,
        patients=patients,
        network=network,
        baselines=not no_baselines,
        config=config,
        precision=precision,
        out=out,
        **how,
    )
    scores = model.notes["validation"]
    listed = ", ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in scores["score"].items())
    print(f"{out}: {len(model.patients['train'])} patients; on {scores['n']} validation patients: {listed}")


def _share_or_names(words: list[str]) -> float | list[str]:
    """What was typed for the validation patients: a share of all, if it is a number below 1, or names."""
    if len(words) == 1:
        with suppress(ValueError):
            if 0 < (share := float(words[0])) < 1:
                return share
    return words


def _folds(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype={"patient": str})
    if lacking := [name for name in ("patient", "fold") if name not in table]:
        msg = f"{path} has no column {lacking}; storm cohort split makes it"
        raise KeyError(msg)
    return table.set_index("patient")


def _predict(*, folder: Path, model: Path, patients: list[str] | None, out: Path, **how: Any) -> None:
    check_new_path(out)
    risks = storm.prognosis.load_model(model).predict(Cohort(folder), patients, **how)
    _write(risks.reset_index(), out, index=False)
    print(f"{out}: {len(risks)} patients, {int((risks['group'] == 'high').sum())} with a high risk")


def _evaluate(
    *, risks: Path, cohort: Path, endpoint: str, network: str | None, baseline: str | None, out: Path, **how: Any
) -> None:
    if out.suffix != ".html":
        msg = f"--out {out}: the report is an .html file"
        raise ValueError(msg)
    check_new_path(out)
    table = pd.read_csv(risks, dtype={"patient": str})
    patients = Cohort(cohort).patients
    names = sorted(table["network"].unique()) if "network" in table else []
    for option, name in (("--network", network), ("--baseline", baseline)):
        if name is not None and name not in names:
            msg = f"{option} {name}: {risks} has {names or 'no column network'}"
            raise ValueError(msg)
    if network is None and len(names) > 1:
        msg = f"{risks} holds the risks of several networks, {names}; choose one: --network {names[0]}"
        raise ValueError(msg)
    own = table if network is None else table[table["network"] == network]
    other = None if baseline is None else table[table["network"] == baseline]
    report = storm.prognosis.evaluate(own, patients, endpoint=endpoint, baseline=other, **how)
    write_report(report, out, title=f"{endpoint}: {risks.name}")
    print(report.summary.to_string(float_format="%.3f"))
    print(out)


def _explain(
    *, folder: Path, model: Path, patients: list[str] | None, reference: Any, steps: int, out: Path, device: str
) -> None:
    check_new_path(out)
    cohort, trained = Cohort(folder), storm.prognosis.load_model(model)
    names = patients or trained.unseen(cohort)
    for name in names:  # each becomes the name of a file
        check_new_key(name, name="patient")
    with replacing(out) as scratch:
        scratch.mkdir(parents=True)
        for name in progress(names, desc="patients", unit="patient"):
            found = storm.prognosis.explain(trained, cohort, name, reference=reference, steps=steps, device=device)
            table = found.to_anndata()
            table.uns["storm"] = {"risk": found.risk, "reference": found.reference, "error": found.error}
            table.write_h5ad(scratch / f"{name}.h5ad")
    print(f"{out}: {len(names)} patients, obs['storm_risk'] per tile and X per gene")


def _write(table: pd.DataFrame, path: Path, *, index: bool) -> None:
    with replacing(path) as scratch:
        if path.suffix == ".json":
            table.to_json(scratch, orient="records", indent=1)
        else:
            table.to_csv(scratch, index=index)
