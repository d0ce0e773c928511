"""The command line, thin over the same functions: ``storm demo | encode | embed | domains | predict | models``."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from storm import _keys

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Arguments without the program's name; ``None`` takes those of the process.

    Returns
    -------
    Exit status: 0, or 2 after an error, which is one line on stderr.

    Raises
    ------
    SystemExit
        For ``--help``, ``--version``, and arguments that cannot be read.
    """
    arguments = _parser().parse_args(argv)
    with _quiet_neighbours():
        try:
            _run(arguments)
        except KeyboardInterrupt:
            print("storm: interrupted", file=sys.stderr)
            return 130
        except Exception as error:  # the user's boundary: every error becomes one line
            if arguments.debug:
                raise
            print(f"storm {arguments.command}: error: {_one_line(error)}", file=sys.stderr)
            return 2
    return 0


def _run(arguments: argparse.Namespace) -> None:
    """Call the command's function with its own arguments; what it needs is imported only now."""
    from storm._settings import settings

    options = vars(arguments).copy()
    command = options.pop("command")
    del options["debug"]
    if options.pop("quiet"):
        settings.verbosity = 0
    if command == "demo":
        from storm.cli._demo import demo

        demo(**options)
    else:
        from storm.cli import _commands

        getattr(_commands, command)(**options)


def _one_line(error: BaseException) -> str:
    # A KeyError's str() is the repr of its text.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = " ".join(text.split())
    return text or type(error).__name__


@contextmanager
def _quiet_neighbours() -> Iterator[None]:
    """Show our own warnings, a line each, and nothing of what other packages tell their developers."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"storm: warning: {' '.join(str(message).split())}", file=sys.stderr)

    neighbour = logging.getLogger("spatialdata")
    level = neighbour.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module=r"storm(\.|$)")
        warnings.showwarning = show
        neighbour.setLevel(logging.ERROR)
        try:
            yield
        finally:
            neighbour.setLevel(level)


def _parser() -> argparse.ArgumentParser:
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
        "store": _store_options(),
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

    encode = command("encode", "run a tile encoder over a section", "common", "device", "store", "inputs")
    encode.add_argument("--encoder", required=True, help="a name of storm models, or timm:<model>")
    encode.add_argument("--weights", type=Path, help="file or folder of its weights (default: the hub's cache)")
    encode.add_argument("--field-um", type=float, help="edge of the H&E field in µm (default: the encoder's)")
    encode.add_argument("--tile-px", type=_number_or_word, help="side of the encoder's input, or native")
    encode.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16 (default: auto)")
    encode.add_argument("--batch-size", type=int)
    encode.add_argument("--recompute", action="store_true", help="compute even what is there already")
    encode.add_argument("--key-added", help="key in obsm (default: X_<encoder>)")

    embed = command("embed", "embed the spots of a section", "common", "model", "store", "inputs")
    embed.add_argument("--modality", choices=["auto", "both", "he", "st"], default="auto", help="default: auto")
    embed.add_argument("--layer", help="layer with the raw counts (default: X)")
    embed.add_argument("--field-um", type=float, help="edge of the H&E field in µm (default: the model's)")
    embed.add_argument("--readout", help="center, window or reconstruction (default: the model's)")
    embed.add_argument("--batch-size", type=int)
    embed.add_argument("--seed", type=int, default=0, help="default: 0")
    embed.add_argument("--key-added", default=_keys.X_STORM, help=f"key in obsm (default: {_keys.X_STORM})")

    domains = command("domains", "find spatial domains in an embedded section", "common", "store")
    domains.add_argument("--n-domains", type=_number_or_word, default="auto", help="a number, or auto (default)")
    domains.add_argument("--method", choices=["kmeans", "leiden", "gmm"], default="kmeans", help="default: kmeans")
    domains.add_argument("--use-rep", default=_keys.X_STORM, help=f"key in obsm (default: {_keys.X_STORM})")
    domains.add_argument("--table-key", help="the table, where there are several")
    domains.add_argument("--seed", type=int, default=0, help="default: 0")
    domains.add_argument("--key-added", default=_keys.DOMAIN, help=f"key in obs (default: {_keys.DOMAIN})")

    predict = command("predict", "predict gene expression from H&E", "common", "model", "store", "inputs")
    predict.add_argument("--genes", nargs="+", metavar="GENE", help="genes (default: all that the head predicts)")
    predict.add_argument("--head", type=Path, help="folder of a fitted expression head (default: the model's own)")
    predict.add_argument("--batch-size", type=int)
    predict.add_argument("--key-added", default=_keys.EXPRESSION, help=f"key in layers (default: {_keys.EXPRESSION})")

    models = command("models", "list the packaged models", "common")
    models.set_defaults()
    return parser


def _store_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("path", type=Path, metavar="IN.zarr", help="SpatialData store")
    options.add_argument(
        "--out",
        type=Path,
        metavar="OUT.zarr",
        help="write a whole new store (default: the new pieces, into IN.zarr)",
    )
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
