"""
What every part of the configuration is made of: names, windows, numbers, and their strictness.
"""

import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from longrope.windows import PATTERN, parse_window, window_label

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # names of models, corpora and tunings: parts of paths
BASE = "base"  # the weights that a model comes with

Name = Annotated[str, Field(pattern=f"^{NAME}$")]
# On the hub: no URL, which could hold a token, and no path.
OF_HUB = f"^{NAME}(/{NAME})?$"
HubName = Annotated[str, Field(pattern=OF_HUB)]
Window = Annotated[
    int,
    BeforeValidator(parse_window),
    PlainSerializer(window_label, return_type=str),
    WithJsonSchema({"type": ["integer", "string"], "pattern": f"^{PATTERN}$"}),
]


def name_of(text: str) -> str:
    """A name for results/: a folder's or a file's, in lower case, with dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"


def _names_something(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("must name something")
    return text


Place = Annotated[str, AfterValidator(_names_something)]  # a file, a folder, a repository
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, strict=True)]  # strict: `true` is no 1
Whole = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, le=(1 << 63) - 1, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# How a model runs when it is not trained; auto: float32 on a CPU, bfloat16 on a GPU.
Precision = Literal["auto", "float32", "bfloat16"]


class Settings(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change.

    The text below a field explains the key: it stands in the JSON schema, where editors show it,
    and in docs/configuration.md. Keys of stages, which no user writes, have comments."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
