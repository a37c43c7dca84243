"""The fitness: each of its losses against transformers' own logits in float64."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import WINDOW, make_checkpoint, make_tokens
from longrope.baselines import closed_form
from longrope.config.search import Fitness
from longrope.corpus.tokens import TokenDocument, TokenSplit
from longrope.errors import UserError
from longrope.models.checkpoint import load_model, load_tokenizer, read_record
from longrope.passkey import FILLER, PasskeyWriter
from longrope.search import scoring
from longrope.search.scoring import LossScorer, Score, mean_score

LONG = 4 * WINDOW
PI = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": WINDOW,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("scoring"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("scoring") / "data") / "validation"


@pytest.fixture(scope="module")
def losses_of(model):
    """A function: tokens and RoPE settings of transformers -> the loss of every target."""
    made = {}

    def losses(ids, rope: dict) -> np.ndarray:
        name = rope["rope_type"]
        if name not in made:
            config = LlamaConfig.from_pretrained(model, rope_parameters=rope)
            made[name] = LlamaForCausalLM.from_pretrained(model, config=config).double().eval()
        ids = torch.as_tensor(np.asarray(ids, dtype=np.int64))
        with torch.no_grad():
            logits = made[name](input_ids=ids[None]).logits[0, :-1].double()
        return -logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]].numpy()

    return losses


class Windows:
    """A split whose documents are just as long as asked for: nothing is drawn from them."""

    def __init__(self, folder) -> None:
        self._documents = list(TokenSplit(folder))

    def at_least(self, tokens: int, documents: int, purpose: str) -> list[TokenDocument]:
        return [
            TokenDocument(each.id, np.asarray(each.tokens[:tokens]), False)
            for each in self._documents[:documents]
        ]


class Recorder(PasskeyWriter):
    """A writer that keeps what it wrote."""

    def __init__(self, tokenizer) -> None:
        super().__init__(tokenizer)
        self.made = []

    def write(self, *arguments, **options):
        self.made.append(super().write(*arguments, **options))
        return self.made[-1]


def scorer_of(model, tokens, *, window=LONG, documents=2, writer=None, seed=0, **fitness):
    rng, rope = np.random.default_rng(seed), read_record(model).rope
    settings = Fitness(**fitness)
    split = Windows(tokens)
    return LossScorer(load_model(model), rope, split, window, documents, settings, rng, writer)


def factors_of(model, form: str, window: int = LONG):
    return closed_form(form, read_record(model).rope, window)


def texts_of(tokens, window=LONG) -> list[np.ndarray]:
    return [each.tokens for each in Windows(tokens).at_least(window, 2, "")]


# --- perplexity -----------------------------------------------------------------------------


def test_the_fitness_is_the_loss_that_transformers_computes(model, tokens):
    document = next(iter(TokenSplit(tokens)))
    length, rng = len(document.tokens), np.random.default_rng(0)
    rope = read_record(model).rope
    scorer = LossScorer(load_model(model), rope, TokenSplit(tokens), length, 1, Fitness(), rng)
    ids = torch.tensor(document.tokens.astype(np.int64))[None]
    with torch.no_grad():
        expected = load_model(model)(input_ids=ids, labels=ids).loss.item()
    score = scorer.score(factors_of(model, "none", length), 0)
    assert score.fitness == score.losses["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert score.losses.keys() == {"perplexity"}
    assert (scorer.tokens, scorer.tokens_before, scorer.samples) == (length, 0, 1)


@pytest.mark.parametrize(("form", "rope"), [("pi", PI), ("yarn", YARN)], ids=["pi", "yarn"])
def test_rescaled_losses_are_those_of_transformers_own_scaling(
    form, rope, model, tokens, losses_of
):
    scorer, factors = scorer_of(model, tokens), factors_of(model, form)
    for sample, text in enumerate(texts_of(tokens)):
        expected = losses_of(text, rope).mean()
        assert scorer.score(factors, sample).fitness == pytest.approx(expected, rel=1e-5)


def test_windows_are_drawn_once_from_anywhere_in_a_document(model, tokens):
    def scorer(seed):
        rng, rope = np.random.default_rng(seed), read_record(model).rope
        return LossScorer(load_model(model), rope, TokenSplit(tokens), 256, 2, Fitness(), rng)

    factors = factors_of(model, "pi")
    first = scorer(0)
    assert first.score(factors, 1) == first.score(factors, 1) == scorer(0).score(factors, 1)
    assert len({scorer(seed).score(factors, 1).fitness for seed in range(5)}) == 5


# --- needles --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def needles(model, tokens):
    """A scorer with three needles a document, and what was written for it."""
    writer = Recorder(load_tokenizer(model))
    return scorer_of(model, tokens, writer=writer, needle=0.25, needles=3), writer.made


def test_the_needle_loss_is_that_of_the_answers_alone(needles, model, losses_of):
    scorer, made = needles
    factors, tokenizer = factors_of(model, "pi"), load_tokenizer(model)
    for sample in range(2):
        expected = []
        for needle in made[3 * sample : 3 * sample + 3]:
            assert len(needle.prompt) + len(needle.answer) == LONG
            assert tokenizer.decode(needle.answer).strip() == needle.key and len(needle.key) == 5
            losses = losses_of(np.concatenate([needle.prompt, needle.answer]), PI)
            expected.append(losses[len(needle.prompt) - 1 :].mean())
        score = scorer.score(factors, sample)
        assert score.losses["needle"] == pytest.approx(np.mean(expected), rel=1e-5)
        assert score.fitness == pytest.approx(
            score.losses["perplexity"] + 0.25 * score.losses["needle"]
        )
    assert scorer.tokens == 4 * LONG


def test_losses_of_a_needles_other_tokens_do_not_matter(needles, model, monkeypatch):
    scorer, made = needles
    before, true = scorer.score(factors_of(model, "pi"), 0), scoring.token_losses
    prompts = {(*needle.prompt, *needle.answer): len(needle.prompt) for needle in made}

    def spoiled(model, tokens):
        losses = true(model, tokens).clone()
        if prompt := prompts.get(tuple(tokens[0].tolist())):
            losses[:, : prompt - 1] = math.nan
        return losses

    monkeypatch.setattr(scoring, "token_losses", spoiled)
    assert scorer.score(factors_of(model, "pi"), 0) == before


def test_needles_change_no_window(needles, model, tokens):
    plain, factors = scorer_of(model, tokens), factors_of(model, "pi")
    for sample in range(2):
        expected = plain.score(factors, sample).losses["perplexity"]
        assert needles[0].score(factors, sample).losses["perplexity"] == expected


def test_needles_alternate_between_filler_and_text_and_cover_all_depths(model, tokens):
    tokenizer, texts = load_tokenizer(model), texts_of(tokens)
    writer = Recorder(tokenizer)
    scorer_of(model, tokens, writer=writer, needle=1, needles=4)
    grass = FILLER.split(".")[0]
    hidden = [grass in tokenizer.decode(each.prompt) for each in writer.made]
    assert hidden.count(True) == 4
    assert all(
        pair in ([True, False], [False, True]) for pair in np.reshape(hidden, (4, 2)).tolist()
    )
    for number, each in enumerate(writer.made):
        text, whole = texts[number // 4], " ".join(map(str, each.prompt))
        pieces = [" ".join(map(str, text[start : start + 8])) for start in (10, 20, 30)]
        # Of its own document, but for the piece that the key may stand in.
        assert sum(piece in whole for piece in pieces) >= 2 * (not hidden[number])
    depths = sorted(each.depth for each in writer.made)
    assert len({each.key for each in writer.made}) == 8
    assert all(part / 8 - 0.1 <= depth <= (part + 1) / 8 + 0.1 for part, depth in enumerate(depths))


def test_with_one_needle_a_document_some_are_hidden_in_text(model, tokens):
    tokenizer = load_tokenizer(model)
    writer = Recorder(tokenizer)
    scorer_of(model, tokens, writer=writer, needle=1)
    grass = FILLER.split(".")[0]
    assert {grass in tokenizer.decode(each.prompt) for each in writer.made} == {True, False}


# --- tokens that long context helps ---------------------------------------------------------


def short_losses(text: np.ndarray, losses_of) -> np.ndarray:
    """The loss of every target in the window of 64 that ends with its half window of 32.

    Token t is scored in the window [end - 64, end) of the first end in 64, 96, 128, ... above t.
    """
    found = np.full(len(text) - 1, math.nan)
    for token in range(1, len(text)):
        end = max(WINDOW, (token // 32 + 1) * 32)
        start = end - WINDOW
        found[token - 1] = losses_of(text[start : token + 1], PLAIN)[-1]
    return found


@pytest.fixture(scope="module")
def helped(tokens, losses_of):
    """Gains by long context of both texts, and a bound that no gain is near to."""
    gains = []
    for text in texts_of(tokens):
        gain = short_losses(text, losses_of) - losses_of(text, YARN)
        gain[: WINDOW - 1] = -math.inf  # targets 1 to 63: the short window sees all that is before
        gains.append(gain)
    ordered = np.sort(np.concatenate(gains))
    ordered = ordered[ordered > 0]
    middle = np.argmax(np.diff(ordered[: len(ordered) // 2]))
    return gains, float(ordered[middle : middle + 2].mean())


ANY = 99.0  # nats: no loss of the random model is above it


@pytest.mark.parametrize("below", [ANY, 7.0])
def test_the_long_tokens_are_those_that_all_of_the_context_helps_to_a_low_loss(
    below, helped, model, tokens, losses_of
):
    gains, bound = helped
    scorer = scorer_of(model, tokens, long_tokens=0.5, helped_by=bound, known_below=below)
    for sample, (text, gain) in enumerate(zip(texts_of(tokens), gains, strict=True)):
        chosen = (gain >= bound) & (losses_of(text, YARN) < below)
        assert 5 < chosen.sum() < 150
        assert (chosen.sum() < (gain >= bound).sum()) == (below < ANY)
        for form, rope in (("pi", PI), ("yarn", YARN)):
            losses = losses_of(text, rope)
            score = scorer.score(factors_of(model, form), sample)
            expected = losses[chosen].mean()
            assert score.losses["long_tokens"] == pytest.approx(expected, rel=1e-5)
            assert score.fitness == pytest.approx(losses.mean() + 0.5 * expected, rel=1e-5)


def test_losses_of_other_tokens_do_not_matter_for_the_long_ones(helped, model, tokens, monkeypatch):
    gains, bound = helped
    scorer = scorer_of(model, tokens, long_tokens=1, helped_by=bound, known_below=ANY)
    factors, true = factors_of(model, "pi"), scoring.token_losses
    before = scorer.score(factors, 0)

    def spoiled(model, tokens):
        losses = true(model, tokens).clone()
        losses[0, torch.from_numpy(gains[0] < bound)] = math.nan
        return losses

    monkeypatch.setattr(scoring, "token_losses", spoiled)
    after = scorer.score(factors, 0)
    assert after.losses["long_tokens"] == before.losses["long_tokens"]
    assert after.fitness == math.inf  # for the perplexity is not a number


def test_which_tokens_count_does_not_depend_on_what_was_scored_before(helped, model, tokens):
    used = scorer_of(model, tokens, long_tokens=1, helped_by=helped[1], known_below=ANY)
    for form in ("pi", "ntk", "none"):
        used.score(factors_of(model, form), 1)
    fresh = scorer_of(model, tokens, long_tokens=1, helped_by=helped[1], known_below=ANY)
    assert used.score(factors_of(model, "yarn"), 1) == fresh.score(factors_of(model, "yarn"), 1)


def test_what_the_choice_costs_is_counted(helped, model, tokens, monkeypatch):
    forwarded, true = [], scoring.token_losses

    def counting(model, tokens):
        forwarded.append(tokens.numel())
        return true(model, tokens)

    monkeypatch.setattr(scoring, "token_losses", counting)
    scorer = scorer_of(model, tokens, long_tokens=1, helped_by=helped[1], known_below=ANY)
    assert sum(forwarded) <= scorer.tokens_before <= 1.1 * sum(forwarded)
    forwarded.clear()
    scorer.score(factors_of(model, "pi"), 0)
    assert sum(forwarded) == scorer.tokens


def test_at_a_window_of_no_whole_number_of_half_windows_short_contexts_are_as_long(
    model, tokens, monkeypatch
):
    """Every target behind the first 64 has at least 32 tokens of the short context before it."""
    pieces, true = [], scoring.token_losses

    def recording(model, tokens):
        pieces.append(tokens.shape[1])
        return true(model, tokens)

    monkeypatch.setattr(scoring, "token_losses", recording)
    scorer_of(
        model, tokens, window=200, documents=1, long_tokens=1, helped_by=0.01, known_below=ANY
    )
    assert min(pieces) >= WINDOW


# --- the sum --------------------------------------------------------------------------------


def test_weights_add_up_and_a_weight_of_0_is_not_measured(helped, model, tokens):
    weights = {"perplexity": 0.5, "needle": 0.25, "long_tokens": 2.0}
    writer = PasskeyWriter(load_tokenizer(model))
    both = scorer_of(model, tokens, writer=writer, helped_by=helped[1], known_below=ANY, **weights)
    score = both.score(factors_of(model, "ntk"), 1)
    expected = sum(weight * score.losses[name] for name, weight in weights.items())
    assert score.losses.keys() == weights.keys()
    assert score.fitness == pytest.approx(expected)
    only = scorer_of(
        model, tokens, perplexity=0, long_tokens=1, helped_by=helped[1], known_below=ANY
    )
    alone = only.score(factors_of(model, "ntk"), 1)
    assert alone.fitness == alone.losses["long_tokens"] == score.losses["long_tokens"]
    assert alone.losses["perplexity"] == score.losses["perplexity"]  # reported all the same


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("measure", ["perplexity", "needle"])
def test_a_loss_that_is_not_finite_is_the_worst_fitness(
    measure, value, needles, model, monkeypatch
):
    scorer, made = needles
    documents = {(*needle.prompt, *needle.answer) for needle in made}
    true = scoring.token_losses

    def spoiled(model, tokens):
        losses = true(model, tokens).clone()
        if (tuple(tokens[0].tolist()) in documents) == (measure == "needle"):
            losses[:, -1] = value
        return losses

    monkeypatch.setattr(scoring, "token_losses", spoiled)
    score = scorer.score(factors_of(model, "pi"), 0)
    assert score.fitness == math.inf
    assert sum(math.isfinite(loss) for loss in score.losses.values()) == 1


def test_the_mean_of_scores_is_that_of_every_loss():
    scores = [
        Score(3.0, {"perplexity": 1.0, "needle": 2.0}),
        Score(5.0, {"perplexity": 2.0, "needle": 3.0}),
    ]
    assert mean_score(scores) == Score(4.0, {"perplexity": 1.5, "needle": 2.5})
    assert mean_score([*scores, Score(math.inf, scores[0].losses)]).fitness == math.inf


def test_where_long_context_helps_no_token_the_search_says_so(model, tokens):
    with pytest.raises(UserError, match="by 99 nats to a loss below 2: lower fitness"):
        scorer_of(model, tokens, long_tokens=1, helped_by=99)
