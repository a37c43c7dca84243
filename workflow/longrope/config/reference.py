"""
The reference of a configuration for people, in Markdown, from its JSON schema.

`longrope schema --markdown` prints it, `docs/configuration.md` holds it. A section is one type of
the schema, named after the first place where it stands; sections come in the order in which a
configuration file has them. Every word of explanation is that of the types in this package.
"""

import re
from dataclasses import dataclass, field

from longrope.config.base import NAME, OF_HUB
from longrope.config.evaluation import KEY
from longrope.config.training import MIXTURE
from longrope.windows import PATTERN

HEAD = """\
<!-- Made by `longrope schema --markdown`: change the types in workflow/longrope/config instead. -->

# Configuration reference

Every key of a configuration file. [`config/README.md`](../config/README.md) lists the studies that
there are, and has what a list of keys cannot say.

A *window* is a number of tokens, with `k` for 1024: `256`, `4k`, `2048k`. A *name* is made of
letters, digits, `.`, `_` and `-`, as it becomes a part of paths. An unknown key is an error.
"""
PATTERNS = {  # of texts that have a name of their own -> type, and how it stands in a path
    f"^{PATTERN}$": ("window", "WINDOW"),
    f"^{NAME}$": ("name", "NAME"),
    OF_HUB: ("name on the hub", "NAME"),
    f"^search-{NAME}$": ("name `search-…`", "search-NAME"),
    MIXTURE: ("kind of sequence", "KIND"),
    KEY: ("`word` or `digits-1` to `digits-9`", "KEY"),
}


@dataclass
class Section:
    """One type of the schema."""

    name: str  # in the schema's $defs
    place: str  # where it stands first, such as models.NAME.fitness
    variant: str = ""  # what tells it from others in that place, such as `kind: folder`
    others: list[str] = field(default_factory=list)  # the other places

    @property
    def heading(self) -> str:
        """What stands above it."""
        return f"`{self.place}`{', ' if self.variant else ''}{self.variant}"

    @property
    def link(self) -> str:
        """Its anchor, as GitHub and Sphinx make it of the heading."""
        return "#" + re.sub(r"[^\w\- ]", "", self.heading.lower()).replace(" ", "-")


def markdown(schema: dict) -> str:
    """The reference of a schema of `json_schema()`."""
    sections = _sections(schema)
    parts = [HEAD, "## Top level\n", _table(schema, sections)]
    for section in sections.values():
        parts += [f"## {section.heading}\n", *_about(section, schema, sections)]
    return "\n".join(parts)


def _sections(schema: dict) -> dict[str, Section]:
    """Types in the order of their first place."""
    sections: dict[str, Section] = {}

    def visit(node: dict, place: str, choice: str = "") -> None:
        if reference := node.get("$ref"):
            name = reference.removeprefix("#/$defs/")
            if name in sections:
                if place not in (sections[name].place, *sections[name].others):
                    sections[name].others.append(place)
                return
            inner = schema["$defs"][name]
            variant = ", ".join(f"`{choice}: {each}`" for each in _values(inner, choice))
            sections[name] = Section(name, place, variant)
            for key, value in inner["properties"].items():
                visit(value, f"{place}.{key}")
            return
        choice = node.get("discriminator", {}).get("propertyName", choice)
        for each in (*node.get("oneOf", ()), *node.get("anyOf", ())):
            visit(each, place, choice)
        for pattern, each in node.get("patternProperties", {}).items():
            visit(each, f"{place}.{PATTERNS[pattern][1]}")
        if isinstance(node.get("items"), dict):
            visit(node["items"], place)

    for key, value in schema["properties"].items():
        visit(value, key)
    return sections


def _values(inner: dict, choice: str) -> list[str]:
    """What the key that tells types apart holds in this one."""
    told = inner["properties"].get(choice, {})
    return told.get("enum") or [told["const"]] if told else []


def _about(section: Section, schema: dict, sections: dict[str, Section]) -> list[str]:
    inner = schema["$defs"][section.name]
    parts = [inner["description"] + "\n"]
    if section.others:
        parts.append(f"Also {', '.join(f'`{place}`' for place in section.others)}.\n")
    return [*parts, _table(inner, sections, besides=section.variant)]


def _table(inner: dict, sections: dict[str, Section], besides: str = "") -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    required = inner.get("required", ())
    for key in sorted(inner["properties"], key=lambda key: key not in required):
        value = inner["properties"][key]
        if f"`{key}: " in besides:  # the heading says it
            continue
        default = "required" if key in required else _default(value, sections)
        meaning = " ".join(value["description"].split())
        rows.append(f"| `{key}` | {_type(value, sections)} | {default} | {meaning} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else "No other key.\n"


def _default(value: dict, sections: dict[str, Section]) -> str:
    default = value.get("default")
    if not isinstance(default, dict):
        return f"`{_written(default)}`"
    if not default:
        return "none"
    if "$ref" in value:
        return "its defaults"
    choice = value.get("discriminator", {}).get("propertyName")
    told = {choice: default[choice]} if choice else default
    return ", ".join(f"`{key}: {_written(each)}`" for key, each in told.items())


def _written(value: object) -> str:
    """A value as YAML has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_written(each) for each in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type(node: dict, sections: dict[str, Section]) -> str:
    """What a key may hold, in words."""
    if reference := node.get("$ref"):
        section = sections[reference.removeprefix("#/$defs/")]
        return f"[{section.variant or 'keys'}]({section.link})"
    if choices := node.get("oneOf") or node.get("anyOf"):
        return " or ".join(dict.fromkeys(_type(each, sections) for each in choices))
    if "enum" in node:
        return ", ".join(f"`{each}`" for each in node["enum"])
    if "const" in node:
        return f"`{_written(node['const'])}`"
    if "pattern" in node:
        return PATTERNS[node["pattern"]][0]
    match node["type"]:
        case "object":
            return _mapping(node, sections)
        case "array" if "prefixItems" in node:
            return f"[{', '.join(_type(each, sections) for each in node['prefixItems'])}]"
        case "array":
            return f"list of {_type(node['items'], sections)}"
        case "integer" | "number" as kind:
            return _number(node, kind)
        case "null":
            return "`null`"
        case "boolean":
            return "`true`, `false`"
    return "text"


def _mapping(node: dict, sections: dict[str, Section]) -> str:
    for pattern, each in node.get("patternProperties", {}).items():
        return f"{PATTERNS[pattern][0]} to {_type(each, sections)}"
    names = _type(node["propertyNames"], sections) if "propertyNames" in node else "name"
    inner = node.get("additionalProperties")
    return f"{names} to {_type(inner, sections)}" if isinstance(inner, dict) else "mapping"


def _number(node: dict, kind: str) -> str:
    name = "whole number" if kind == "integer" else "number"
    if {"minimum", "maximum"} <= node.keys():
        return f"{name} from {node['minimum']:g} to {node['maximum']:g}"
    if {"exclusiveMinimum", "exclusiveMaximum"} <= node.keys():
        return f"{name} between {node['exclusiveMinimum']:g} and {node['exclusiveMaximum']:g}"
    if "minimum" in node:
        return f"{name} from {node['minimum']:g} up"
    return f"{name} above {node['exclusiveMinimum']:g}" if "exclusiveMinimum" in node else name
