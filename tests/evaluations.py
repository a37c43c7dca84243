"""Evaluation files whose numbers are known by hand."""

import json
from collections.abc import Iterable
from pathlib import Path

from longrope.checks import load_config
from longrope.config import Config
from longrope.evaluate.passkey import summarise as of_passkeys
from longrope.evaluate.perplexity import summarise as of_perplexity

PROTOCOL = {  # of perplexities and of passkeys
    "mode": "stride",
    "stride": "length",
    "documents": "all",
    "at_least": "length",
    "key": "digits-5",
    "decoding": "greedy",
}


def amounts_of(records: list[dict]) -> dict[int, int]:
    """Length -> how many windows, or prompts, the records are of."""
    amounts = {record["length"]: 0 for record in sorted(records, key=lambda each: each["length"])}
    for record in records:
        amounts[record["length"]] += record.get("prompts") or len(record["windows"])
    return amounts


def fitted(config: Config, paths: Iterable[Path]) -> Config:
    """The configuration, asking for the lengths and amounts that some files have."""
    raw = config.model_dump()
    for record in (json.loads(path.read_text()) for path in paths):
        asked = raw["models"][record["model"]]["evaluation"][record["evaluation"]]
        kind = "windows" if asked["task"] == "perplexity" else "prompts"
        kept = asked[kind] if asked.get("fitted") else {}
        asked |= {kind: kept | record["amounts"], "fitted": True}
        longest = list(record["amounts"])[-1]
        asked["methods"].get(record["weights"], {})[record["method"]] = longest
    for model in raw["models"].values():
        for asked in model["evaluation"].values():
            asked.pop("fitted", None)
    return load_config(raw)


def scored(length: int, document: str, *losses: float, tokens: int = 100, text: str = "a") -> dict:
    """The record of one document: one window a loss, `tokens` scored in each."""
    windows = [[number * length, tokens, loss] for number, loss in enumerate(losses)]
    return {
        "length": length,
        "document": document,
        "joined": False,
        "tokens": tokens * len(losses),
        "loss": sum(losses) / len(losses),
        "windows": windows,
        "scored_sha256": text,
    }


def documents(length: int, *losses: float) -> list[dict]:
    return [scored(length, f"book {number}", loss) for number, loss in enumerate(losses)]


def write_evaluation(
    folder: Path, weights: str, method: str, records: list[dict], model: str = "toy", **more
) -> Path:
    """An evaluation file; without `fingerprint`, methods have factors of their own."""
    task = "passkey" if "prompts" in records[0] else "perplexity"
    name = more.get("name", task)
    factors = {
        "method": method,
        "window": 1024,
        "attention_factor": more.get("attention_factor", 1.0),
        "n_hat": 0,
        "fingerprint": more.get("fingerprint", method),
    }
    results = {"perplexity": of_perplexity, "passkey": of_passkeys}
    lengths = sorted({record["length"] for record in records})
    labels = [str(each) if each < 1024 else f"{each // 1024}k" for each in lengths]
    path = folder / weights / name / f"{method}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    evaluation = {
        "schema": 2,
        "task": task,
        "evaluation": name,
        "model": model,
        "weights": weights,
        "weights_fingerprint": weights,
        "original_window": 256,
        "method": method,
        "protocol": PROTOCOL,
        "amounts": dict(zip(labels, amounts_of(records).values(), strict=True)),
        "factors": {label: factors for label in labels},
        "results": {
            label: results[task]([each for each in records if each["length"] == length])
            for label, length in zip(labels, lengths, strict=True)
        },
        "records": records,
    }
    path.write_text(json.dumps(evaluation))
    return path
