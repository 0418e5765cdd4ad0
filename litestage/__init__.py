"""LiteStage: staged reasoning with small language models, faster, and measured honestly.

This module imports nothing: the interpreter's start-up hook (``litestage.pth``) loads it in every Python process.
"""

__version__ = "0.1.0"


def __getattr__(name: str):  # type: ignore[no-untyped-def]
    if name in ("load", "Answer"):
        from litestage import api

        return getattr(api, name)
    if name == "Plan":
        from litestage.plan import Plan

        return Plan
    raise AttributeError(f"module 'litestage' has no attribute {name!r}")
