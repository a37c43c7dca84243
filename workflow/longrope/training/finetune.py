"""
Fine-tuning at one window with that window's factors (Ding et al. 2024, section 3.3).

Text comes in segments of the window's length between BOS and EOS, as in the paper, or in the
cheaper ways of `steps`; a share of passkey documents can be mixed in. Every weight trains, or
changes of low rank (`lora`), which are merged at the end: the result is a plain checkpoint either
way. AdamW, linear decay or a constant rate, one training loop.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from longrope.baselines import closed_form
from longrope.config.training import TuningSettings, TuningStage
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.factors import RescaleFactors, describe, read_factors
from longrope.files import write_lines
from longrope.models.architectures import check_kernel
from longrope.models.checkpoint import (
    device,
    empty_model,
    load_model,
    load_tokenizer,
    read_record,
    save_model,
    stored_dtype,
)
from longrope.parallel.place import here
from longrope.parallel.sharding import whole_weights
from longrope.rope import install
from longrope.state import open_state
from longrope.training.loop import Rate, train
from longrope.training.lora import add_lora, check_peft, hold_in_bfloat16
from longrope.training.mixture import Batch, SequenceMaker
from longrope.training.steps import batches_of
from longrope.versions import VERSIONS
from longrope.windows import window_label

MEMORY = {"micro_batch", "checkpointing"}  # what changes how much is held, and no result


def finetune(
    stage: TuningStage,
    model_folder: Path,
    factors_path: Path,
    tokens_folder: Path,
    out: Path,
    metrics_out: Path,
    state_folder: Path,
    *,
    on_metrics: Callable[[dict], None] = lambda record: None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Tune a checkpoint with factors and save it with them; returns final metrics."""
    tuning = stage.tuning
    if tuning.lora:
        check_peft()
    record = read_record(model_folder)
    factors = read_factors(factors_path, record.rope)
    if factors.window != tuning.window:
        raise UserError(
            f"{factors_path}: factors for {factors.window} tokens, the tuning is at {tuning.window}"
        )
    split = TokenSplit(tokens_folder)
    say(f"tuning {record.rope.model}/{record.weights} as {stage.name} with {describe(factors)}")
    tokenizer = load_tokenizer(model_folder)
    split.check_tokenizer(tokenizer)
    dtype = stored_dtype(model_folder)
    check_kernel(record.attention, device().type, tuning.precision)
    model, merge = _to_train(stage, model_folder, empty=not here().leads)
    if tuning.lora and tuning.precision == dtype == "bfloat16" and here().world == 1:
        hold_in_bfloat16(model)
    rotary = install(model, record.rope)
    if tuning.checkpointing:
        recompute(model)
    original = closed_form("none", record.rope, record.rope.original_window)
    maker = SequenceMaker(tokenizer, split)
    made_from = _made_from(stage, record.fingerprint, split.sha256, factors)
    state = here().once(lambda: open_state(state_folder, made_from))

    def prepare(part: Batch) -> None:
        positions = None if part.positions is None else torch.from_numpy(part.positions)
        rotary.use([original if part.original else factors], positions)

    metrics = train(
        model,
        lambda: optimisers_of(model, tuning),
        lambda step: batches_of(maker, tuning, record.rope.original_window, stage.seed, step),
        Rate(tuning.steps, tuning.warmup, hold=float(tuning.schedule == "constant"), final=0.0),
        tuning,
        state,
        micro_batch=tuning.micro_batch,
        prepare=prepare,
        remedies=remedies(stage, record.rope.model),
        describe=f"tuning {record.rope.model}/{stage.name}",
        on_metrics=on_metrics,
    )
    if here().world > 1:
        model, merge = _together(model, stage, model_folder)
    if here().leads:
        merge()
        write_lines(metrics_out, metrics)
        save_model(model, tokenizer, out, record.tuned_as(stage.name), dtype, factors,
                   model_folder)  # fmt: skip
    last = [each["loss"] for each in metrics[-max(1, len(metrics) // 10) :]]
    return {
        "loss": float(np.mean(last)),
        "tokens": sum(each["tokens"] for each in metrics),
        "training_seconds": round(sum(each["seconds"] for each in metrics), 3),
        "peak_memory": max(each["peak_memory"] for each in metrics),
        "trained_parameters": metrics[-1]["trained_parameters"],
    }


def _made_from(
    stage: TuningStage, weights: str, tokens: str, factors: RescaleFactors
) -> dict[str, object]:
    """All that the result depends on, by hashes of weights and tokens."""
    return {
        "version": VERSIONS["finetune"],
        "stage": stage.model_dump(exclude={"tuning": MEMORY}),
        "weights": weights,
        "tokens": tokens,
        "lambda": [str(value) for value in factors.lambda_],
        "n_hat": factors.n_hat,
        "attention_factor": factors.attention_factor,
    }


def optimisers_of(model, tuning: TuningSettings) -> list[torch.optim.Optimizer]:
    """AdamW, for what trains."""
    trained = [each for each in model.parameters() if each.requires_grad]
    decay = tuning.weight_decay
    return [
        torch.optim.AdamW(trained, lr=tuning.learning_rate, betas=tuning.betas, weight_decay=decay)
    ]


def remedies(stage: TuningStage, model: str) -> list[str]:
    """What to change in a tuning that runs out of memory, by its keys."""
    tuning, keys = stage.tuning, f"models.{model}.tunings.{stage.name}"
    ways = [f"lower {keys}.length (now {window_label(tuning.sequence_length)})"]
    if tuning.micro_batch > 1:
        ways.insert(0, f"lower {keys}.micro_batch (now {tuning.micro_batch})")
    ways += [] if tuning.checkpointing else [f"set {keys}.checkpointing to true"]
    return ways + ([] if tuning.lora else [f"train by low-rank changes ({keys}.lora)"])


def _to_train(stage: TuningStage, folder: Path, *, empty: bool):
    """The model with what trains of it, and what merges the changes of low rank into it."""
    if empty:
        model = empty_model(folder)
    else:
        model = load_model(folder, for_training=True, on_cpu=here().world > 1)
    if stage.tuning.lora:
        return model, add_lora(model, stage.tuning.lora, stage.seed)
    return model, lambda: None


def _together(model, stage: TuningStage, folder: Path):
    """The tuned model whole, on the CPU of rank 0; on others nothing."""
    weights = whole_weights(model)
    if not here().leads:
        return None, None
    whole, merge = _to_train(stage, folder, empty=True)
    whole.load_state_dict(weights, assign=True)
    whole.tie_weights()
    return whole, merge


def recompute(model) -> None:
    """Compute the activations of a layer again for its gradient, in place of keeping them."""
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"{type(model).__name__} cannot compute activations again: leave checkpointing out"
        )
    # Until 5.22 transformers had it by its older name alone.
    older = model.gradient_checkpointing_enable
    getattr(model, "activation_checkpointing_enable", older)({"use_reentrant": False})
