"""``python -m litestage`` is the command ``litestage``."""

from litestage.cli import main

if __name__ == "__main__":
    main()
