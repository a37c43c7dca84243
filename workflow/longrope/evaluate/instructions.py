"""
Does a model still do what it is told? Thirty carried questions, before and after an extension.

Each goes through the tokenizer's chat template, as `Question: … Answer:` where there is none. Two
measures: how likely the reference answer is (mean log-probability of its tokens), which tells small
changes, and whether the greedy answer holds it. The factors are those of each sequence's length, or
of one window throughout, as an export with one table has them. A check against damage, not a
benchmark: the questions are few and easy.
"""

import json
import re
from importlib import resources
from pathlib import Path

import torch

from longrope import __version__
from longrope.evaluate.records import conditions, factors_at, what_they_do
from longrope.extended import Tiers, make_tiers, read_tiers
from longrope.files import write_json
from longrope.generate import Decoding, decoding_config, prompt_tokens
from longrope.models.checkpoint import load_model, load_tokenizer, read_record
from longrope.progress import Progress
from longrope.rope import install
from longrope.statistics import wilson

FILE = "instructions.json"
NEW_TOKENS = 24
SCHEMA = 1


def questions() -> list[dict[str, str]]:
    """The carried questions with their answers."""
    text = (resources.files("longrope") / "evaluate" / FILE).read_text(encoding="utf-8")
    return json.loads(text)["questions"]


def evaluate_instructions(
    model_folder: Path, factors: Path | None, out: Path, at: int | None = None
) -> dict[str, float]:
    """Ask a checkpoint all questions; with `at` under the factors of that length throughout."""
    record, tokenizer = read_record(model_folder), load_tokenizer(model_folder)
    tiers = read_tiers(factors, record.rope) if factors else _untouched(record.rope)
    model = load_model(model_folder)
    rotary = install(model, record.rope)
    asked, trials, used = questions(), [], {}
    progress = Progress(f"instructions {record.rope.model}/{record.weights}", len(asked))
    for number, each in enumerate(asked, 1):
        prompt_1T = prompt_tokens(tokenizer, "", each["question"])
        length = prompt_1T.shape[1] + NEW_TOKENS
        chosen = factors_at(tiers, at or length)
        rotary.use([chosen])
        used[str(chosen.window)] = what_they_do(chosen)
        trials.append(each | _ask(model, tokenizer, prompt_1T, each["answer"]))
        progress.update(number)
    progress.close()
    matched = sum(trial["matched"] for trial in trials)
    low, high = wilson(matched, len(trials))
    result = {
        "questions": len(trials),
        "matched": matched,
        "low": low,
        "high": high,
        "log_prob": sum(trial["log_prob"] for trial in trials) / len(trials),
    }
    write_json(
        out,
        {
            "schema": SCHEMA,
            "task": "instructions",
            "model": record.rope.model,
            "weights": record.weights,
            "weights_fingerprint": record.fingerprint,
            "template": bool(getattr(tokenizer, "chat_template", None)),
            "at": at,
            "factors": used,
            "results": result,
            "records": trials,
            "longrope": __version__,
            "ran_in": conditions(model_folder),
        },
    )
    return {"matched": matched / len(trials), "log_prob": result["log_prob"]}


@torch.no_grad()
def _ask(model, tokenizer, prompt_1T, answer: str) -> dict:
    """The greedy answer, and how likely the reference is."""
    prompt_1T = prompt_1T.to(model.device)
    joint = "" if getattr(tokenizer, "chat_template", None) else " "
    target = tokenizer(joint + answer, add_special_tokens=False, return_tensors="pt").input_ids
    whole_1T = torch.cat([prompt_1T, target.to(model.device)], dim=1)
    logits = model(whole_1T, use_cache=False).logits[0, prompt_1T.shape[1] - 1 : -1].float()
    likely = logits.log_softmax(-1).gather(1, whole_1T[0, prompt_1T.shape[1] :, None])
    how = decoding_config(model, tokenizer, Decoding(NEW_TOKENS))
    found = model.generate(
        prompt_1T, generation_config=how, attention_mask=torch.ones_like(prompt_1T)
    )
    said = tokenizer.decode(found[0, prompt_1T.shape[1] :], skip_special_tokens=True).strip()
    return {"said": said, "matched": holds(said, answer), "log_prob": likely.mean().item()}


def holds(said: str, answer: str) -> bool:
    """Whether an answer has the reference in it, as words of their own, in any case."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", said, re.IGNORECASE) is not None


def _untouched(rope) -> Tiers:
    from longrope.baselines import closed_form

    return make_tiers([closed_form("none", rope, rope.original_window)])
