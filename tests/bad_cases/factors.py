"""Factor files: factors.json, extended.json, published tables and entries."""

import json
from collections.abc import Callable

from bad_cases.kit import EXTENDED, FACTORS, MODEL_FOLDER, TUNED, Case, Place, options

NAN = float("nan")


def assemble(at: Place) -> list:
    at.copy(MODEL_FOLDER)
    return ["assemble", *options(model=MODEL_FOLDER, factors=[FACTORS], out="extended")]


def _text(name: str, content: str | bytes, says: str) -> Case:
    def make(at: Place) -> list:
        at.write(FACTORS, content)
        return assemble(at)

    return Case("factors.json", name, make, says)


def _key(name: str, says: str, **changes) -> Case:
    def make(at: Place) -> list:
        if "lambda_" in changes:
            changes["lambda"] = changes.pop("lambda_")
        at.edit(FACTORS, **changes)
        return assemble(at)

    return Case("factors.json", name, make, says)


def _lambda(name: str, value: object, says: str = "every factor is a number >= 1") -> Case:
    """One of the factors is `value`."""
    return _key(name, says, lambda_=[1.0] * 7 + [value])


def _raw(name: str, value: str, says: str = "every factor is a number >= 1") -> Case:
    """The same, as it stands in the file."""

    def make(at: Place) -> list:
        path = at.edit(FACTORS, **{"lambda": [2.0] * 8})
        path.write_text(path.read_text().replace("2.0]", f"{value}]"))
        return assemble(at)

    return Case("factors.json", name, make, says)


def _folder(at: Place) -> list:
    (at.folder / FACTORS).mkdir(parents=True)
    return assemble(at)


def _changed(at: Place) -> list:
    path = at.copy(FACTORS)
    path.write_text(path.read_text().replace("2.0", "3.0", 1))
    return assemble(at)


def _two(at: Place) -> list:
    at.copy(FACTORS)
    at.copy(MODEL_FOLDER)
    factors = [FACTORS, FACTORS]
    return ["assemble", *options(model=MODEL_FOLDER, factors=factors, out="extended")]


def generate(at: Place, path: str = TUNED, **more) -> list:
    return ["generate", path, "Once upon a time", *options(new_tokens=2, **more)]


def _extended(name: str, says: str, damage: Callable[[Place], object]) -> Case:
    def make(at: Place) -> list:
        at.copy(TUNED)
        damage(at)
        return generate(at)

    return Case("extended.json", name, make, says)


def _tiers(name: str, says: str, **changes) -> Case:
    return _extended(name, says, lambda at: at.edit(EXTENDED, **changes))


def _twice(at: Place) -> None:
    tiers = json.loads((at.folder / EXTENDED).read_text())["tiers"]
    at.edit(EXTENDED, tiers=tiers[:1] * 2)


def _csv(name: str, content: str | bytes, says: str, **more) -> Case:
    def make(at: Place) -> list:
        at.copy(MODEL_FOLDER)
        at.write("table.csv", content)
        files = {"csv": "table.csv", "model": MODEL_FOLDER, "window": "128", "out": "f.json"}
        return ["import-factors", *options(**(files | more))]

    return Case("published table (csv)", name, make, says)


def _no_model(at: Place) -> list:
    at.write("table.csv", ROW)
    return ["import-factors", *options(csv="table.csv", out="f.json")]


def _block(name: str, says: str, **changes) -> Case:
    """A checkpoint with a longrope block in which something is wrong."""
    block = {"rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [2.0] * 8}
    block |= {"short_factor": [1.0] * 8, "original_max_position_embeddings": 64}
    block |= changes.pop("block", {})
    kept = {key: value for key, value in block.items() if value is not None}

    def make(at: Place) -> list:
        changed = {"rope_parameters": kept, "max_position_embeddings": 128} | changes
        at.edit("source/config.json", **changed)
        return ["import-factors", *options(checkpoint="source", out="f.json")]

    return Case("published checkpoint", name, make, says)


def _published(name: str, says: str, *arguments: str) -> Case:
    return Case("published entry", name, lambda at: ["factors", *arguments], says)


def _export(at: Place) -> list:
    """Factors that were searched on the tuned weights, for the base."""
    at.copy(MODEL_FOLDER)
    at.copy(TUNED)
    return ["export", *options(model=MODEL_FOLDER, factors=EXTENDED, out="export")]


ROW = " ".join(["2.0"] * 8)
CASES = [
    Case("factors.json", "no such file", assemble, "no such file"),
    Case("factors.json", "a folder in place of the file", _folder, "not a readable JSON file"),
    Case("factors.json", "a changed digit", _changed, "its checksum does not fit"),
    Case("factors.json", "the same window twice", _two, "windows that rise"),
    _text("empty", "", "not a readable JSON file"),
    _text("no JSON", "lambda: 2", "not a readable JSON file"),
    _text("binary", bytes(range(256)), "not a readable JSON file"),
    _text("UTF-16", '{"schema": 1}'.encode("utf-16"), "not a readable JSON file"),
    _text("cut short", '{"schema": 1, "lambda": [1.0, ', "not a readable JSON file"),
    _text("a list", "[1, 2]", "holds a JSON list, expected an object"),
    _text("a number", "2", "holds a JSON int, expected an object"),
    _text("null", "null", "expected an object"),
    _text("an empty object", "{}", "the key 'schema' is missing"),
    _text("nested a hundred thousand deep", "[" * 100_000, "not a readable JSON file"),
    _key("another schema", "this version reads schema 1", schema=2),
    _key("no lambda", "the key 'lambda' is missing", lambda_=None),
    _key("lambda that is a number", "lambda", lambda_=2.0),
    _key("lambda that is a word", "lambda", lambda_="aaaaaaaa"),
    _key("lambda that is an object", "lambda", lambda_={"0": 1.0}),
    _key("a factor too few", "needs 8 (rotary_dim / 2)", lambda_=[1.0] * 7),
    _key("no factors", "needs 8 (rotary_dim / 2)", lambda_=[]),
    _lambda("a factor below 1", 0.5),
    _lambda("a negative factor", -2.0),
    _lambda("a factor of 0", 0),
    _lambda("a factor that is a word", "two"),
    _lambda("a factor that is true", True),
    _lambda("a factor that is a list", [2.0]),
    _raw("a factor that is null", "null"),
    _raw("a factor of NaN", "NaN"),
    _raw("a factor of minus infinity", "-Infinity"),
    _raw("a factor with more digits than a float", "1" * 400, "lambda[7]"),
    _raw("a factor with ten thousand digits", "1" * 10_000, "not a readable JSON file"),
    _key("a negative n_hat", "n_hat = -1", n_hat=-1),
    _key("n_hat with a fraction", "n_hat = 0.5", n_hat=0.5),
    _key("an attention factor of 0", "attention_factor = 0", attention_factor=0),
    _key("an attention factor of infinity", "attention_factor = inf", attention_factor=1e999),
    _key("a window in words", "window = 'long'", window="long"),
    _key("a window of 0", "window = 0", window=0),
    _key("a method that is a list", "method", method=["pi"]),
    _key("a model that is a number", "model", model=3),
    _key("provenance that is a list", "provenance", provenance=[]),
    _key("an odd number of dimensions", "must be even", rotary_dim=15),
    _key("theta of 1", "rope_theta = 1", rope_theta=1),
    _key("another theta", "rope_theta 5000.0, this model", rope_theta=5000.0),
    _key("another model's weights", "use factors made for it", base_fingerprint="0" * 16),
    _tiers("another schema", "this version reads 1", schema=2),
    _tiers("no tiers", "at least one window", tiers=[]),
    _tiers("tiers that are an object", "tiers must be a list", tiers={"64": "64.json"}),
    _tiers("a tier without its file", "tiers must be a list", tiers=[{"max_length": 64}]),
    _tiers(
        "a tier in words", "tiers must be a list", tiers=[{"max_length": "x", "factors": "64.json"}]
    ),
    _tiers(
        "a tier whose file is not there", "no such file",
        tiers=[{"max_length": 64, "factors": "none.json"}],
    ),
    _tiers(
        "a tier of another window", "names factors for 64",
        tiers=[{"max_length": 512, "factors": "64.json"}],
    ),
    _extended("a tier twice", "windows that rise", _twice),
    _extended("not there", "name factors", lambda at: (at.folder / EXTENDED).unlink()),
    _extended("empty", "not a readable JSON file", lambda at: at.write(EXTENDED, "")),
    Case("extended.json", "factors of other weights", _export, "searched on other weights"),
    _csv("empty", "", "holds no values"),
    _csv("blank lines", "\n\n", "holds no values"),
    _csv("a header", f"lambda\n{ROW}\n", "expected lambda values only"),
    _csv("words", "one, two\n", "expected lambda values only"),
    _csv("binary", bytes(range(256)), "not a readable"),
    _csv("NaN", ROW.replace("2.0", "nan", 1), "every factor is a number >= 1"),
    _csv("a factor below 1", ROW.replace("2.0", "0.1", 1), "every factor is a number >= 1"),
    _csv("a value too few", ROW[4:], "row 1 holds 7 values"),
    _csv("rows that differ", f"{ROW}\n{ROW.replace('2', '3')}\n", "every row must be the same"),
    _csv("a negative n_hat", ROW, "n_hat = -1", n_hat=-1),
    Case("published table (csv)", "no model", _no_model, "needs --model"),
    _block("no block", "no longrope factors", rope_parameters={}),
    _block("another type", "no longrope factors", block={"rope_type": "yarn"}),
    _block("a block that is a word", "original_max_position_embeddings is missing",
           rope_parameters="longrope"),
    _block("no theta", "rope_theta is missing", block={"rope_theta": None}),
    _block(
        "no original window", "original_max_position_embeddings is missing",
        block={"original_max_position_embeddings": None},
    ),
    _block("a factor too few", "need a list of 8", block={"long_factor": [2.0] * 7}),
    _block("factors that are a word", "need a list of 8", block={"long_factor": "many"}),
    _block("a negative factor", "every factor", block={"long_factor": [-2.0] * 8}),
    _block("a window that is not longer", "is not above", max_position_embeddings=64),
    _block("heads in words", "must be a number above 0", num_attention_heads="two", head_dim=None),
    _published("an unknown name", "unknown published factors 'gpt5'", "gpt5"),
    _published("a path as its name", "unknown published factors", "../secret"),
    _published("a window it has not", "no factors for 777", "tiny-base", "--window", "777"),
]  # fmt: skip
