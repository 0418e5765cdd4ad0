"""The other half of LLM-Drop's comparison (arXiv 2406.15786): feed-forwards alone, by cosine.

The K feed-forward sub-layers that turn the residual stream least are left out, no attention; one set for all stages.
It stands beside ``attention-only``: the two say which type of sub-layer a task can spare.
"""

from litestage.methods.cosine import of_one_kind
from litestage.methods.setting import Setting
from litestage.plan import StagePlan


def plan(setting: Setting) -> dict[str, StagePlan]:
    return of_one_kind(setting, "ffn-only", "ffn")
