"""``python -m litestage.training <config.yaml> key=value ...``"""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from litestage.cli import run_alone


def main(
    config: Annotated[str, Argument(help="A YAML file, or a name in conf/train.")],
    overrides: Annotated[list[str] | None, Argument(metavar="[KEY=VALUE]...")] = None,
) -> None:
    """Trains as configured."""
    from litestage.training.config import load_config

    options = load_config(config, overrides or [])
    from litestage.training.run import train

    print(f"Saved in {train(options)}")


if __name__ == "__main__":
    run_alone(main)
