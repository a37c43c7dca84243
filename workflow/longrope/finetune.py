"""
Fine-tuning at one window with that window's factors (Ding et al. 2024, section 3.3).

Text comes in segments of the window's length (or shorter: `length`) between BOS and EOS, as in
the paper; a share of
passkey documents can be mixed in. AdamW, linear decay or a constant rate, one training loop.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from longrope.config.training import TuningStage
from longrope.corpus import TokenSplit
from longrope.errors import UserError
from longrope.factors import describe, read_factors
from longrope.files import open_state, write_lines
from longrope.mixture import SequenceMaker
from longrope.models import load_model, load_tokenizer, read_record, save_model, stored_dtype
from longrope.rope import install
from longrope.training import Rate, train
from longrope.versions import VERSIONS


def finetune(
    stage: TuningStage,
    model_folder: Path,
    factors_path: Path,
    tokens_folder: Path,
    out: Path,
    metrics_out: Path,
    state: Path,
    *,
    on_metrics: Callable[[dict], None] = lambda record: None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Tune a checkpoint with factors and save it with them; returns final metrics."""
    tuning = stage.tuning
    length = tuning.length or tuning.window
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
    model = load_model(model_folder, for_training=True)
    install(model, record.rope).use([factors])
    maker = SequenceMaker(tokenizer, split)
    made_from = {
        "version": VERSIONS["finetune"],
        "stage": stage.model_dump(exclude={"tuning": {"micro_batch"}}),  # it changes memory alone
        "weights": record.fingerprint,
        "tokens": split.sha256,
        "lambda": [str(value) for value in factors.lambda_],
        "n_hat": factors.n_hat,
        "attention_factor": factors.attention_factor,
    }
    state = open_state(state, made_from)
    metrics = train(
        model,
        [
            torch.optim.AdamW(
                model.parameters(),
                lr=tuning.learning_rate,
                betas=tuning.betas,
                weight_decay=tuning.weight_decay,
            )
        ],
        lambda step: maker.batch(tuning.mixture, tuning.batch, length, stage.seed, step),
        Rate(
            tuning.steps,
            tuning.warmup,
            hold=1.0 if tuning.schedule == "constant" else 0.0,
            final=0.0,
        ),
        tuning,
        state,
        micro_batch=tuning.micro_batch,
        describe=f"tuning {record.rope.model}/{stage.name}",
        on_metrics=on_metrics,
    )
    write_lines(metrics_out, metrics)
    save_model(
        model, tokenizer, out, record.tuned_as(stage.name), stored_dtype(model_folder), factors
    )
    last = [each["loss"] for each in metrics[-max(1, len(metrics) // 10) :]]
    return {"loss": float(np.mean(last)), "tokens": sum(each["tokens"] for each in metrics)}
