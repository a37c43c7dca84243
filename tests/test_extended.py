"""Tiers: the smallest window that holds the whole sequence, chosen once."""

from dataclasses import replace

import pytest
import torch

from longrope.errors import UserError
from longrope.extended import Tiers, make_tiers, read_tiers, write_extended
from longrope.extended_model import ExtendedModel
from longrope.factors import RescaleFactors, Rope, write_factors
from longrope.files import read_json, write_json

ROPE = Rope("small", 10_000.0, 8, 256, "abc")
WINDOWS = (256, 1024, 4096)


def factors(window: int, rope: Rope = ROPE) -> RescaleFactors:
    stretch = max(1.0, window / rope.original_window)
    return RescaleFactors(rope, window, "search", (1.0,) * (rope.pairs - 1) + (stretch,), n_hat=4)


TIERS = Tiers(tuple(factors(window) for window in WINDOWS))


@pytest.mark.parametrize(
    ("tokens", "window"),
    [(1, 256), (255, 256), (256, 256), (257, 1024), (1024, 1024), (1025, 4096), (4096, 4096)],
)
def test_the_tier_is_the_smallest_window_that_holds_the_sequence(tokens, window):
    assert TIERS.for_length(tokens).window == window


def test_a_sequence_longer_than_the_longest_window_is_refused():
    with pytest.raises(UserError, match="4,097 tokens is longer than the longest window, 4k"):
        TIERS.for_length(4097)


@pytest.mark.parametrize("order", [WINDOWS, WINDOWS[::-1], (1024, 4096, 256)])
def test_tiers_are_the_same_in_whatever_order_the_factors_come(order):
    assert make_tiers([factors(window) for window in order]) == TIERS


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ((), "at least one window"),
        ((1024, 256), r"windows that rise, these are \[1024, 256\]"),
        ((256, 256), r"windows that rise, these are \[256, 256\]"),
    ],
)
def test_tiers_out_of_order_or_double_cannot_be_made(windows, message):
    with pytest.raises(UserError, match=message):
        Tiers(tuple(factors(window) for window in windows))


def test_two_tables_for_one_window_are_refused():
    with pytest.raises(UserError, match="windows that rise"):
        make_tiers([factors(256), factors(1024), factors(256)])


@pytest.mark.parametrize(
    "change", [{"fingerprint": "xyz"}, {"theta": 5e5}, {"rotary_dim": 16}, {"original_window": 512}]
)
def test_tiers_of_two_models_are_refused(change):
    with pytest.raises(UserError, match="use factors made for it"):
        make_tiers([factors(256), factors(1024, replace(ROPE, **change))])


# --- files ----------------------------------------------------------------------------------


def test_a_folder_gives_back_the_tiers_that_were_written(tmp_path):
    write_extended(tmp_path / "extended", TIERS, tmp_path / "model")
    assert read_tiers(tmp_path / "extended" / "extended.json", ROPE) == TIERS
    names = sorted(path.name for path in (tmp_path / "extended").iterdir())
    assert names == ["1k.json", "256.json", "4k.json", "extended.json"]


def test_one_factors_file_is_one_tier(tmp_path):
    write_factors(tmp_path / "factors.json", factors(1024))
    assert read_tiers(tmp_path / "factors.json", ROPE).factors == (factors(1024),)


def test_tiers_are_not_read_for_another_model(tmp_path):
    write_extended(tmp_path / "extended", TIERS, tmp_path / "model")
    with pytest.raises(UserError, match="fingerprint"):
        read_tiers(tmp_path / "extended" / "extended.json", replace(ROPE, fingerprint="xyz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"tiers": []}, "at least one window"),
        ({"tiers": [{"max_length": 512, "factors": "256.json"}]}, "512 tokens names factors for"),
        ({"tiers": [{"max_length": 256, "factors": "gone.json"}]}, r"gone\.json: no such file"),
        ({"tiers": [{"max_length": 256}]}, "factors"),
        ({"tiers": [{"factors": "256.json"}]}, "max_length"),
        ({"tiers": {"256": "256.json"}}, "tiers"),
        ({"tiers": 3}, "tiers"),
    ],
)
def test_a_broken_table_of_tiers_is_one_clear_error(tmp_path, change, message):
    write_extended(tmp_path / "extended", TIERS, tmp_path / "model")
    path = tmp_path / "extended" / "extended.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(UserError, match=message):
        read_tiers(path)


# --- the model ------------------------------------------------------------------------------


def test_a_pinned_model_turns_with_the_tier_of_the_whole_length(model, rope):
    able = ExtendedModel(model, make_tiers([factors(64, rope), factors(128, rope)]))
    position = torch.tensor([[63]])
    angles = {}
    for tokens in (64, 65):
        assert able.pin(tokens).window == (64 if tokens == 64 else 128)
        angles[tokens] = model.model.rotary_emb(torch.zeros(1, 1), position)[1][0, 0, 3].item()
    slowest = 63 / 10_000 ** (6 / 8)
    assert angles[64] == pytest.approx(torch.tensor(slowest).sin().item(), rel=1e-5)
    assert angles[65] == pytest.approx(torch.tensor(slowest / 2).sin().item(), rel=1e-5)


def test_a_length_that_is_refused_leaves_the_pinned_tier(model, rope):
    able = ExtendedModel(model, make_tiers([factors(64, rope), factors(128, rope)]))
    able.pin(64)
    with pytest.raises(UserError):
        able.generate(torch.ones(1, 100, dtype=torch.long), max_new_tokens=29)
    assert model.model.rotary_emb.factors == (factors(64, rope),)


def test_a_model_that_the_tiers_are_not_for_is_refused(model, rope):
    with pytest.raises(UserError):
        ExtendedModel(model, make_tiers([factors(64, replace(rope, theta=5e5))]))
