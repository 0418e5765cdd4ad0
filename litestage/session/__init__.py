"""A loaded model with its engine, store and measurements, and what a command opens around it."""

from litestage.session.session import Session

__all__ = ["Session"]
