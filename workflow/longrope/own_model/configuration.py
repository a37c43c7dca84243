"""
A configuration for a checkpoint, some fifteen lines long, with budgets that fit the hours by plan.

Windows are fixed by the ratio: up to 8x one search and one tuning at the target; beyond, a tuning
at 8x and a second search for the rest, as the paper does. Budgets go down from generous to the
least that still tells something, until the plan fits; below that the tuning is left out.
"""

import importlib.util
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from longrope.config import Config
from longrope.errors import UserError
from longrope.own_model.checkpoint import Found
from longrope.own_model.texts import Corpus
from longrope.plan.machine import Machine
from longrope.plan.text import hours_text
from longrope.windows import window_label

FIRST = 8  # times the original window: as far as one search and its tuning go
FURTHEST = 64  # times the original window: as far as a second search goes
MANY = 60  # scores; with fewer, most would go to the random candidates of the beginning
PASSKEY = 256  # tokens that a passkey document takes, or fewer
SEGMENT = 2048  # tokens of a sequence that a CPU tunes on, its positions spread over the window


@dataclass(frozen=True, slots=True)
class Level:
    """How much is spent."""

    name: str
    evaluations: int  # of a search
    documents: int  # of each
    windows: int  # perplexity windows at the longest length; more at shorter ones
    prompts: int  # passkeys at each length
    steps: int  # of the tuning; 0: none
    batch: int = 1


LEVELS = (
    Level("full", 40, 5, 10, 20, 400, 32),
    Level("half", 30, 4, 8, 20, 200, 16),
    Level("small", 20, 3, 6, 10, 100, 8),
    Level("least tuned", 12, 2, 4, 5, 40, 4),
    Level("search alone", 24, 3, 6, 10, 0),
    Level("short search", 12, 2, 4, 5, 0),
    Level("least", 6, 1, 2, 2, 0),
)
TRIAL = Level("trial", 3, 1, 1, 1, 2, 1)  # every stage once, to see that all of it runs


@dataclass(frozen=True, slots=True)
class Made:
    """A configuration as text, checked, with what it will cost."""

    text: str
    config: Config
    level: Level
    weights: str  # whose factors are taken home: base, or the tuning
    hours: float
    notes: tuple[str, ...]


def check_hours(hours: float) -> None:
    """Raise UserError unless hours are some that a plan can fit."""
    if not 0 < hours < math.inf:
        raise UserError(f"--hours {hours:g}: must be a finite number above 0")


def check_target(found: Found, target: int) -> None:
    """Raise UserError for a target that is no longer window, or too long a one."""
    if target <= found.window:
        raise UserError(
            f"--to {window_label(target)}: {found.name} has a window of"
            f" {window_label(found.window)} already; name a longer one"
        )
    if target > FURTHEST * found.window:
        raise UserError(
            f"--to {window_label(target)} is {target / found.window:g}x the window of {found.name}:"
            f" up to {FURTHEST}x, {window_label(FURTHEST * found.window)}, is written here; the"
            " paper goes further in more steps (config/paper.yaml)"
        )


def configure(
    found: Found,
    target: int,
    corpus: Corpus,
    machine: Machine,
    hours: float,
    *,
    trial: bool = False,
    command: str = "longrope init",
) -> Made:
    """The first level that the plan says fits the hours, or the least; UserError for a target
    that is no longer window, or too long a one."""
    from longrope.plan.estimate import estimate_study

    check_hours(hours)
    check_target(found, target)
    for level in (TRIAL,) if trial else LEVELS:
        settings = _settings(found, target, corpus, machine, level)
        config = _checked(settings)
        estimates = estimate_study(config, machine)
        planned = sum(each.hours * each.gpus for each in estimates)
        too_large = [each for each in estimates if each.gpus > machine.gpus]
        if planned <= hours and not too_large:
            break
    notes = list(found.notes)
    if planned > hours:
        notes.append(
            f"the least budget is planned at {hours_text(planned)}, above --hours {hours:g}"
        )
    if too_large:
        worst = max(too_large, key=lambda each: each.work.memory)
        notes.append(
            f"{worst.job.rule} at {worst.work.what} takes {worst.work.memory / 2**30:.0f} GiB, more"
            f" than {machine.name} has: name a larger one, or a shorter window"
        )
    if level.steps and machine.is_cpu and not importlib.util.find_spec("peft"):
        notes.append("with the extra `lora` installed it would be tuned by LoRA, at a higher rate")
    if not level.steps:
        notes.append(
            "no tuning: it does not fit the hours. Searched factors alone reach 2x to 4x well;"
            " raise --hours, or name a --gpu"
        )
    if corpus.join_to:
        notes.append(
            f"too few texts have {window_label(target)} tokens: they are joined to that length, and"
            " a perplexity over a joint is not that of one long text"
        )
    weights = f"longrope-{window_label(_tuned(found, target))}" if level.steps else "base"
    text = _yaml(settings, found, target, command)
    assert _checked(yaml.safe_load(text)) == config, "what is written reads back otherwise"
    return Made(text, config, level, weights, planned, tuple(notes))


def _checked(settings: dict) -> Config:
    from longrope.checks import load_config

    return load_config(settings)


def _tuned(found: Found, target: int) -> int:
    """The window of the tuning."""
    return min(target, FIRST * found.window)


def _settings(
    found: Found, target: int, corpus: Corpus, machine: Machine, level: Level
) -> dict:  # fmt: skip
    tuned = _tuned(found, target) if level.steps else target
    first, second = _windows(found, target, tuned, bool(level.steps))
    lengths = sorted({found.window, *first, *second})
    keys = found.window >= PASSKEY
    few = min(level.documents, corpus.documents("validation", target))
    budget: dict = {"evaluations": level.evaluations, "documents": max(1, few)}
    if level.evaluations * max(1, few) < MANY:
        budget["optimiser"] = {"name": "bayesian", "ramps": 4}
    budgets = {window: budget for window in lengths}
    model: dict = {
        "source": found.source | _precision(machine),
        "original_window": found.window,
        "corpus": "text",
        "fitness": {"perplexity": 1, "needle": 0.3, "needles": 1} if keys else {"perplexity": 1},
        "attention_factor": "search",
        "search": {window: budgets[window] for window in first},
    }
    methods: dict = {"base": ["none", "yarn", "search"]}
    if level.steps:
        name = f"longrope-{window_label(tuned)}"
        model["tunings"] = {name: _tuning(found, tuned, machine, level)}
        extension: dict = {"weights": name}
        if second:
            extension["search"] = {window: budgets[window] for window in second}
        extension["recovery"] = {found.window: budgets[found.window]}
        model["extension"] = extension
        methods[name] = ["extended"]
    passkeys = {weights: list(names) for weights, names in methods.items()}
    # The one table of an export, at short lengths too: what it costs there is then in its card.
    methods[list(methods)[-1]].append("tuned" if level.steps and not second else "longest")
    model["evaluation"] = {
        "text": {
            "task": "perplexity",
            "windows": {window: _amount(corpus, level, window, target) for window in lengths},
            "methods": methods,
        },
    }
    if prompts := {window: level.prompts for window in lengths if window >= PASSKEY}:
        model["evaluation"]["passkey"] = {
            "task": "passkey",
            "prompts": prompts,
            "methods": passkeys,
        }
    splits = {split: corpus.splits[split] for split in ("validation", "test")}
    text: dict = {"source": {"kind": "text", "files": corpus.files}, "splits": splits}
    if corpus.join_to:
        text["join_to"] = corpus.join_to
    return {"seed": 1, "corpora": {"text": text}, "models": {found.name: model}}


def _amount(corpus: Corpus, level: Level, window: int, target: int) -> int:
    """How many windows are measured: of shorter ones, which vary more, up to four times as many."""
    wanted = level.windows * max(1, min(4, target // window))
    return max(1, min(corpus.room("test", window), wanted))


def _windows(found: Found, target: int, tuned: int, tunes: bool) -> tuple[list[int], list[int]]:
    """What is searched before a tuning, and after it."""
    if not tunes:
        middle = found.window * 4
        return ([middle] if middle < target else []) + [target], []
    return [tuned], [target] if target > tuned else []


def _precision(machine: Machine) -> dict[str, str]:
    """A CPU with AMX is twice as fast in bfloat16, others are slower."""
    if not machine.is_cpu:
        return {}
    try:
        known = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # no Linux
        return {}
    return {"precision": "bfloat16"} if "amx_bf16" in known else {}


def _tuning(found: Found, window: int, machine: Machine, level: Level) -> dict:
    tuning: dict = {"method": "search", "window": window}
    if machine.is_cpu and window > SEGMENT:
        tuning |= {"length": min(SEGMENT, found.window), "positions": "skipped"}
    tuning |= {"steps": level.steps, "batch": level.batch}
    if machine.is_cpu and importlib.util.find_spec("peft"):  # few steps take large ones
        tuning |= {"learning_rate": 5.0e-4, "lora": {"rank": 8, "train": ["norms"]}}
    else:
        tuning |= {"learning_rate": 2.0e-5}
    if not machine.is_cpu:
        tuning |= {"precision": "bfloat16", "checkpointing": True}
    mixture = {"text": 0.9, "digits-5": 0.1} if found.window >= PASSKEY else {"text": 1.0}
    return tuning | {"checkpoint_every": 20, "mixture": mixture}


# --- as text --------------------------------------------------------------------------------


def _yaml(settings: dict, found: Found, target: int, command: str) -> str:
    """The settings as YAML, a line for each part that one changes by itself."""
    ((name, model),) = settings["models"].items()
    body = [
        f"# {found.name}: {window_label(found.window)} to {window_label(target)}, theta"
        f" {found.theta:g}, {found.pairs} pairs. Written by `{command}`;"
        " docs/configuration.md has every key.",
        f"seed: {settings['seed']}",
        f"corpora: {_flow(settings['corpora'])}",
        "models:",
        f"  {_flow(name)}:",
    ]  # fmt: skip
    for key, value in model.items():
        if key == "evaluation":
            body.append("    evaluation:")
            body += [f"      {part}: {_flow(each)}" for part, each in value.items()]
        else:
            body.append(f"    {key}: {_flow(value, key)}")
    return "\n".join(body) + "\n"


PLAIN = r"[A-Za-z][A-Za-z0-9_-]*"  # what YAML reads as text without quotes
WORDS = r"(?i)true|false|yes|no|on|off|y|n|null"  # but for these
WINDOWED = ("original_window", "window", "length", "join_to")


def _flow(value, key: str = "") -> str:
    """A value in YAML's one-line style; windows by their labels."""
    if isinstance(value, dict):
        inner = ", ".join(
            f"{window_label(name) if isinstance(name, int) else _flow(name)}:"
            f" {_flow(each, str(name))}"
            for name, each in value.items()
        )
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(_flow(each) for each in value)}]"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int) and key in WINDOWED:
        return window_label(value)
    if isinstance(value, str):
        plain = re.fullmatch(PLAIN, value) and not re.fullmatch(WORDS, value)
        return value if plain else _quoted(value)
    return f"{value:.1e}" if isinstance(value, float) and 0 < value < 0.001 else str(value)


def _quoted(text: str) -> str:
    """A text between quotes, on one line."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).rstrip("\n")
