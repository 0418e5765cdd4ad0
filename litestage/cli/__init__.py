"""The ``litestage`` command. Every option is a ``key=value`` override of the schema in :mod:`litestage.config`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper

_INTERRUPTED = 130  # what Typer makes of Ctrl-C


def main() -> None:
    """Runs the command line. A user's mistake is one sentence on standard error and exit code 2."""
    from litestage.cli.commands import app

    run(app)


def run_alone(command: Callable[..., None]) -> None:
    """A module's own command line (``python -m``): the function's parameters are its arguments and options."""
    from typer import Typer

    app = Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run(app)


def run(app: Callable[[], None]) -> None:
    """Runs a Typer application; see :func:`main`. What standard output's encoding lacks is written as ``?``."""
    from litestage.errors import LiteStageError, not_written

    os.environ["MPLBACKEND"] = "agg"  # no window is opened, and one that is not there would cost a report
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        app()
    except LiteStageError as error:
        from litestage.ranks import let_rank_zero_tell

        let_rank_zero_tell()
        print(f"litestage: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder without rights
        print(f"litestage: {not_written(error)}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print(
                "litestage: interrupted; what was finished is kept, the same command goes on from there.",
                file=sys.stderr,
            )
        raise
