"""What the files that commands leave must hold for those who read them: reports, the gate, trackers, ``plan best``.

Only what a reader needs is asked for, so that an older file, or one with more in it, is read too.
"""

from litestage.records.results import Experiment, Grid, Judged, Results
from litestage.records.samples import read_answers, read_asked
from litestage.records.search import Profile, Search
from litestage.records.shape import EXPERIMENT, GRID, PROFILE, RESULTS, SEARCH, check, read_record

__all__ = [
    "EXPERIMENT",
    "GRID",
    "PROFILE",
    "RESULTS",
    "SEARCH",
    "Experiment",
    "Grid",
    "Judged",
    "Profile",
    "Results",
    "Search",
    "check",
    "read_answers",
    "read_asked",
    "read_record",
]
