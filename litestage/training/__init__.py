"""Trains a causal language model on staged questions: ``python -m litestage.training <config.yaml> key=value ...``."""
