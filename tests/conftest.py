"""
What several test modules share: a tiny random checkpoint with a real tokenizer, and real text.

The weights are drawn wide, so that the logits depend strongly on every position: a token that is
shifted, lost or rotated wrongly changes them by far more than rounding does.
"""

import lzma
from pathlib import Path

import pytest

BOOKS = Path(__file__).parents[1] / "resources" / "books"
EXCERPTS = {  # book -> characters; the tokenizer makes about 2 of them a token
    "hamlet": 6000,
    "macbeth": 5000,
    "emma": 4000,
    "king-lear": 700,
    "the-tempest": 2500,
}
TESTS = ["hamlet", "emma", "king-lear"]  # long, middle, short
WINDOW = 64  # of the tiny model, in tokens


@pytest.fixture(autouse=True)
def _released():
    """What a command does at its end: other processes may work on a test's progress."""
    yield
    from longrope.state import release_states

    release_states()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Settings of a corpus of book excerpts on disk."""
    from longrope.config.corpus import CorpusSettings

    folder = tmp_path_factory.mktemp("books")
    for book, characters in EXCERPTS.items():
        with lzma.open(BOOKS / f"{book}.txt.xz", "rt", encoding="utf-8") as file:
            (folder / f"{book}.txt").write_text(file.read(characters + 2000)[2000:])
    return CorpusSettings(
        source={"kind": "text", "files": [f"{folder}/*.txt"]},
        splits={"validation": ["the-tempest"], "test": TESTS},
    )


@pytest.fixture(scope="session")
def tokenizer(corpus, tmp_path_factory):
    """A byte-level BPE of 384 tokens, trained on the excerpts."""
    from longrope.training.pretrain import train_tokenizer

    return train_tokenizer(corpus, 384, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def checkpoint(tokenizer, tmp_path_factory) -> Path:
    """A random Llama as `save_pretrained` writes it: 2 layers, 4 heads of 8, window 64."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("checkpoint")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint as the project imports it."""
    from longrope.config import FolderModel
    from longrope.models.import_model import import_model

    folder = tmp_path_factory.mktemp("imported") / "model"
    import_model(FolderModel(kind="folder", path=str(checkpoint)), "tiny", WINDOW, folder)
    return folder


@pytest.fixture(scope="session")
def rope(model_folder):
    """The RoPE of the tiny model: 4 pairs."""
    from longrope.models.checkpoint import read_record

    return read_record(model_folder).rope


@pytest.fixture
def model(model_folder):
    """The tiny model, loaded anew: a test may change it."""
    from longrope.models.checkpoint import load_model

    return load_model(model_folder)


@pytest.fixture(scope="session")
def tokens(corpus, tokenizer, tmp_path_factory) -> dict[str, Path]:
    """The excerpts as tokens: one folder for each of train, validation and test."""
    from longrope.config.corpus import TokenizeSettings
    from longrope.corpus.documents import SPLITS
    from longrope.corpus.tokens import tokenize_corpus

    root = tmp_path_factory.mktemp("tokens")
    folders = {split: root / split for split in SPLITS}
    tokenize_corpus(TokenizeSettings(corpus=corpus), tokenizer, folders, say=lambda _: None)
    return folders
