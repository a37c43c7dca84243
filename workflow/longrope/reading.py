"""
From what a user wrote to typed settings, or to one error that names every wrong key.

pydantic finds what is wrong; here its findings become lines that a person can act on: the path of
the key as it is written, the rule it breaks, the spelling that was probably meant.
"""

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from longrope.config.base import Settings
from longrope.errors import UserError
from longrope.windows import PATTERN, parse_window


def read_settings(type_: Any, text: str) -> Any:
    """A stage's settings from the JSON string that its rule hands over; `@FILE` names a file."""
    try:
        if text.startswith("@"):
            text = Path(text.removeprefix("@")).read_text(encoding="utf-8")
        raw = json.loads(text)
    except OSError as error:
        raise UserError(f"--settings: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"--settings: not JSON ({error})") from None
    return parse(type_, raw, "--settings")


def parse(type_: Any, raw: object, where: str) -> Any:
    """Validate `raw` as `type_`; one UserError with a line for each thing that is wrong."""
    if twice := list(_windows_twice(raw)):
        raise UserError("\n  ".join([f"{where}:", *twice]))
    try:
        return TypeAdapter(type_).validate_python(raw)
    except ValidationError as error:
        told: dict[str, list[str]] = {}  # place -> what is wrong there; a union tries every kind
        for problem in error.errors():
            texts = told.setdefault(_place(problem["loc"], raw), [])
            if (text := _explain(problem)) not in texts:
                texts.append(text)
        lines = [f"{place}: {'; or '.join(texts)}" for place, texts in told.items()]
        raise UserError("\n  ".join([f"{where}:", *lines])) from None


def _windows_twice(raw: object, place: str = "") -> Iterator[str]:
    """A line for every mapping in which two keys are the same window, such as 1k and 1024."""
    if not isinstance(raw, dict):
        return
    seen: dict[int, object] = {}
    for key, value in raw.items():
        yield from _windows_twice(value, f"{place}.{key}".lstrip("."))
        if isinstance(key, str | int) and re.fullmatch(PATTERN, str(key)):
            other = seen.setdefault(parse_window(key), key)
            if other is not key:
                yield f"{place}: {other} and {key} are the same window; keep one"


def _place(location: tuple, raw: object) -> str:
    """The path of a key as it is written: pydantic adds the names of the kinds that it tried."""
    parts = []
    for number, part in enumerate(location):
        if isinstance(raw, dict):
            match = next((key for key in raw if str(key) == str(part)), None)
            if match is None and number + 1 < len(location):
                continue  # the name of a kind
            if part != "[key]":
                parts.append(str(part))
            raw = raw.get(match)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            parts.append(str(part))
            raw = raw[part]
    return ".".join(parts) or "top level"


def _explain(problem: dict) -> str:
    """What is wrong, and how to mend it."""
    match problem["type"]:
        case "extra_forbidden":
            key, known = str(problem["loc"][-1]), _known_keys()
            if key in known:
                return "no key of this part, but of another; docs/configuration.md lists all keys"
            near = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "docs/configuration.md lists all keys"
            return f"unknown key; {hint}"
        case "missing":
            return "missing, and has no default"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            found = repr(problem["input"])
            return message + (f" (found {found})" if len(found) < 60 else "")


def _known_keys() -> set[str]:
    kinds = [Settings]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {key for kind in kinds for key in kind.model_fields}
