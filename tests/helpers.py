"""
Small real things for tests: excerpts of the books, a tokenizer trained on them, a random Llama of
two layers as a checkpoint on disk, and the excerpts as its tokens.
"""

import functools
import lzma
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from longrope.config import FolderModel, TokenizeSettings
from longrope.corpus import SPLITS, tokenize_corpus
from longrope.factors import RescaleFactors
from longrope.models import import_model, load_model, load_tokenizer, read_record, save_model
from longrope.passkey import FILLER, INTRO, QUESTION, STATEMENT

ROOT = Path(__file__).parents[1]
WINDOW = 64  # tokens that the checkpoint is made for
PAIRS = 8  # that turn in each of its heads
END = "<|endoftext|>"
EXCERPTS = {  # book -> characters
    "emma": 9000,
    "hamlet": 6000,
    "macbeth": 6000,
    "persuasion": 5000,
    "the-tempest": 5000,
}
SPLIT = {"validation": ["macbeth", "the-tempest"], "test": ["persuasion"]}


@functools.cache
def excerpt(book: str, characters: int = 6000) -> str:
    """The beginning of a book, after the front matter."""
    with lzma.open(ROOT / f"resources/books/{book}.txt.xz", "rt", encoding="utf-8") as file:
        return file.read(1000 + characters)[1000:]


def write_excerpts(folder: Path) -> str:
    """Write an excerpt of each book as a text file; returns the glob that finds them."""
    folder.mkdir(parents=True)
    for book, characters in EXCERPTS.items():
        (folder / f"{book}.txt").write_text(excerpt(book, characters))
    return f"{folder}/*.txt"


@functools.cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 384 tokens, digits single, whose BOS and EOS are the same."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    template = [INTRO, FILLER, STATEMENT, QUESTION] * 30
    tokenizer.train_from_iterator([*map(excerpt, EXCERPTS), *template], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False
    )


def save_llama(folder: Path, seed: int = 0, **shards) -> Path:
    """A random Llama as `save_pretrained` leaves it, with its tokenizer."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.2,  # wide, so that attention depends on positions
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder, **shards)
    tokenizer.save_pretrained(folder)
    return folder


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """That Llama brought in as the model `tiny`, with its record."""
    source = save_llama(folder / "source", seed)
    import_model(FolderModel(kind="folder", path=str(source)), "tiny", WINDOW, folder / "model")
    return folder / "model"


def make_tokens(folder: Path) -> Path:
    """The excerpts as tokens of that model: folders train, validation and test."""
    source = {"kind": "text", "files": [write_excerpts(folder / "texts")]}
    settings = TokenizeSettings(corpus={"source": source, "splits": SPLIT})
    folders = {split: folder / split for split in SPLITS}
    tokenize_corpus(settings, make_tokenizer(), folders, say=lambda _: None)
    return folder


def make_tuned(folder: Path, base: Path, factors: RescaleFactors) -> Path:
    """The weights of a checkpoint under the name `tuned`, as if tuned with some factors."""
    record = read_record(base).tuned_as("tuned")
    save_model(load_model(base), load_tokenizer(base), folder, record, "float32", factors)
    return folder
