"""The command line, a thin layer over the public functions: ``storm demo | check | encode | embed | domains | …``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Arguments without the program's name; ``None`` for those of the process.

    Returns
    -------
    int
        Exit status: 0; 1 if ``storm check`` finds something that must be fixed first; 2 after an error, which is
        printed as one line on stderr, also if only some of several sections failed; 130 after Ctrl-C. 1 as well if
        the reader of the output, such as ``head``, is gone: the command ends there.

    Raises
    ------
    SystemExit
        For ``--help``, ``--version`` and invalid arguments.
    """
    from storm.cli._pipe import ReaderGone, watched

    try:
        with watched():
            return _main(argv)
    except ReaderGone:
        return 1
    except KeyboardInterrupt:  # while the parser was made: parsing alone imports no large package
        print("storm: interrupted: the same command starts again from the beginning", file=sys.stderr)
        return 130


def _main(argv: Sequence[str] | None) -> int:
    from storm._settings import settings
    from storm.cli._completion import answer, is_asked
    from storm.cli._log import logged
    from storm.cli._parser import make_parser
    from storm.cli._say import one_line, quiet_neighbours, speaking_shell
    from storm.cli._shell_words import options_of

    words = sys.argv[1:] if argv is None else list(argv)
    parser = make_parser()
    if is_asked():
        answer(parser)
    arguments = parser.parse_args(words)
    log = vars(arguments).pop("log", None)
    verbosity = settings.verbosity
    with speaking_shell(options_of(vars(arguments))), quiet_neighbours():
        try:
            with logged(log, words):
                return _reported(arguments)
        except OSError as error:  # of the log itself; those of the command are a line already, or --debug asks for them
            if getattr(arguments, "debug", False):
                raise
            print(f"storm {arguments.command}: error: {one_line(error)}", file=sys.stderr)
            return 2
        finally:
            settings.verbosity = verbosity


def _reported(arguments: argparse.Namespace) -> int:
    """Run a command; its error becomes a line."""
    import traceback

    from storm.cli._log import note
    from storm.cli._say import interrupted, one_line

    try:
        return _run(arguments)
    except KeyboardInterrupt as interruption:
        print(interrupted(arguments.command, interruption), file=sys.stderr)
        return 130
    except Exception as error:  # the outermost layer: every error becomes one line for the user
        note(traceback.format_exc())
        if getattr(arguments, "debug", False):
            raise
        print(f"storm {arguments.command}: error: {one_line(error)}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    """Call the command's function with its arguments; only now is imported what it needs."""
    from storm._settings import settings

    options = vars(arguments).copy()
    command = options.pop("command")
    debug = options.pop("debug", False)
    quiet = options.pop("quiet", False)
    if quiet:
        settings.verbosity = 0
    if command == "completion":
        from storm.cli._completion import completion

        completion(**options)
    elif command == "demo":
        from storm.cli._demo import demo

        demo(**options)
    elif command == "read":
        from storm.cli._read import read

        read(**options)
    elif command == "check":
        from storm.cli._check import check

        return check(**options)
    elif command == "adapt":
        from storm.cli._adapt import adapt

        adapt(**options)
    elif command == "pretrain":
        from storm.cli._pretrain import pretrain

        pretrain(**options)
    elif command == "benchmark":
        from storm.cli import _benchmark

        compare = _benchmark.domains if options.pop("compared") == "domains" else _benchmark.expression
        compare(**options)
    elif command == "cohort":
        from storm.cli import _cohort

        return _cohort.run(options, debug=debug, quiet=quiet)
    elif command == "prognosis":
        from storm.cli import _prognosis

        return _prognosis.run(options)
    elif command == "report":
        from storm.cli._report import report

        return report(**options)
    elif command == "export":
        from storm.cli._export import export

        export(options.pop("viewer"), **options)
    elif command == "models":
        from storm.cli._models import models

        models()
    elif (joint := options.pop("joint", None)) is True:
        from storm.cli import _joint

        return _joint.run(command, options, debug=debug, quiet=quiet)
    else:
        if command == "embed" and joint is False:
            options["joint"] = False
        from storm.cli._many import run

        return run(command, options, debug=debug, quiet=quiet)
    return 0
