"""Options: none of a function is missing, defaults are the function's, and none swallows a store."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import storm
from storm.cli import main
from storm.cli._command import Command
from storm.cli._parser import make_parser

#: What each command calls, with the parameters that it has under another name, or not at all, and why.
WHAT_IS_READ = {"data", "copy", "sections", "cohort", "self"}  # it has a path, and a store is no object
COMMANDS: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "check": (storm.pp.check, {}),
    "encode": (storm.tl.encode_tiles, {}),
    "embed": (storm.tl.embed, {}),
    "domains": (storm.tl.domains, {}),
    "predict": (storm.tl.predict_expression, {"out": "table_out"}),
    "adapt": (storm.tl.adapt, {}),
    "benchmark domains": (storm.benchmark.domains, {"embeddings": "use_rep", "seeds": "n_seeds"}),
    "benchmark expression": (storm.benchmark.expression, {"seeds": "n_seeds"}),
    "report": (storm.write_report, {"path": "out", "source": "paths"}),
    "export loupe": (storm.io.to_loupe, {}),
    "export xenium-explorer": (storm.io.to_xenium_explorer, {}),
    "export qupath": (storm.io.to_qupath, {}),
    "cohort add": (storm.prognosis.add_slides, {}),
    "cohort check": (storm.prognosis.check, {}),
    "cohort split": (storm.prognosis.split, {}),
    "prognosis fit": (storm.prognosis.fit, {"baselines": "no_baselines", "patients": "split"}),
    "prognosis predict": (storm.prognosis.OutcomeModel.predict, {}),
    "prognosis evaluate": (storm.prognosis.evaluate, {"predictions": "risks", "patients": "cohort"}),
    "prognosis explain": (storm.prognosis.explain, {"patient": "patients"}),
}
#: Defaults that a shell gives in another way.
OTHER_DEFAULTS = {
    ("embed", "joint"): "sections of one table; --joint is about several stores",
    ("adapt", "patience"): "0 is None",
    ("benchmark domains", "n_domains"): "None is 'classes'",
    ("prognosis fit", "validation"): "None is the function's",
    ("export loupe", "keys"): "None is the function's",
}


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = make_parser()
    for name in command.split():
        tasks = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
        parser = tasks.choices[name]
        if isinstance(parser, Command):
            parser.complete()
    return parser


def same(given: Any, default: Any) -> bool:
    """An empty list is an empty tuple or None, and a single word a list of it."""
    empty = ([], (), None)
    return given == default or (given in empty and default in empty) or given == [default]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_parameter_is_an_option(command):
    function, other = COMMANDS[command]
    actions = {action.dest: action for action in parser_of(command)._actions}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in WHAT_IS_READ:
            continue
        if name == "config":
            assert set(inspect.signature(storm.prognosis.OutcomeFit).parameters) <= set(actions)
            continue
        option = other.get(name, name)
        assert option in actions, f"storm {command} has no option for {name}"
        action = actions[option]
        assert action.help
        if option == name and parameter.default is not parameter.empty and (command, name) not in OTHER_DEFAULTS:
            assert same(action.default, parameter.default), f"storm {command} --{name}"


def test_commands_without_a_function_are_few():
    """A new command is added to this test."""
    found = set()
    for name, parser in parser_of("")._subparsers._group_actions[0].choices.items():
        parser.complete()
        if parser._subparsers is None:
            found.add(name)
        else:
            found |= {f"{name} {task}" for task in parser._subparsers._group_actions[0].choices}
    others = {one for one in found if not one.startswith("read ")} - set(COMMANDS)
    assert others == {"demo", "models", "pretrain", "completion"}


@pytest.mark.parametrize(
    "argv",
    [
        ["predict", "--genes", "A", "B", "s.zarr"],
        ["predict", "--genes", "A", "B", "s.zarr", "t.zarr", "--intervals"],
        ["predict", "s.zarr", "--genes", "A", "B"],
        ["predict", "--gen", "A", "B", "s.zarr", "--um-per-px", "0.5", "t.zarr"],
        ["predict", "--genes", "A", "B", "folder/"],
        ["predict", "--genes", "A", "B", "--keep", "all", "--", "s.zarr"],
        ["predict", "s.zarr", "--intervals", "t.zarr", "--genes", "A", "B"],
        ["predict", "--genes", "A", "B", "folder"],
    ],
)
def test_an_option_does_not_swallow_a_store(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    options = make_parser().parse_args(argv)
    assert options.genes == ["A", "B"]
    assert options.paths == [Path(one) for one in argv if one.startswith(("s.", "t.", "folder"))]


def test_a_name_is_no_folder_where_there_is_a_store(tmp_path, monkeypatch):
    """Patients may have folders of their names."""
    monkeypatch.chdir(tmp_path)
    for name in ("P1", "cohort"):
        Path(name).mkdir()
    argv = ["prognosis", "explain", "cohort", "--model", "m", "--out", "o", "--patients", "P1", "P2"]
    options = make_parser().parse_args(argv)
    assert (options.folder, options.patients) == (Path("cohort"), ["P1", "P2"])
    argv = ["prognosis", "explain", "--model", "m", "--out", "o", "--patients", "P2", "cohort"]
    options = make_parser().parse_args(argv)
    assert (options.folder, options.patients) == (Path("cohort"), ["P2"])


def test_values_are_those_of_the_function(capsys):
    parse = make_parser().parse_args
    options = parse(["embed", "s.zarr", "--window", "knn", "--radius-um", "30", "--per-modality", "--no-joint"])
    assert (options.window, options.radius_um, options.per_modality, options.joint) == ("knn", 30.0, True, False)
    assert parse(["domains", "s.zarr", "--resolution", "0.5", "--n-init", "3"]).n_init == 3
    options = parse(["prognosis", "fit", "c", "--endpoint", "E", "--out", "o", "--dropout", "0", "--depth", "2"])
    assert (options.dropout, options.depth) == (0.0, 2)
    for argv in (
        ["embed", "s.zarr", "--radius-um", "-1"],
        ["domains", "s.zarr", "--n-neighbors", "0"],
        ["embed", "s.zarr", "--window", "hexagon"],
        ["adapt", "s.zarr", "--out", "m", "--lr", "nan"],
    ):
        with pytest.raises(SystemExit):
            main(argv)
        assert f"argument {argv[-2]}: " in capsys.readouterr().err
