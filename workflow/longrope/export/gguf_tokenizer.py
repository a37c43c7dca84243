"""
The tokenizer of a GGUF file, where llama.cpp is known to cut text as this tokenizer does.

llama.cpp has the regular expressions that cut text built in, by name. A byte-level BPE whose
tokenizer.json is cut by one of those is written with that name, if it merges pieces as that name
does; the tokenizer of a model that came from a GGUF file is copied from there. Any other is
refused: it would load, and cut text otherwise. llama.cpp normalises no text: NFC, which every
Qwen2 tokenizer has, is said to be left out.
"""

from pathlib import Path

from longrope.errors import UserError
from longrope.files import read_json
from longrope.models.checkpoint import ModelRecord, load_tokenizer

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {LLAMA_3: "llama-bpe", LLAMA_3.replace("{1,3}", ""): "qwen2"}
IMPLIED = {  # what llama.cpp does with every byte-level BPE, whatever tokenizer.json says
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
}
WHOLE_PIECES = ("llama-bpe",)  # where a piece that is a token is one, without its merges
NFC = {"type": "NFC"}
WAY_OUT = (
    "convert the plain checkpoint with llama.cpp's own convert_hf_to_gguf.py, import that GGUF"
    " file, and export the model again"
)


def write_tokenizer(writer, model: Path, record: ModelRecord, size: int) -> list[str]:
    """Write a checkpoint's tokenizer, with as many tokens as the model has embeddings; returns what
    llama.cpp leaves out of it."""
    source = Path(record.source.get("path", ""))
    if record.source.get("kind") == "gguf" and source.is_file():
        _copy(writer, source, model, size)
        return []
    return _from_json(writer, model, size)


def _copy(writer, source: Path, model: Path, size: int) -> None:
    import gguf

    reader = gguf.GGUFReader(source)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    known = load_tokenizer(model).convert_ids_to_tokens(list(range(len(tokens))))
    if len(tokens) != size or tokens != known:
        raise UserError(
            f"GGUF: the tokens of {source} are not those of the checkpoint that came from it"
        )
    for key, field in reader.fields.items():
        if key.startswith("tokenizer."):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type=inner)


def _from_json(writer, model: Path, size: int) -> list[str]:
    import gguf

    path = model / "tokenizer.json"
    if not path.exists():
        raise UserError(f"GGUF: {model} has no tokenizer.json; {WAY_OUT}")
    said = read_json(path)
    name = pre_tokenizer(said)
    tokenizer, vocabulary = load_tokenizer(model), said["model"]["vocab"]
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    added_tokens = said.get("added_tokens", [])
    last = max([*vocabulary.values(), *(added["id"] for added in added_tokens)])
    if last >= size:
        raise UserError(
            f"GGUF: {path} has a token of number {last}, the model embeddings for {size}: tokens"
            " that were added without embeddings; take them out of tokenizer.json, or enlarge the"
            " embeddings before the model is brought in"
        )
    for token, number in vocabulary.items():
        tokens[number], kinds[number] = token, gguf.TokenType.NORMAL
    for added in added_tokens:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], kind
    merges = said["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    for special, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if special is not None:
            add(special)
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(begins)
    writer.add_add_space_prefix(False)
    if template := tokenizer.chat_template:  # one, or several by name
        if isinstance(template, dict):
            template = [{"name": name, "template": each} for name, each in template.items()]
        writer.add_chat_template(template)
    if said.get("normalizer"):
        return ["llama.cpp does not bring text into Unicode's NFC first, as the tokenizer does."]
    return []


def pre_tokenizer(said: dict) -> str:
    """llama.cpp's name for how a tokenizer.json cuts text; UserError for one that it has not."""
    model, normal = said["model"], said.get("normalizer")
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise UserError(
            f"GGUF: only byte-level BPE tokenizers are written, this one is {model.get('type')}"
            f"{' with byte fallback' if model.get('byte_fallback') else ''}; {WAY_OUT}"
        )
    steps = said.get("pre_tokenizer") or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    name = _name(steps)
    allowed = (None, NFC) if name == "qwen2" else (None,)
    if name is None or normal not in allowed:
        kinds = ", ".join(str(step.get("type")) for step in steps)
        raise UserError(
            f"GGUF: llama.cpp has no name for a tokenizer that cuts text by {kinds}"
            f"{f' after {normal}' if normal else ''}; {WAY_OUT}"
        )
    implied = IMPLIED | {"ignore_merges": name in WHOLE_PIECES}
    for key, value in implied.items():
        if (model.get(key) or None) != (value or None):
            raise UserError(
                f"GGUF: llama.cpp's {name} has {key} = {value}, this tokenizer"
                f" {model.get(key)}: it would cut text otherwise; {WAY_OUT}"
            )
    return name


def _name(steps: list[dict]) -> str | None:
    match [step.get("type") for step in steps]:
        case ["ByteLevel"] if _bytes(steps[0], regex=True):
            return "gpt-2"
        case ["Digits", "ByteLevel"] if _bytes(steps[1], regex=True):
            return "smollm" if steps[0].get("individual_digits") else None
        case ["Split", "ByteLevel"] if _bytes(steps[1], regex=False):
            plain = steps[0].get("behavior") == "Isolated" and not steps[0].get("invert")
            return SPLITS.get(steps[0]["pattern"].get("Regex")) if plain else None
    return None


def _bytes(step: dict, *, regex: bool) -> bool:
    return not step.get("add_prefix_space") and step.get("use_regex", True) == regex
