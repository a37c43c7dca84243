"""Checkpoints: bringing them in from folders, the hub and GGUF; what is refused; fingerprints."""

import contextlib
import itertools
import json
import os
import shutil
import socket
from pathlib import Path

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.integrations.flash_attention import get_target_dtype

from gguf_files import write_gguf
from helpers import PAIRS, WINDOW, flip_a_bit, make_tokenizer, make_tuned, save_llama
from longrope.config import FolderModel, GgufModel, HubModel
from longrope.errors import UserError
from longrope.factors import RescaleFactors
from longrope.files import read_json
from longrope.first_calls import settle_kernels
from longrope.models.architectures import check_kernel, complete_config, rope_of_config
from longrope.models.checkpoint import (
    load_model,
    load_tokenizer,
    read_record,
    save_model,
    tuned_factors,
)
from longrope.models.import_model import import_model

IDS = torch.arange(200)[None]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("models") / "source")


def bring_in(folder, out, window=WINDOW):
    return import_model(FolderModel(kind="folder", path=str(folder)), "tiny", window, out)


def altered(source, folder, drop=(), **changes):
    """A copy of a checkpoint whose config.json lacks some keys and has others."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in drop}
    (folder / "config.json").write_text(json.dumps(kept | changes))
    return folder


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(IDS).logits


# --- folders --------------------------------------------------------------------------------


def test_a_folder_is_brought_in_as_it_is_with_a_record_of_its_rope(source, tmp_path):
    record = bring_in(source, tmp_path / "model")
    assert record == read_record(tmp_path / "model")
    rope = record.rope
    assert (rope.model, rope.theta, rope.pairs, rope.original_window) == ("tiny", 1e4, PAIRS, 64)
    assert record.weights == "base" and rope.fingerprint == record.fingerprint
    assert record.source == {"kind": "folder", "path": str(source), "precision": "auto"}
    assert record.changes == {}
    assert torch.equal(logits(tmp_path / "model"), logits(source))
    text = "The pass key is 12345."
    assert load_tokenizer(tmp_path / "model").encode(text) == make_tokenizer().encode(text)


def test_a_folder_is_brought_in_and_loaded_without_the_network(source, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    bring_in(source, tmp_path / "model")
    assert load_model(tmp_path / "model") and load_tokenizer(tmp_path / "model")
    assert not asked


def test_weights_are_linked_and_copied_where_that_fails(source, tmp_path, monkeypatch):
    bring_in(source, tmp_path / "linked")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("other device")))
    bring_in(source, tmp_path / "copied")
    paths = [folder / "model.safetensors" for folder in (source, *sorted(tmp_path.iterdir()))]
    assert paths[0].samefile(paths[2]) and not paths[0].samefile(paths[1])
    assert len({path.read_bytes() for path in paths}) == 1


def test_a_folder_of_links_such_as_the_hubs_cache_becomes_files(source, tmp_path):
    (tmp_path / "cache").mkdir()
    for file in source.iterdir():
        (tmp_path / "cache" / file.name).symlink_to(file)
    bring_in(tmp_path / "cache", tmp_path / "model")
    assert not any(file.is_symlink() for file in (tmp_path / "model").iterdir())
    assert (tmp_path / "model/model.safetensors").read_bytes()


def test_a_checkpoint_in_several_files_is_brought_in_whole(source, tmp_path):
    save_llama(tmp_path / "shards", max_shard_size="40KB")
    assert len([*(tmp_path / "shards").glob("*.safetensors")]) > 1
    bring_in(tmp_path / "shards", tmp_path / "model")
    assert torch.equal(logits(tmp_path / "model"), logits(source))


def test_a_checkpoint_that_lacks_one_of_its_files_is_refused(tmp_path):
    save_llama(tmp_path / "shards", max_shard_size="40KB")
    missing = sorted((tmp_path / "shards").glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        bring_in(tmp_path / "shards", tmp_path / "model")


@pytest.fixture
def pickled(source, tmp_path):
    """That checkpoint as older ones are published: a config of their time, pickled weights."""
    old = {"rope_scaling": None, "torch_dtype": "float32"}
    folder = altered(source, tmp_path / "pickled", ["rope_parameters", "dtype"], **old)
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_become_safetensors_beside_the_same_config(source, pickled, tmp_path):
    bring_in(pickled, tmp_path / "model")
    found, expected = (load_file(f / "model.safetensors") for f in (tmp_path / "model", source))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    texts = [(folder / "config.json").read_text() for folder in (pickled, tmp_path / "model")]
    assert texts[0] == texts[1] and not (tmp_path / "model/pytorch_model.bin").exists()


def test_pickled_weights_that_hold_code_are_not_run(pickled, tmp_path):
    class Code:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"weights": Code()}, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot read its weights"):
        bring_in(pickled, tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_what_is_no_part_of_a_checkpoint_stays_behind(source, tmp_path):
    folder = altered(source, tmp_path / "source")
    for name in ("optimizer.pt", "README.md", "pytorch_model.bin"):
        (folder / name).write_text("not needed")
    bring_in(folder, tmp_path / "model")
    expected = {file.name for file in source.iterdir()} | {"longrope.json"}
    assert {file.name for file in (tmp_path / "model").iterdir()} == expected


def test_a_checkpoint_brought_in_again_replaces_the_one_before(source, tmp_path):
    first = bring_in(source, tmp_path / "model")
    second = bring_in(save_llama(tmp_path / "other", seed=1), tmp_path / "model")
    assert first.fingerprint != second.fingerprint == read_record(tmp_path / "model").fingerprint


# --- what is refused ------------------------------------------------------------------------

OLD = {"drop": ["rope_parameters"], "rope_theta": 1e4}  # the schema before transformers 5
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
GEMMA3 = {"model_type": "gemma3_text", "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
LAYERS = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}
LAYERS |= {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (OLD | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "already rescaled .*'linear'"),
        (OLD | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "already .*'dynamic'"),
        ({"rope_parameters": YARN}, "already rescaled .*'yarn'"),
        ({"rope_parameters": LAYERS}, "several RoPEs by layer"),
        (OLD | GEMMA3, "several RoPEs by layer"),
        (OLD | {"attention_chunk_size": 32}, "several RoPEs by layer"),
        ({"max_position_embeddings": 128}, "is 64 in the config.* max_position_embeddings is 128"),
        ({"drop": ["max_position_embeddings"]}, "max_position_embeddings"),
        ({"rope_parameters": "none"}, "rope_parameters"),
    ],
    ids=["linear", "dynamic", "yarn", "layers", "gemma3", "llama4", "window", "none", "text"],
)
def test_a_rope_that_cannot_be_rescaled_is_refused_with_the_reason(changes, says, source, tmp_path):
    folder = altered(source, tmp_path / "source", **changes)
    with pytest.raises(UserError, match=says) as caught:
        bring_in(folder, tmp_path / "model")
    assert "\n" not in str(caught.value) and ".part" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["source"]


def test_a_model_without_rope_is_refused(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=300)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match=r"gpt2.* no rotary position embedding"):
        bring_in(tmp_path / "source", tmp_path / "model")


@pytest.mark.parametrize(
    ("missing", "says"), [("config.json", "no config.json"), ("model.safetensors", "no *.safete")]
)
def test_a_folder_that_lacks_a_file_is_refused_by_its_own_name(missing, says, source, tmp_path):
    folder = altered(source, tmp_path / "source")
    (folder / missing).unlink()
    with pytest.raises(UserError) as caught:
        bring_in(folder, tmp_path / "model")
    assert says in str(caught.value) and str(folder) in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint there"):
        bring_in(tmp_path / "nowhere", tmp_path / "model")


# --- configurations of well-known models ----------------------------------------------------

LLAMA2 = {  # of meta-llama/Llama-2-7b-hf, shortened: it names no rope_theta
    "model_type": "llama",
    "hidden_size": 4096,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "rope_scaling": None,
    "transformers_version": "4.31.0.dev0",
}
MISTRAL = LLAMA2 | {"model_type": "mistral", "max_position_embeddings": 32768, "rope_theta": 1e4}
QWEN3 = {"model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16, "head_dim": 128}
QWEN3 |= {"max_position_embeddings": 40960, "rope_theta": 1000000, "rope_scaling": None}
PHI4 = {"model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 24}
PHI4 |= {"max_position_embeddings": 131072, "partial_rotary_factor": 0.75, "rope_theta": 1e4}
PYTHIA = {"model_type": "gpt_neox", "hidden_size": 512, "num_attention_heads": 8}
PYTHIA |= {"max_position_embeddings": 2048, "rotary_emb_base": 10000, "rotary_pct": 0.25}


@pytest.mark.parametrize(
    ("config", "theta", "dim", "window"),
    [
        (LLAMA2, 1e4, 128, 4096),
        (MISTRAL, 1e4, 128, 32768),
        (QWEN3, 1e6, 128, 40960),
        (PHI4, 1e4, 96, 131072),
        (PYTHIA, 1e4, 16, 2048),
    ],
    ids=["LLaMA2", "Mistral", "Qwen3", "Phi-4-mini", "Pythia"],
)
def test_the_rope_of_a_well_known_model_is_found(config, theta, dim, window, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    rope = rope_of_config(complete_config(tmp_path), "known")
    assert (rope.theta, rope.rotary_dim, rope.original_window) == (theta, dim, window)


def save_tiny(kind: str, folder: Path, **options) -> Path:
    """A random model of another family."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        vocab_size=384,
        **options,
    )
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    return folder


def last(model, ids):
    """The logits after the last token, without a cache, as this project runs models."""
    return model(ids, use_cache=False).logits[0, -1]


class FirstCalls(TorchDispatchMode):
    """How many numbers every operator was given when it was called first, by name and type."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__.removesuffix("_")
        if args and isinstance(args[0], torch.Tensor):
            self.seen.setdefault((name, args[0].dtype), args[0].numel())
        return function(*args, **kwargs or {})


def test_no_vector_function_is_first_called_by_several_threads(source, tmp_path):
    bring_in(source, tmp_path / "model")
    settle_kernels.cache_clear()
    with FirstCalls() as calls:
        model = load_model(tmp_path / "model", for_training=True)
        last(model, torch.zeros(1, 4096, dtype=torch.long)).square().mean().backward()
    vectors = "acos asin atan cos exp expm1 log log10 log1p log2 sin sqrt tan tanh".split()
    found = {key: count for key, count in calls.seen.items() if key[0] in vectors}
    assert found.keys() == set(itertools.product(vectors, [torch.float32, torch.float64]))
    assert set(found.values()) == {1}, found


@pytest.mark.parametrize(
    ("kind", "options"),
    [("Mistral", {}), ("Qwen2", {"use_sliding_window": True, "max_window_layers": 1})],
    ids=["mistral", "qwen2"],
)
def test_a_sliding_window_is_switched_off_and_noted(kind, options, tmp_path):
    folder = save_tiny(kind, tmp_path / "source", sliding_window=16, **options)
    before = (folder / "config.json").read_text()
    record = bring_in(folder, tmp_path / "model")
    assert record.changes["sliding_window"] == {"was": 16, "is": None}
    assert (folder / "config.json").read_text() == before
    other = torch.cat([torch.tensor([[300]]), IDS[:, 1:]], dim=1)
    model = load_model(tmp_path / "model")
    with torch.no_grad():  # two layers of 16 tokens would not reach the last token from the first
        assert not torch.equal(last(model, IDS), last(model, other))


def test_a_sliding_window_may_be_the_original_window(tmp_path):
    folder = save_tiny("Mistral", tmp_path / "source", sliding_window=16)
    assert bring_in(folder, tmp_path / "model", 16).rope.original_window == 16
    with pytest.raises(UserError, match="its max_position_embeddings"):
        bring_in(folder, tmp_path / "other", 32)


@pytest.mark.parametrize(
    ("precision", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_a_model_runs_in_the_precision_of_its_configuration(precision, expected, source, tmp_path):
    given = FolderModel(kind="folder", path=str(source), precision=precision)
    record = import_model(given, "tiny", WINDOW, tmp_path / "model")
    assert load_model(tmp_path / "model").dtype == expected  # on a CPU
    assert load_model(tmp_path / "model", for_training=True).dtype == torch.float32
    tuned = load_model(tmp_path / "model", for_training=True)
    save_model(tuned, make_tokenizer(), tmp_path / "tuned", record.tuned_as("x"), "float32")
    assert load_model(tmp_path / "tuned").dtype == expected


def test_the_kernel_of_attention_is_the_configuration_s_and_sdpa_by_itself(source, tmp_path):
    record = bring_in(source, tmp_path / "plain")
    assert "attention" not in record.source and record.attention == "sdpa"
    assert load_model(tmp_path / "plain").config._attn_implementation == "sdpa"
    given = FolderModel(kind="folder", path=str(source), attention="flash_attention_2")
    assert import_model(given, "tiny", WINDOW, tmp_path / "flash").attention == given.attention
    with pytest.raises(
        UserError, match=r"flash-attn is not installed.*leave `attention` out"
    ) as one:
        load_model(tmp_path / "flash")
    assert "\n" not in str(one.value)


@pytest.mark.parametrize(
    ("device", "precision", "problem"),
    [
        ("cpu", "bfloat16", "there is no GPU here"),
        ("cuda", "float32", "it has no float32"),
        ("cuda", "bfloat16", None),
        ("cuda", None, None),  # a training, under autocast
    ],
)
@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3"])
def test_an_installed_kernel_needs_a_gpu_and_short_numbers(
    kernel, device, precision, problem, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(UserError, match=problem) if problem else contextlib.nullcontext():
        check_kernel(kernel, device, precision)


def test_a_kernel_without_float32_can_train_under_autocast(source, tmp_path, monkeypatch):
    def attend(module, query, key, value, mask, **more):
        assert get_target_dtype(query, module) == torch.bfloat16  # what flash-attention is given
        return AttentionInterface()["sdpa"](module, query, key, value, mask, **more)

    AttentionInterface.register("halves", attend)
    monkeypatch.setattr("longrope.models.checkpoint.PACKAGES", {"halves": ("torch", "torch")})
    bring_in(source, tmp_path / "m")
    record = read_json(tmp_path / "m/longrope.json")
    record["source"]["attention"] = "halves"
    (tmp_path / "m/longrope.json").write_text(json.dumps(record))
    model = load_model(tmp_path / "m", for_training=True)
    assert model.dtype == torch.float32 and model.config._attn_implementation == "halves"


# --- the hub --------------------------------------------------------------------------------


def test_the_hub_is_asked_for_the_pinned_revision_and_only_what_is_needed(
    source, tmp_path, monkeypatch
):
    calls = []

    def snapshot(name, revision, allow_patterns):
        calls.append((name, revision))
        assert "*.safetensors" in allow_patterns and "*.bin" not in allow_patterns
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    model = HubModel(kind="hub", name="some/model", revision="abc123")
    record = import_model(model, "tiny", WINDOW, tmp_path / "model")
    assert calls == [("some/model", "abc123")]
    expected = {"kind": "hub", "name": "some/model", "revision": "abc123", "precision": "auto"}
    assert record.source == expected
    assert record.fingerprint == bring_in(source, tmp_path / "folder").fingerprint


def test_the_hub_is_asked_for_pickled_weights_only_where_it_has_no_others(
    pickled, tmp_path, monkeypatch
):
    asked = []

    def snapshot(name, revision, allow_patterns):
        asked.append("pytorch_model*.bin" in allow_patterns)
        return str(pickled)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    import_model(HubModel(kind="hub", name="some/model"), "tiny", WINDOW, tmp_path / "model")
    assert asked == [False, True]


def test_a_hub_that_cannot_be_reached_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        UserError, match=r"'no/such' \(revision main\) cannot be .* local folder"
    ) as e:
        import_model(HubModel(kind="hub", name="no/such"), "tiny", WINDOW, tmp_path / "model")
    assert "\n" not in str(e.value) and not (tmp_path / "model").exists()


def test_a_hub_error_that_says_nothing_is_named_by_its_kind(tmp_path, monkeypatch):
    def snapshot(name, **options):
        raise OSError()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match="cannot be fetched: OSError"):
        import_model(HubModel(kind="hub", name="some/model"), "tiny", WINDOW, tmp_path / "model")


# --- GGUF -----------------------------------------------------------------------------------


def test_a_gguf_file_gives_the_weights_that_it_was_made_from(source, tmp_path):
    model = write_gguf(source, tmp_path / "model.gguf")
    record = import_model(model, "tiny", WINDOW, tmp_path / "model")
    assert record.rope.theta == 1e4 and record.rope.rotary_dim == 2 * PAIRS
    expected = load_file(source / "model.safetensors")
    found = load_file(tmp_path / "model/model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():  # bfloat16 keeps 8 bits
        assert torch.allclose(tensor.float(), expected[name], rtol=2**-8, atol=1e-6)
    text = "The pass key is 12345. Naïve?"
    ids = load_tokenizer(tmp_path / "model").encode(text, add_special_tokens=False)
    assert ids == make_tokenizer().encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    "extra",
    [
        lambda writer: (
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN),
            writer.add_rope_scaling_factor(4.0),
            writer.add_rope_scaling_orig_ctx_len(16),
        ),
        lambda writer: writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, PAIRS, dtype="f4")),
    ],
    ids=["yarn", "llama 3.1"],
)
def test_a_gguf_file_that_is_already_rescaled_is_refused(extra, source, tmp_path):
    with pytest.raises(UserError, match="already rescaled"):
        model = write_gguf(source, tmp_path / "model.gguf", extra)
        import_model(model, "tiny", WINDOW, tmp_path / "model")


@pytest.mark.parametrize("content", [None, "no GGUF"])
def test_what_is_no_gguf_file_is_refused(content, tmp_path):
    path = tmp_path / "model.gguf"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"model\.gguf: (no such|not a readable) GGUF file"):
        import_model(GgufModel(kind="gguf", path=str(path)), "tiny", WINDOW, tmp_path / "model")


# --- records and fingerprints ---------------------------------------------------------------


def test_weights_of_which_the_disk_changed_a_bit_are_not_used(source, tmp_path):
    record = bring_in(source, tmp_path / "m")
    path = tmp_path / "m/model.safetensors"
    whole = path.read_bytes()
    path.unlink()  # it may be a link to the source
    path.write_bytes(whole)
    flip_a_bit(path)
    says = rf"damaged weights: .*, not with {record.fingerprint}.* run the workflow again"
    with pytest.raises(UserError, match=says):
        load_model(tmp_path / "m")


def test_a_fingerprint_is_that_of_the_weights_alone(source, tmp_path):
    same = altered(source, tmp_path / "same", use_cache=False)
    other = altered(source, tmp_path / "other")
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(content)
    first, second, third = (
        bring_in(folder, tmp_path / f"model-{number}").fingerprint
        for number, folder in enumerate((source, same, other))
    )
    assert first == second != third


def test_saved_weights_keep_the_base_and_get_their_own_fingerprint(source, tmp_path):
    base = bring_in(source, tmp_path / "base")
    model, tokenizer = load_model(tmp_path / "base"), load_tokenizer(tmp_path / "base")
    with torch.no_grad():
        model.model.norm.weight += 0.5
    factors = RescaleFactors(base.rope, 128, "yarn", (1.0,) * PAIRS)
    folder = tmp_path / "tuned"
    save_model(model, tokenizer, folder, base.tuned_as("tuned"), "bfloat16", factors)
    record = read_record(folder)
    assert record.rope == base.rope and record.weights == "tuned"
    assert record.fingerprint not in (base.fingerprint, "unknown")
    assert tuned_factors(folder) == factors and tuned_factors(tmp_path / "base") is None
    assert load_file(folder / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
    assert load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()


def test_tuned_factors_of_another_model_are_noticed(source, tmp_path):
    base = bring_in(source, tmp_path / "base")
    other = bring_in(save_llama(tmp_path / "other", seed=1), tmp_path / "other-base")
    factors = RescaleFactors(other.rope, 128, "yarn", (1.0,) * PAIRS)
    make_tuned(tmp_path / "tuned", tmp_path / "base", factors)
    with pytest.raises(UserError, match="fingerprint of the pre-trained weights"):
        tuned_factors(tmp_path / "tuned")
    assert base.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "bring a checkpoint in with `longrope import-model` first"),
        ("{}", "the key 'schema' is missing"),
        ('{"schema": 99}', "schema 99, this version reads 1"),
        ('{"schema": 1, "model": "a"}', "the key 'rope_theta' is missing"),
        ("[]", "expected an object"),
        ('{"sche', "not a readable JSON file"),
    ],
)
def test_a_checkpoint_without_a_usable_record_says_what_to_do(content, says, tmp_path):
    if content:
        (tmp_path / "longrope.json").write_text(content)
    with pytest.raises(UserError, match=says):
        read_record(tmp_path)


def test_a_folder_without_a_tokenizer_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)
