"""
Safetensors files, checked without a model: that they are whole, and that their numbers are numbers.

The header of a file says of every tensor its type, its shape and where it lies; nothing behind it
may be left over or missing. There is no checksum in the format, so a flipped bit of a weight is not
found here; what this project wrote itself has its sha256 in longrope.json.
"""

import math
import struct
from collections.abc import Iterable
from pathlib import Path

from longrope.errors import UserError
from longrope.files import parse_json

LONGEST = 100 << 20  # bytes of a header that is still one
BITS = {  # of one number of each type
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
}  # fmt: skip
FLOATS = ("F16", "BF16", "F32", "F64")  # that can hold NaN or infinity, and are what weights are
AGAIN = "download or save it again"


def read_header(file: Path) -> dict[str, dict]:
    """The header of a safetensors file: name -> dtype, shape, data_offsets. No tensor is read.

    UserError, without the file's name, if it is none, or is not as long as it says.
    """
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > LONGEST:
                raise UserError("not a safetensors file")
            raw = opened.read(length)
            if len(raw) < length:
                raise UserError("not a readable safetensors file (cut short within its header)")
            header = parse_json(raw.decode("utf-8"))
        size = file.stat().st_size - 8 - length
    except UserError:
        raise
    except (OSError, struct.error, ValueError) as error:
        raise UserError(f"not a readable safetensors file ({error})") from None
    if not isinstance(header, dict):
        raise UserError("not a safetensors file")
    header.pop("__metadata__", None)
    end = max((_end(name, entry) for name, entry in header.items()), default=0)
    if end != size:
        what = "cut short" if end > size else "longer than its header says"
        raise UserError(f"{what}: {size:,} bytes of tensors where its header says {end:,}")
    return header


def _end(name: str, entry: object) -> int:
    """Where a tensor ends; UserError for an entry that is none."""
    wrong = UserError(f"not a readable safetensors file (the entry of {name} in its header)")
    if not isinstance(entry, dict):
        raise wrong
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or any(
            not isinstance(each, int) or isinstance(each, bool) or each < 0 for each in numbers
        ):
            raise wrong
    if len(offsets) != 2 or (bits := BITS.get(str(entry.get("dtype")))) is None:
        raise wrong
    if (offsets[1] - offsets[0]) * 8 != math.prod(shape) * bits:
        raise wrong
    return offsets[1]


def is_beside(name: object) -> bool:
    """Whether what an index of weights names is a file beside it, and no place elsewhere."""
    return isinstance(name, str) and Path(name).name == name and name != ".."


def check_whole(files: Iterable[Path]) -> None:
    """Raise UserError unless safetensors files are whole, and no tensor is in two of them."""
    places: dict[str, Path] = {}
    for file in files:
        try:
            header = read_header(file)
        except UserError as error:
            raise UserError(f"{file}: {error}; {AGAIN}") from None
        for name in header:
            if (other := places.setdefault(name, file)) is not file:
                raise UserError(
                    f"{file}: the tensor {name} is in {other.name} too: remove the file that does"
                    " not belong to this checkpoint"
                )


def check_finite(files: Iterable[Path], quantised: bool = False) -> None:
    """Raise UserError for a weight that is no finite number; reads all of them, one at a time.

    Only `quantised` weights may be stored as whole numbers.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    for file in files:
        types = {name: each["dtype"] for name, each in read_header(file).items()}
        for name, type_ in types.items():
            if type_[0] in "BIU" and type_ != "BF16" and name.endswith("weight") and not quantised:
                raise UserError(
                    f"{file}: {name} is stored as {type_}, whole numbers, and config.json has no"
                    f" quantization_config that says what they mean; {AGAIN}"
                )
        floats = {name for name, type_ in types.items() if type_ in FLOATS}
        try:
            with safe_open(file, framework="pt") as opened:
                for name in sorted(floats):
                    tensor = opened.get_tensor(name)
                    # Of numbers among which one is NaN, least and largest are NaN.
                    ends = tensor.aminmax() if tensor.numel() else ()
                    if not all(torch.isfinite(each) for each in ends):
                        raise _not_finite(file, name, tensor)
        except SafetensorError as error:
            raise UserError(f"{file}: not a readable safetensors file ({error}); {AGAIN}") from None


def _not_finite(file: Path, name: str, tensor) -> UserError:
    bad = int((~tensor.isfinite()).sum())
    return UserError(
        f"{file}: {name} holds {bad:,} of {tensor.numel():,} numbers that are NaN or infinite;"
        f" {AGAIN}, or from an earlier step of its training"
    )
