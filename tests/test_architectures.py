"""Every architecture: a tiny random checkpoint of each, against transformers, or its refusal."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from helpers import WINDOW, make_tokenizer
from longrope.config import FolderModel
from longrope.errors import UserError
from longrope.extended import Tiers
from longrope.extended_model import ExtendedModel
from longrope.factors import RescaleFactors
from longrope.losses import token_losses
from longrope.models.checkpoint import empty_model, load_model, read_record
from longrope.models.import_model import import_model
from longrope.rope import install

LONG = 100  # tokens, beyond the window
NEW = 6  # tokens that are generated
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.2,  # wide, so that attention depends on positions
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Family:
    """One architecture, as it is configured in transformers."""

    name: str
    options: dict = field(default_factory=dict)
    pairs: int = 8  # that turn
    reference: dict = field(default_factory=dict)  # what the import changes, in its own config
    theta: float = 10_000.0

    def build(self, **more):
        """A random model in which everything counts: no bias is 0, no norm is the same for all."""
        config = getattr(transformers, f"{self.name}Config")
        vocabulary = len(make_tokenizer())
        settings = {"vocab_size": vocabulary, "rope_parameters": self.rope()}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                config(**settings | SMALL | self.options | more), attn_implementation="sdpa"
            )
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
        return model.eval()

    def rope(self, **scaling) -> dict:
        """rope_parameters as this architecture has them."""
        whole = {"rope_type": "default", "rope_theta": self.theta}
        return whole | self.options.get("rope_parameters", {}) | scaling


FAMILIES = {
    "Llama": Family("Llama"),
    "Llama with biases, tied": Family(
        "Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    ),
    "Mistral": Family("Mistral", GROUPED | {"sliding_window": 16}, 4, {"sliding_window": None}),
    "Qwen2": Family("Qwen2", GROUPED, 4),
    "Qwen3": Family("Qwen3", GROUPED | {"head_dim": 16}, theta=1_000_000.0),
    "Phi-3": Family("Phi3", {"num_key_value_heads": 2}),
    "Phi-3, half of a head": Family(
        "Phi3",
        {
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.5,
            "sliding_window": 16,
            "original_max_position_embeddings": WINDOW,
        },
        4,
        {"sliding_window": None},
    ),
    "Gemma": Family("Gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "OLMo": Family("Olmo", {"clip_qkv": 2.0}),
    "OLMo 2": Family("Olmo2", GROUPED, 4, theta=500_000.0),
    "GPT-NeoX": Family(
        "GPTNeoX",
        {"rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 10_000.0}},
        2,
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> Family:
    return FAMILIES[request.param]


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def bring_in(source: Path, out: Path, window: int = WINDOW, rope: str = "plain"):
    return import_model(FolderModel(kind="folder", path=str(source)), "m", window, out, rope)


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory) -> Path:
    """A checkpoint of the family, brought in."""
    place = tmp_path_factory.mktemp("family")
    bring_in(save(family.build(), place / "source"), place / "model")
    return place / "model"


@pytest.fixture
def model(folder):
    return load_model(folder)


@pytest.fixture
def rope(folder):
    return read_record(folder).rope


def some_tokens(rows: int = 2, length: int = LONG) -> torch.Tensor:
    return torch.randint(1, 384, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens, use_cache=False).logits


def rising(rope) -> tuple[float, ...]:
    """Some factors for 4 times the window, from 1 to 4."""
    return tuple(1 + 3 * (pair + 1) / rope.pairs for pair in range(rope.pairs))


def stretched(rope, lambda_, **more) -> RescaleFactors:
    return RescaleFactors(rope, 4 * WINDOW, "search", tuple(lambda_), **more)


# --- what is supported ----------------------------------------------------------------------


def test_its_rope_is_found(family, rope):
    assert (rope.pairs, rope.theta, rope.original_window) == (family.pairs, family.theta, WINDOW)


def test_an_empty_model_that_gets_weights_is_the_whole_one(folder):
    whole, empty, tokens = load_model(folder, for_training=True), empty_model(folder), some_tokens()
    assert all(each.is_meta for each in empty.parameters())
    empty.load_state_dict(whole.state_dict(), assign=True)
    empty.tie_weights()
    assert torch.equal(logits(empty, tokens), logits(whole, tokens))
    assert len(list(empty.parameters())) == len(list(whole.parameters()))


def test_factors_of_one_leave_the_logits_those_of_transformers(family, model, rope):
    install(model, rope).use([stretched(rope, [1.0] * rope.pairs)])
    expected = logits(family.build(**family.reference), some_tokens())
    assert torch.equal(logits(model, some_tokens()), expected)


@pytest.mark.parametrize("scaling", ["longrope", "linear"])
def test_without_n_hat_it_agrees_with_what_transformers_rescales_itself(
    scaling, family, model, rope
):
    lambda_ = rising(rope) if scaling == "longrope" else [4.0] * rope.pairs
    if family.name == "Phi3":  # has no other scaling
        scaling = "longrope"
    tables = {"long_factor": list(lambda_), "short_factor": list(lambda_)}
    tables |= {"original_max_position_embeddings": WINDOW, "attention_factor": 1.0}
    own = family.rope(rope_type=scaling, factor=4.0, **tables if scaling == "longrope" else {})
    theirs = family.build(**family.reference, rope_parameters=own)
    plain = logits(model, some_tokens())
    install(model, rope).use([stretched(rope, lambda_)])
    found, expected = logits(model, some_tokens()), logits(theirs, some_tokens())
    assert (found - plain).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_losses_are_those_of_transformers(family, model):
    theirs, tokens = family.build(**family.reference), some_tokens(1)
    with torch.no_grad():
        found = token_losses(model, tokens).mean()
        expected = theirs(tokens, labels=tokens, use_cache=False).loss
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_it_generates_what_whole_sequences_at_the_same_factors_say(model, rope):
    model.generation_config.eos_token_id = None
    short = RescaleFactors(rope, WINDOW, "none", (1.0,) * rope.pairs)
    able = ExtendedModel(model, Tiers((short, stretched(rope, rising(rope), n_hat=4))))
    ids = some_tokens(1, WINDOW - 3)  # the last tokens are beyond the window
    out = able.generate(ids, NEW, do_sample=False, attention_mask=torch.ones_like(ids))
    whole = logits(model, out[:, :-1]).argmax(-1)
    assert torch.equal(out[:, -NEW:], whole[:, -NEW:])


def test_attention_never_gets_a_mask(family, model, rope, monkeypatch):
    """Neither scores nor gradients of one row or several, nor prompts, nor what is generated."""
    calls, attend = [], torch.nn.functional.scaled_dot_product_attention

    def noting(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **more):
        calls.append((query.shape[2], key.shape[2], attn_mask, is_causal))
        return attend(query, key, value, attn_mask, dropout_p, is_causal, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    rotary = install(model, rope)
    for rows in (1, 3):
        rotary.use([stretched(rope, rising(rope))] * rows)
        with torch.no_grad():
            token_losses(model, some_tokens(rows))
        token_losses(model.train(), some_tokens(rows))
        ids = some_tokens(rows)
        options = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": None}
        model.eval().generate(ids, attention_mask=torch.ones_like(ids), **options)
    layers = model.config.num_hidden_layers
    whole = (LONG, LONG, None, True)
    assert calls.count(whole) == 2 * 3 * layers  # losses twice, and the prompt in one call
    assert len(calls) == 2 * layers * (3 + NEW - 1)
    assert all((queries, mask) == (1, None) for queries, _, mask, _ in set(calls) - {whole})


def test_gradients_are_those_of_transformers(family, model, rope):
    theirs, tokens = family.build(**family.reference).train(), some_tokens(1)
    install(model, rope)
    token_losses(model.train(), tokens).mean().backward()
    theirs(tokens, labels=tokens, use_cache=False).loss.backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-5)


def test_its_cos_and_sin_are_of_the_type_that_it_turns_in(model, rope):
    """In bfloat16 OLMo turns in float32, others do not."""
    positions, values = torch.arange(LONG)[None], torch.zeros(1, 1, dtype=torch.bfloat16)
    rotary = install(model, rope)
    before = rotary(values, positions)
    rotary.use([stretched(rope, rising(rope))])
    assert [each.dtype for each in rotary(values, positions)] == [each.dtype for each in before]


# --- what is refused ------------------------------------------------------------------------

AFTER = "changes its logits after the head "
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
SCALED = {"rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": WINDOW}
REFUSED = {
    "Gemma 2": ("Gemma2", {}, f"{AFTER}.final_logit_softcapping = 30.0"),
    "Gemma 3": ("Gemma3Text", {}, "several RoPEs by layer"),
    "OLMo 3": ("Olmo3", {}, "several RoPEs by layer"),
    "Granite": ("Granite", {"logits_scaling": 2.0}, f"{AFTER}.logits_scaling = 2.0"),
    "Cohere": ("Cohere", {"logit_scale": 0.5}, f"{AFTER}.logit_scale = 0.5"),
    "Cohere, logits as they are": ("Cohere", {"logit_scale": 1.0}, "lays out its rotary"),
    "Falcon-H1": ("FalconH1", {"lm_head_multiplier": 0.5}, f"{AFTER}.lm_head_multiplier = 0.5"),
    "GPT-J": ("GPTJ", {"rotary_dim": 8}, "no rotary position embedding"),
    "GPT-2": ("GPT2", {}, "no rotary position embedding"),
    "Gemma 3 with images": ("Gemma3", {}, "wraps a language model in a larger one"),
    "Llama 3.1": ("Llama", {"rope_parameters": LLAMA3 | SCALED}, "already rescaled .*'llama3'"),
    "Phi-3 128k": ("Phi3", {"rope_parameters": LONGROPE | SCALED}, "already .*'longrope'"),
}


@pytest.mark.parametrize(("name", "options", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_extended_is_refused_at_import_with_the_reason(
    name, options, reason, tmp_path
):
    small = SMALL if name != "Gemma3" else {}
    getattr(transformers, f"{name}Config")(**small | options).save_pretrained(tmp_path / "source")
    (tmp_path / "source/model.safetensors").touch()  # weights are not looked at
    with pytest.raises(UserError, match=reason) as caught:
        bring_in(tmp_path / "source", tmp_path / "model")
    assert "\n" not in str(caught.value) and not (tmp_path / "model").exists()


def test_a_head_that_no_key_of_the_config_tells_of_is_refused_when_the_model_is_loaded(
    folder, monkeypatch
):
    kind = type(load_model(folder))
    forward = kind.forward

    def scaled(self, *arguments, **more):
        out = forward(self, *arguments, **more)
        out.logits = out.logits / 2
        return out

    monkeypatch.setattr(kind, "forward", scaled)
    with pytest.raises(UserError, match="changes its logits after the head"):
        load_model(folder)
