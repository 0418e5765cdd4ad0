"""Chooses budgets: per stage how many sub-layers to skip, for the lowest latency within an accuracy bound."""

from litestage.search.candidate import Candidate, SearchResult
from litestage.search.greedy import greedy_search
from litestage.search.problem import SearchProblem

__all__ = ["Candidate", "SearchProblem", "SearchResult", "greedy_search"]
