"""lm-eval's model ``litestage``: any causal LM of a supported family, in stages and under a plan.

``lm_eval --model litestage --model_args pretrained=Qwen/Qwen2.5-0.5B-Instruct,plan=plan.yaml --tasks obqa_multistage``

Staged tasks run through :class:`litestage.session.Session`. Every other task type works too, under the plan's stage
``default``: log-likelihoods and plain generation are tokenised as lm-eval's own ``hf`` model does, so at ``plan=full``
they give the same numbers.
"""

from __future__ import annotations

import sys
from logging import getLogger
from typing import Any

import lm_eval.models  # noqa: F401  first: a lone registration of ours would hide lm-eval's own models
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string

from litestage.config import TrainerConfig
from litestage.decoder.chat import chat_text
from litestage.decoder.source import REFERENCE_MODELS
from litestage.environment import environment, peak_memory
from litestage.errors import LiteStageError, one_of
from litestage.harness.arguments import ModelArguments, as_typed, joined, quoted
from litestage.harness.mistakes import one_sentence_under_lm_eval
from litestage.harness.plain import PlainRequests
from litestage.harness.staged import StagedRequests
from litestage.harness.task import KEY
from litestage.ranks import here, launch
from litestage.session import Session
from litestage.store import default_store_path

_logger = getLogger("lm_eval.litestage")
_NOTHING = (
    "The continuation {!r} of {!r} has no token of its own, so it has no likelihood; mend the task's YAML or rows."
)
one_sentence_under_lm_eval()


@register_model("litestage")
class LiteStageLM(TemplateLM):
    """See :class:`litestage.harness.arguments.ModelArguments` for the arguments.

    Raises:
        LiteStageError: an unknown or bad argument, or a model that cannot be loaded.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = ModelArguments.parse(arguments)
        launch(TrainerConfig(self.arguments.devices, self.arguments.num_nodes), self.arguments.device)
        if self.arguments.batch_size == 1 and here().world_size > 1:
            _logger.warning(
                "batch_size is 1, so staged questions are timed, on one device while the others wait; "
                "use --batch_size auto to share them out."
            )
        self.session = Session.open(
            self.arguments.pretrained,
            revision=self.arguments.revision,
            adapter=self.arguments.adapter,
            generation_config=self.arguments.generation_config,
            dtype=self.arguments.dtype,
            weights=self.arguments.weights,
            device=self.arguments.device,
            store=self.arguments.store or default_store_path(),
            chat_template=self.arguments.chat_template,
        )
        self.engine, self.tokenizer = self.session.engine, self.session.loaded.tokenizer
        self._device = self.engine.decoder.device
        self._staged = StagedRequests(self.session, self.arguments)
        self._plain = PlainRequests(self.session, self.arguments)
        self._in_chat = False
        self._warned: set[str] = set()

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> LiteStageLM:
        """As lm-eval makes a model, but texts stay as they were written."""
        return cls(**joined(simple_parse_args_string(quoted(arg_string)), additional_config))

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> LiteStageLM:
        """The same for its command line, which hands on what it has read."""
        return cls(**joined(as_typed(arg_dict, sys.argv), additional_config))

    # ---- what a request is turned into

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers of staged tasks (a str with its trace as ``stats``), or plain continuations."""
        self._warn_if_unknown(requests)
        staged = [request for request in requests if KEY in request.args[1]]
        plain = [request for request in requests if KEY not in request.args[1]]
        self._warn_without_chat(plain)
        answers = iter(self._staged.answer(staged))
        continuations = iter(self._plain.continuations(plain, self.tok_encode, disable_tqdm))
        return [next(answers if KEY in request.args[1] else continuations) for request in requests]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether greedy decoding would write it.

        Raises:
            LiteStageError: a continuation without a token, which has no likelihood.
        """
        self._warn_if_unknown(requests)
        self._warn_without_chat(requests)
        for request in requests:
            if not request.args[1]:
                raise LiteStageError(_NOTHING.format(request.args[1], request.args[0][-40:]))
        return super().loglikelihood(requests, disable_tqdm)  # type: ignore[no-any-return]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in windows of the model's context as ``hf`` cuts them."""
        self._warn_if_unknown(requests)
        self._warn_without_chat(requests)
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [("", *make_disjoint_window(window)) for window in windows]
            totals.append(sum(score for score, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True)))
        return totals

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = []
        for texts, context, ending in requests:
            if not ending:
                raise LiteStageError(_NOTHING.format(texts[1], texts[0][-40:]))
            pairs.append((context or [self.prefix_token_id], ending))
        return self._plain.scores(pairs, disable_tqdm)

    # ---- tokenisation, as lm-eval's hf model does it

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; special tokens as the tokenizer adds them, unless the text starts with BOS or it is said."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's end of text, or the model's where it has none."""
        eos = self.tokenizer.eos_token_id
        return int(self.engine.eos[0] if eos is None else eos)

    @property
    def prefix_token_id(self) -> int:
        """Stands for the context where there is none."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_length(self) -> int:
        return self.engine.decoder.context_length

    @property
    def tokenizer_name(self) -> str:
        return self.arguments.pretrained.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as one text, for tasks without stages; a stage's prompt is wrapped when it is made."""
        self._in_chat = True
        if not getattr(self.tokenizer, "chat_template", None):
            name = self.arguments.pretrained
            raise LiteStageError(f"The tokenizer of {name!r} has no chat template; drop --apply_chat_template.")
        return chat_text(
            self.tokenizer,
            chat_history,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template for lm-eval's results; the one that ``--apply_chat_template`` names is taken from then on.

        Raises:
            LiteStageError: the tokenizer has none of that name.
        """
        templates = getattr(self.tokenizer, "chat_template", None)
        if isinstance(chat_template, str) and isinstance(templates, dict):
            one_of("--apply_chat_template", chat_template, templates)
            self.tokenizer.chat_template = templates[chat_template]
        chosen: str | None = super().chat_template(chat_template)
        return chosen

    # ---- what lm-eval is told

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuses ``--use_cache``."""
        raise LiteStageError(
            "--use_cache is refused: its key is the request alone, so answers and latencies of another model or plan "
            "would come back as this one's. Drop it; litestage keeps its own results store, keyed by all of them."
        )

    def get_model_info(self) -> dict[str, Any]:
        """Goes into ``results.json`` under ``config``: model, plans by task, engine, hardware, timing, peak memory."""
        if here().rank:
            sys.exit()  # every rank has all answers, and lm-eval, which counts one process, would write them all
        timed = self.arguments.batch_size == 1
        plans = {
            name: {
                "plan_hash": plan.hash,
                "method": plan.provenance.get("method", self.arguments.plan),
                "pipeline": pipeline.name,
                "pipeline_hash": pipeline.hash,
                "skipped": {stage: len(plan[stage].skip) for stage in pipeline.stage_names},
            }
            for name, (pipeline, plan) in self._staged.plans.items()
        }
        return {
            "model_name": self.session.loaded.name,
            **{f"model_{key}": value for key, value in self.session.loaded.about.items()},
            "plan": self.arguments.plan,
            "plans": plans,
            "latency": (
                "each question alone, by the clock, device synchronised, never from a store"
                if timed
                else f"not measured: {self.arguments.batch_size} questions at a time; use --batch_size 1"
            ),
            "memory": peak_memory(),
            "environment": environment(self.engine),  # by itself: lm-eval writes the device it asked for
        }

    def _warn_without_chat(self, plain: list[Any]) -> None:
        """Says once that lm-eval, and no argument of the model, wraps the prompts of tasks without stages."""
        if plain and self.arguments.chat_template and not self._in_chat and "chat" not in self._warned:
            self._warned.add("chat")
            _logger.warning(
                "chat_template=true is for stages' prompts, so %r is asked without; give --apply_chat_template.",
                plain[0].task_name,
            )

    def _warn_if_unknown(self, requests: list[Any]) -> None:
        if self.arguments.pretrained not in REFERENCE_MODELS:
            return
        for name in {str(request.task_name) for request in requests} - self._warned:
            self._warned.add(name)
            if not name.startswith("menagerie"):
                _logger.warning(
                    "The embedded reference model knows only the menagerie; what it answers to %r is a guess. "
                    "Give pretrained=<hub name or folder>.",
                    name,
                )
