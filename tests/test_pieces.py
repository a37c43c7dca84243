"""Norms and MLPs in pieces: the values and gradients of the whole, and nothing wide held."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, Qwen2MoeConfig

from longrope import pieces, portions
from longrope.losses import token_losses
from longrope.pieces import HALVINGS, prepare
from test_architectures import FAMILIES

ROWS = 7  # tokens a piece
SMALL = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}
TOKENS = torch.randint(1, 101, (2, 50), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def short(monkeypatch):
    """Pieces of so many tokens."""
    monkeypatch.setattr(portions, "LEAST", ROWS)
    monkeypatch.setattr(pieces, "SMALL", 0)
    monkeypatch.setattr(pieces, "LARGE", 0)


def in_pieces(model):
    """A copy of a model that runs in pieces."""
    other = copy.deepcopy(model)
    prepare(other)
    return other


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_architecture_gives_the_same_losses_and_gradients_in_pieces(family, short):
    whole = family.build()
    parts = in_pieces(whole)
    with torch.no_grad():
        expected = token_losses(whole, TOKENS)
        torch.testing.assert_close(token_losses(parts, TOKENS), expected, rtol=1e-5, atol=1e-5)
    for model in (whole, parts):
        token_losses(model.train(), TOKENS).mean().backward()
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_mlps_and_norms_of_every_architecture_see_no_more_than_a_piece(family, short):
    model, rows = family.build(), {}
    for name, module in model.base_model.named_modules():
        if name.endswith("mlp") or "norm" in name:
            module.forward = noting(module.forward, rows.setdefault(name, []))
    prepare(model)
    with torch.no_grad():
        token_losses(model, TOKENS)
    assert sum(name.endswith("mlp") for name in rows) == 2 and len(rows) > 5
    for name, seen in rows.items():
        assert max(seen) == ROWS and sum(seen) % TOKENS.numel() == 0, name


def noting(forward, rows: list[int]):
    """That forward, which notes how many rows it is given."""

    def noted(x):
        rows.append(x.shape[:-1].numel())
        return forward(x)

    return noted


@pytest.mark.parametrize("config", [MixtralConfig, Qwen2MoeConfig])
def test_a_mixture_of_experts_is_left_alone(config, short):
    model = AutoModelForCausalLM.from_config(config(**SMALL)).eval()
    parts = in_pieces(model)
    assert all("forward" not in vars(layer.mlp) for layer in parts.base_model.layers)
    with torch.no_grad():
        expected = token_losses(model, TOKENS)
        torch.testing.assert_close(token_losses(parts, TOKENS), expected, rtol=1e-5, atol=1e-5)


def test_gradients_keep_nothing_as_wide_as_an_mlp(short):
    kept = {}
    for name, model in (("whole", llama()), ("pieces", in_pieces(llama()))):
        shapes = kept.setdefault(name, [])

        def note(tensor, shapes=shapes):
            shapes.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            token_losses(model.train(), TOKENS)
    wide = {name: [each for each in shapes if each[-1:] == (160,)] for name, shapes in kept.items()}
    assert wide["whole"] and not wide["pieces"]


def test_a_short_sequence_is_run_as_it_is():
    model = llama()
    with torch.no_grad():
        assert torch.equal(in_pieces(model)(TOKENS).logits, model(TOKENS).logits)


def test_pieces_are_halved_for_the_whole_model_a_few_times(short):
    model = in_pieces(llama())
    halved = [model.pieces.halve() for _ in range(HALVINGS + 1)]
    assert halved == [True] * HALVINGS + [False]
    assert model.pieces.rows(10, torch.device("cpu")) == 1


def llama():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(LlamaConfig(**SMALL)).eval()
