"""``python -m litestage.training <config.yaml> key=value ...``"""

from __future__ import annotations

import sys

from litestage.errors import LiteStageError, not_written


def main(arguments: list[str]) -> int:
    """Trains as configured. Returns the exit code: 0, or 2 after a mistake in the configuration or data."""
    from litestage.training.config import load_config

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m litestage.training <config.yaml or a name in conf/train> [key=value ...]")
        return 0 if arguments else 2
    try:
        config = load_config(arguments[0], arguments[1:])
        from litestage.training.run import train

        print(f"Saved in {train(config)}")
    except LiteStageError as error:
        print(f"litestage: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"litestage: {not_written(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
