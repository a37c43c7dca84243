"""
What one step of a fine-tuning reads.

Sequences of the window's length, or cheaper ones: shorter, as Ding et al. (2024) tuned Mistral;
their positions skipped, so that they reach over the window all the same (PoSE, Zhu et al. 2023,
arXiv 2309.10400); or, in place of some of them, short sequences with the original RoPE, which keep
the model as it was at its original window (LongRoPE2, Shang et al. 2025, arXiv 2502.20082).

A step is a function of (seed, step) alone.
"""

from dataclasses import replace

import numpy as np

from longrope.config.training import TuningSettings
from longrope.training.mixture import Batch, SequenceMaker

LONG, SHORT, POSITIONS = range(3)  # streams of random numbers


def batches_of(
    maker: SequenceMaker, tuning: TuningSettings, original_window: int, seed: int, step: int
) -> list[Batch]:
    """The long sequences of a step and, where the tuning has some, its short ones.

    LongRoPE2 packs short documents into one long sequence, without attention from one to another.
    Here each short sequence is a row of its own, of the same mixture, which is the same to the
    model and needs no mask; it is one segment of one document.
    """
    length, replaced = tuning.sequence_length, tuning.short_sequences
    long = maker.batch(tuning.mixture, tuning.batch - replaced, length, seed, step, LONG)
    if tuning.positions == "skipped":
        rng = np.random.default_rng([seed, step, POSITIONS])
        positions = skipped_positions(len(long.tokens), length, tuning.window, tuning.pieces, rng)
        long = replace(long, positions=positions)
    if not tuning.short:
        return [long]
    short_length = tuning.short.length or original_window
    rows = replaced * length // short_length
    short = maker.batch(tuning.mixture, rows, short_length, seed, step, SHORT)
    return [long, replace(short, original=True)]


def skipped_positions(
    sequences: int, length: int, window: int, pieces: int, rng: np.random.Generator
) -> np.ndarray:
    """Rising positions below `window`, (sequences, length); a row jumps at most pieces - 1 times.

    Where is uniform. How far the positions are shifted after a jump is uniform between the shift
    before it and the largest that the window allows, as in PoSE; the first piece is not shifted.
    """
    positions_BT = np.tile(np.arange(length), (sequences, 1))
    for row_T in positions_BT:
        shift = 0
        for cut in np.sort(rng.choice(np.arange(1, length), pieces - 1, replace=False)):
            further = int(rng.integers(shift, window - length + 1))
            row_T[cut:] += further - shift
            shift = further
    return positions_BT
