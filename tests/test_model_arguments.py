"""What stands in lm-eval's ``--model_args``."""

import pytest

from litestage.errors import LiteStageError
from litestage.harness.arguments import ModelArguments


def test_model_arguments_are_checked():
    parse = ModelArguments.parse
    assert parse({}) == ModelArguments()
    assert parse({"revision": 1234567, "max_batch_size": None, "batch_size": "8"}).revision == "1234567"
    assert parse({"batch_size": "auto"}).batch_size > 1
    for given, complaint in (
        ({"plann": "full"}, "did you mean 'plan'"),
        ({"plan": "uniformly:4"}, "did you mean 'uniform'"),
        ({"plan": "absent.yaml"}, r"absent\.yaml"),
        ({"trust_remote_code": True}, "trust_remote_code is refused"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"analyze": "per_optoin"}, "did you mean 'per_option'"),
        ({"chat_template": "yes"}, "chat_template is 'yes'"),
    ):
        with pytest.raises(LiteStageError, match=complaint):
            parse(given)


def test_lm_evals_default_device_means_auto_where_there_is_no_cuda(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ModelArguments.parse({"device": "cuda:0"}).device == "auto"
    assert ModelArguments.parse({"device": "cuda:1"}).device == "cuda:1"  # asked for, and refused when loading
