"""An extended model to export, and what other processes make of the export."""

import atexit
import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import export_runners
from helpers import excerpt
from longrope.audit import check
from longrope.audit.finding import ENGINES as AUDITED
from longrope.baselines import closed_form
from longrope.export.engines import find_engine
from longrope.export.stage import Export, Written, export_model
from longrope.extended import Tiers, read_tiers, write_extended
from longrope.extended_model import ExtendedModel
from longrope.factors import RescaleFactors, Rope
from longrope.models.checkpoint import load_model, load_tokenizer, read_record
from longrope.rope import install

RUNNERS = Path(__file__).parent / "export_runners.py"
OTHERS = {  # a Python whose environment has what this one has not
    "transformers 4.57": "LONGROPE_TRANSFORMERS4",
    "xllamacpp": "LONGROPE_ENGINES",
}


def python_with(what: str) -> str:
    """The Python that an environment variable names; skips the test where none is set."""
    variable = OTHERS[what]
    if not os.environ.get(variable):
        pytest.skip(f"needs {what}: tests/environments.sh makes it and says how to set {variable}")
    return os.environ[variable]


def tiers_for(rope: Rope, *, n_hat: int = 4, attention: float | None = None) -> Tiers:
    """Tiers at the original window, twice and four times that; the middle one has n_hat."""
    window = rope.original_window
    first = RescaleFactors(rope, window, "recovery", (1.0, *[1.25] * (rope.pairs - 1)))
    middle = dataclasses.replace(closed_form("ntk", rope, 2 * window), n_hat=n_hat)
    tiers = [first, middle, closed_form("mrrope-pro", rope, 4 * window)]
    if attention is not None:
        tiers = [dataclasses.replace(each, attention_factor=attention) for each in tiers]
    return Tiers(tuple(tiers))


def write_tiers(folder: Path, model: Path, tiers: Tiers) -> Path:
    write_extended(folder, tiers, model)
    return folder / "extended.json"


def export(
    model: Path, tiers: Path, out: Path, form: str = "native", engine: str = "", **more
) -> Written:
    """Export as `form`, by default for the engine that the command takes; the audit, which knows
    how each engine reads a checkpoint, finds nothing in it that concerns those it is for: where
    keys carry the attention factor, all but MLX."""
    files = {name: more.pop(name, ()) for name in ("records", "trainings")}
    default = "llama.cpp" if form == "gguf" else "transformers"
    asked = Export(form, find_engine(engine or default), **more)
    written = export_model(asked, model, tiers, out, **files)
    spared = {"mlx"} if asked.engine.attention == "keys" else set()
    report = check(out).only([name for name in AUDITED if name not in spared])
    assert not report.findings, report.as_text()
    return written


def text_of(model: Path, tokens: int) -> list[int]:
    """The first tokens of a book that the carried model has not seen."""
    return load_tokenizer(model)(excerpt("persuasion", 6 * tokens)).input_ids[:tokens]


def noise(vocabulary: int, tokens: int) -> list[int]:
    """Random tokens, for random models."""
    return np.random.default_rng(1).integers(1, vocabulary, tokens).tolist()


def prompts_around(windows: list[int], tokens: list[int]) -> list[list[int]]:
    """The first window - 1, window and window + 1 of some tokens, as far as there are so many."""
    lengths = [each for window in windows for each in (window - 1, window, window + 1)]
    return [tokens[:each] for each in lengths if each <= len(tokens)]


def run(runner: str, model: Path, prompts: list, place: Path, python: str = sys.executable):
    """Log-probabilities of the next token, by a process of its own without longrope."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "prompts.json").write_text(json.dumps(prompts))
    server = _server(python)
    asked = [runner, model, place / "prompts.json", place / "out.npz", place / "said.txt"]
    print(json.dumps([str(Path(each)) for each in asked]), file=server.stdin, flush=True)
    assert server.stdout.readline() == "0\n", (place / "said.txt").read_text()[-2000:]
    with np.load(place / "out.npz") as found:
        return [found[name] for name in found.files]


@functools.cache
def _server(python: str) -> subprocess.Popen:
    """Runs engines with a Python, for as long as the tests last."""
    command = [python, "-I", str(RUNNERS), "serve"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    return server


def run_here(runner: str, model: Path, prompts: list) -> list[np.ndarray]:
    """The same in this process, for what was tried apart already."""
    rows = export_runners.RUNNERS[runner](str(model), prompts)
    return [export_runners.log_softmax(row) for row in rows]


def own(model: Path, tiers: Path, prompts: list, window: int | None = None) -> list[np.ndarray]:
    """The project's: each prompt with its own tier, or with that of one window."""
    extended, found = own_model(model, tiers), []
    for prompt in prompts:
        extended.pin(window or len(prompt))
        with torch.no_grad():
            logits = extended.model(
                torch.tensor([prompt]), use_cache=False, logits_to_keep=1
            ).logits[0, -1]
        found.append(torch.log_softmax(logits.double(), dim=-1).numpy())
    return found


def own_at_once(model: Path, tiers: Path, prompts: list, window: int | None = None) -> list:
    """The same of prompts that are beginnings of the longest, from one call for every tier: nothing
    that is read later changes what a text begins with."""
    extended, found = own_model(model, tiers), {}
    asked = [extended.tiers.for_length(window or len(prompt)).window for prompt in prompts]
    for tier in set(asked):
        numbers = [number for number, each in enumerate(asked) if each == tier]
        longest = max((prompts[number] for number in numbers), key=len)
        assert all(longest[: len(prompts[number])] == prompts[number] for number in numbers)
        last = torch.tensor([len(prompts[number]) - 1 for number in numbers])
        extended.pin(tier)
        with torch.no_grad():
            logits = extended.model(
                torch.tensor([longest]), use_cache=False, logits_to_keep=last
            ).logits[0]
        rows = torch.log_softmax(logits.double(), dim=-1).numpy()
        found |= dict(zip(numbers, rows, strict=True))
    return [found[number] for number in range(len(prompts))]


def own_generated(model: Path, tiers: Path, prompts: list, window: int | None = None) -> list:
    """What the last of some new tokens came from, each text with the tier that holds all of it, or
    with that of one window."""
    extended, new, found = own_model(model, tiers), export_runners.NEW, []
    if window:
        extended = ExtendedModel(extended.model, Tiers((extended.tiers.for_length(window),)))
    for prompt in prompts:
        answer = extended.generate(
            torch.tensor([prompt]),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        found.append(torch.log_softmax(answer.logits[-1][0].double(), dim=-1).numpy())
    return found


def own_spread(model: Path, tiers: Path, prompts: list, window: int | None = None) -> list:
    """Of a few tokens of every prompt, at the positions that they have in it."""
    extended, found = own_model(model, tiers), []
    rotary = install(extended.model, extended.tiers.rope)
    for prompt in prompts:
        places = export_runners.spread_over(len(prompt))
        rotary.use([extended.tiers.for_length(window or len(prompt))], torch.tensor([places]))
        with torch.no_grad():
            logits = extended.model(
                torch.tensor([[prompt[place] for place in places]]), use_cache=False
            ).logits[0, -1]
        found.append(torch.log_softmax(logits.double(), dim=-1).numpy())
    return found


def own_model(model: Path, tiers: Path) -> ExtendedModel:
    """The project's own way to run an extended model, in float32 whatever it was brought in as."""
    whole = load_model(model, for_training=True)
    return ExtendedModel(whole, read_tiers(tiers, read_record(model).rope))


def furthest(found: list, expected: list) -> float:
    """The largest difference of a log-probability."""
    return max(
        float(np.abs(ours - theirs).max()) for ours, theirs in zip(found, expected, strict=True)
    )
