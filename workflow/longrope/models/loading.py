"""
Loading weights, and judging what transformers says of them.

transformers draws weights that a checkpoint lacks at random, warns, and goes on. Here that is an
error, as is a tensor of another shape, and one that belongs to a part of the model but has no place
in it: a layer that config.json does not count, or a bias that the architecture adds nowhere. Other
tensors too many (an old buffer, another head) change nothing; they are told in one line.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from longrope.errors import UserError, one_line
from longrope.files import is_disk_full
from longrope.first_calls import settle_kernels
from longrope.memory import is_out_of_memory

SHOWN = 3  # names in a message


def load_causal(folder: Path, place: Path | None = None, **options):
    """transformers' causal language model of a folder, all of its weights from there.

    `place` is what messages call the folder. UserError for whatever is wrong with its files.
    """
    from transformers import AutoModelForCausalLM

    settle_kernels()
    place = place or folder

    def load():
        return AutoModelForCausalLM.from_pretrained(
            folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            weights_only=True,
            trust_remote_code=False,
            **({"attn_implementation": "sdpa"} | options),
        )

    with _unreported():
        model, report = readable(place, "transformers cannot read its weights", load)
    _judge(place, model, report)
    return model


def check_fit(folder: Path, place: Path) -> None:
    """Raise UserError unless the tensors in a folder are those of its config.json; none is read."""
    load_causal(folder, place, device_map="meta")


def readable(place: Path, wrong: str, read: Callable):
    """What `read()` gives. What is wrong with a file shows as an error of the reader of its format,
    of any kind: here a UserError that begins with `wrong`. Where memory, the disk or a package is
    lacking, it stays what it is."""
    try:
        return read()
    except UserError:
        raise
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError)
        if missing or is_disk_full(error) or is_out_of_memory(error):
            raise
        raise UserError(f"{place}: {wrong} ({one_line(error)})") from error


def _judge(place: Path, model, report: dict) -> None:
    missing, shapes = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if missing:
        raise UserError(
            f"{place}: {_several(missing, 'weight')} missing, which transformers would draw at"
            " random: config.json is of another model, or the files are not all of it; download or"
            " save the checkpoint again"
        )
    if shapes:
        name, found, wanted = shapes[0][:3]
        more = f", and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        raise UserError(
            f"{place}: the weight {name} is {_shape(found)}, config.json makes it"
            f" {_shape(wanted)}{more}: they are not of one checkpoint; download or save it again"
        )
    unused = sorted(report["unexpected_keys"])
    if homeless := [name for name in unused if _belongs(name, model)]:
        raise UserError(
            f"{place}: config.json has no place for {_several(homeless, 'weight')} there: it counts"
            " fewer layers, or is of another architecture; take the config.json of this checkpoint"
        )
    if unused:
        print(f"{place}: not used: {_several(unused, 'tensor')} there", file=sys.stderr)


def _belongs(name: str, model) -> bool:
    """Whether a tensor is named like one of a part of a model, of whichever layer."""
    parents = {_any_layer(each) for each, module in model.named_modules() if each}
    return _any_layer(name).rpartition(".")[0] in parents


def _any_layer(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".#", name)


def _several(names: Iterable[str], noun: str) -> str:
    """`the weight a is`, or `5 weights, a, b, c, ..., are`."""
    names = list(names)
    if len(names) == 1:
        return f"the {noun} {names[0]} is"
    dots = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {noun}s, {', '.join(names[:SHOWN])}{dots}, are"


def _shape(shape) -> str:
    return " x ".join(map(str, shape)) or "one number"


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    """Without transformers' report on the weights, which is judged here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
