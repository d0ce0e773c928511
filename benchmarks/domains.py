r"""Spatial domains on annotated public sections: STORM's read-outs beside baselines, by platform.

    python benchmarks/domains.py --data DIR --model FOLD_A:C1,G2,rep12 --model FOLD_B:B1,D1,rep11 \
        --model storm-mini:DLPFC_151673,DLPFC_151674,STARmap_VC,STARmap_mPFC_BZ5 [--out TABLE.csv]

Every ``--model`` is scored on the sections named behind it, which it must not have been trained on (train folds with
``scripts/train_storm_mini.py --hold-out``). The methods, their clustering and their scores are those of
``storm.benchmark.domains``: K is the number of annotated classes; unlabelled spots take part in the clustering and are
left out of the score; k-means, ten starts each, begins from five seeds. The Novae is trained from scratch, which takes
minutes: on the sections that the model beside it was trained on, or, for a platform of which that has seen none, on the
sections of this platform themselves. ``--only`` names the methods to run instead of all. With ``--out`` results are
written after each method, and a later run goes on from there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
from domain_novae import novae_latent, train_novae
from domain_sections import GROUPS, MISSING, Section, read_section

import storm


def methods(section: Section) -> list[str]:
    """Names of the methods of a section."""
    image = not hasattr(section.data, "obsm") and bool(section.data.images)
    modalities = ("st", "he", "both") if image else ("st",)
    own = [
        name for name in storm.benchmark.methods("storm") if name.count("_") == 2 and name.split("_")[1] in modalities
    ]
    return [*storm.benchmark.methods("comparators"), *own, "novae"]


def novae_sections(name: str, model: storm.StormModel) -> tuple[str, ...]:
    """Sections on which the Novae for a section is trained."""
    group = next(group for group, names in GROUPS.items() if name in names)
    return tuple(model.card["trained_on"]) if group in ("breast", "bulb") else GROUPS[group]


def show(table: pd.DataFrame) -> None:
    """Print ARI and NMI: a row per method, by section, and the mean by platform and over platforms."""
    table = table.assign(platform=table["section"].map({s: group for group, names in GROUPS.items() for s in names}))
    for score in ("ari", "nmi"):
        by_section = table.pivot_table(index="method", columns="section", values=score, sort=False)
        sections = table.groupby(["method", "platform", "section"], sort=False)[score].mean()
        by_platform = (
            sections.groupby(["method", "platform"], sort=False).mean().unstack().reindex(columns=list(GROUPS))
        )
        by_platform["mean of platforms"] = by_platform.mean(axis=1, skipna=False)
        print(f"\n{score}\n{by_section.round(2).to_string()}\n\n{by_platform.round(3).to_string()}")
    seconds = table.pivot_table(index="method", columns="platform", values="seconds", sort=False)
    print(f"\nseconds\n{seconds.round(1).to_string()}")


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--out", type=Path, help="table of all scores, .csv")
    parser.add_argument("--only", nargs="*", help="names of methods, as in hvg_pca or storm_st_section")
    args = parser.parse_args()
    storm.settings.verbosity = 0
    warnings.filterwarnings("ignore", message=".*knows .* of the table's")
    table = pd.read_csv(args.out) if args.out and args.out.exists() else pd.DataFrame()
    trained: dict[tuple[str, ...], object] = {}
    for given in args.model:
        folder, _, names = given.rpartition(":")
        model = storm.load_model(folder)
        for name in names.split(","):
            if name in model.card.get("trained_on", []):
                msg = f"{folder} was trained on {name}; give a model that was not"
                raise ValueError(msg)
        for name in names.split(","):
            section = read_section(name, args.data)
            done = set() if table.empty else set(table.loc[table["section"] == name, "method"])
            for method in methods(section):
                if method in done or (args.only is not None and method not in args.only):
                    continue
                own, seconds = {}, None
                if method == "novae":
                    others = novae_sections(name, model)
                    if others not in trained:
                        trained[others], facts = train_novae(read_section(s, args.data, image=False) for s in others)
                        print(f"novae for {names}: {facts}", flush=True)
                    started = time.perf_counter()
                    own = {"novae": novae_latent(trained[others], section)}
                    seconds = time.perf_counter() - started
                rows = storm.benchmark.domains(
                    {name: section.data}, [] if own else [method], truth=section.column, unlabelled=MISSING,
                    embeddings=own, model=model,
                )  # fmt: skip
                if seconds is not None:
                    rows["seconds"] = seconds
                table = pd.concat([table, rows], ignore_index=True)
                print(f"{name} {method}: {rows[['ari', 'nmi', 'seconds']].mean().round(3).to_dict()}", flush=True)
                if args.out:
                    table.to_csv(args.out, index=False)
    show(table)


if __name__ == "__main__":
    main()
