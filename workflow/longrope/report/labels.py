"""
The words that people read instead of `base`, `yarn-on-tuned`, `search-dim`: of methods, of rows,
and of what weights were tuned on.
"""

from longrope.baselines import is_closed_form, parts_of
from longrope.config import ModelSettings
from longrope.config.base import BASE
from longrope.paper_models import checkpoint_of
from longrope.study import ON_TUNED, chain_of, searched, searches
from longrope.windows import window_label

NAMES = {  # as their authors write them
    "none": "original RoPE",
    "pi": "PI",
    "ntk": "NTK",
    "theta": "raised base",
    "yarn": "YaRN",
    "llama3": "Llama 3",
    "ntk-critical": "NTK at the theoretical critical pair",
    "yarn-critical": "YaRN at the theoretical critical pair",
    "mrrope-pro": "MrRoPE-Pro",
    "mrrope-uni": "MrRoPE-Uni",
    "cope": "CoPE",
    "drope": "DroPE",
}
PRINTED = {  # in the paper's tables; what has a window behind a dash keeps it
    "pi": NAMES["pi"],
    "yarn": NAMES["yarn"],
    "dynamic-ntk": "Dynamic NTK",
    "search-dim": "LongRoPE, lambda",
    "search-dim-start": "LongRoPE, lambda and n_hat",
    "longrope": "LongRoPE",
    "longlora": "LongLoRA",
    "codellama": "Code LLaMA",
    "mistrallite": "MistralLite",
    "together": "Together",
    "original": "original",
}


def printed_label(method: str) -> str:
    """A method of the paper's tables: longrope-2048k is LongRoPE-2048k; unknown ones stay."""
    if method in PRINTED:
        return PRINTED[method]
    name, dash, window = method.rpartition("-")
    return PRINTED.get(name, name) + dash + window


def weights_label(weights: str) -> str:
    """What people call a checkpoint."""
    return "untuned" if weights == BASE else weights


def method_label(settings: ModelSettings, weights: str, method: str) -> str:
    """What people call a method; a formula says which window it stretches from."""
    if settings.rope == "own":
        return "own RoPE"
    tuning = settings.tunings.get(weights)
    if method.endswith(ON_TUNED):
        form = method.removesuffix(ON_TUNED)
        return f"{_form_label(form)} on tuned (from {window_label(tuning.window)})"
    if is_closed_form(method):
        own = method == "none" or (tuning and tuning.method == method)  # nothing to tell apart
        start = "" if own else f" (from {window_label(settings.original_window)})"
        return _form_label(method) + start
    match method:
        case "search":
            return "second search" if tuning else "search (LongRoPE)"
        case "extended":
            return "extended (LongRoPE)"
        case "tuned":
            return f"as tuned ({window_label(tuning.window)} factors)"
        case "longest":
            return f"{window_label(max(searched(settings, weights)))} factors throughout"
    if method.startswith("search-"):  # a variant
        _, seed = searches(settings).get(method, (None, None))
        name = method.removeprefix("search-").removesuffix(f"-seed{seed}")
        said = name if seed is None else f"{name}, seed {seed}"
        return f"{'second search' if tuning else 'search'}: {said}"
    return method


def _form_label(method: str) -> str:
    form, pair, n_hat = parts_of(method)
    name = NAMES[form]
    if pair is not None:
        name = name.replace("the theoretical critical pair", f"pair {pair}")
    return name if n_hat is None else f"{name}, n_hat {n_hat}"


def row_label(settings: ModelSettings, weights: str, method: str) -> str:
    """What people call a row: `untuned, YaRN (from 256)`, `longrope-2k, extended (LongRoPE)`.

    A published checkpoint that the paper measured has the name that it has there.
    """
    if settings.rope == "plain":
        return f"{weights_label(weights)}, {method_label(settings, weights, method)}"
    known = checkpoint_of(settings)
    state = f"{printed_label(known)} as published" if known else "as published"
    return f"{state}, {method_label(settings, weights, method)}"


def drills(settings: ModelSettings, weights: str) -> str:
    """What the tunings of some weights trained on beside text, first tuning first."""
    if settings.rope == "own":
        return "not known"
    held: list[str] = []
    for name in chain_of(settings, weights):
        mixture = settings.tunings[name].mixture
        kinds = {kind: share for kind, share in mixture.items() if kind != "text" and share}
        held.append(", ".join(f"{share:.0%} {kind}" for kind, share in kinds.items()) or "none")
    return ", then ".join(dict.fromkeys(held)) or "not tuned"
