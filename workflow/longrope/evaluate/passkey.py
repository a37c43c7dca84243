"""
Passkey retrieval (Ding et al. 2024, section 4.2): is a key found, wherever it stands?

Prompt and answer together have exactly the length that is tested. The factors are those of the
whole sequence, for the prompt and for every generated token. Greedy decoding; a key counts as
found if what is generated is the key and nothing else. Where a cache would be the most of the
memory, at long lengths and where several ranks hold a sequence, one forward pass says as much
(`_answer_together`).
"""

import itertools
from pathlib import Path

import numpy as np
import torch

from longrope import portions
from longrope.config.evaluation import PasskeyStage
from longrope.evaluate.greedy import greedy
from longrope.evaluate.records import Task, Units, evaluate_lengths, tiers_of
from longrope.factors import RescaleFactors
from longrope.losses import predictions
from longrope.memory import within_memory
from longrope.models.checkpoint import load_model, load_tokenizer, read_record
from longrope.parallel.place import here
from longrope.parallel.sequence import spread_attention
from longrope.passkey import PasskeyWriter, Prompt, random_key
from longrope.rope import install
from longrope.statistics import found_share
from longrope.versions import VERSIONS
from longrope.windows import window_label


def evaluate_passkey(
    stage: PasskeyStage, model_folder: Path, factors: list[Path], out: Path, state: Path
) -> dict[str, float]:
    """Test a checkpoint with a method's factors; returns the accuracy at each length."""
    record = read_record(model_folder)
    tiers = tiers_of(factors, record)
    tokenizer = load_tokenizer(model_folder)
    writer = PasskeyWriter(tokenizer)
    prompts = {length: _prompts(writer, length, stage) for length in stage.prompts}
    model = load_model(model_folder)
    model.config.max_position_embeddings = max(stage.prompts)  # else `generate` warns
    rotary = install(model, record.rope)
    spread_attention(model)

    def measure(length: int, factors: RescaleFactors, units: Units) -> list[dict]:
        together = here().per_sequence > 1 or not portions.is_generated(length)
        answer = _answer_together if together else _answer
        rotary.use([factors])
        parts = [
            part
            for size, group in itertools.groupby(
                sorted(prompts[length], key=lambda each: len(each.prompt)),
                key=lambda each: len(each.prompt),
            )
            for part in _batches(list(group), max(1, portions.BATCH_TOKENS["passkey"] // size))
        ]
        answered = units.deal(parts, lambda part: answer(model, tokenizer, part))
        trials = list(itertools.chain.from_iterable(answered))
        found = sum(trial["found"] for trial in trials)
        return [{"length": length, "prompts": len(trials), "found": found, "trials": trials}]

    alone, after = here().per_sequence == 1, "after the key's own tokens"
    protocol = {
        "key": stage.key,
        "filler": "paper",
        "seed": stage.seed,
        "decoding": "greedy" if alone else f"greedy, {after}",
    }
    beyond = alone and not portions.is_generated(max(stage.prompts))
    longest = window_label(portions.WHOLE)
    aside = {"decoding": f"greedy, beyond {longest} {after}"} if beyond else {}
    task = Task(
        "passkey",
        stage.evaluation,
        stage.method,
        model_folder,
        tiers,
        stage.prompts,
        protocol,
        VERSIONS["evaluate-passkey"],
        aside,
    )
    results = evaluate_lengths(task, measure, summarise, out, state)
    return {f"accuracy_{length}": result["accuracy"] for length, result in results.items()}


def summarise(records: list[dict]) -> dict:
    """What the record of one length comes to; `low` and `high` are the 95% Wilson interval."""
    (record,) = records
    return found_share(record["found"], record["prompts"])


def _prompts(writer: PasskeyWriter, length: int, stage: PasskeyStage) -> list[Prompt]:
    """The same prompts for every method: a function of seed and length."""
    rng = np.random.default_rng([stage.seed, length])
    return [
        writer.write(length, random_key(stage.key, rng), rng) for _ in range(stage.prompts[length])
    ]


def _batches(prompts: list[Prompt], size: int):
    for first in range(0, len(prompts), size):
        yield prompts[first : first + size]


@torch.no_grad()
def _answer(model, tokenizer, prompts: list[Prompt]) -> list[dict]:
    """Generate as many tokens as the longest key has, and compare."""
    ids_BT = torch.from_numpy(np.stack([each.prompt for each in prompts])).to(model.device)
    length = ids_BT.shape[1]
    new = max(len(each.answer) for each in prompts)
    settings = greedy(tokenizer, max_new_tokens=new)
    model.generation_config = settings  # else `generate` mixes the checkpoint's own in

    def generate() -> torch.Tensor:
        return model.generate(
            input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), generation_config=settings
        )

    generated_BT = within_memory(model, generate, ids_BT.shape)[:, length:]
    return [
        _trial(tokenizer, prompt, generated)
        for prompt, generated in zip(prompts, generated_BT.tolist(), strict=True)
    ]


def _answer_together(model, tokenizer, prompts: list[Prompt]) -> list[dict]:
    """The same in one forward pass of prompt and key, without a cache: the most likely token at
    each place of the key, given the key before it. They are the key just if greedy decoding finds
    it."""
    trials = []
    for prompt in prompts:
        ids = torch.from_numpy(np.concatenate([prompt.prompt, prompt.answer]))[None]
        found = predictions(model, ids.to(model.device), len(prompt.answer))
        trials.append(_trial(tokenizer, prompt, found[0].tolist()))
    return trials


def _trial(tokenizer, prompt: Prompt, generated: list[int]) -> dict:
    text = tokenizer.decode(generated[: len(prompt.answer)], skip_special_tokens=True).strip()
    return {
        "key": prompt.key,
        "depth": round(prompt.depth, 4),
        "answer": text,
        "found": text == prompt.key,
    }
