"""GGUF exports: read by another reader, run by llama.cpp, and refused where they would be wrong."""

import shutil
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from exports import (
    export,
    furthest,
    noise,
    own,
    prompts_around,
    python_with,
    run,
    text_of,
    tiers_for,
    write_tiers,
)
from longrope.config import FolderModel, GgufModel
from longrope.errors import UserError
from longrope.export.gguf_tokenizer import LLAMA_3, pre_tokenizer
from longrope.files import read_json, write_json
from longrope.models.checkpoint import load_model, read_record, write_record
from longrope.models.import_model import import_model
from test_architectures import FAMILIES, bring_in, save

ROOT = Path(__file__).parents[1]
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
SPLIT = {"type": "Split", "pattern": {"Regex": LLAMA_3}, "behavior": "Isolated", "invert": False}


def extended(place: Path, source: Path, window: int, **options) -> tuple[Path, Path]:
    """A checkpoint brought in, and its tiers."""
    import_model(FolderModel(kind="folder", path=str(source)), "m", window, place / "model")
    tiers = tiers_for(read_record(place / "model").rope, **options)
    return place / "model", write_tiers(place / "tiers", place / "model", tiers)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The carried model, its tiers, and the folder of its export in float32."""
    place = tmp_path_factory.mktemp("gguf")
    model, tiers = extended(place, ROOT / "resources/models/tiny", 256)
    export(model, tiers, place / "export", "gguf", dtype="float32")
    return model, tiers, place / "export"


def test_the_reader_finds_factors_window_and_theta(tiny):
    reader = gguf.GGUFReader(tiny[2] / "model.gguf")
    tensors = {each.name: each for each in reader.tensors}
    longest = tiers_for(read_record(tiny[0]).rope).longest
    assert tensors["rope_freqs.weight"].data.tolist() == pytest.approx(longest.lambda_)
    assert reader.fields["llama.context_length"].contents() == 1024
    assert reader.fields["llama.rope.freq_base"].contents() == 10_000
    attention = reader.fields["llama.rope.scaling.attn_factor"].contents()
    assert attention == pytest.approx(longest.attention_factor)


def test_transformers_reads_the_same_weights_and_tokens_from_it(tiny):
    """Its GGUF reader knows nothing of the factors, but of the order of rows."""
    model, _, folder = tiny
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf")
    ids = torch.arange(1, 200)[None]
    with torch.no_grad():
        expected = load_model(model)(ids).logits
        torch.testing.assert_close(read(ids).logits, expected, atol=1e-4, rtol=0)
    text = "It is 1815, a truth  universally\nacknowledged."
    tokens = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")(text).input_ids
    assert tokens == AutoTokenizer.from_pretrained(model)(text).input_ids


def test_llama_cpp_gives_the_same_log_probabilities(tiny, tmp_path):
    python = python_with("xllamacpp")
    model, tiers, folder = tiny
    prompts = prompts_around([64, 256, 1000], text_of(model, 1010))
    found = run("llama_cpp", folder / "model.gguf", prompts, tmp_path, python)
    assert furthest(found, own(model, tiers, prompts, window=1024)) < 1e-3


def test_llama_cpp_cuts_text_into_the_same_tokens(tiny, tmp_path):
    python = python_with("xllamacpp")
    model, _, folder = tiny
    text = "Call me  Ishmael.\n\n  Some 12345 years ago; it's \t odd, isn't it?"
    ids = AutoTokenizer.from_pretrained(model)(text).input_ids
    found = run("llama_cpp", folder / "model.gguf", [text, ids], tmp_path, python)
    assert furthest(found[:1], found[1:]) == 0


def test_of_two_tables_llama_cpp_takes_one_by_its_context(tmp_path):
    python = python_with("xllamacpp")
    model, tiers = extended(tmp_path, ROOT / "resources/models/tiny", 256, attention=1.2)
    export(model, tiers, tmp_path / "export", "gguf", dtype="float32", two=True)
    prompts = prompts_around([200, 1000], text_of(model, 1010))
    expected = own(model, tiers, prompts[:3], 256) + own(model, tiers, prompts[3:], 1024)
    file = tmp_path / "export" / "model.gguf"
    found = run("llama_cpp_each", file, prompts, tmp_path / "run", python)
    assert furthest(found, expected) < 1e-3


@pytest.mark.parametrize("name", ["Llama", "Llama with biases, tied", "Mistral", "Qwen2"])
def test_these_families_run_in_llama_cpp(tmp_path, name):
    python = python_with("xllamacpp")
    bring_in(save(FAMILIES[name].build(), tmp_path / "source"), tmp_path / "model")
    tiers = tiers_for(read_record(tmp_path / "model").rope, attention=1.2)
    path = write_tiers(tmp_path / "tiers", tmp_path / "model", tiers)
    export(tmp_path / "model", path, tmp_path / "export", "gguf", dtype="float32")
    prompts = prompts_around([64, 200], noise(300, 256))
    file = tmp_path / "export" / "model.gguf"
    found = run("llama_cpp", file, prompts, tmp_path / "run", python)
    assert furthest(found, own(tmp_path / "model", path, prompts, 256)) < 1e-3


@pytest.mark.parametrize("name", ["Qwen3", "Phi-3", "Gemma", "OLMo", "OLMo 2", "GPT-NeoX"])
def test_the_other_families_are_refused(tmp_path, name):
    bring_in(save(FAMILIES[name].build(), tmp_path / "source"), tmp_path / "model")
    tiers = tiers_for(read_record(tmp_path / "model").rope)
    path = write_tiers(tmp_path / "tiers", tmp_path / "model", tiers)
    with pytest.raises(UserError, match="it would ignore or refuse them"):
        export(tmp_path / "model", path, tmp_path / "export", "gguf")


def test_a_model_that_came_from_a_gguf_file_keeps_its_tokenizer(tiny, tmp_path):
    plain = tmp_path / "plain" / "tiny.gguf"  # as llama.cpp's converter would write it
    plain.parent.mkdir()
    reader = gguf.GGUFReader(tiny[2] / "model.gguf")
    writer = gguf.GGUFWriter(plain, "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")) and "scaling" not in key:
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            value = 256 if key.endswith("context_length") else field.contents()
            writer.add_key_value(key, value, field.types[0], sub_type=inner)
    for each in reader.tensors:
        if each.name != "rope_freqs.weight":
            writer.add_tensor(each.name, each.data, raw_dtype=each.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    import_model(GgufModel(kind="gguf", path=str(plain)), "m", 256, tmp_path / "model")
    path = write_tiers(
        tmp_path / "tiers", tmp_path / "model", tiers_for(read_record(tmp_path / "model").rope)
    )
    export(tmp_path / "model", path, tmp_path / "export", "gguf")
    again = gguf.GGUFReader(tmp_path / "export" / "model.gguf").fields
    for key in ("tokens", "token_type", "merges", "pre", "bos_token_id", "add_bos_token"):
        name = f"tokenizer.ggml.{key}"
        assert again[name].contents() == reader.fields[name].contents()


QWEN_2 = {**SPLIT, "pattern": {"Regex": LLAMA_3.replace("{1,3}", "")}}
PLAIN_BYTES = BYTES | {"use_regex": False}
WHOLE = {"ignore_merges": True}


@pytest.mark.parametrize(
    ("model", "steps", "normalizer", "name"),
    [
        ({}, [BYTES], None, "gpt-2"),
        ({"dropout": 0.0, "end_of_word_suffix": ""}, [BYTES], None, "gpt-2"),
        ({}, [{"type": "Digits", "individual_digits": True}, BYTES], None, "smollm"),
        (WHOLE, [SPLIT, PLAIN_BYTES], None, "llama-bpe"),
        ({}, [QWEN_2, PLAIN_BYTES], {"type": "NFC"}, "qwen2"),
    ],
)
def test_known_ways_to_cut_text_have_llama_cpp_s_name(model, steps, normalizer, name):
    said = {"model": {"type": "BPE", **model}, "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}  # fmt: skip
    assert pre_tokenizer(said) == name


@pytest.mark.parametrize(
    ("model", "steps", "normalizer", "message"),
    [
        ({"type": "BPE", "byte_fallback": True}, [BYTES], None, "BPE with byte fallback"),
        ({"type": "Unigram"}, [BYTES], None, "this one is Unigram"),
        ({"type": "BPE"}, [BYTES | {"add_prefix_space": True}], None, "cuts text by ByteLevel"),
        ({"type": "BPE"}, [{"type": "Digits", "individual_digits": False}, BYTES], None, "Digits"),
        ({"type": "BPE"}, [SPLIT, BYTES], None, "Split, ByteLevel"),
        ({"type": "BPE"}, [BYTES], {"type": "NFKC"}, "after .*NFKC"),
        ({"type": "BPE"}, [BYTES], {"type": "NFC"}, "after .*NFC"),
        ({"type": "BPE"} | WHOLE, [BYTES], None, "gpt-2 has ignore_merges = False"),
        ({"type": "BPE"}, [SPLIT, PLAIN_BYTES], None, "llama-bpe has ignore_merges = True"),
        ({"type": "BPE", "dropout": 0.1}, [BYTES], None, "dropout = None, this tokenizer 0.1"),
        ({"type": "BPE", "end_of_word_suffix": "</w>"}, [BYTES], None, "end_of_word_suffix"),
    ],
)
def test_other_ways_to_cut_text_are_refused(model, steps, normalizer, message):
    said = {"model": model, "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}  # fmt: skip
    with pytest.raises(UserError, match=message):
        pre_tokenizer(said)


def save_again(folder):
    """A changed tokenizer as one that the model was saved with."""
    write_record(folder, read_record(folder))


def test_nothing_is_left_of_an_export_that_is_refused(tiny, tmp_path):
    shutil.copytree(tiny[0], tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    write_json(path, read_json(path) | {"normalizer": {"type": "Lowercase"}})
    save_again(tmp_path / "model")
    with pytest.raises(UserError, match="Lowercase"):
        export(tmp_path / "model", tiny[1], tmp_path / "export", "gguf")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model"]


def test_a_token_without_an_embedding_is_refused(tiny, tmp_path):
    shutil.copytree(tiny[0], tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    said = read_json(path)
    said["added_tokens"].append(said["added_tokens"][0] | {"id": 9999, "content": "<new>"})
    write_json(path, said)
    save_again(tmp_path / "model")
    with pytest.raises(UserError, match="a token of number 9999, the model embeddings for"):
        export(tmp_path / "model", tiny[1], tmp_path / "export", "gguf")


def test_text_that_llama_cpp_does_not_normalise_is_said(tiny, tmp_path):
    """The carried tokenizer, cut as Qwen2's and with its NFC."""
    shutil.copytree(tiny[0], tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    steps = {"type": "Sequence", "pretokenizers": [QWEN_2, PLAIN_BYTES | {"trim_offsets": True}]}
    write_json(path, read_json(path) | {"normalizer": {"type": "NFC"}, "pre_tokenizer": steps})
    save_again(tmp_path / "model")
    written = export(tmp_path / "model", tiny[1], tmp_path / "export", "gguf")
    assert "NFC" in written.said[-1]
