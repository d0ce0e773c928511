"""Commands and their options; parsing them imports no large package."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from storm import _keys
from storm._types import Batch, Field, Modality, Precision, Readout
from storm.cli import _values
from storm.cli._cohort_parser import add_cohort
from storm.cli._command import Command
from storm.cli._export_parser import add_export
from storm.cli._many_options import add_many
from storm.cli._prognosis_parser import add_prognosis
from storm.cli._read_parser import add_read
from storm.cli._report_parser import add_report


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    from storm import __version__

    parser = Command(prog="storm", description="Spatial transcriptomics and H&E histology in one model.")
    parser.add_argument("--version", action="version", version=f"storm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parents = {
        "common": common,
        "model": _model_options(device),
        "device": device,
        "stores": _store_options(),
        "inputs": _input_options(),
    }

    def command(
        name: str, summary: str, *using: str, fill: Callable[[Command], None] | None = None
    ) -> argparse.ArgumentParser:
        about = summary[0].upper() + summary[1:] + "."
        return commands.add_parser(
            name, help=summary, description=about, parents=[parents[p] for p in using], fill=fill
        )

    _demo(
        command(
            "demo", "embed a section, find its domains, predict genes, write results and figures", "common", "model"
        )
    )
    command(
        "read",
        "make a store of what a vendor's software wrote, of an .h5ad or of a slide",
        fill=lambda read: add_read(read, common),
    )
    _check(command("check", "check sections before anything long is computed", "common", "model", "inputs"))
    _encode(command("encode", "run a tile encoder over sections", "common", "device", "stores", "inputs"))
    _embed(command("embed", "embed the spots of sections", "common", "model", "stores", "inputs"))
    _domains(command("domains", "find spatial domains in embedded sections", "common", "stores"))
    _predict(command("predict", "predict gene expression from H&E", "common", "model", "stores", "inputs"))
    _adapt(command("adapt", "fit a model on sections of your own, without labels", "common", "model", "inputs"))
    _pretrain(command("pretrain", "train a model on many sections, as configured in a TOML file", "common"))
    benchmark = command("benchmark", "compare methods on annotated or measured sections")
    compared = benchmark.add_subparsers(dest="compared", metavar="TASK", required=True)
    for name, summary, add in (
        ("domains", "compare methods for spatial domains on annotated sections", _benchmark_domains),
        ("expression", "compare methods that predict genes from H&E on measured sections", _benchmark_expression),
    ):
        using = [common, parents["model"], parents["inputs"]]
        add(compared.add_parser(name, help=summary, description=f"{summary.capitalize()}.", parents=using))
    add_cohort(command("cohort", "collect the slides of patients, with the features of their tiles"), parents)
    add_prognosis(command("prognosis", "train, apply, judge and explain outcome networks on a cohort"), parents)
    add_report(command("report", "write what is known of sections as HTML pages to hand on", "common", "inputs"))
    add_export(command("export", "write domains and scores for Loupe Browser, Xenium Explorer or QuPath"), common)
    command("models", "list the packaged models and the tile encoders", "common")
    return parser


def _demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument(
        "--dataset", default="toy", help="toy, toy:visium_hd, toy:xenium, her2st:C2, … (default: toy, a Visium section)"
    )
    demo.add_argument("--out", type=Path, default=Path("storm-demo"), help="folder to write (default: storm-demo)")
    demo.add_argument("--n", type=_values.whole(1), help="number of spots of the toy section")
    _seed(demo)
    demo.add_argument("--each-modality", action="store_true", help="also score the domains of H&E alone and ST alone")
    demo.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")


def _check(check: argparse.ArgumentParser) -> None:
    check.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    _layer(check)
    _field_um(check, of="the model's")
    check.add_argument("--no-estimate", dest="estimate", action="store_false", help="do not measure the time")
    check.add_argument("--figures", type=Path, metavar="FOLDER", help="also draw each section and twelve patches there")
    check.add_argument("--strict", action="store_true", help="exit with 1 also on a warning, not only if a check fails")


def _encode(encode: argparse.ArgumentParser) -> None:
    encode.add_argument("--encoder", required=True, help="one of the names in `storm models`, or timm:<model>")
    encode.add_argument("--weights", type=Path, help="file or folder of its weights (default: the hub's cache)")
    _library_key(encode)
    _field_um(encode, of="the encoder's")
    _field(encode)
    encode.add_argument("--tile-px", type=_values.tile_px, help="side of the encoder's input in pixels, or native")
    encode.add_argument(
        "--precision", choices=get_args(Precision), default="auto", help="number format (default: auto)"
    )
    _batch_size(encode)
    encode.add_argument("--recompute", action="store_true", help="compute even if the result exists already")
    encode.add_argument(
        "--key-added", type=_values.new_key("spatial"), help="key of the result in obsm (default: X_<encoder>)"
    )


def _library_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--library-key", metavar="COLUMN", help="column of obs that names the section of each row")


def _embed(embed: argparse.ArgumentParser) -> None:
    _modality(embed)
    _layer(embed)
    _field_um(embed, of="the model's")
    _field(embed)
    _readout(embed)
    _library_key(embed)
    _joint(
        embed,
        "embed all stores on axes that mean the same in all of them; workers take one store each, step by step, and "
        "nothing is stored before all are computed",
    )
    embed.add_argument(
        "--batch",
        choices=get_args(Batch),
        default="anchors",
        help="what is technical between sections on shared axes, and removed (default: anchors)",
    )
    _batch_size(embed)
    _seed(embed)
    embed.add_argument(
        "--key-added",
        type=_values.new_key("spatial"),
        default=_keys.X_STORM,
        help=f"key of the result in obsm (default: {_keys.X_STORM})",
    )


def _domains(domains: argparse.ArgumentParser) -> None:
    _library_key(domains)
    domains.add_argument("--n-domains", type=_values.n_domains, default="auto", help="a number, or auto (default)")
    domains.add_argument("--method", choices=["kmeans", "leiden", "gmm"], default="kmeans", help="default: kmeans")
    domains.add_argument(
        "--use-rep", default=_keys.X_STORM, help=f"key of the embedding in obsm (default: {_keys.X_STORM})"
    )
    _joint(
        domains,
        "find one set of domains in all stores, which were embedded with --joint; it is one clustering, in one process",
    )
    domains.add_argument("--table-key", help="the table, if there are several")
    _seed(domains)
    domains.add_argument(
        "--key-added",
        type=_values.new_key(),
        default=_keys.DOMAIN,
        help=f"key of the result in obs (default: {_keys.DOMAIN})",
    )


def _predict(predict: argparse.ArgumentParser) -> None:
    _library_key(predict)
    predict.add_argument("--genes", nargs="+", metavar="GENE", help="genes (default: all that the head predicts)")
    predict.add_argument("--head", type=Path, help="folder of a fitted expression head (default: the model's own)")
    predict.add_argument(
        "--keep",
        choices=("useful", "all"),
        default="useful",
        help="useful: without genes no better than chance on held-out spots (default); all: with them",
    )
    predict.add_argument("--intervals", action="store_true", help="also write the limits of prediction intervals")
    predict.add_argument(
        "--depth",
        type=_values.positive,
        metavar="COUNTS",
        help="counts per spot of the measurements that the intervals are for (default: as in training)",
    )
    _field(predict)
    _batch_size(predict)
    predict.add_argument(
        "--key-added",
        type=_values.new_key(),
        default=_keys.EXPRESSION,
        help=f"key of the result in layers (default: {_keys.EXPRESSION})",
    )


def _adapt(adapt: argparse.ArgumentParser) -> None:
    adapt.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, fitted jointly")
    _library_key(adapt)
    adapt.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the adapted model")
    adapt.add_argument("--from-scratch", action="store_true", help="start from random weights instead of --model")
    adapt.add_argument("--expression", choices=["auto", "keep", "refit"], default="auto", help="default: auto")
    _modality(adapt)
    adapt.add_argument(
        "--batch",
        choices=["section", "none"],
        default="section",
        help="standardise each section by itself, or all together (default: section)",
    )
    adapt.add_argument(
        "--epochs", type=_values.whole(1), help="largest number of epochs (default: 10 to 60, for about 1,000 steps)"
    )
    adapt.add_argument(
        "--patience",
        type=_values.whole(0),
        default=15,
        help="stop after so many epochs without improvement (default: 15; 0: never)",
    )
    adapt.add_argument(
        "--held-out", type=_values.share(0.5), default=0.15, help="share of spots not trained on (default: 0.15)"
    )
    _layer(adapt)
    _field_um(adapt, of="the model's")
    _readout(adapt)
    _seed(adapt)


def _pretrain(pretrain: argparse.ArgumentParser) -> None:
    pretrain.add_argument("config", type=Path, metavar="CONFIG", help="TOML file of the run")
    pretrain.add_argument("--seed", type=_values.seed, help="random seed of the run (default: the file's)")
    pretrain.add_argument("--prepare-only", action="store_true", help="pack and prepare the sections, do not train")


def _benchmark_domains(domains: argparse.ArgumentParser) -> None:
    domains.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    domains.add_argument("--truth", required=True, metavar="COLUMN", help="column of obs with the annotation")
    domains.add_argument("--out", type=_values.table_file, required=True, metavar="FILE", help="table, .csv or .json")
    domains.add_argument(
        "--methods", nargs="*", metavar="METHOD", help="names in storm.benchmark.methods() (default: all but the slow)"
    )
    domains.add_argument(
        "--use-rep", nargs="+", default=[], metavar="KEY", help="embeddings of your own to compare: keys of obsm"
    )
    domains.add_argument(
        "--n-domains", type=_values.whole(2), nargs="+", metavar="K", help="numbers (default: that of the classes)"
    )
    domains.add_argument("--n-seeds", type=_values.whole(1), default=5, help="seeds of the clustering (default: 5)")
    domains.add_argument(
        "--unlabelled", nargs="+", default=[], metavar="LABEL", help="labels that mean that there is no annotation"
    )
    _library_key(domains)
    _layer(domains)
    _batch_size(domains)


def _benchmark_expression(expression: argparse.ArgumentParser) -> None:
    expression.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    expression.add_argument(
        "--out", type=_values.table_file, required=True, metavar="FILE", help="table, .csv or .json"
    )
    expression.add_argument(
        "--methods",
        nargs="*",
        metavar="METHOD",
        help="names in storm.benchmark.methods(task='expression') (default: those that need no GPU, but the slow)",
    )
    patients = expression.add_mutually_exclusive_group()
    patients.add_argument("--group-key", metavar="COLUMN", help="column of obs with the patient")
    patients.add_argument("--groups", nargs="+", metavar="PATIENT", help="patient of each store, in their order")
    expression.add_argument(
        "--splits",
        choices=("patients", "sections"),
        default="patients",
        help="hold out each patient, or each section from the others of its patient (default: patients)",
    )
    expression.add_argument("--train", nargs="+", default=[], metavar="NAME", help="stores to train on, with --test")
    expression.add_argument("--test", nargs="+", default=[], metavar="NAME", help="stores to judge, with --train")
    expression.add_argument(
        "--genes",
        nargs="+",
        default=["train"],
        metavar="GENE",
        help="names of genes, or train and test: the most variable of these sections (default: train)",
    )
    expression.add_argument(
        "--n-genes", type=_values.whole(1), default=500, help="length of these lists (default: 500)"
    )
    expression.add_argument(
        "--encoders", nargs="+", metavar="NAME", help="what the probes read: model, storm, or tile encoders (model)"
    )
    expression.add_argument(
        "--predictions", nargs="+", default=[], metavar="KEY", help="predictions of your own: tables of the stores"
    )
    expression.add_argument("--n-seeds", type=_values.whole(1), default=3, help="seeds of the methods (default: 3)")
    expression.add_argument("--backbone", metavar="NAME", help="network of the methods that are trained on images")
    expression.add_argument("--epochs", type=_values.whole(1), help="passes of the networks (default: each its own)")
    _library_key(expression)
    _layer(expression)
    _field_um(expression, of="each encoder's")
    _batch_size(expression)


def _model_options(device: argparse.ArgumentParser) -> argparse.ArgumentParser:
    model = argparse.ArgumentParser(add_help=False, parents=[device])
    model.add_argument(
        "--model",
        default="storm-mini",
        help="packaged model, a model's folder, or its name in the hub's cache on this machine (default: storm-mini)",
    )
    model.add_argument(
        "--tile-encoder", type=Path, metavar="FILE", help="your copy of the weights of the model's tile encoder"
    )
    return model


def _store_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    options.add_argument(
        "--out",
        type=Path,
        metavar="OUT.zarr",
        help="write a new store, or a folder of stores for several sections (default: add the results to IN.zarr)",
    )
    add_many(options, "stores", a="section")
    return options


def _input_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--image-key", help="the H&E image, if there are several")
    options.add_argument("--table-key", help="the table, if there are several")
    options.add_argument("--shapes-key", help="the spots, if the table annotates several elements")
    options.add_argument(
        "--coordinate-system", help="system in which image and spots are aligned (default: the one in µm, else global)"
    )
    options.add_argument(
        "--um-per-px", type=_values.positive, help="µm per pixel of the image, if the store does not give it"
    )
    return options


def _joint(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--joint", action="store_true", help=what)


def _seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_values.seed, default=0, help="random seed (default: 0)")


def _batch_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=_values.whole(1), help="tiles or windows per batch")


def _layer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", help="layer with the raw counts (default: X)")


def _field(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--field",
        choices=get_args(Field),
        default="exact",
        help="dense: one pass over the tissue, for bins and cells (default: exact)",
    )


def _field_um(parser: argparse.ArgumentParser, *, of: str) -> None:
    parser.add_argument("--field-um", type=_values.positive, help=f"edge of the H&E field in µm (default: {of})")


def _modality(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--modality", choices=get_args(Modality), default="auto", help="default: auto")


def _readout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--readout", choices=get_args(Readout), help="default: the model's")
