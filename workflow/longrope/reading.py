"""
From what a user wrote to typed settings, or to one error that names every wrong key.

pydantic finds what is wrong; here its findings become lines that a person can act on: the path of
the key as it is written, the rule it breaks, the spelling that was probably meant.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from reprlib import Repr
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from longrope.config.base import Settings
from longrope.errors import UserError, meant, nearest
from longrope.files import parse_json, read_text
from longrope.windows import PATTERN, parse_window

SHORT = Repr()  # of values in messages: written out, YAML's aliases may be of any length
SHORT.maxlist = SHORT.maxdict = 8
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 60


def read_settings(type_: Any, text: str) -> Any:
    """A stage's settings from the JSON string that its rule hands over; `@FILE` names a file."""
    try:
        raw = parse_json(settings_text(text))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--settings: not JSON ({error})") from None
    return parse(type_, raw, "--settings")


def settings_text(text: str) -> str:
    """The JSON string itself, where `@FILE` may name the file that it is in."""
    if not text.startswith("@"):
        return text
    try:
        return read_text(Path(text.removeprefix("@")))
    except UserError as error:
        raise UserError(f"--settings: {error}") from None


def read_yaml(path: Path) -> dict:
    """What a YAML file of keys holds; UserError if it is none, is empty, or has a key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML itself keeps the last of two keys, and says nothing."""

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
                if name in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise UserError(
                        f"{path}: the key {key.value!r} is there twice, again in line"
                        f" {key.start_mark.line + 1}; keep one"
                    )
                seen.add(name)
            return super().construct_mapping(node, deep)

    try:
        value = yaml.load(read_text(path), Loader)
    except RecursionError:
        raise UserError(f"{path}: not readable as YAML (nested too deep)") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if value is None:
        raise UserError(f"{path}: an empty file, expected keys with values")
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, expected keys with values")
    return value


def parse(type_: Any, raw: object, where: str) -> Any:
    """Validate `raw` as `type_`; one UserError with a line for each thing that is wrong."""
    if isinstance(type_, type) and issubclass(type_, BaseModel) and not isinstance(raw, dict):
        found = "nothing" if raw is None else f"a {type(raw).__name__}"
        raise UserError(f"{where}: holds {found}, expected keys with values")
    if twice := list(_windows_twice(raw, set())):
        raise UserError("\n  ".join([f"{where}:", *twice]))
    try:
        return TypeAdapter(type_).validate_python(raw)
    except RecursionError:
        raise UserError(f"{where}: nested too deep, or a part that holds itself") from None
    except ValidationError as error:
        told: dict[str, list[str]] = {}  # place -> what is wrong there; a union tries every kind
        misspelt = {_meant_place(problem, raw) for problem in error.errors()}
        # What is missing as it is misspelt is one mistake, told once.
        for problem in error.errors():
            place = _place(problem["loc"], raw)
            if problem["type"] == "missing" and place in misspelt:
                continue
            texts = told.setdefault(place, [])
            if (text := _explain(problem)) not in texts:
                texts.append(text)
        lines = [f"{place}: {'; or '.join(texts)}" for place, texts in told.items()]
        raise UserError("\n  ".join([f"{where}:", *lines])) from None


def _windows_twice(raw: object, visited: set[int], place: str = "") -> Iterator[str]:
    """A line for every mapping in which two keys are the same window, such as 1k and 1024."""
    if not isinstance(raw, dict) or id(raw) in visited:
        return
    visited.add(id(raw))
    seen: dict[int, object] = {}
    for key, value in raw.items():
        yield from _windows_twice(value, visited, f"{place}.{key}".lstrip("."))
        if isinstance(key, str | int) and re.fullmatch(PATTERN, str(key)[:20]):
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


def _meant_place(problem: dict, raw: object) -> str | None:
    """The path of the key that an unknown one is told to be, as `_explain` does."""
    if problem["type"] != "extra_forbidden":
        return None
    key, known = str(problem["loc"][-1]), _known_keys()
    if key in known or not (near := nearest(key, known)):
        return None
    return _place(problem["loc"], raw).removesuffix(key) + near


def _explain(problem: dict) -> str:
    """What is wrong, and how to mend it."""
    match problem["type"]:
        case "extra_forbidden":
            key, known = str(problem["loc"][-1]), _known_keys()
            if key in known:
                return "no key of this part, but of another; docs/configuration.md lists all keys"
            hint = meant(key, sorted(known)) or "; docs/configuration.md lists all keys"
            return f"unknown key{hint}"
        case "missing":
            return "missing, and has no default"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            found = SHORT.repr(problem["input"])
            return message + (f" (found {found})" if len(found) < 60 and "..." not in found else "")


def _known_keys() -> set[str]:
    kinds = [Settings]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {key for kind in kinds for key in kind.model_fields}
