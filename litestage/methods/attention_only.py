"""LLM-Drop (He et al., TMLR 2026, arXiv 2406.15786; CASE-Lab-UMD/LLM-Drop): attention alone, by cosine.

The K attention sub-layers that turn the residual stream least are left out, no feed-forward; one set for all stages.
Differs from the released code: calibrated on the task's stage prompts instead of web text, and attentions only, where
it may go on with feed-forwards once those are spent.
"""

from litestage.methods.cosine import of_one_kind
from litestage.methods.setting import Setting
from litestage.plan import StagePlan


def plan(setting: Setting) -> dict[str, StagePlan]:
    return of_one_kind(setting, "attention-only", "mhsa")
