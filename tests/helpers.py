"""
Small real things for tests: excerpts of the books, a tokenizer trained on them, a random Llama of
two layers as a checkpoint on disk, and the excerpts as its tokens. And a search without a model.
"""

import functools
import lzma
import math
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from longrope.baselines import closed_form
from longrope.config import FolderModel
from longrope.config.corpus import TokenizeSettings
from longrope.config.search import PaperSpace
from longrope.config.training import TuningStage
from longrope.corpus.documents import SPLITS
from longrope.corpus.tokens import tokenize_corpus
from longrope.factors import RescaleFactors, Rope, write_factors
from longrope.files import read_lines
from longrope.models.checkpoint import load_model, load_tokenizer, read_record, save_model
from longrope.models.import_model import import_model
from longrope.passkey import FILLER, INTRO, QUESTION, STATEMENT
from longrope.search.driver import run_search
from longrope.search.optimisers import make_optimiser
from longrope.search.scoring import Score
from longrope.search.space import first_space
from longrope.training.finetune import finetune

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


class Killed(Exception):
    """What a kill looks like from inside."""


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


def dying(step: int, batches):
    """The same batches until a kill at a step, which is the last argument."""

    def until_then(*arguments):
        if arguments[-1] == step:
            raise Killed
        return batches(*arguments)

    return until_then


def tune(base, tokens, folder, factors, name="tuned-128", **changes):
    """Tune in `folder` for four steps at the window 128; returns the final metrics."""
    settings = {"method": "yarn", "window": 128, "steps": 4, "batch": 2, "learning_rate": 0.01}
    mixture = {"mixture": {"text": 0.5, "word": 0.5}}
    stage = TuningStage(name=name, tuning=settings | mixture | changes, seed=1)
    write_factors(folder / "factors.json", factors)
    paths = folder / "model", folder / "metrics.jsonl", folder / "state"
    return finetune(stage, base, folder / "factors.json", tokens, *paths, say=lambda _: None)


# --- a search without a model ---------------------------------------------------------------

TOY_ROPE = Rope("toy", 10000.0, 2 * PAIRS, 256, "?")
OPTIMUM = (1, 1, 1.3, 2, 3.5, 6, 7, 8.5)  # of the convex objective: lambda, for 8x


def convex(logs: np.ndarray, sample: int, n_hat: int) -> float:
    """A loss with its optimum, 0, at OPTIMUM and n_hat = 8."""
    distance = logs - np.log(OPTIMUM)
    return distance @ distance + 0.001 * abs(n_hat - 8)


class Toy:
    """A scorer without a model: a function of log lambda, sample and n_hat; may be killed."""

    tokens, tokens_before = 100, 7

    def __init__(self, loss=convex, samples: int = 3, dies_after: float = math.inf) -> None:
        self.loss, self.samples, self.dies_after = loss, samples, dies_after
        self.scored = []

    def score(self, factors: RescaleFactors, sample: int) -> Score:
        if len(self.scored) == self.dies_after:
            raise Killed
        self.scored.append((factors.lambda_, factors.n_hat, factors.attention_factor, sample))
        loss = float(self.loss(np.log(factors.lambda_), sample, factors.n_hat))
        return Score(loss, {"perplexity": loss})


def toy_search(settings, trace, scores=360, toy=None, *, seed=1, **options):
    """A search at 8x from PI, NTK and YaRN, of so many scores on one sample."""
    space = options.get("space") or PaperSpace()
    toy, attention = toy or Toy(), options.get("attention", 1.0)
    space = first_space(TOY_ROPE, 2048, space, attention_factor=attention)
    starts = {
        space.candidate(closed_form(form, TOY_ROPE, 2048)): form
        for form in options.get("forms", ("pi", "ntk", "yarn"))
    }
    rng = np.random.default_rng(seed)
    optimiser = make_optimiser(settings, space, list(starts), toy.samples, scores, rng)
    say = options.get("say", print)
    return run_search(optimiser, space, starts, toy, scores, trace, "toy", say)


def flip_a_bit(path: Path) -> None:
    """What a bad disk does to a file: one bit, half-way."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lines_of(trace: Path) -> list[dict]:
    """A trace but for how long each score took."""
    return [line | {"seconds": 0} for line in read_lines(trace)]
