"""Checkpoints: config.json, weights, tokenizers, GGUF files, and what this project notes beside."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

from bad_cases.kit import FACTORS, MODEL_FOLDER, TUNED, Case, Place, options

WEIGHTS = "source/model.safetensors"


def bring_in(at: Place, kind: str = "folder", path: str = "source", **more) -> list:
    settings = {"source": {"kind": kind, "path": path}, "original_window": "64"} | more
    return ["import-model", *options(name="tiny", out="model", settings=settings)]


def _tuned_here(at: Place) -> list:
    return bring_in(at, path=str(at.copy(f"{TUNED}/model")))


def _damaged(kind: str, name: str, says: str, damage: Callable[[Place], object]) -> Case:
    def make(at: Place) -> list:
        at.copy("source")
        damage(at)
        return bring_in(at)

    return Case(kind, name, make, says)


def _config(name: str, says: str, **changes) -> Case:
    return _damaged("config.json", name, says, lambda at: at.edit("source/config.json", **changes))


def _config_text(name: str, content: str | bytes, says: str) -> Case:
    return _damaged("config.json", name, says, lambda at: at.write("source/config.json", content))


def _without(file: str) -> Callable[[Place], object]:
    return lambda at: (at.folder / file).unlink()


def _tensors(change: Callable[[dict], object]) -> Callable[[Place], object]:
    """The weights with other tensors."""

    def damage(at: Place) -> None:
        from safetensors.torch import load_file, save_file

        held = load_file(at.folder / WEIGHTS)
        change(held)
        (at.folder / WEIGHTS).unlink()
        save_file(held, at.folder / WEIGHTS, {"format": "pt"})

    return damage


def _bytes(change: Callable[[bytes], bytes], file: str = WEIGHTS) -> Callable[[Place], object]:
    def damage(at: Place) -> None:
        path = at.folder / file
        path.write_bytes(change(path.read_bytes()))

    return damage


def _weights(name: str, says: str, damage: Callable[[Place], object]) -> Case:
    return _damaged("weights", name, says, damage)


def _tokenizer(name: str, says: str, damage: Callable[[Place], object]) -> Case:
    return _damaged("tokenizer", name, says, damage)


def _shards(index: object) -> Callable[[Place], object]:
    """Weights in one shard with an index."""

    def damage(at: Place) -> None:
        (at.folder / WEIGHTS).rename(at.folder / "source/model-00001-of-00002.safetensors")
        text = index if isinstance(index, str) else json.dumps(index)
        at.write("source/model.safetensors.index.json", text)

    return damage


def _filled(name: str, value: float) -> Callable[[dict], object]:
    def change(held: dict) -> None:
        held[name] = held[name].clone()
        held[name].flatten()[3] = value

    return change


def _header(header: bytes, length: int | None = None) -> Callable[[bytes], bytes]:
    size = len(header) if length is None else length
    return lambda content: struct.pack("<Q", size) + header


def _as_folder(file: str) -> Callable[[Place], object]:
    def damage(at: Place) -> None:
        (at.folder / file).unlink()
        (at.folder / file).mkdir()

    return damage


def _pickled(content: bytes) -> Callable[[Place], object]:
    def damage(at: Place) -> None:
        (at.folder / WEIGHTS).unlink()
        at.write("source/pytorch_model.bin", content)

    return damage


def _gguf(name: str, says: str, change: Callable[[bytes], bytes], **extra) -> Case:
    def make(at: Place) -> list:
        path = at.write("model.gguf", b"")
        _write_gguf(at, path, **extra)
        path.write_bytes(change(path.read_bytes()))
        return bring_in(at, "gguf", "model.gguf")

    return Case("GGUF", name, make, says)


def _write_gguf(at: Place, path: Path, rescaled: bool = False) -> None:
    from gguf import RopeScalingType

    from gguf_files import write_gguf

    def extra(writer) -> None:
        if rescaled:
            writer.add_rope_scaling_type(RopeScalingType.YARN)

    write_gguf(at.sound / "source", path, extra)


def _more_tokens(at: Place) -> None:
    path = at.folder / "source/tokenizer.json"
    held = json.loads(path.read_text())
    held["model"]["vocab"] |= {f"more{number}": 384 + number for number in range(9)}
    path.write_text(json.dumps(held))


def _gguf_folder(at: Place) -> list:
    (at.folder / "model.gguf").mkdir()
    return bring_in(at, "gguf", "model.gguf")


def _audited(name: str, says: str, damage: Callable[[Place], str]) -> Case:
    return Case("audit", name, lambda at: ["check", damage(at)], says)


def _cut_gguf(at: Place) -> str:
    _write_gguf(at, at.write("model.gguf", b""))
    _bytes(lambda content: content[:200], "model.gguf")(at)
    return "model.gguf"


def derive(at: Place) -> list:
    return ["derive", "pi", *options(window="128", model=MODEL_FOLDER, out="f.json")]


def _record(name: str, says: str, **changes) -> Case:
    def make(at: Place) -> list:
        at.edit(f"{MODEL_FOLDER}/longrope.json", **changes)
        return derive(at)

    return Case("longrope.json", name, make, says)


def _record_text(name: str, content: str | bytes, says: str) -> Case:
    def make(at: Place) -> list:
        at.write(f"{MODEL_FOLDER}/longrope.json", content)
        return derive(at)

    return Case("longrope.json", name, make, says)


def ask(at: Place, *more: str) -> list:
    return ["evaluate-instructions", *options(model=MODEL_FOLDER, out="o.json"), *more]


def _changed_weights(at: Place) -> list:
    at.copy(MODEL_FOLDER)
    _bytes(lambda c: c[:-1] + bytes([c[-1] ^ 1]), f"{MODEL_FOLDER}/model.safetensors")(at)
    return ask(at)


def _no_weights(at: Place) -> list:
    at.copy(MODEL_FOLDER)
    (at.folder / MODEL_FOLDER / "model.safetensors").unlink()
    return ask(at)


def _tuned_without_factors(at: Place) -> list:
    at.copy(f"{TUNED}/model")
    (at.folder / TUNED / "model/tuned_factors.json").unlink()
    files = {"window": "256", "model": f"{TUNED}/model", "out": "f.json"}
    return ["derive", "yarn-on-tuned", *options(**files)]


def _loaded(name: str, says: str, damage: Callable[[Place], object]) -> Case:
    """A checkpoint that was never brought in, with factors, through `longrope generate`."""

    def make(at: Place) -> list:
        at.copy("source")
        at.copy(FACTORS)
        damage(at)
        more = options(factors=FACTORS, new_tokens=2, other_weights=True)
        return ["generate", "source", "Once upon a time", *more]

    return Case("checkpoint that is used", name, make, says)


def _extended(name: str, says: str, damage: Callable[[Place], object]) -> Case:
    """A checkpoint of one's own, through `longrope init`."""

    def make(at: Place) -> list:
        at.copy("source")
        damage(at)
        return ["init", "source", *options(to="128", out="own.yaml", gpu="a100-80gb")]

    return Case("checkpoint of one's own", name, make, says)


BIAS = "model.layers.0.self_attn.q_proj.bias"
NORM, DOWN = "model.norm.weight", "model.layers.1.mlp.down_proj.weight"
MAP = {"metadata": {}, "weight_map": {NORM: "model-00002-of-00002.safetensors"}}
CASES = [
    Case("checkpoint that is used", "tuned here, as a base", _tuned_here, "start from the model"),
    _damaged("config.json", "not there", "no config.json", _without("source/config.json")),
    _config_text("empty", "", "config.json"),
    _config_text("no JSON", "{model_type: llama}", "config.json"),
    _config_text("binary", bytes(range(256)), "config.json"),
    _config_text("a list", "[]", "config.json"),
    _config_text("an empty object", "{}", "model_type"),
    _damaged("config.json", "a folder", "config.json", _as_folder("source/config.json")),
    _config("an unknown architecture", "transformers", model_type="gigallama"),
    _config("an architecture that is a number", "config.json", model_type=3),
    _config("layers in words", "num_hidden_layers", num_hidden_layers="two"),
    _config("negative layers", "num_hidden_layers", num_hidden_layers=-2),
    _config("no heads", "num_attention_heads", num_attention_heads=0),
    _config("a width that heads do not divide", "hidden size (33)", hidden_size=33),
    _config("a window in words", "max_position_embeddings", max_position_embeddings="64"),
    _config("a negative window", "max_position_embeddings = -64", max_position_embeddings=-64),
    _config("another window", "max_position_embeddings is 128", max_position_embeddings=128),
    _config("heads of an odd size", "even rotary dimension", head_dim=15),
    _config("theta in words", "theta", rope_parameters={"rope_theta": "x"}),
    _config("theta of 0", "theta", rope_parameters={"rope_theta": 0, "rope_type": "default"}),
    _config("a RoPE that is a list", "rope_parameters", rope_parameters=[1]),
    _config(
        "a RoPE that is rescaled", "already rescaled",
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    ),
    _config("a vocabulary in words", "vocab_size", vocab_size="large"),
    _config("another vocabulary", "config.json makes it 500 x 32", vocab_size=500),
    _config("an unknown activation", "transformers cannot build it", hidden_act="swish9"),
    _config("a type of weights that is none", "dtype", dtype="float99"),
    _config("a language model inside another", "wraps a language model", text_config={}),
    _config("more layers than weights", "model.layers.2", num_hidden_layers=3),
    _config("fewer layers than weights", "model.layers.1", num_hidden_layers=1),
    _config("another width of the MLP", "mlp", intermediate_size=64),
    _weights("no weights", "no *.safetensors", _without(WEIGHTS)),
    _weights("empty", WEIGHTS, _bytes(lambda content: b"")),
    _weights("text", WEIGHTS, _bytes(lambda content: b"hello, world. " * 10)),
    _weights("a header that is no JSON", WEIGHTS, _bytes(_header(b"{hello}"))),
    _weights("a header that is a list", WEIGHTS, _bytes(_header(b"[]"))),
    _weights("a header longer than the file", WEIGHTS, _bytes(_header(b"{}", 10_000))),
    _weights("a header of 2^60 bytes", WEIGHTS, _bytes(_header(b"{}", 1 << 60))),
    _weights("cut short", WEIGHTS, _bytes(lambda content: content[: len(content) // 2])),
    _weights("a byte less", WEIGHTS, _bytes(lambda content: content[:-1])),
    _weights("bytes behind the end", WEIGHTS, _bytes(lambda content: content + b"12345678")),
    _weights("a pointer of Git LFS", WEIGHTS, _bytes(
        lambda c: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")),
    _weights("a folder in place of the file", WEIGHTS, _as_folder(WEIGHTS)),
    _weights("a tensor missing", NORM, _tensors(lambda held: held.pop(NORM))),
    _weights("most tensors missing", "missing", _tensors(lambda held: [
        held.pop(name) for name in [*held][3:]])),
    _weights("a tensor renamed", DOWN, _tensors(
        lambda held: held.update({f"{DOWN}_old": held.pop(DOWN)}))),
    _weights("all tensors renamed", "missing", _tensors(lambda held: [
        held.update({name[::-1]: held.pop(name)}) for name in [*held]])),
    _weights("a tensor of another shape", DOWN, _tensors(
        lambda held: held.update({DOWN: held[DOWN][:, :-1].clone()}))),
    _weights("a bias that the model has not", BIAS, _tensors(
        lambda held: held.update({BIAS: held[NORM].clone()}))),
    _weights("NaN in a tensor", f"{DOWN} holds", _tensors(_filled(DOWN, float("nan")))),
    _weights("infinity in a tensor", f"{NORM} holds", _tensors(_filled(NORM, float("inf")))),
    _weights("whole numbers as weights", DOWN, _tensors(
        lambda held: held.update({DOWN: held[DOWN].long()}))),
    _weights("a shard missing", "model-00002-of-00002.safetensors is missing", _shards(MAP)),
    _weights("an index that is no JSON", "index.json", _shards("{")),
    _weights("an index that is a list", "index.json", _shards([])),
    _weights("an index whose map is a list", "index.json", _shards({"weight_map": [1]})),
    _weights("an index that names numbers", "index.json", _shards({"weight_map": {NORM: 3}})),
    _weights("an empty index", "index.json", _shards({})),
    _weights("a pickle that is empty", "source", _pickled(b"")),
    _weights("a pickle that is text", "source", _pickled(b"hello")),
    _tokenizer("an empty tokenizer.json", "tokenizer", _bytes(
        lambda content: b"", "source/tokenizer.json")),
    _tokenizer("a tokenizer.json cut short", "tokenizer", _bytes(
        lambda content: content[:500], "source/tokenizer.json")),
    _tokenizer("a tokenizer.json that is a list", "tokenizer", _bytes(
        lambda content: b"[]", "source/tokenizer.json")),
    _tokenizer("a tokenizer.json without a model", "tokenizer", lambda at: at.edit(
        "source/tokenizer.json", model=None)),
    _tokenizer("a vocabulary in words", "tokenizer", lambda at: at.edit(
        "source/tokenizer.json", model={"type": "BPE", "vocab": "many", "merges": []})),
    _tokenizer("a binary tokenizer.json", "tokenizer", _bytes(
        lambda content: bytes(range(256)), "source/tokenizer.json")),
    _tokenizer("a tokenizer_config.json that is no JSON", "tokenizer", _bytes(
        lambda content: b"{", "source/tokenizer_config.json")),
    _tokenizer("a tokenizer_config.json that is a list", "tokenizer", _bytes(
        lambda content: b"[]", "source/tokenizer_config.json")),
    _tokenizer("more tokens than the model has", "a vocab_size of 384", _more_tokens),
    Case("GGUF", "no such file", lambda at: bring_in(at, "gguf", "none.gguf"), "no such GGUF file"),
    Case("GGUF", "a folder", _gguf_folder, "no such GGUF file"),
    _gguf("empty", "not a readable GGUF file", lambda content: b""),
    _gguf("text", "not a readable GGUF file", lambda content: b"hello, world. " * 100),
    _gguf("only the magic", "not a readable GGUF file", lambda content: content[:4]),
    _gguf("cut within its keys", "not a readable GGUF file", lambda content: content[:2000]),
    _gguf("cut within its tensors", "not a readable GGUF file", lambda c: c[: len(c) - 5000]),
    _gguf("another version", "not a readable GGUF file", lambda c: c[:4] + b"\x63\0\0\0" + c[8:]),
    _gguf("a count of keys beyond all", "not a readable GGUF file", lambda c: (
        c[:16] + b"\xff" * 8 + c[24:])),
    _gguf("a RoPE that is rescaled", "already rescaled", lambda c: c, rescaled=True),
    _audited("no such folder", "no such folder", lambda at: "none"),
    _audited("an empty folder", "config.json", lambda at: at.write("a/b", "").parent),
    _audited("a config.json that is a list", "expected an object", lambda at: at.write(
        "config.json", "[]")),
    _audited("a config.json with faults", "error", lambda at: at.edit(
        "source/config.json", max_position_embeddings=-1)),
    _audited("a GGUF file cut short", "not a readable GGUF file", _cut_gguf),
    _audited("a GGUF file that is not there", "no such", lambda at: "none.gguf"),
    _audited("two GGUF files", "name one of them", lambda at: (
        at.write("a/a.gguf", ""), at.write("a/b.gguf", ""))[0].parent),
    Case("longrope.json", "no such folder", derive, "no such folder"),
    _record_text("empty", "", "not a readable JSON file"),
    _record_text("a list", "[]", "expected an object"),
    _record("another schema", "this version reads 1", schema=7),
    _record("no weights", "the key 'weights' is missing", weights=None),
    _record("weights that are a number", "weights", weights=3),
    _record("a source that is a list", "source", source=[]),
    _record("theta in words", "rope_theta = 'x'", rope_theta="x"),
    _record("a fingerprint that is a list", "fingerprint", base_fingerprint=[]),
    Case("longrope.json", "weights that were changed", _changed_weights, "damaged weights"),
    Case("longrope.json", "weights that were removed", _no_weights, "damaged weights"),
    Case("longrope.json", "tuned weights without their factors", _tuned_without_factors,
         "tuned_factors.json: no such file"),
    _loaded("a tensor missing", NORM, _tensors(lambda held: held.pop(NORM))),
    _loaded("weights cut short", WEIGHTS, _bytes(lambda content: content[:-100])),
    _loaded("a tensor of another shape", DOWN, _tensors(
        lambda held: held.update({DOWN: held[DOWN][:, :-1].clone()}))),
    _loaded("no tokenizer", "no usable tokenizer", lambda at: [
        _without(f"source/{name}")(at) for name in ("tokenizer.json", "tokenizer_config.json")]),
    _loaded("no weights", "weights", _without(WEIGHTS)),
    _extended("a tensor missing", NORM, _tensors(lambda held: held.pop(NORM))),
    _extended("no weights", "no *.safetensors", _without(WEIGHTS)),
    _extended("no tokenizer", "no usable tokenizer", lambda at: [
        _without(f"source/{name}")(at) for name in ("tokenizer.json", "tokenizer_config.json")]),
    _extended("a config.json without a window", "max_position_embeddings", lambda at: at.edit(
        "source/config.json", max_position_embeddings=None)),
]  # fmt: skip
