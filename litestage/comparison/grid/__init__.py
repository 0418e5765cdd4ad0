"""Many comparisons in one command: every model with every task and every seed, and a summary over all."""

from litestage.comparison.grid.cells import Cell, cells_of, results_before
from litestage.comparison.grid.summary import summarise_grid

__all__ = ["Cell", "cells_of", "results_before", "summarise_grid"]
