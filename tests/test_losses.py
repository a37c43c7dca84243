"""Chunked losses and their gradients against transformers' own logits, in float64."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PhiConfig

from longrope import pieces, portions
from longrope.losses import token_losses

VOCABULARY = 101
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
TOKENS = torch.randint(3, VOCABULARY, (3, 34), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[1, 7, 33, 1000], ids=lambda rows: f"{rows}-rows-a-piece")
def rows(request, monkeypatch) -> int:
    """How many of the 3 x 33 tokens have logits at a time."""
    return of_rows(request.param, monkeypatch)


def of_rows(rows: int, monkeypatch) -> int:
    """Let every piece have so many tokens."""
    monkeypatch.setattr(portions, "LEAST", rows)
    monkeypatch.setattr(pieces, "SMALL", 0)
    monkeypatch.setattr(pieces, "LARGE", 0)
    return rows


def build(config, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(**SMALL | changes)).eval()
        for parameter in model.parameters():  # biases start at 0, where leaving one out is no loss
            if not parameter.any():
                torch.nn.init.normal_(parameter)
    return model


def reference(model, tokens: torch.Tensor) -> torch.Tensor:
    """-log p of every token but the first, in float64 from the model's own logits."""
    log_p = model(tokens).logits.double().log_softmax(-1)
    return -log_p[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}], ids=["own", "tied"])
@pytest.mark.parametrize("config", [LlamaConfig, MistralConfig])
def test_losses_are_those_of_the_models_own_logits(config, changes, rows):
    model = build(config, **changes)
    with torch.no_grad():
        found, expected = token_losses(model, TOKENS), reference(model, TOKENS)
    assert found.shape == (3, 33)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_bias_of_a_head_is_part_of_its_logits():
    """Phi-1, Phi-1.5 and Phi-2 have one."""
    model = build(PhiConfig)
    assert model.lm_head.bias.any()
    with torch.no_grad():
        found, expected = token_losses(model, TOKENS), reference(model, TOKENS)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_models_own_logits(rows):
    ours, theirs = build(LlamaConfig), build(LlamaConfig).double()
    weights = torch.rand(3, 33, generator=torch.Generator().manual_seed(2))
    (token_losses(ours, TOKENS) * weights).mean().backward()
    (reference(theirs, TOKENS) * weights).mean().backward()
    for mine, reference_ in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), reference_.grad, rtol=1e-3, atol=1e-5)


def test_no_more_logits_than_a_piece_exist_at_once(monkeypatch):
    of_rows(7, monkeypatch)
    shapes, linear = [], torch.nn.functional.linear

    def watched(*arguments, **more):
        out = linear(*arguments, **more)
        shapes.append(out.shape)
        return out

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    token_losses(build(LlamaConfig), TOKENS)
    heads = [shape for shape in shapes if shape[-1] == VOCABULARY]
    assert sum(rows for rows, _ in heads) == 3 * 33
    assert max(rows for rows, _ in heads) == 7


def test_one_token_more_changes_no_loss_before_it():
    model = build(LlamaConfig)
    with torch.no_grad():
        shorter, longer = token_losses(model, TOKENS[:, :-1]), token_losses(model, TOKENS)
    torch.testing.assert_close(longer[:, :-1], shorter, rtol=1e-5, atol=1e-5)
