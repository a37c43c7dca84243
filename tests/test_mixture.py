"""Training sequences: exact lengths, weights on answers, batches that depend on a step alone."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import END, make_tokenizer, make_tokens
from longrope.config.training import Phase
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.passkey import WORDS
from longrope.training.mixture import SequenceMaker

KINDS = ["text", "passage", "copy", "word", "digits-1", "digits-5", "dense-1", "dense-4"]
EVERY = pytest.mark.parametrize("kind", KINDS)


class Documents(list):
    """Stands for a split: documents of given lengths whose tokens count up, none shared."""

    folder = "documents"

    def __init__(self, *lengths: int) -> None:
        starts = np.cumsum([0, *lengths])
        for start, length in zip(starts, lengths, strict=False):
            tokens = np.arange(start, start + length, dtype=np.uint16)
            self.append(type("Document", (), {"tokens": tokens}))


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    folder = make_tokens(tmp_path_factory.mktemp("mixture") / "data")
    return SequenceMaker(make_tokenizer(), TokenSplit(folder / "train"))


def decode(ids) -> str:
    return make_tokenizer().decode(ids)


def answers(ids, weights, weight: float) -> list[str]:
    """The text of every run of tokens that have a weight."""
    chosen = np.flatnonzero(weights == np.float32(weight))
    runs = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
    return [decode(ids[run]).strip() for run in runs]


@EVERY
@given(length=st.integers(120, 600), seed=st.integers(0, 2**32))
def test_every_kind_has_exactly_the_length(maker, kind, length, seed):
    ids, weights = maker.sequence(kind, length, np.random.default_rng(seed))
    assert ids.shape == weights.shape == (length,)
    assert ids.dtype == np.int64 and weights.dtype == np.float32
    assert ids.min() >= 0 and ids.max() < 384
    assert weights.min() >= 0 and weights[1:].sum() > 0


@pytest.mark.parametrize("kind", ["text", "passage", "copy", "dense-1", "dense-4"])
@pytest.mark.parametrize("length", [8, 11, 16, 33])
def test_kinds_without_a_passkey_may_be_short(maker, kind, length):
    for seed in range(20):
        ids, weights = maker.sequence(kind, length, np.random.default_rng(seed))
        assert ids.shape == weights.shape == (length,)


@pytest.mark.parametrize("length", [100, 400])
@pytest.mark.parametrize("digits", [1, 3, 5])
def test_the_weighted_tokens_of_a_passkey_document_are_the_keys_digits(maker, digits, length):
    for seed in range(10):
        ids, weights = maker.sequence(f"digits-{digits}", length, np.random.default_rng(seed))
        (key,) = answers(ids, weights, 4)
        assert re.fullmatch(rf"[1-9]\d{{{digits - 1}}}", key)
        assert f"The pass key is {key}. Remember it. {key} is the pass key." in decode(ids)
        assert decode(ids).endswith(f"What is the pass key? The pass key is {key}")
        assert set(weights) == {1, 4}


def test_a_word_is_a_key_like_any_other(maker):
    keys = set()
    for seed in range(40):
        ids, weights = maker.sequence("word", 200, np.random.default_rng(seed))
        (key,) = answers(ids, weights, 4)
        assert key in WORDS and decode(ids).count(f"The pass key is {key}") == 2
        keys.add(key)
    assert len(keys) > 20


def test_half_of_the_passkey_documents_have_text_as_filler(maker):
    texts = [decode(maker.sequence("word", 300, np.random.default_rng(s))[0]) for s in range(60)]
    assert 15 < sum("The grass is green." in text for text in texts) < 45


@pytest.mark.parametrize("digits", [1, 3])
def test_the_answers_of_a_dense_document_were_stated_before(maker, digits):
    ids, weights = maker.sequence(f"dense-{digits}", 1000, np.random.default_rng(0))
    statements = re.findall(r" (\w+) is (\d+)\.", decode(ids))
    known, repeats = {}, []
    for word, value in statements:
        if word in known:
            repeats.append(value)
        assert known.setdefault(word, value) == value and len(value) == digits
    found = answers(ids, weights, 1)
    assert len(repeats) >= 10 and found[: len(repeats)] == repeats
    assert set(weights) == {np.float32(0.2), 1}


def test_a_copy_repeats_its_unweighted_piece(maker):
    for seed in range(20):
        ids, weights = maker.sequence("copy", 100, np.random.default_rng(seed))
        piece = int((weights == np.float32(0.2)).sum())
        assert 8 <= piece <= 50 and np.all(weights[piece:] == 1)
        assert all(ids[place] == ids[place % piece] for place in range(100))


def test_text_stands_between_bos_and_eos_and_a_passage_does_not(maker):
    end = make_tokenizer().convert_tokens_to_ids(END)
    text, weights = maker.sequence("text", 100, np.random.default_rng(3))
    passage, _ = maker.sequence("passage", 100, np.random.default_rng(3))
    assert text[0] == text[-1] == end and np.all(weights == 1)
    assert np.array_equal(text[1:-1], passage[1:-1]) and end not in passage


@pytest.mark.parametrize("kind", ["text", "passage", "copy"])
def test_text_never_crosses_documents(kind):
    maker = SequenceMaker(make_tokenizer(), Documents(40, 90, 31, 250))
    edges = np.cumsum([40, 90, 31, 250])
    for seed in range(200):
        ids, weights = maker.sequence(kind, 30, np.random.default_rng(seed))
        if kind == "copy":
            ids = ids[weights != 1]
        inner = ids[1:-1]
        assert np.all(np.diff(inner) == 1)
        assert len(set(np.searchsorted(edges, inner, side="right"))) == 1


def test_every_position_of_the_corpus_is_drawn_alike():
    maker = SequenceMaker(make_tokenizer(), Documents(12, 9, 16))  # 3 + 0 + 7 starts of 10 tokens
    starts = [maker.sequence("passage", 10, np.random.default_rng(s))[0][0] for s in range(4000)]
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == [0, 1, 2, *range(21, 28)]
    assert np.all(np.abs(counts - 400) < 100)  # five standard deviations


def test_a_batch_is_a_function_of_seed_and_step_alone(maker):
    mixture = {"text": 0.4, "copy": 0.2, "digits-5": 0.2, "dense-2": 0.2}
    first = maker.batch(mixture, 6, 160, seed=1, step=7)
    maker.batch(mixture, 6, 160, seed=1, step=8)
    np.random.default_rng(0).random()
    again = maker.batch(mixture, 6, 160, seed=1, step=7)
    assert np.array_equal(first.tokens, again.tokens)
    assert np.array_equal(first.weights, again.weights)
    for seed, step in ((1, 8), (2, 7), (7, 1)):
        assert not np.array_equal(maker.batch(mixture, 6, 160, seed, step).tokens, first.tokens)


def test_the_shares_of_a_mixture_are_respected(maker):
    end = make_tokenizer().convert_tokens_to_ids(END)
    batch = maker.batch({"text": 0.6, "dense-1": 0.3, "passage": 0.1}, 1000, 24, seed=1, step=0)
    dense = np.any(batch.weights != 1, axis=1)
    text = batch.tokens[:, 0] == end
    assert dense.mean() == pytest.approx(0.3, abs=0.06)
    assert text.mean() == pytest.approx(0.6, abs=0.06)


def test_shares_that_the_configuration_accepts_can_be_drawn(maker):
    shares = dict.fromkeys(["text", "passage", "copy"], 0.3333333)
    phase = Phase(steps=1, length=32, mixture=shares)
    assert maker.batch(phase.mixture, 4, 32, seed=1, step=0).tokens.shape == (4, 32)


@pytest.mark.parametrize("kind", ["text", "passage"])
def test_documents_that_are_too_short_are_an_error_that_names_the_longest(kind):
    maker = SequenceMaker(make_tokenizer(), Documents(40, 90, 31))
    with pytest.raises(UserError, match=r"has 91 tokens \(longest: 90\)"):
        maker.sequence(kind, 91, np.random.default_rng(0))
    assert len(maker.sequence(kind, 90, np.random.default_rng(0))[0]) == 90


def test_a_passkey_document_longer_than_its_length_is_an_error(maker):
    with pytest.raises(UserError, match=r"takes \d+ tokens, the window has 20"):
        maker.sequence("digits-5", 20, np.random.default_rng(0))


def test_a_split_without_documents_is_an_error():
    with pytest.raises(UserError, match="documents: no documents to train on"):
        SequenceMaker(make_tokenizer(), Documents())
