"""Commands and options; reading them imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from storm import _keys

_FIELD = {
    "choices": ["exact", "dense"],
    "default": "exact",
    "help": "dense: one pass over the tissue, for bins and cells (default: exact)",
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    from storm import __version__

    parser = argparse.ArgumentParser(
        prog="storm", description="Spatial transcriptomics and H&E histology in one model."
    )
    parser.add_argument("--version", action="version", version=f"storm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model",
        default="storm-mini",
        help="packaged model, a model's folder, or its name in the hub's cache on this machine (default: storm-mini)",
    )
    model.add_argument(
        "--tile-encoder", type=Path, metavar="FILE", help="your copy of the weights of the model's tile encoder"
    )
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    model = argparse.ArgumentParser(add_help=False, parents=[model, device])
    parents = {
        "common": common,
        "model": model,
        "device": device,
        "stores": _store_options(),
        "inputs": _input_options(),
    }

    def command(name: str, summary: str, *using: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", parents=[parents[p] for p in using]
        )

    demo = command(
        "demo", "embed a section, find its domains, predict genes, write results and figures", "common", "model"
    )
    demo.add_argument(
        "--dataset", default="toy", help="toy, toy:visium_hd, toy:xenium, her2st:C2, … (default: toy, a Visium section)"
    )
    demo.add_argument("--out", type=Path, default=Path("storm-demo"), help="folder to write (default: storm-demo)")
    demo.add_argument("--n", type=int, help="number of spots of the toy")
    demo.add_argument("--seed", type=int, default=0, help="default: 0")
    demo.add_argument("--each-modality", action="store_true", help="also score the domains of H&E alone and ST alone")
    demo.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")

    check = command("check", "check sections before anything long is computed", "common", "model", "inputs")
    check.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    check.add_argument("--layer", help="layer with the raw counts (default: X)")
    check.add_argument("--field-um", type=float, help="edge of the H&E field in µm (default: the model's)")
    check.add_argument("--no-estimate", dest="estimate", action="store_false", help="do not measure the time")
    check.add_argument("--figures", type=Path, metavar="FOLDER", help="also draw each section and twelve patches there")
    check.add_argument("--strict", action="store_true", help="exit with 1 on a warning, not only where a check fails")

    encode = command("encode", "run a tile encoder over sections", "common", "device", "stores", "inputs")
    encode.add_argument("--encoder", required=True, help="a name of storm models, or timm:<model>")
    encode.add_argument("--weights", type=Path, help="file or folder of its weights (default: the hub's cache)")
    encode.add_argument("--field-um", type=float, help="edge of the H&E field in µm (default: the encoder's)")
    encode.add_argument("--field", **_FIELD)
    encode.add_argument("--tile-px", type=_number_or_word, help="side of the encoder's input, or native")
    encode.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16 (default: auto)")
    encode.add_argument("--batch-size", type=int)
    encode.add_argument("--recompute", action="store_true", help="compute even what is there already")
    encode.add_argument("--key-added", help="key in obsm (default: X_<encoder>)")

    embed = command("embed", "embed the spots of sections", "common", "model", "stores", "inputs")
    embed.add_argument("--modality", choices=["auto", "both", "he", "st"], default="auto", help="default: auto")
    embed.add_argument("--layer", help="layer with the raw counts (default: X)")
    embed.add_argument("--field-um", type=float, help="edge of the H&E field in µm (default: the model's)")
    embed.add_argument("--field", **_FIELD)
    embed.add_argument("--readout", help="section, window, center or reconstruction (default: the model's)")
    embed.add_argument("--batch-size", type=int)
    embed.add_argument("--seed", type=int, default=0, help="default: 0")
    embed.add_argument("--key-added", default=_keys.X_STORM, help=f"key in obsm (default: {_keys.X_STORM})")

    domains = command("domains", "find spatial domains in embedded sections", "common", "stores")
    domains.add_argument("--n-domains", type=_number_or_word, default="auto", help="a number, or auto (default)")
    domains.add_argument("--method", choices=["kmeans", "leiden", "gmm"], default="kmeans", help="default: kmeans")
    domains.add_argument("--use-rep", default=_keys.X_STORM, help=f"key in obsm (default: {_keys.X_STORM})")
    domains.add_argument("--table-key", help="the table, where there are several")
    domains.add_argument("--seed", type=int, default=0, help="default: 0")
    domains.add_argument("--key-added", default=_keys.DOMAIN, help=f"key in obs (default: {_keys.DOMAIN})")

    predict = command("predict", "predict gene expression from H&E", "common", "model", "stores", "inputs")
    predict.add_argument("--genes", nargs="+", metavar="GENE", help="genes (default: all that the head predicts)")
    predict.add_argument("--head", type=Path, help="folder of a fitted expression head (default: the model's own)")
    predict.add_argument("--field", **_FIELD)
    predict.add_argument("--batch-size", type=int)
    predict.add_argument("--key-added", default=_keys.EXPRESSION, help=f"key in layers (default: {_keys.EXPRESSION})")

    adapt = command("adapt", "fit a model on sections of one's own, without labels", "common", "model", "inputs")
    adapt.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, fitted jointly")
    adapt.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the adapted model")
    adapt.add_argument("--from-scratch", action="store_true", help="start from random weights instead of --model")
    adapt.add_argument("--expression", choices=["auto", "keep", "refit"], default="auto", help="default: auto")
    adapt.add_argument("--modality", choices=["auto", "both", "he", "st"], default="auto", help="default: auto")
    adapt.add_argument(
        "--batch",
        choices=["section", "none"],
        default="section",
        help="what is standardised alone (default: section)",
    )
    adapt.add_argument("--epochs", type=_count(1), help="at most so many (default: what makes 1,000 steps, 10 to 60)")
    adapt.add_argument(
        "--patience", type=_count(0), default=15, help="epochs without improvement that end it (default: 15; 0: never)"
    )
    adapt.add_argument("--held-out", type=float, default=0.15, help="share of spots not trained on (default: 0.15)")
    adapt.add_argument("--layer", help="layer with the raw counts (default: X)")
    adapt.add_argument("--field-um", type=float, help="edge of the H&E field in µm (default: the model's)")
    adapt.add_argument("--readout", help="section, window, center or reconstruction (default: the model's)")
    adapt.add_argument("--seed", type=int, default=0, help="default: 0")

    pretrain = command("pretrain", "train a model on many sections, as a TOML file says", "common")
    pretrain.add_argument("config", type=Path, metavar="CONFIG", help="TOML file of the run")
    pretrain.add_argument("--seed", type=_count(0), help="of everything that is drawn (default: the file's)")
    pretrain.add_argument("--prepare-only", action="store_true", help="pack and prepare the sections, do not train")

    models = command("models", "list the packaged models", "common")
    models.set_defaults()
    return parser


def _store_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    options.add_argument(
        "--out",
        type=Path,
        metavar="OUT.zarr",
        help="write a whole new store, or a folder of them for several (default: the new pieces, into IN.zarr)",
    )
    many = options.add_argument_group("several stores")
    where = many.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=_count(1),
        metavar="N",
        help="processes on this machine; 1: this very process (default: one per GPU, else one per core)",
    )
    where.add_argument("--scheduler", metavar="ADDRESS", help="run on this dask cluster (tcp://host:port, or its file)")
    many.add_argument(
        "--retries",
        type=_count(0),
        default=1,
        metavar="N",
        help="times a section is begun again after its worker died (default: 1)",
    )
    many.add_argument("--summary", type=_table_file, metavar="FILE", help="write the summary to FILE.csv or FILE.json")
    return options


def _input_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--image-key", help="the H&E image, where there are several")
    options.add_argument("--table-key", help="the table, where there are several")
    options.add_argument("--shapes-key", help="the spots, where the table annotates several")
    options.add_argument("--coordinate-system", help="where image and spots meet (default: the one in µm, else global)")
    options.add_argument("--um-per-px", type=float, help="µm per pixel of the image, where the store does not say it")
    return options


def _number_or_word(text: str) -> int | str:
    return text if text in ("auto", "native") else int(text)


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            msg = f"{text!r} is not a whole number of at least {least}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return count


def _table_file(text: str) -> Path:
    if Path(text).suffix not in (".csv", ".json"):
        msg = f"{text!r} ends in neither .csv nor .json"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)
