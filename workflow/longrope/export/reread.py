"""
An export as its target reads it, against what was meant to be written.

Loaded by transformers from the folder that was just written: the window, the frequencies and the
scaling that it comes to on both sides of the original window, and logits of a few tokens at the
end of each window against this project's own. Logits there see neither n_hat nor where one tier
ends, so of the form full the tiers themselves and the angles that they make are compared, too. A
difference is an error, never a warning.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from longrope.errors import UserError, one_line
from longrope.export.full import full_keys
from longrope.export.native import FOR_VLLM, inverse_frequencies
from longrope.export.tables import Tables
from longrope.extended import Tiers
from longrope.factors import RescaleFactors, Rope
from longrope.models.architectures import body_of
from longrope.models.checkpoint import ModelRecord, quiet

TOKENS = 24  # of a probe
EXACT = 1e-3  # largest difference of a logit, as part of the largest logit, in float32
FINE = 16384  # tokens up to which angles in float32, which transformers has, keep within that
PROBED = 256  # positions of a window whose angles are compared
TURNED = 1e-5  # largest difference of a cos or sin, which may be float32
SINGLE = 1e-7  # the same for each position, where angles are float32, too: factors of one
ROUNDED = 3e-2  # the same where weights were stored anew in a short type


def probe_tokens(vocabulary: int):
    """Some tokens, the same ones every time, (1, TOKENS)."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocabulary, (1, TOKENS), generator=generator)


def own_logits(model_folder: Path, record: ModelRecord, asked: list[RescaleFactors]) -> list:
    """This project's logits of the probe at the end of each window, one after the other."""
    import torch

    from longrope.models.checkpoint import load_model
    from longrope.rope import install

    model = load_model(model_folder, for_training=True)  # float32
    rotary = install(model, record.rope)
    tokens, answers = probe_tokens(model.config.vocab_size).to(model.device), []
    with torch.no_grad():
        for factors in asked:
            positions = torch.arange(factors.window - TOKENS, factors.window)[None]
            rotary.use([factors], positions)
            answers.append(model(input_ids=tokens, use_cache=False).logits.cpu())
    return answers


def reread_native(
    draft: Path,
    meant: list[RescaleFactors],
    tables: Tables,
    expected: list,
    *,
    in_weights: bool,
    exact: bool,
) -> float:
    """Load an export without any code of its own, and compare; returns the largest difference of a
    logit. `meant` are the short and the long table, or the one, `expected` their logits; `exact`
    where no weight was rounded anew."""
    import torch

    model, rope = _load(draft), tables.tiers.rope
    rotary = body_of(model).rotary_emb
    if (found := model.config.max_position_embeddings) != tables.window:
        raise UserError(f"reread: max_position_embeddings is {found}, not {tables.window}")
    worst = 0.0
    for factors, logits in zip(meant, expected, strict=True):
        positions = torch.arange(factors.window - TOKENS, factors.window)[None]
        rotary(torch.zeros(1, 1, 1), positions)
        _compare(rotary, factors, rope, in_weights=in_weights)
        with torch.no_grad():
            found = model(
                input_ids=probe_tokens(model.config.vocab_size),
                position_ids=positions,
                use_cache=False,
            ).logits
        allowed = (EXACT if exact else ROUNDED) * max(1, factors.window / FINE)
        worst = max(worst, _difference(found, logits, allowed))
    return worst


def reread_full(
    draft: Path, tiers: Tiers, expected: list, *, exact: bool, folded: float = 1.0
) -> float:
    """The same of an export with a modelling file: every tier, its angles over its window, and
    where one ends and the next begins. `folded` is an attention factor that is in the weights."""
    import torch

    model, worst = _load(draft, trust=True), 0.0
    _check_tiers(model, full_keys(tiers, folded)["longrope_tiers"])
    before = 0
    for factors, logits in zip(tiers.factors, expected, strict=True):
        for length in (before + 1, factors.window):
            _check_angles(model, length, factors, folded)
        before = factors.window
        model.pin(factors.window)
        with torch.no_grad():
            found = model(
                input_ids=probe_tokens(model.config.vocab_size),
                position_ids=torch.arange(factors.window - TOKENS, factors.window)[None],
                use_cache=False,
            ).logits
        worst = max(worst, _difference(found, logits, EXACT if exact else ROUNDED))
    return worst


def _check_tiers(model, meant: dict) -> None:
    """Raise UserError unless the tiers that were read are, to the last digit, those meant."""
    found = model.config.longrope_tiers
    for key in ("rope_theta", "rotary_dim", "original_window"):
        if found[key] != meant[key]:
            raise UserError(f"reread: longrope_tiers.{key} is {found[key]}, not {meant[key]}")
    if len(found["tiers"]) != len(meant["tiers"]):
        raise UserError(f"reread: {len(found['tiers'])} tiers, not {len(meant['tiers'])}")
    for number, (ours, theirs) in enumerate(zip(meant["tiers"], found["tiers"], strict=True)):
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise UserError(
                    f"reread: {key} of tier {number} (up to {ours['max_length']} tokens) is"
                    f" {theirs.get(key)}, not {value}"
                )


def _check_angles(model, length: int, factors: RescaleFactors, folded: float) -> None:
    """Raise UserError unless a sequence of some length turns by some factors: around n_hat, and
    from the first to the last position of the window."""
    import torch

    from longrope.rope import rescaled_cos_sin

    spread = torch.linspace(0, factors.window - 1, PROBED).long().tolist()
    places = {*spread, 1, factors.n_hat - 1, factors.n_hat, factors.n_hat + 1}
    positions = torch.tensor([sorted(each for each in places if 0 <= each < factors.window)])
    model.pin(length)
    found = body_of(model).rotary_emb(torch.zeros(1, 1, 1, dtype=torch.float64), positions)
    model.pin(None)
    meant = replace(factors, attention_factor=factors.attention_factor / folded)
    allowed = TURNED + SINGLE * positions[0] * meant.is_identity
    for ours, theirs in zip(rescaled_cos_sin([meant], positions, "cpu"), found, strict=True):
        wrong = (ours - theirs.double()).abs().amax(dim=-1)[0] > allowed
        if wrong.any():
            place = int(positions[0, int(wrong.nonzero()[0])])
            raise UserError(
                f"reread: in a text of {length} tokens the export turns position {place} otherwise"
                f" than the factors for {factors.window} tokens do"
            )


def _load(draft: Path, *, trust: bool = False):
    import torch
    from transformers import AutoModelForCausalLM

    quiet()
    no_identifier = f"(originally {draft.name}) is not a valid Python identifier"
    try:
        with own_keys_known(), _unsaid("dynamic_module_utils", lambda said: no_identifier in said):
            return AutoModelForCausalLM.from_pretrained(
                draft, dtype=torch.float32, trust_remote_code=trust, attn_implementation="sdpa"
            ).eval()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"reread: transformers cannot load what was exported ({type(error).__name__}:"
            f" {one_line(error)}); this family is not supported in this form"
        ) from error


def own_keys_known():
    """Without transformers' warning of the keys that an export has for vLLM and SGLang alone."""
    return _unsaid("modeling_rope_utils", _names_own_keys)


def _names_own_keys(message: str) -> bool:
    said, _, keys = message.rpartition(": ")
    return said.startswith("Unrecognized keys in") and {*re.findall(r"\w+", keys)} <= {*FOR_VLLM}


@contextlib.contextmanager
def _unsaid(module: str, wanted: Callable[[str], bool]) -> Iterator[None]:
    """Without the messages of one of transformers' modules that are asked for."""

    def others(record: logging.LogRecord) -> bool:
        return not wanted(record.getMessage())

    logger = logging.getLogger(f"transformers.{module}")
    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


def _compare(rotary, factors: RescaleFactors, rope: Rope, *, in_weights: bool) -> None:
    """Raise UserError unless a rotary embedding turns by some factors."""
    import torch

    found = rotary.inv_freq.double().cpu()
    wanted = torch.tensor(inverse_frequencies(factors, rope), dtype=torch.float64)
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-5, atol=1e-20):
        raise UserError(
            f"reread: transformers comes to other frequencies than theta {rope.theta:g} and the"
            f" factors for {factors.window} tokens give: its longrope does not work for this family"
        )
    scaling, meant = rotary.attention_scaling, 1.0 if in_weights else factors.attention_factor
    if abs(scaling - meant) > 1e-6:
        raise UserError(f"reread: transformers scales cos and sin by {scaling:g}, not by {meant:g}")


def _difference(found, expected, allowed: float) -> float:
    """The largest difference of a logit; UserError where it is more than rounding."""
    difference = (found - expected).abs().max().item()
    size = expected.abs().max().item()
    if not difference <= allowed * size:
        raise UserError(
            f"reread: a logit of the export is {difference:.2g} from this project's (logits are up"
            f" to {size:.2g}): not exported"
        )
    return difference
