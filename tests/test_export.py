"""Exports in transformers' own longrope: loaded elsewhere, they are what they are here."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from exports import (
    export,
    furthest,
    noise,
    own,
    prompts_around,
    python_with,
    run,
    run_here,
    text_of,
    tiers_for,
    write_tiers,
)
from longrope.config import FolderModel
from longrope.errors import UserError
from longrope.export.reread import own_keys_known
from longrope.extended import Tiers, read_tiers
from longrope.factors import check_same_model, write_factors
from longrope.files import read_json, sha256_of, write_json
from longrope.import_factors import import_checkpoint
from longrope.models.checkpoint import read_record, write_record
from longrope.models.import_model import import_model
from test_architectures import FAMILIES, bring_in, save

ANGLES = 1e-3  # transformers' angles are float32: these random models magnify that
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The carried model, brought in."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    source = str(ROOT / "resources/models/tiny")
    import_model(FolderModel(kind="folder", path=source), "tiny", 256, folder)
    return folder


@pytest.fixture(scope="module")
def tiers(tiny, tmp_path_factory) -> Path:
    """Its tiers at 256, 512 and 1k."""
    return write_tiers(tmp_path_factory.mktemp("tiers"), tiny, tiers_for(read_record(tiny).rope))


@pytest.fixture(scope="module")
def native(tiny, tiers, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("native") / "export"
    export(tiny, tiers, out)
    return out


@pytest.fixture(scope="module")
def prompts(tiny) -> list:
    return prompts_around([256, 512, 1024], text_of(tiny, 1024))


@pytest.mark.parametrize("runner", ["transformers", "batch", "chunks"])
def test_one_table_is_that_table_at_every_length_batched_and_in_chunks(
    tiny, tiers, native, prompts, tmp_path, runner
):
    found = run(runner, native, prompts, tmp_path)
    assert furthest(found, own(tiny, tiers, prompts, window=1024)) < 1e-4


def test_transformers_4_57_reads_the_same(tiny, tiers, native, prompts, tmp_path):
    python = python_with("transformers 4.57")
    found = run("transformers", native, prompts, tmp_path, python)
    assert furthest(found, own(tiny, tiers, prompts, window=1024)) < 1e-4


def test_the_table_of_an_export_is_read_as_the_factors_that_it_was_made_of(tiny, tiers, native):
    longest = read_tiers(tiers).longest
    for which in ("long", "short"):
        found = import_checkpoint(native, which=which, fingerprint=longest.rope.fingerprint)
        assert (found.lambda_, found.window) == (longest.lambda_, 1024)
        assert found.attention_factor == longest.attention_factor
        check_same_model(found.rope, read_record(tiny).rope)


def test_weights_are_those_of_the_checkpoint_byte_for_byte(tiny, native):
    name = "model.safetensors"
    assert sha256_of(native / name) == sha256_of(tiny / name)
    assert not list(native.glob("*.bin"))


def test_no_file_of_an_export_is_a_file_of_the_study(tiny, tiers, native, tmp_path):
    export(tiny, tiers, tmp_path / "full", "full")
    sources = {(file.stat().st_dev, file.stat().st_ino) for file in tiny.iterdir()}
    for file in (*native.iterdir(), *(tmp_path / "full").iterdir()):
        assert file.is_symlink() is False and file.stat().st_nlink == 1
        assert (file.stat().st_dev, file.stat().st_ino) not in sources


def test_code_and_pickles_of_a_checkpoint_are_not_exported(tiny, tiers, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    foreign = ("modeling_base.py", "tokenizer_own.py", "pytorch_model.bin", "tokenizer.pt", "x.sh")
    for name in foreign:
        (tmp_path / "model" / name).write_text("raise SystemExit")
    (tmp_path / "model" / "LICENSE").write_text("MIT")
    for name in ("config.json", "tokenizer_config.json"):
        said = read_json(tmp_path / "model" / name) | {"auto_map": {"AutoModel": "modeling_base.X"}}
        write_json(tmp_path / "model" / name, said)
    path = tmp_path / "model/config.json"
    write_json(path, read_json(path) | {"architectures": ["BaseOwnForCausalLM"]})
    write_record(tmp_path / "model", read_record(tmp_path / "model"))
    for form in ("native", "full"):
        out = tmp_path / form
        export(tmp_path / "model", tiers, out, form)
        assert not {file.name for file in out.iterdir()} & set(foreign)
        assert (out / "LICENSE").read_text() == "MIT" and not (out / "longrope.json").exists()
        assert "auto_map" not in read_json(out / "tokenizer_config.json")
        config = read_json(out / "config.json")
        assert config["architectures"] == ["LlamaForCausalLM"]
        own = {"AutoModelForCausalLM": "modeling_longrope.LongRopeForCausalLM"}
        assert config.get("auto_map") == (own if form == "full" else None)


def test_a_smaller_tier_can_serve_every_length(tiny, tiers, tmp_path):
    export(tiny, tiers, tmp_path / "export", window=256)
    prompts = prompts_around([128], text_of(tiny, 256))
    found = run("transformers", tmp_path / "export", prompts, tmp_path / "run")
    assert furthest(found, own(tiny, tiers, prompts, window=256)) < 1e-4


def test_n_hat_and_tiers_that_are_dropped_are_said(tiny, tiers, tmp_path):
    written = export(tiny, tiers, tmp_path / "export", window=512)
    said = " ".join(written.said)
    assert "n_hat = 4 of the tier 512 is dropped" in said
    assert "The factors for 256 are left out" in said
    assert "Texts beyond 512 are not covered (tiers 1k)" in said
    assert "were not evaluated" in written.lost[0]


def test_two_tables_switch_at_the_original_window(tiny, tmp_path):
    tiers = tiers_for(read_record(tiny).rope, attention=1.2)
    path = write_tiers(tmp_path / "tiers", tiny, tiers)
    export(tiny, path, tmp_path / "export", two=True)
    prompts = prompts_around([256, 1024], text_of(tiny, 1024))
    expected = own(tiny, path, prompts[:2], 256) + own(tiny, path, prompts[2:], 1024)
    found = run("transformers", tmp_path / "export", prompts, tmp_path / "run")
    assert furthest(found, expected) < 1e-4
    # Grown past the switch in pieces, they mix: why one table is the default.
    mixed = run("chunks", tmp_path / "export", prompts[2:], tmp_path / "run")
    assert furthest(mixed, expected[2:]) > 1e-2


# --- families -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A random checkpoint of each family, with its tiers: a model, tiers, and a place."""
    place = tmp_path_factory.mktemp("family")
    bring_in(save(FAMILIES[request.param].build(), place / "source"), place / "model")
    tiers = tiers_for(read_record(place / "model").rope, attention=1.25)
    return place / "model", write_tiers(place / "tiers", place / "model", tiers), place


def of_family(family, form: str, engine: str, runner: str, python=None) -> float:
    """How far an export of a family is from the project, around its windows."""
    model, tiers, place = family
    out = place / f"{form}-{engine}"
    if not out.exists():
        export(model, tiers, out, form, engine, dtype="float32")
    prompts = prompts_around([64, 128, 256], noise(300, 256))
    expected = own(model, tiers, prompts, None if form == "full" else 256)
    if python is None:
        return furthest(run_here(runner, out, prompts), expected)
    return furthest(run(runner, out, prompts, place / "run", python), expected)


@pytest.mark.parametrize("engine", ["transformers", "any"])
def test_every_family_runs_as_native_longrope(family, engine):
    if engine == "any" and "clip_qkv" in (family[0] / "config.json").read_text():
        pytest.skip("its queries are cut after the projection: refused, tested below")
    assert of_family(family, "native", engine, "transformers") < ANGLES


@pytest.mark.parametrize("runner", ["trusted", "trusted_batch"])
def test_every_family_runs_with_all_tiers_and_n_hat(family, runner):
    if "gpt_neox" in (family[0] / "config.json").read_text():
        with pytest.raises(UserError, match="not there for gpt_neox"):
            of_family(family, "full", "transformers", runner)
    else:
        assert of_family(family, "full", "transformers", runner) < 1e-4


@pytest.mark.parametrize(("form", "runner"), [("native", "transformers"), ("full", "trusted")])
def test_every_family_runs_in_transformers_4_57(family, form, runner):
    python, config = python_with("transformers 4.57"), (family[0] / "config.json").read_text()
    if '"olmo' in config:  # refused by its config class
        with pytest.raises(AssertionError, match="must be a dictionary with two fields"):
            of_family(family, form, "transformers", runner, python)
    elif form == "native" or "gpt_neox" not in config:
        assert of_family(family, form, "transformers", runner, python) < ANGLES


def test_a_factor_that_is_cut_after_the_projection_is_refused(tmp_path):
    bring_in(save(FAMILIES["OLMo"].build(), tmp_path / "source"), tmp_path / "model")
    tiers = tiers_for(read_record(tmp_path / "model").rope, attention=1.25)
    path = write_tiers(tmp_path / "tiers", tmp_path / "model", tiers)
    with pytest.raises(UserError, match="clip_qkv = 2"):
        export(tmp_path / "model", path, tmp_path / "export", engine="mlx")
    assert not (tmp_path / "export").exists()


# --- what is refused, and what is compared --------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "gguf", "engine": "vllm"}, "is not what vllm loads"),
        ({"form": "native", "engine": "llama.cpp"}, "is not what llama.cpp loads"),
        ({"form": "onnx"}, "unknown form 'onnx': known are full, gguf, native"),
        ({"engine": "tgi"}, "unknown engine 'tgi'"),
        ({"window": 300}, "no factors for 300, but for 256, 512, 1k"),
        ({"two": True, "engine": "sglang"}, "the angle of position 0"),
        ({"two": True, "engine": "mlx"}, "it uses the long one always"),
        ({"two": True, "engine": "vllm"}, "for every text as soon as --max-model-len is above"),
        ({"two": True, "form": "gguf", "engine": "llama.cpp"}, "factors are 1 and 1.13"),
        ({"two": True}, "their attention factors are 1 and 1.13"),
    ],
)
def test_what_cannot_be_carried_is_refused_with_the_reason(tiny, tiers, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        export(tiny, tiers, tmp_path / "export", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rope_theta", 20_000.0, "other frequencies than theta 10000"),
        ("attention_factor", 1.0, "scales cos and sin by 1, not by 1.13"),
        ("long_factor", [1.0] * 16, "other frequencies"),
    ],
)
def test_an_export_that_reads_back_otherwise_is_not_put_in_place(
    tiny, tiers, tmp_path, monkeypatch, key, value, message
):
    from longrope.export import native, stage

    whole = native.native_config

    def wrong(*args, **options):
        config = whole(*args, **options)
        for place in (config, config["rope_parameters"], config["rope_scaling"]):
            if key in place:
                place[key] = value
        config["rope_parameters"]["short_factor"] = config["rope_parameters"]["long_factor"]
        config["rope_scaling"] |= {"short_factor": config["rope_parameters"]["long_factor"]}
        return config

    monkeypatch.setattr(stage, "native_config", wrong)
    with pytest.raises(UserError, match=message):
        export(tiny, tiers, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def as_tuned(tiny, folder) -> Path:
    """The same weights, called those of a tuning."""
    shutil.copytree(tiny, folder)
    record = read_json(folder / "longrope.json")
    write_json(folder / "longrope.json", record | {"weights": "t", "base_fingerprint": "0" * 16})
    write_factors(folder / "tuned_factors.json", tiers_for(read_record(folder).rope).longest)
    return folder


def test_weights_that_were_never_tuned_keep_their_own_rope_within_their_window(tiny, tmp_path):
    longest = tiers_for(read_record(tiny).rope, attention=1.0).longest
    path = write_tiers(tmp_path / "tiers", tiny, Tiers((longest,)))
    export(tiny, path, tmp_path / "full", "full")
    windows = [each["max_length"] for each in tiers_of(tmp_path / "full")]
    assert windows == [256, 1024] and tiers_of(tmp_path / "full")[0]["lambda"] == [1.0] * 16
    export(tiny, path, tmp_path / "two", two=True)
    block = read_json(tmp_path / "two/config.json")["rope_parameters"]
    assert block["short_factor"] == [1.0] * 16
    tuned = as_tuned(tiny, tmp_path / "tuned")
    path = write_tiers(tmp_path / "of-tuned", tuned, Tiers((rebased(longest, tuned),)))
    export(tuned, path, tmp_path / "tuned-full", "full")
    assert [each["max_length"] for each in tiers_of(tmp_path / "tuned-full")] == [1024]


def test_factors_that_were_searched_on_other_weights_are_refused(tiny, tmp_path):
    factors = tiers_for(read_record(tiny).rope).longest
    other = replace(factors, provenance={"weights_fingerprint": "f" * 16, "weights": "longrope-1k"})
    path = write_tiers(tmp_path / "tiers", tiny, Tiers((other,)))
    with pytest.raises(UserError, match=r"for 1k were searched on other weights: f+ \(longrope-1k"):
        export(tiny, path, tmp_path / "out")


def tiers_of(folder) -> list[dict]:
    return read_json(folder / "config.json")["longrope_tiers"]["tiers"]


def rebased(factors, model):
    return replace(factors, rope=read_record(model).rope)


@pytest.mark.parametrize(
    "what", ["the model", "above it", "the factors", "inside", "a file", "other"]
)
def test_an_export_takes_the_place_of_an_older_one_and_of_nothing_else(what, tiny, tiers, tmp_path):
    out = {
        "the model": tiny,
        "above it": tiny.parent,
        "the factors": tiers.parent,
        "inside": tiny / "export",
    }.get(what, tmp_path / "out")
    if what == "a file":
        out.write_text("precious")
    if what == "other":
        (out / "sub").mkdir(parents=True)
        (out / "sub/thesis.txt").write_text("precious")
    before = sorted(tiny.rglob("*")) + sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"^--out .*take another"):
        export(tiny, tiers, out)
    assert sorted(tiny.rglob("*")) + sorted(tmp_path.rglob("*")) == before


def test_two_tables_of_an_extended_model_without_a_short_one_are_refused(tiny, tmp_path):
    tiny = as_tuned(tiny, tmp_path / "tuned")
    longest = tiers_for(read_record(tiny).rope).longest
    path = write_tiers(tmp_path / "tiers", tiny, Tiers((longest,)))
    with pytest.raises(UserError, match="no tier for its original window 256 beside that for 1k"):
        export(tiny, path, tmp_path / "export", two=True)


def test_infinite_factors_stand_still_in_the_export(tiny, tmp_path):
    import dataclasses
    import math

    longest = tiers_for(read_record(tiny).rope).longest
    still = dataclasses.replace(longest, lambda_=(*longest.lambda_[:-2], math.inf, math.inf))
    path = write_tiers(tmp_path / "tiers", tiny, Tiers((still,)))
    export(tiny, path, tmp_path / "export")
    prompts = prompts_around([256], text_of(tiny, 300))
    found = run("transformers", tmp_path / "export", prompts, tmp_path / "run")
    assert furthest(found, own(tiny, path, prompts)) < 1e-4


def test_the_keys_for_other_engines_bring_no_warning_and_others_still_do(native, tmp_path):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("transformers.modeling_rope_utils")
    shutil.copytree(native, tmp_path / "odd")
    config = read_json(native / "config.json")
    for key in ("rope_parameters", "rope_scaling"):
        config[key]["odd_key"] = 1
    write_json(tmp_path / "odd/config.json", config)
    logger.addHandler(handler)
    try:
        AutoConfig.from_pretrained(native)
        assert any("long_mscale" in text for text in said)  # elsewhere nothing is changed
        said.clear()
        with own_keys_known():
            AutoConfig.from_pretrained(native)
            assert said == []
            AutoConfig.from_pretrained(tmp_path / "odd")
        assert any("odd_key" in text for text in said)
    finally:
        logger.removeHandler(handler)


def test_the_keys_of_both_schemas_are_there(native):
    config = read_json(native / "config.json")
    block, old = config["rope_parameters"], config["rope_scaling"]
    assert config["rope_theta"] == block["rope_theta"] == 10_000.0
    assert (
        block["short_factor"] == block["long_factor"] == old["long_factor"] == old["short_factor"]
    )
    assert config["original_max_position_embeddings"] == 1024  # with one table: nothing to derive
    assert config["max_position_embeddings"] == 1024 and block["factor"] == 1.0
    assert block["long_mscale"] == block["attention_factor"] == pytest.approx(1.1386, abs=1e-4)
    assert "tuned" not in json.dumps(config)


def test_an_export_is_saved_and_loaded_again_with_the_same_logits(native, tmp_path):
    first = AutoModelForCausalLM.from_pretrained(native, dtype=torch.float32)
    first.save_pretrained(tmp_path / "again")
    second = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    ids = torch.arange(1, 400)[None]
    with torch.no_grad():
        assert torch.equal(first(ids).logits, second(ids).logits)
