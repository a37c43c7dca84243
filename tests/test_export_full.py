"""The modelling file that carries all tiers: generation, beams, caches, and what it refuses."""

import ast
import logging
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from exports import export, furthest, own, prompts_around, run, text_of, tiers_for, write_tiers
from longrope.baselines import closed_form
from longrope.config import FolderModel
from longrope.errors import UserError
from longrope.export import reread
from longrope.export.reread import reread_full
from longrope.extended import Tiers, read_tiers
from longrope.extended_model import ExtendedModel
from longrope.files import read_json, write_json
from longrope.models.checkpoint import load_model, read_record
from longrope.models.import_model import import_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The carried model, its tiers (256, 512 with n_hat, 1k), and its export: three paths."""
    place = tmp_path_factory.mktemp("full")
    source = FolderModel(kind="folder", path=str(ROOT / "resources/models/tiny"))
    import_model(source, "tiny", 256, place / "model")
    tiers = write_tiers(
        place / "tiers", place / "model", tiers_for(read_record(place / "model").rope)
    )
    export(place / "model", tiers, place / "export", "full")
    return place / "model", tiers, place / "export"


@pytest.fixture
def loaded(exported):
    return AutoModelForCausalLM.from_pretrained(
        exported[2], dtype=torch.float32, trust_remote_code=True
    ).eval()


@pytest.fixture
def extended(exported):
    """The project's own way to run the same."""
    model, tiers, _ = exported
    return ExtendedModel(load_model(model), read_tiers(tiers, read_record(model).rope))


@pytest.mark.parametrize("runner", ["trusted", "trusted_batch"])
def test_every_sequence_has_its_tier_alone_and_beside_others(exported, tmp_path, runner):
    model, tiers, folder = exported
    prompts = prompts_around([256, 512, 1024], text_of(model, 1024))
    found = run(runner, folder, prompts, tmp_path)
    assert furthest(found, own(model, tiers, prompts)) < 1e-4


def test_an_export_says_nothing_of_the_names_of_its_drafts(exported, tmp_path):
    model, tiers, _ = exported
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("transformers.dynamic_module_utils")
    logger.addHandler(handler)
    try:
        export(model, tiers, tmp_path / "export", "full")
        assert said == []
        AutoModelForCausalLM.from_pretrained(
            shutil.copytree(tmp_path / "export", tmp_path / "with a space"), trust_remote_code=True
        )
        assert "(originally with a space)" in said[0]  # of other folders it says so
    finally:
        logger.removeHandler(handler)


def test_without_trust_the_folder_is_the_one_table_export(exported, tmp_path):
    model, tiers, folder = exported
    prompts = prompts_around([256, 1024], text_of(model, 1024))
    found = run("transformers", folder, prompts, tmp_path)
    assert furthest(found, own(model, tiers, prompts, window=1024)) < 1e-4


@pytest.mark.parametrize("length", [200, 250, 256, 500])
def test_generation_across_a_tier_is_that_of_the_project(exported, loaded, extended, length):
    prompt = torch.tensor([text_of(exported[0], length)])
    expected = extended.generate(prompt, max_new_tokens=12, do_sample=False)
    assert torch.equal(loaded.generate(prompt, max_new_tokens=12, do_sample=False), expected)
    by_length = loaded.generate(prompt, max_length=length + 12, do_sample=False)
    assert torch.equal(by_length, expected)


def test_a_tier_that_changes_nothing_is_the_model_before_to_the_last_bit(exported, tmp_path):
    model = exported[0]
    rope = read_record(model).rope
    plain = closed_form("none", rope, 2048)  # long enough for angles in float32 to err
    tiers = Tiers((plain, closed_form("yarn", rope, 4096)))
    export(model, write_tiers(tmp_path / "tiers", model, tiers), tmp_path / "export", "full")
    found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "export", dtype=torch.float32, trust_remote_code=True
    )
    before, ids = load_model(model), torch.tensor([text_of(model, 2048)])
    with torch.no_grad():
        assert torch.equal(found(ids).logits, before(ids).logits)
    found.pin([2048, 2049])  # beside a row of another tier, too
    x, positions = torch.zeros(1, 1, 1), torch.arange(2048)[None]
    rows = found.model.rotary_emb(x.expand(2, 1, 1), positions.expand(2, -1))
    for row, plain in zip(rows, before.model.rotary_emb(x, positions), strict=True):
        assert torch.equal(row[:1], plain) and not torch.equal(row[1:], plain)


def test_rows_of_a_batch_generate_as_they_do_alone(exported, loaded):
    prompts = [text_of(exported[0], length) for length in (250, 20, 300)]
    ids = torch.tensor([[0] * (300 - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (300 - len(each)) + [1] * len(each) for each in prompts])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    together = loaded.generate(ids, attention_mask=mask, **options)[:, 300:]
    for row, prompt in zip(together, prompts, strict=True):
        alone = loaded.generate(torch.tensor([prompt]), **options)[0, len(prompt) :]
        assert torch.equal(row[: len(alone)], alone)


def test_beams_share_the_tier_of_their_prompt(exported, loaded):
    prompts = torch.tensor([text_of(exported[0], 250)] * 2)
    found = loaded.generate(
        prompts, max_new_tokens=10, num_beams=3, num_return_sequences=2, do_sample=False
    )
    assert found.shape[0] == 4 and torch.equal(found[0], found[2])


def test_pieces_with_a_cache_are_the_whole_once_its_length_is_said(exported, loaded):
    ids = torch.tensor([text_of(exported[0], 600)])
    with torch.no_grad():
        whole = loaded(ids, use_cache=False).logits[:, -1]
        loaded.pin(600)
        begun = loaded(ids[:, :400], use_cache=True)
        pieces = loaded(ids[:, 400:], past_key_values=begun.past_key_values).logits[:, -1]
    torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=0)


def test_a_sequence_that_outgrows_the_factors_in_its_cache_is_refused(exported, loaded):
    ids = torch.tensor([text_of(exported[0], 257)])
    begun = loaded(ids[:, :256], use_cache=True)
    with pytest.raises(ValueError, match="grown to 257 tokens, beyond the window 256"):
        loaded(ids[:, 256:], past_key_values=begun.past_key_values)
    with pytest.raises(ValueError, match="longer than the longest window"):
        loaded(torch.ones(1, 1025, dtype=torch.long))


def test_a_cache_keeps_its_tier_whatever_is_run_between(exported, loaded, extended):
    text = text_of(exported[0], 800)
    first, second = torch.tensor([text[:100]]), torch.tensor([text[:700]])
    with torch.no_grad():
        expected = loaded(torch.tensor([text[:120]])).logits[:, 100:]
        cache = loaded(first, use_cache=True).past_key_values
        loaded(second, use_cache=True)  # another sequence, of another tier
        found = loaded(torch.tensor([text[100:120]]), past_key_values=cache).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    loaded.pin(700)
    with pytest.raises(ValueError, match=r"factors of other windows \(256\) than .*\(1024\)"):
        loaded(torch.tensor([text[120:130]]), past_key_values=cache)
    loaded.pin(None)
    foreign = LlamaForCausalLM.from_pretrained(exported[2])(first, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="a cache that this model did not make"):
        loaded(torch.tensor([text[100:120]]), past_key_values=foreign)


@pytest.mark.parametrize("which", ["export", "project"])
def test_a_cache_that_is_handed_on_keeps_its_tier_or_is_refused(which, exported, loaded, extended):
    model = loaded if which == "export" else extended
    text = text_of(exported[0], 300)
    options = {"max_new_tokens": 8, "do_sample": False}
    turn = torch.tensor([text[:100]])
    said = model.generate(turn, **options, return_dict_in_generate=True)
    again = torch.cat([said.sequences, torch.tensor([text[200:220]])], dim=1)
    found = model.generate(again, **options, past_key_values=said.past_key_values)
    assert torch.equal(found, model.generate(again, **options))
    said = model.generate(turn, **options, return_dict_in_generate=True)
    longer = torch.cat([said.sequences, torch.tensor([text])], dim=1)
    with pytest.raises((ValueError, UserError), match=r"generate without past_key_values"):
        model.generate(longer, **options, past_key_values=said.past_key_values)
    assert torch.equal(model.generate(again, **options), found)  # as before


def test_saved_again_it_keeps_its_file_and_its_factors(exported, loaded, tmp_path):
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "again", dtype=torch.float32, trust_remote_code=True
    )
    ids = torch.tensor([text_of(exported[0], 300)])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, loaded(ids).logits)


@pytest.mark.parametrize(
    ("tier", "key", "value", "message"),
    [
        (1, "n_hat", 5, "n_hat of tier 1 .up to 512 tokens. is 5, not 4"),
        (0, "max_length", 255, "max_length of tier 0 .up to 256 tokens. is 255, not 256"),
        (2, "attention_factor", 1.0, "attention_factor of tier 2"),
        (2, "lambda", None, "lambda of tier 2"),
    ],
)
def test_what_logits_at_the_window_do_not_show_is_noticed(
    exported, tmp_path, tier, key, value, message
):
    tiers, changed, expected = edited(exported, tmp_path, tier, key, value)
    with pytest.raises(UserError, match=message):
        reread_full(changed, tiers, expected, exact=True)


@pytest.mark.parametrize(
    ("tier", "key", "value", "message"),
    [
        (1, "n_hat", 5, "in a text of 257 tokens the export turns position 4 otherwise"),
        (0, "max_length", 255, "in a text of 256 tokens the export turns position"),
        (2, "lambda", None, "the factors for 1024 tokens"),
    ],
)
def test_a_modelling_file_that_reads_its_tiers_otherwise_is_noticed(
    exported, tmp_path, monkeypatch, tier, key, value, message
):
    """The same by angles, as if the numbers were right and the file took them wrongly."""
    monkeypatch.setattr(reread, "_check_tiers", lambda model, meant: None)
    tiers, changed, expected = edited(exported, tmp_path, tier, key, value)
    with pytest.raises(UserError, match=message):
        reread_full(changed, tiers, expected, exact=True)


def edited(exported, place: Path, tier: int, key: str, value):
    """A copy of the export with another value in one tier (None: a slow pair one part in 1000
    off), with what it is compared with."""
    model, tiers, folder = exported
    record = read_record(model)
    meant = read_tiers(tiers, record.rope)
    shutil.copytree(folder, place / "edited")
    config = read_json(place / "edited/config.json")
    said = config["longrope_tiers"]["tiers"][tier]
    said[key] = [*said[key][:-1], said[key][-1] * 1.001] if value is None else value
    write_json(place / "edited/config.json", config)
    return meant, place / "edited", reread.own_logits(model, record, list(meant.factors))


def test_the_file_imports_torch_and_transformers_alone(exported):
    tree = ast.parse((exported[2] / "modeling_longrope.py").read_text())
    names = {each.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for each in node.names}  # fmt: skip
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names == {"torch", "transformers"}
