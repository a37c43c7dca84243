"""
What the small files of a checkpoint say, as each engine takes it.

A RoPE is described in two schemas: transformers 4 reads `rope_theta` and `rope_scaling` at the top
level, transformers 5 `rope_parameters`, in which theta stands too, and `rope_scaling` instead of it
where that is given. A block may also hold one block for each kind of layer.
"""

from dataclasses import dataclass
from pathlib import Path

from longrope.audit.finding import Finding, everywhere
from longrope.audit.values import (
    CONFIG,
    ORIGINAL,
    THETAS,
    WINDOWS,
    is_number,
    is_whole,
    wrong_of_block,
    wrong_of_config,
)
from longrope.errors import UserError
from longrope.files import read_json

THETA = 10_000.0  # what engines take where nothing is said
THETA_OF = {  # model_type -> what transformers takes there instead
    "mixtral": 1e6, "gemma3_text": 1e6, "smollm3": 2e6, "cohere2": 10_000.0, "minimax": 1e6,
}  # fmt: skip
TURNING = {"chatglm": 0.5, "glm": 0.5, "glm4": 0.5}  # share of a head that turns, where unsaid
ORIGINAL_OF = {"phi3": 4096, "phimoe": 4096}  # model_type -> original window where none is stated
PLAIN = ("default", "mrope", "none")  # rope_types that rescale nothing
LONGROPE = ("longrope", "su")
NO_ROPE = (  # model_types whose positions are learned, biases, or those of a state space
    "gpt2", "gpt_bigcode", "gpt_neo", "openai-gpt", "opt", "bloom", "mpt", "xglm", "biogpt", "ctrl",
    "t5", "jamba", "mamba", "mamba2", "falcon_mamba", "rwkv", "rwkv6", "rwkv7", "starcoder",
)  # fmt: skip
KNOWN_BY = {"architectures", "model_type", "text_config"}  # one of them is in any config.json
NOT_ROTARY = ("nope", "alibi")  # position_embedding_type of architectures that can be either
CLOSE = 1e-3  # attention factors that differ by less are the same


@dataclass(frozen=True, slots=True)
class Block:
    """How the RoPE of a model, or of one kind of its layers, is rescaled."""

    key: str  # where it stands in config.json
    values: dict

    @property
    def type(self) -> str | None:
        """Its rope_type, `type` in older files; None if neither is said."""
        return self.values.get("rope_type", self.values.get("type"))

    @property
    def rescales(self) -> bool:
        """Whether it does anything but say theta."""
        return self.type not in (None, *PLAIN)

    @property
    def one_table(self) -> bool:
        """Whether the same factors serve every length, so that no engine has any to choose."""
        short, long = self.values.get("short_factor"), self.values.get("long_factor")
        return long is not None and short == long

    def number(self, key: str) -> float | None:
        """A number of it; None if there is none of that name, or no number."""
        value = self.values.get(key)
        return value if is_number(value) else None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of one checkpoint that are read."""

    folder: Path
    config: dict  # of the language model: text_config where there is one
    legacy: Block | None  # rope_scaling
    modern: Block | None  # rope_parameters; of several kinds of layers the first
    blocks: tuple[Block, ...]  # those that are in force, one for each kind of layer
    tokenizer: dict
    generation: dict
    wrong: tuple[Finding, ...] = ()  # values that nothing can be computed with; taken out above

    @property
    def kind(self) -> str:
        """Its model_type."""
        return str(self.config.get("model_type", "unknown"))

    @property
    def exported_for(self) -> str | None:
        """The engine that `longrope export` made it for; None if it did not make it."""
        return _optional(self.folder / "longrope_export.json").get("engine")

    @property
    def rotary(self) -> bool:
        """Whether its architecture has a RoPE at all."""
        said = self.config.get("position_embedding_type")
        return self.kind not in NO_ROPE and not self.config.get("alibi") and said not in NOT_ROTARY

    @property
    def default_theta(self) -> float:
        """The theta of an engine that finds none."""
        ratio = self.config.get("rope_ratio")  # how ChatGLM states it
        return THETA_OF.get(self.kind, THETA) * (ratio if is_number(ratio) and ratio > 0 else 1)

    @property
    def stated(self) -> list[float]:
        """Every theta that is stated, wherever."""
        places = [self.modern.values if self.modern else {}, self.config]
        places += [self.legacy.values] if self.legacy else []
        return [
            float(place[key]) for place in places for key in THETAS if is_number(place.get(key))
        ]

    @property
    def theta(self) -> float:
        """The theta that was probably meant: the largest that is stated, as what goes wrong is a
        fall back to the default."""
        return max(self.stated, default=self.default_theta)

    @property
    def top_theta(self) -> float | None:
        """The theta at the top level."""
        return next((self.config[key] for key in THETAS if key in self.config), None)

    @property
    def window(self) -> int | None:
        """The window that it says to have."""
        return next((self.config[key] for key in WINDOWS if is_whole(self.config.get(key))), None)

    @property
    def long_window(self) -> int | None:
        """The window after rescaling: of yarn, which may state the one before, it times factor."""
        window, block = self.window, self.blocks[0]
        if window and block.type == "yarn" and block.number("factor"):
            original = self.original(block)
            return max(window, round(original * block.number("factor"))) if original else window
        return window

    @property
    def head_size(self) -> int | None:
        """Dimensions of a head."""
        size, heads = self.config.get("hidden_size"), self.config.get("num_attention_heads")
        if is_whole(head := self.config.get("head_dim")):
            return head
        return size // heads if is_whole(size) and is_whole(heads) else None

    @property
    def pairs(self) -> int | None:
        """How many pairs of a head turn."""
        if self.head_size is None:
            return None
        places = [self.modern.values if self.modern else {}, self.config]
        share = next(
            (
                place[key]
                for place in places
                for key in ("partial_rotary_factor", "rotary_pct")
                if is_number(place.get(key))
            ),
            TURNING.get(self.kind, 1.0),
        )
        size = self.config.get("qk_rope_head_dim") or int(self.head_size * share)
        return size // 2

    def original(self, block: Block) -> int | None:
        """The window before rescaling, from wherever it is stated."""
        for value in (self.config.get(ORIGINAL), block.values.get(ORIGINAL)):
            if is_whole(value) and value > 0:
                return value
        return ORIGINAL_OF.get(self.kind)

    def tables_fit(self, block: Block) -> bool:
        """Whether there are two tables of one number for each pair; of others nothing can be told
        by comparing them."""
        tables = [block.values.get(key) for key in ("short_factor", "long_factor")]
        return all(isinstance(each, list) and self.pairs in (len(each), None) for each in tables)

    @property
    def facts(self) -> dict[str, object]:
        """The line that a report begins with."""
        if not self.rotary:
            return {"model": self.kind, "window": self.window, "RoPE": "none", "scaling": "none"}
        types = sorted({str(block.type) for block in self.blocks if block.rescales})
        facts = {
            "model": self.kind,
            "window": self.window,
            "theta": f"{self.theta:g}",
            "pairs": self.pairs,
            "scaling": ", ".join(types) or "none",
        }
        originals = {self.original(block) for block in self.blocks if block.rescales} - {None}
        if not originals:
            return facts
        said: object = max(originals)
        if any(block.one_table for block in self.blocks):
            said = f"{said} (one table for every length)"
        return facts | {"original window": said}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a folder's small files; a config.json alone will do."""
    folder = path if path.is_dir() else path.parent
    file = path / CONFIG if path.is_dir() else path
    config = read_json(file)
    if not config.keys() & KNOWN_BY:
        raise UserError(
            f"{file}: no configuration of a model: it has neither {' nor '.join(sorted(KNOWN_BY))}"
        )
    if isinstance(inner := config.get("text_config"), dict):
        config = {key: value for key, value in config.items() if key != "text_config"} | inner
    wrong = list(wrong_of_config(config))
    config = {key: value for key, value in config.items() if key not in {at.key for at in wrong}}
    found: dict[str, tuple[Block, ...]] = {}
    for key in ("rope_scaling", "rope_parameters"):
        found[key] = tuple(_sound(block, wrong) for block in _blocks(key, config.get(key), wrong))
    legacy, modern = found.values()
    return Checkpoint(
        folder=folder,
        config=config,
        legacy=legacy[0] if legacy else None,
        modern=modern[0] if modern else None,
        blocks=legacy or modern or (Block("rope_scaling", {}),),
        tokenizer=_optional(folder / "tokenizer_config.json"),
        generation=_optional(folder / "generation_config.json"),
        wrong=tuple(wrong),
    )


def _blocks(key: str, value: object, wrong: list[Finding]) -> tuple[Block, ...]:
    """The block, or one for each kind of layer; both at once is wrong."""
    if not isinstance(value, dict) or not value:
        return ()
    inner = {name: each for name, each in value.items() if isinstance(each, dict)}
    own = {name: each for name, each in value.items() if name not in inner}
    if inner and not {"rope_type", "type", "factor"} & own.keys():
        return tuple(Block(f"{key}.{name}", each) for name, each in inner.items())
    for name in inner:
        wrong.append(
            Finding(
                "block-in-block",
                "error",
                CONFIG,
                f"{key}.{name}",
                f"{key} rescales by itself, and holds a block {name!r}.",
                everywhere("refuses to load, or takes either of them, silently"),
                "one block for all layers, or one for each kind of layer and nothing beside them",
            )
        )
    return (Block(key, own),)


def _sound(block: Block, wrong: list[Finding]) -> Block:
    """The block without what is wrong with its values; that is added to `wrong`."""
    values = {
        key: str(value)  # of any other type it is unknown as a name, and nothing else
        if key in ("rope_type", "type") and not isinstance(value, str | None)
        else value
        for key, value in block.values.items()
    }
    found = list(wrong_of_block(block.key, values, Block(block.key, values).type))
    wrong += found
    bad = {each.key.rpartition(".")[2] for each in found}
    return Block(block.key, {key: value for key, value in values.items() if key not in bad})


def _optional(path: Path) -> dict:
    try:
        return read_json(path) if path.exists() else {}
    except UserError:
        return {}  # broken JSON stops every engine loudly
