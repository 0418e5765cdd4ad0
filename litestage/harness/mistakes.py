"""A user's mistake under lm-eval's command: one sentence and exit code 2, as under ours, instead of a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

from litestage.errors import LiteStageError

_COMMANDS = ("lm_eval", "lm-eval")


def one_sentence_under_lm_eval() -> None:
    """Has mistakes that reach the end of lm-eval's command told so; Python that calls lm-eval gets the exception."""
    if not any(part in _COMMANDS for part in Path(sys.argv[0]).with_suffix("").parts[-2:]):
        return
    tell = sys.excepthook

    def told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, LiteStageError):
            return tell(kind, error, trace)
        print(f"litestage: {error}", file=sys.stderr)
        sys.exit(2)

    sys.excepthook = told
