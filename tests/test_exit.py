"""The confidence exit and the other ways a row ends; sampling."""

from statistics import fmean

import pytest
import torch
from test_parity import NEW, PROMPTS, ragged, run
from tiny import Characters, greedy, random_prompts, tiny_engine, tiny_model

from litestage.engine import Decoding, Detokenise, Engine, Request
from litestage.engine.sampler import Sampler
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, SkipSet, StagePlan
from litestage.plan.exit import Steps, exit_step

EOS = 2
SKIP = SkipSet(mhsa=(1,), ffn=(2,))


@pytest.fixture(scope="module")
def engine():
    return tiny_engine("llama")


@pytest.fixture(scope="module")
def uncut(engine):
    return engine.generate(ragged(PROMPTS), StagePlan(), Decoding(), confidences=True).generations


# --- the rule ---


def test_the_rule_fires_when_the_full_windows_mean_is_at_most_the_threshold():
    rule = ExitRule(threshold=0.5, window=2)
    assert not rule.stops(Steps(confidences=[0.1]))  # the window is not full
    assert rule.stops(Steps(confidences=[0.25, 0.75]))  # equal to the threshold
    assert not rule.stops(Steps(confidences=[0.25, 0.7501]))
    assert rule.stops(Steps(confidences=[0.9, 0.9, 0.5, 0.5]))  # only the last ones count
    assert not rule.stops(Steps(confidences=[0.0, 0.0, 0.6, 0.6]))


def test_the_step_of_the_exit_is_the_first_at_which_the_rule_fires():
    confidences = Steps(confidences=[0.9, 0.2, 0.9, 0.3, 0.3, 0.1])
    assert exit_step(ExitRule(threshold=0.3, window=2), confidences) == 4
    assert exit_step(ExitRule(threshold=0.3, window=1), confidences) == 1
    assert exit_step(ExitRule(threshold=0.05, window=1), confidences) is None
    assert exit_step(ExitRule(threshold=1.0, window=7), confidences) is None


def test_an_unknown_rule_is_named():
    with pytest.raises(LiteStageError, match="'confidance'; did you mean 'confidence'"):
        ExitRule(rule="confidance")


def test_confidences_are_the_largest_softmax_probabilities(engine, monkeypatch):
    logits = []
    advance = Sampler.advance
    monkeypatch.setattr(Sampler, "advance", lambda self, rows, of: logits.append(of) or advance(self, rows, of))
    row = engine.generate(ragged(PROMPTS[:1]), StagePlan(), Decoding(), confidences=True).generations[0]
    expected = torch.cat(logits).softmax(dim=-1).amax(dim=-1)
    torch.testing.assert_close(torch.tensor(row.confidences), expected)
    assert len(row.confidences) == len(row.tokens)


def test_confidences_are_kept_only_when_asked_for(engine):
    rule = ExitRule(threshold=0.0)
    assert run(engine, ragged(PROMPTS[:1]), StagePlan(exit=rule))[0].confidences == ()


# --- the exit in a generation ---


def test_the_end_of_sequence_replaces_the_token_at_the_exit(engine, uncut):
    rows = run(engine, ragged(PROMPTS), StagePlan(exit=ExitRule(threshold=1.0, window=3)))
    for row, whole in zip(rows, uncut, strict=True):
        assert row.tokens == (*whole.tokens[:2], EOS)  # a threshold of 1 fires as soon as the window is full
        assert row.stop == "exit"
        assert row.text == Characters().decode(whole.tokens[:2])


def test_every_row_has_its_own_window(engine, uncut):
    """Rows of one batch leave at different steps, some not at all, each where it would leave alone."""
    rule = middling_rule(uncut, window=4)
    plan = StagePlan(exit=rule)
    together = run(engine, ragged(PROMPTS), plan)
    alone = [run(engine, [request], plan)[0] for request in ragged(PROMPTS)]
    assert [(row.tokens, row.stop) for row in together] == [(row.tokens, row.stop) for row in alone]
    assert len({len(row.tokens) for row in together}) >= 3
    assert {row.stop for row in together} == {"exit", "length"}


def middling_rule(generations, window):
    """A threshold at which some rows leave and some do not: between two rows' lowest window means."""
    lowest = sorted(
        min(fmean(g.confidences[at : at + window]) for at in range(len(g.confidences) - window + 1))
        for g in generations
        if len(g.confidences) >= window
    )
    middle = len(lowest) // 2
    return ExitRule(threshold=(lowest[middle] + lowest[middle + 1]) / 2, window=window)


@pytest.mark.parametrize("skip", [SkipSet(), SKIP], ids=["full", "skipping"])
def test_cutting_the_uncut_generation_equals_running_with_the_rule(engine, skip):
    """In float32 one uncut generation holds every threshold's and window's result."""
    prompts = random_prompts((6, 11, 19, 27, 8, 15), seed=4)
    decoding = Decoding(stop=("q",))  # one of 253 characters: some rows end by a stop string
    whole = engine.generate(ragged(prompts, 24), StagePlan(skip), decoding, confidences=True).generations
    detokenise = Detokenise(engine.tokenizer, decoding.stop)
    seen = set()
    for window in (1, 2, 5, 10):
        for threshold in (0.0, *thresholds(whole, window), 1.0):
            rule = ExitRule(threshold=threshold, window=window)
            ran = engine.generate(
                ragged(prompts, 24), StagePlan(skip, exit=rule), decoding, confidences=True
            ).generations
            for row, generation in zip(ran, whole, strict=True):
                cut = generation.cut(rule, EOS, detokenise)
                assert (cut.tokens, cut.text, cut.stop) == (row.tokens, row.text, row.stop), rule
                assert cut.confidences == pytest.approx(row.confidences, abs=1e-5)
            seen |= {(row.stop, len(row.tokens)) for row in ran}
    assert len(seen) > 10


def thresholds(generations, window):
    """Quantiles of the window means, each moved to the middle between its neighbours."""
    means = sorted(
        fmean(g.confidences[at : at + window])
        for g in generations
        for at in range(max(0, len(g.confidences) - window + 1))
    )
    return [(means[at] + means[at + 1]) / 2 for at in range(0, len(means) - 1, max(1, len(means) // 6))]


def test_a_row_that_ends_by_itself_does_not_exit(uncut):
    """The stop token's own step fills the window, but the row has ended: eos, not exit."""
    ends = uncut[0].tokens[4]
    engine = Engine(tiny_model("llama"), Characters())
    engine.eos = (EOS, ends)
    rule = ExitRule(threshold=1.0, window=uncut[0].tokens.index(ends) + 1)
    row = run(engine, ragged(PROMPTS[:1]), StagePlan(exit=rule))[0]
    assert (row.stop, row.tokens[-1]) == ("eos", ends)
    whole = engine.generate(ragged(PROMPTS[:1]), StagePlan(), Decoding(), confidences=True).generations[0]
    assert whole.cut(rule, EOS, Detokenise(engine.tokenizer)).stop == "eos"


def test_a_stop_string_wins_over_the_exit_and_the_exit_over_the_limit(engine, uncut):
    text = Characters().decode(uncut[1].tokens)
    at = text.index(text[5])
    always = ExitRule(threshold=1.0, window=at + 1)
    assert run(engine, ragged(PROMPTS[1:2]), StagePlan(exit=always), stop=(text[at],))[0].stop == "stop_string"
    assert run(engine, ragged(PROMPTS[1:2], at + 1), StagePlan(exit=always))[0].stop == "exit"


# --- stop strings ---


def test_a_stop_string_ends_the_row_and_is_trimmed_from_its_text(engine, uncut):
    texts = [Characters().decode(row.tokens) for row in uncut]
    stops_at = [text[4:6] for text in texts]
    rows = run(engine, ragged(PROMPTS), stop=tuple(stops_at))
    for row, text, whole in zip(rows, texts, uncut, strict=True):
        first = min(text.index(stop) for stop in stops_at if stop in text)
        assert row.stop == "stop_string"
        assert row.text == text[:first]
        assert row.tokens == whole.tokens[: first + 2]  # the tokens keep what was generated


def test_a_stop_string_may_span_tokens_and_share_one(engine):
    """A token of several characters can complete a stop string and run past it."""

    class Syllables(Characters):
        def decode(self, tokens, skip_special_tokens=True):
            return "".join(f"<{token}>" for token in tokens)

    syllables = Engine(tiny_model("llama"), Syllables())
    whole = run(syllables, ragged(PROMPTS[:1]))[0]
    third = f"{whole.tokens[2]}><{whole.tokens[3]}"
    row = run(syllables, ragged(PROMPTS[:1]), stop=(third,))[0]
    assert row.tokens == whole.tokens[:4]
    assert row.text == f"<{whole.tokens[0]}><{whole.tokens[1]}><"


def test_a_stop_string_of_long_characters_is_found_in_tokens_of_single_bytes():
    class Bytes:
        def decode(self, tokens, skip_special_tokens=True):
            return bytes(tokens).decode(errors="replace")

    written = list("Antwort:→問題→".encode())
    assert len(written) - len("Antwort:") == 12  # four characters
    detokenise = Detokenise(Bytes(), ("→問題→",))
    found = [detokenise.found(written[: end + 1]) for end in range(len(written))]
    assert found == [*[False] * (len(written) - 1), True]
    assert detokenise(written) == "Antwort:"


# --- sampling ---


def sampled(engine, requests, **options):
    return [row.tokens for row in run(engine, requests, temperature=1.0, **options)]


def streams(prompts):
    return [Request(prompt, NEW, group=row, stream=f"q{row}/recall/0") for row, prompt in enumerate(prompts)]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(engine):
    first = sampled(engine, streams(PROMPTS), seed=7)
    assert sampled(engine, streams(PROMPTS), seed=7) == first
    other = sampled(engine, streams(PROMPTS), seed=8)
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_a_rows_random_stream_does_not_depend_on_its_batch(engine):
    together = sampled(engine, streams(PROMPTS), seed=7)
    backwards = sampled(engine, streams(PROMPTS)[::-1], seed=7)[::-1]
    alone = [sampled(engine, [request], seed=7)[0] for request in streams(PROMPTS)]
    assert together == backwards == alone


def test_rows_with_the_same_prompt_draw_apart(engine):
    requests = [Request(PROMPTS[0], NEW, stream=f"q/analyze/{row}") for row in range(4)]
    assert len(set(sampled(engine, requests))) == 4


def test_the_narrowest_sampling_is_greedy(engine, uncut):
    greedy = [row.tokens for row in uncut]
    assert sampled(engine, streams(PROMPTS), top_k=1) == greedy
    assert sampled(engine, streams(PROMPTS), top_p=1e-6) == greedy
    assert sampled(engine, streams(PROMPTS)) != greedy


def test_top_k_and_top_p_keep_to_the_likely_tokens(engine, monkeypatch):
    ranks = []
    draw = Sampler._draw

    def spy(self, rows, logits):
        tokens = draw(self, rows, logits)
        order = logits.argsort(dim=-1, descending=True).tolist()
        ranks.extend(of_row.index(token) for of_row, token in zip(order, tokens, strict=True))
        return tokens

    monkeypatch.setattr(Sampler, "_draw", spy)
    sampled(engine, streams(PROMPTS))
    assert max(ranks) >= 3
    ranks.clear()
    sampled(engine, streams(PROMPTS), top_k=3)
    assert max(ranks) == 2


def test_an_exit_cuts_a_sampled_text_where_its_own_confidences_say(engine):
    decoding = Decoding(temperature=0.8, seed=3)
    whole = engine.generate(streams(PROMPTS), StagePlan(), decoding, confidences=True).generations
    rule = middling_rule(whole, window=4)
    ran = engine.generate(streams(PROMPTS), StagePlan(exit=rule), decoding).generations
    detokenise = Detokenise(engine.tokenizer)
    assert [row.tokens for row in ran] == [row.cut(rule, EOS, detokenise).tokens for row in whole]


# --- stop strings that are special tokens ---


def special_tokenizer(before, special, after):
    """Bytes, ``before`` an a and ``after`` a b, but for token 2, which ends a text, and one other: both are special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = {2: "<|endoftext|>", special: "<|im_end|>"}
    taken = {**names, before: "a", after: "b"}
    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"a", "b"})
    vocabulary = {taken.get(token) or letters.pop(0): token for token in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names.values()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=names[2], clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("path", ["host", "static"])
def test_a_stop_string_may_be_a_special_token_or_hold_one(path):
    """Where another token ends the text: as ``generate(stop_strings=...)``, and the text is without either."""
    model, prompt = tiny_model("llama"), PROMPTS[0]
    written = greedy(model, prompt, NEW)
    at = next(at for at in range(5, NEW - 1) if len(set(written[: at + 2]) - {EOS}) == at + 2)
    tokenizer = special_tokenizer(*written[at - 1 : at + 2])
    engine = Engine(model, tokenizer, path)
    before = tokenizer.decode(written[:at])
    for stop, text in (
        ("<|im_end|>", before),
        ("a<|im_end|>", tokenizer.decode(written[: at - 1])),
    ):
        expected = greedy(model, prompt, NEW, stop_strings=[stop], tokenizer=tokenizer)
        assert len(expected) == at + 1 < NEW
        row = run(engine, [Request(prompt, NEW)], stop=(stop,))[0]
        assert (row.tokens, row.text, row.stop) == (expected, text, "stop_string")
    # special tokens in the middle of a text stay out of it
    for stop in ("<|im_end|>b", "b"):
        row = run(engine, [Request(prompt, NEW)], stop=(stop,))[0]
        assert (row.tokens, row.text, row.stop) == (written[: at + 2], before, "stop_string")
    row = run(engine, [Request(prompt, NEW)], stop=("no such text", "ab"))[0]  # a and b are not side by side
    assert (row.tokens, row.text) == (written, tokenizer.decode(written, skip_special_tokens=True))


def test_looking_for_the_exit_takes_time_in_proportion_to_the_text():
    """Counted, not timed: what is read of 4,000 confidences is the window at each step."""

    class Counted(list):
        read = 0

        def __getitem__(self, at):
            found = super().__getitem__(at)
            Counted.read += len(found) if isinstance(at, slice) else 1
            return found

    confidences = Counted([0.9] * 4000)
    assert exit_step(ExitRule(threshold=0.1, window=5), Steps(confidences=confidences)) is None
    assert Counted.read <= 5 * 4000
