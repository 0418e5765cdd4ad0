"""Low-rank adaptation (Hu et al., 2021, arXiv 2106.09685) of a frozen model, by PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestage.errors import LiteStageError, did_you_mean

if TYPE_CHECKING:
    from litestage.training.config import LoraOptions


def with_lora(model: Any, options: LoraOptions, base: str) -> Any:
    """The model with trainable low-rank matrices beside its projections; everything else is frozen.

    Args:
        base: the name that the saved adapter gives for the model it belongs to.

    Raises:
        LiteStageError: targets that the model does not have.
    """
    from peft import LoraConfig, get_peft_model

    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for target in options.targets:
        if target.rpartition(".")[2] not in names:  # PEFT passes over one as long as it finds another
            raise LiteStageError(
                f"lora.targets={list(options.targets)} does not fit the model, which has no {target!r}; "
                f"{did_you_mean(target, names - {''})}"
            )
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha or 2 * options.rank,
        lora_dropout=options.dropout,
        target_modules=list(options.targets) or "all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise LiteStageError(f"lora.targets={list(options.targets)} does not fit the model ({reason}).") from None
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted
