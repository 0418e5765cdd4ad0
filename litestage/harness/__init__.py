"""lm-eval: the model class (`lm.py`), its arguments, its staged tasks and their metrics."""
