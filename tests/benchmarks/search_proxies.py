"""
How well do cheap proxies of the search's fitness rank candidates?

    OMP_NUM_THREADS=1 python tests/benchmarks/search_proxies.py \\
        --model results/tiny/base/model --tokens results/tiny/data/books/validation \\
        --windows 1k 2k --out proxies.json

The true fitness is the mean loss of one whole window of each of 5 validation documents. A proxy
is the mean loss of cheaper sequences made from the same windows: fewer documents, a shorter part,
or pieces whose positions jump so that they span the target window (Zhu et al. 2023, PoSE,
arXiv 2309.10400). Half of the candidates are small steps around the best closed form or ramp,
because there a search spends its budget. Of every proxy the table says: tokens and processor
seconds relative to the true fitness, Spearman's correlation with it over all candidates and over
the better half, and the regret, the true fitness of the proxy's choice less the best.

A proxy shares tokens with the true fitness, so it shares its noise. The columns "other" compare
with the same mean over other windows of the same documents instead; there the true fitness itself
stands in the row `whole window`, 5 documents, and no proxy can be expected to do better.

Shapes: C candidates, N documents, T tokens.
"""

import argparse
import dataclasses
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from longrope.baselines import closed_form
from longrope.config.base import BASE
from longrope.config.search import PaperSpace
from longrope.corpus.tokens import TokenSplit
from longrope.errors import UserError
from longrope.files import write_json
from longrope.models.checkpoint import load_model, read_record
from longrope.pieces import pieces_of
from longrope.rope import install
from longrope.search.space import Candidate, SearchSpace, first_space
from longrope.windows import parse_window, window_label

DOCUMENTS = 5
FORMS = ("pi", "ntk", "yarn", "mrrope-pro", "llama3")
RAMPS, STEPS = 25, 30
SIGMAS = (0.04, 0.08)  # of a small step, least and largest, in the units of `encode`
WHOLE, OTHER = "whole window", "other window"
SCORED = "whole, last quarter scored"
SHARES = {2: "half", 4: "quarter"}
PIECES = (2, 4)


@dataclasses.dataclass(frozen=True, slots=True)
class Sequence:
    """What the model reads for one document, and which losses count."""

    tokens: torch.Tensor  # (1, T)
    positions: torch.Tensor  # (1, T), rising

    @property
    def scored(self) -> torch.Tensor:
        """Which of the targets 1..T-1 follow the token before them by position."""
        return self.positions[0].diff() == 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="base weights with longrope.json")
    parser.add_argument("--tokens", type=Path, required=True, help="the validation split")
    parser.add_argument("--windows", nargs="+", default=["1k", "2k"], help="target windows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attention-factor", type=float, help="of all; default: it varies, too")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    try:
        write_json(options.out, benchmark(options))
    except UserError as error:
        print(f"search_proxies: {error}", file=sys.stderr)
        return 1
    return 0


def benchmark(options: argparse.Namespace) -> dict:
    """Measure every window, print its table, and return all numbers."""
    record, split = read_record(options.model), TokenSplit(options.tokens)
    if record.weights != BASE:
        raise UserError(f"{options.model}: tuned weights; this benchmark is of a first search")
    model = load_model(options.model)
    rotary = install(model, record.rope)
    mask = check_mask(model, record.rope.original_window)
    print("positions that jump, largest difference of the last hidden state:")
    print("".join(f"  {name}: {value:.3g}\n" for name, value in mask.items()))
    results = {
        "model": record.rope.model,
        "weights_fingerprint": record.fingerprint,
        "corpus_sha256": split.sha256,
        "seed": options.seed,
        "attention_factor": options.attention_factor,  # null: it varies
        "mask": mask,
        "windows": {},
    }
    attention = options.attention_factor
    for window in map(parse_window, options.windows):
        if window <= record.rope.original_window or window % 16:
            raise UserError(
                f"window {window_label(window)}: must be above the original one,"
                f" {window_label(record.rope.original_window)}, and a multiple of 16"
            )
        space = first_space(record.rope, window, PaperSpace(), attention_factor=attention)
        draws = np.random.default_rng([options.seed, window]).spawn(3)
        sequences = draw_sequences(split, window, *draws[:2], model.device)
        result = measure(model, rotary, space, sequences, draws[2])
        results["windows"][window_label(window)] = result
        print_table(window_label(window), result)
    return results


# --- sequences ------------------------------------------------------------------------------


def draw_sequences(
    split: TokenSplit,
    window: int,
    text_rng: np.random.Generator,
    jump_rng: np.random.Generator,
    device: torch.device,
) -> dict[str, list[Sequence]]:
    """Sequences of every kind, one a document; all but the other windows are of the same text."""
    sequences: dict[str, list[Sequence]] = {}

    def add(kind: str, tokens: np.ndarray, positions: np.ndarray) -> None:
        pair = (torch.from_numpy(each.astype(np.int64))[None] for each in (tokens, positions))
        sequences.setdefault(kind, []).append(Sequence(*(each.to(device) for each in pair)))

    for document in split.at_least(2 * window, DOCUMENTS, f"the benchmark at {window} tokens"):
        # Two windows that do not overlap: both starts are drawn as if the first took no room.
        room = len(document.tokens) - 2 * window
        first, second = np.sort(text_rng.integers(0, room + 1, size=2))
        text = document.tokens[first : first + window]
        other = document.tokens[second + window : second + 2 * window]
        add(WHOLE, text, np.arange(window))
        add(OTHER, other, np.arange(window))
        for parts, share in SHARES.items():
            length = window // parts
            add(f"last {share} alone", text[-length:], np.arange(length))
            for pieces in PIECES:
                jumping = jumping_positions(window, length, pieces, jump_rng)
                name = f"{share}, {pieces} pieces"
                add(f"{name}, ids and text jump", text[jumping], jumping)
                add(f"{name}, ids jump", text[:length], jumping)
    return sequences


def jumping_positions(
    window: int, length: int, pieces: int, rng: np.random.Generator
) -> np.ndarray:
    """Positions (T,) of equal pieces with random gaps; the first begins and the last ends the
    window.
    """
    inner = np.sort(rng.integers(0, window - length + 1, size=pieces - 2))
    skipped = np.concatenate([[0], inner, [window - length]])
    return np.arange(length) + np.repeat(skipped, length // pieces)


@torch.inference_mode()
def hidden_states(model, sequence: Sequence) -> torch.Tensor:
    """The last hidden state (1, T, D) under a full causal mask.

    Without any mask transformers takes positions that jump for packed sequences, and lets no token
    see across a jump. A padding mask of ones rules that out and costs nothing.
    """
    return model.model(
        input_ids=sequence.tokens,
        position_ids=sequence.positions,
        attention_mask=torch.ones_like(sequence.tokens),
        use_cache=False,
    ).last_hidden_state


@torch.inference_mode()
def losses_of(model, sequence: Sequence) -> np.ndarray:
    """Loss in nats of the targets that count, in float64."""
    hidden_TD = hidden_states(model, sequence)[0, :-1]
    head, labels_T = model.get_output_embeddings(), sequence.tokens[0, 1:]
    rows = pieces_of(model).rows(head.weight.shape[0], hidden_TD.device)
    losses = [
        torch.nn.functional.cross_entropy(head(hidden).float(), labels, reduction="none")
        for hidden, labels in zip(hidden_TD.split(rows), labels_T.split(rows), strict=True)
    ]
    return torch.cat(losses)[sequence.scored].double().cpu().numpy()


@torch.inference_mode()
def check_mask(model, window: int) -> dict[str, float]:
    """How far the last hidden state is from that under an explicit causal mask.

    Positions jump once in the middle. Raises UserError unless a padding mask of ones gives the
    same; also says what no mask gives, and how far that is from a mask of two separate blocks.
    """
    device, half = model.device, window // 2
    positions = torch.arange(window, device=device)
    positions[half:] += window
    tokens = positions[None] % model.config.vocab_size
    causal = torch.ones(window, window, dtype=torch.bool, device=device).tril()[None, None]
    blocks = causal.clone()
    blocks[..., half:, :half] = False

    def states(mask: torch.Tensor | None) -> torch.Tensor:
        kept = {"position_ids": positions[None], "use_cache": False}
        return model.model(input_ids=tokens, attention_mask=mask, **kept).last_hidden_state

    ones = hidden_states(model, Sequence(tokens, positions[None]))
    found = {
        "mask of ones, from a full causal mask": ones - states(causal),
        "no mask, from a full causal mask": states(None) - states(causal),
        "no mask, from a block-diagonal mask": states(None) - states(blocks),
    }
    found = {name: difference.abs().max().item() for name, difference in found.items()}
    if found["mask of ones, from a full causal mask"] > 1e-3 * ones.abs().max().item():
        raise UserError(f"{type(model).__name__} does not attend across positions that jump")
    return found


# --- candidates and their losses ------------------------------------------------------------


def measure(
    model,
    rotary,
    space: SearchSpace,
    sequences: dict[str, list[Sequence]],
    rng: np.random.Generator,
) -> dict:
    """Losses of all candidates on all sequences, and what each proxy is worth."""
    losses: dict[str, list[list[float]]] = {}  # kind -> candidate -> document
    seconds = dict.fromkeys(sequences, 0.0)

    def evaluate(candidate: Candidate) -> None:
        rotary.use([space.factors(candidate, "search", {})])
        for kind, documents in sequences.items():
            began = time.process_time()
            found = [losses_of(model, sequence) for sequence in documents]
            seconds[kind] += time.process_time() - began
            losses.setdefault(kind, []).append([each.mean() for each in found])
            if kind == WHOLE:
                quarter = space.window // 4
                losses.setdefault(SCORED, []).append([each[-quarter:].mean() for each in found])

    candidates = {
        space.candidate(closed_form(form, space.rope, space.window)): form for form in FORMS
    }
    draw_until(candidates, len(candidates) + RAMPS, "ramp", lambda: space.ramp(rng))
    for candidate in candidates:
        evaluate(candidate)
    centre = list(candidates)[int(np.argmin(np.mean(losses[WHOLE], axis=1)))]
    known = len(candidates)

    def step() -> Candidate:
        point = space.encode([centre])
        return space.decode(point + rng.uniform(*SIGMAS) * rng.standard_normal(point.shape))[0]

    draw_until(candidates, known + STEPS, f"step from {candidates[centre]}", step)
    for candidate in list(candidates)[known:]:
        evaluate(candidate)

    table = {kind: np.array(rows) for kind, rows in losses.items()}
    for kind, losses_CN in table.items():
        if not np.isfinite(losses_CN).all():
            raise UserError(f"{kind}: a loss is not finite; is this model broken at this window?")
    truth_C, other_C = table[WHOLE].mean(axis=1), table[OTHER].mean(axis=1)
    forwarded = {kind: each[0].tokens.shape[1] for kind, each in sequences.items()}
    rows = []
    for kind, losses_CN in table.items():
        run = WHOLE if kind == SCORED else kind
        for documents in (1, 2, DOCUMENTS):
            share = documents / DOCUMENTS
            rows.append(
                {
                    "proxy": kind,
                    "documents": documents,
                    "tokens": share * forwarded[run] / space.window,
                    "seconds": share * seconds[run] / seconds[WHOLE],
                    "true": worth(losses_CN, documents, truth_C),
                    "other": worth(losses_CN, documents, other_C) if kind != OTHER else None,
                }
            )
    return {
        "candidates": [
            dataclasses.asdict(each) | {"name": name} for each, name in candidates.items()
        ],
        "losses": {kind: losses_CN.tolist() for kind, losses_CN in table.items()},
        "true_fitness": truth_C.tolist(),
        "seconds": seconds,
        "proxies": rows,
    }


def draw_until(candidates: dict[Candidate, str], count: int, name: str, draw) -> None:
    """Draw candidates until there are `count` different ones."""
    while len(candidates) < count:
        candidates.setdefault(draw(), name)


def worth(losses_CN: np.ndarray, documents: int, reference_C: np.ndarray) -> dict[str, float]:
    """How a mean over so many documents ranks candidates, beside a reference fitness.

    Means over all choices of the documents; the better half is that of the reference.
    """
    better = np.argsort(reference_C)[: len(reference_C) // 2]
    found = []
    for chosen in combinations(range(losses_CN.shape[1]), documents):
        proxy_C = losses_CN[:, list(chosen)].mean(axis=1)
        found.append(
            (
                spearmanr(proxy_C, reference_C).statistic,
                spearmanr(proxy_C[better], reference_C[better]).statistic,
                reference_C[proxy_C.argmin()] - reference_C.min(),
            )
        )
    names = ("spearman", "spearman_better_half", "regret")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def print_table(label: str, result: dict) -> None:
    fitness = np.sort(result["true_fitness"])
    middle = fitness[len(fitness) // 2]
    best = result["candidates"][int(np.argmin(result["true_fitness"]))]["name"]
    total = sum(result["seconds"].values())
    print(
        f"{label}: {len(fitness)} candidates, true fitness {fitness[0]:.4f} ({best}), middle"
        f" {middle:.4f}, worst {fitness[-1]:.4f} nats; {total:.0f} s of the processor\n"
        f"{'':55}|   the true fitness   |    other windows\n"
        f"{'proxy':36}docs tokens  time |  all  better  regret |  all  better  regret"
    )
    for row in result["proxies"]:
        line = f"{row['proxy']:37}{row['documents']:3}{row['tokens']:7.2f}{row['seconds']:6.2f} "
        for reference in ("true", "other"):
            if found := row[reference]:
                line += "|{spearman:5.2f}{spearman_better_half:7.2f}{regret:9.4f} ".format(**found)
        print(line.rstrip())
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
