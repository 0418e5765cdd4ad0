"""Models of random weights and pipelines of any length, to see what a search costs; nothing of them is ever scored."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from litestage.decoder.load import LoadedModel, fingerprint
from litestage.engine import Engine
from litestage.session import Session
from litestage.session.workbench import Workbench
from litestage.stages import Pipeline, Stage
from litestage.store import ResultStore, ReusingEngine

WEIGHT_STD = 0.25
"""Of random weights: large enough that a skipped sub-layer changes what is written."""


def random_session(bench: Workbench, layers: int) -> Session:
    """A session whose model is the command's in width and kind, with so many layers and random weights."""
    from transformers import AutoModelForCausalLM

    loaded = bench.session.loaded
    config = deepcopy(loaded.model.config)
    was = config.num_hidden_layers
    for key, value in list(config.to_dict().items()):
        if isinstance(value, list) and len(value) == was:  # what is said of every layer
            setattr(config, key, [value[at % was] for at in range(layers)])
    config.num_hidden_layers = layers
    decoder = bench.session.engine.decoder
    with torch.random.fork_rng():
        torch.manual_seed(bench.config.seed)
        model = AutoModelForCausalLM.from_config(config, dtype=decoder.dtype).eval().requires_grad_(False)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, WEIGHT_STD)
    model.generation_config = loaded.model.generation_config
    model = model.to(decoder.device)
    known = LoadedModel(model, loaded.tokenizer, f"random, {layers} layers", None, fingerprint(model))
    engine = Engine(model, loaded.tokenizer, bench.config.engine.path, bench.config.engine.compile)
    reusing = ReusingEngine(engine, known.fingerprint, ResultStore())
    return replace(bench.session, loaded=known, engine=engine, reusing=reusing)


def chain(stages: int, tokens: int) -> Pipeline:
    """A pipeline of so many stages, each of which reads the question and all that was written before."""
    asked = '{{ question }}\n{% for o in options %}({{ o.label }}) {{ o.text }}{{ " " if not loop.last }}{% endfor %}\n'
    made = []
    for stage in range(1, stages + 1):
        before = "".join(f"Step {at}: {{{{ step_{at} }}}}\n" for at in range(1, stage))
        made.append(Stage(name=f"step_{stage}", prompt=f"{asked}{before}Step {stage}:", max_new_tokens=tokens))
    return Pipeline(f"chain of {stages}", tuple(made))
