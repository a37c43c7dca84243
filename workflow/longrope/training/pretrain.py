"""
A small Llama made from the project's own corpus: the model that the default run extends.

This is no part of LongRoPE. It exists so that the whole method runs on two cores and offline, on
a model whose window really matters: blind beyond it, and able to retrieve within it.
"""

import bisect
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from longrope.config import PretrainedHere
from longrope.config.base import BASE
from longrope.config.corpus import CorpusSettings, TokenizeSettings
from longrope.corpus.documents import SPLITS, read_documents
from longrope.corpus.tokens import TokenSplit, tokenize_corpus
from longrope.factors import Rope
from longrope.files import replacing
from longrope.first_calls import settle_kernels
from longrope.models.architectures import UNKNOWN
from longrope.models.checkpoint import ModelRecord, device, save_model
from longrope.passkey import FILLER, INTRO, QUESTION, STATEMENT, WORDS
from longrope.state import open_state
from longrope.training.loop import Rate, train
from longrope.training.mixture import Batch, SequenceMaker
from longrope.versions import VERSIONS

END = "<|endoftext|>"  # begins every document, and ends a segment


def pretrain(
    settings: PretrainedHere,
    corpus: CorpusSettings,
    name: str,
    window: int,
    seed: int,
    folder: Path,
    state: Path,
    on_metrics: Callable[[dict], None] = lambda record: None,
) -> dict[str, float]:
    """Train a tokenizer and a model from nothing and save them as a bf16 checkpoint.

    Returns final metrics; writes `training.json` (steps, tokens, seconds, data hash) beside the
    weights.
    """
    settled = [settings.model_dump(), corpus.model_dump(), name, window, seed, _content(corpus)]
    state = open_state(state, [VERSIONS["pretrain"], *settled])
    tokenizer = train_tokenizer(corpus, settings.architecture.vocabulary, state / "tokenizer")
    folders = {split: state / "data" / split for split in SPLITS}
    if not all((each / "manifest.json").exists() for each in folders.values()):
        tokenize_corpus(TokenizeSettings(corpus=corpus), tokenizer, folders)
    split = TokenSplit(folders["train"])
    maker = SequenceMaker(tokenizer, split)

    ends = list(itertools.accumulate(phase.steps for phase in settings.phases))

    def batches_at(step: int) -> list[Batch]:
        phase = settings.phases[bisect.bisect_right(ends, step)]
        sequences = max(1, settings.tokens_per_step // phase.length)
        return [maker.batch(phase.mixture, sequences, phase.length, seed, step)]

    torch.manual_seed(seed)  # the initial weights: transformers offers no generator for them
    model = build_model(settings, window, tokenizer).to(device())
    lengths = [phase.length for phase in settings.phases]
    metrics = train(
        model,
        lambda: optimisers_of(model, settings),
        batches_at,
        Rate(ends[-1], settings.warmup, settings.hold, settings.final),
        settings,
        state,
        compiled=settings.compile,
        remedies=[
            f"lower models.{name}.source.tokens_per_step (now {settings.tokens_per_step:,})",
            f"lower the length of its phases (up to {max(lengths):,})",
        ],
        describe=f"pre-training {name}",
        on_metrics=on_metrics,
    )
    training = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": len(metrics),
        "tokens": sum(each["tokens"] for each in metrics),
        "corpus_tokens": split.manifest["tokens"],
        "corpus_sha256": split.manifest["sha256"],
        "seconds": round(sum(each["seconds"] for each in metrics)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": settings.precision,
        "seed": seed,
    }
    rope = Rope(name, settings.architecture.theta, model.config.head_dim, window, UNKNOWN)
    origin = {"kind": "pretrain", "corpus_sha256": split.manifest["sha256"]}
    record = ModelRecord(rope, BASE, UNKNOWN, origin, {})
    save_model(model, tokenizer, folder, record, "bfloat16", training=training)
    last = [each["loss"] for each in metrics[-100:]]
    return {"loss": float(np.mean(last)), "tokens": training["tokens"]}


def _content(corpus: CorpusSettings) -> str:
    """A hash of every document of a corpus."""
    digest = hashlib.sha256()
    for document in read_documents(corpus):
        digest.update(repr((document.split, document.id, document.text)).encode())
    return digest.hexdigest()


def train_tokenizer(corpus: CorpusSettings, vocabulary: int, folder: Path):
    """A byte-level BPE with single digits, trained on the train split and the passkey template; as
    it is read from the folder, where it may have been trained before."""
    if not (folder / "tokenizer.json").exists():
        _train_tokenizer(corpus, vocabulary, folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _train_tokenizer(corpus: CorpusSettings, vocabulary: int, folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = (each.text for each in read_documents(corpus) if each.split == "train")
    template = [INTRO, *[FILLER] * 10, *[STATEMENT.format(key=w) for w in WORDS[::20]], QUESTION]
    tokenizer.train_from_iterator(itertools.chain(documents, template * 100), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False
    )
    with replacing(folder) as draft:
        wrapped.save_pretrained(draft)


def build_model(settings: PretrainedHere, window: int, tokenizer) -> LlamaForCausalLM:
    """The untrained model, weights drawn from torch's seeded generator."""
    shape = settings.architecture
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    settle_kernels()
    return LlamaForCausalLM(config)


def optimisers_of(model, settings: PretrainedHere) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if matrix else others).append(parameter)
    decay = settings.weight_decay
    return [
        torch.optim.Muon(matrices, lr=settings.muon_rate, momentum=0.95, weight_decay=decay),
        torch.optim.AdamW(others, lr=settings.adam_rate, betas=(0.9, 0.95), weight_decay=decay),
    ]
