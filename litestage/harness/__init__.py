"""lm-eval: its arguments, its staged tasks and their metrics. The model class itself is ``litestage.lm``."""
