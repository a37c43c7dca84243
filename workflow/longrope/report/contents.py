"""
What a report holds, in the order of the study: every table and figure with its part and its title.
Within a part those that the target `study` alone makes are last, so that the numbers have no gap.
"""

from dataclasses import dataclass

from longrope.config import Config
from longrope.config.evaluation import ABLATIONS
from longrope.targets import FIGURES, shown

INDEX = (
    "In the order of the study. A number is that of the paper's table or figure which this one is"
    " the counterpart of, so some are missing; what has a name is not in the paper."
)
HERE = "**Here:** "  # begins what a table shows, in its Markdown


@dataclass(frozen=True, slots=True)
class Entry:
    """One table or figure."""

    part: str  # of the study
    title: str


SUMMARY = "1 What the study bears out"
SEARCH = "2 Search on the pre-trained model"
TUNING = "3 Fine-tuning"
SECOND = "4 Search beyond the tuned window"
SHORT = "5 Short windows"
EXTENDED = "6 The extended model"
CONTENTS = {
    "summary": Entry(SUMMARY, "Every claim, compared"),
    "figure6": Entry(SEARCH, "What searches found, by cost"),
    "searches": Entry(SEARCH, "Cost of every search"),
    "figure2": Entry(SEARCH, "RoPE as it was, squeezed evenly, and searched"),
    "fitness": Entry(SEARCH, "Searched factors beside closed forms"),
    "table01": Entry(SEARCH, "Searched factors without tuning"),
    "figure3": Entry(SEARCH, "The same over context length"),
    "table02": Entry(SEARCH, "Initial tokens left as they are"),
    "table11": Entry(SEARCH, "What each part of the search brings"),
    "figure5": Entry(TUNING, "Loss of the tunings"),
    "tunings": Entry(TUNING, "Cheaper ways to tune"),
    "table03": Entry(TUNING, "Before and after tuning"),
    "table12": Entry(TUNING, "Routes to the second window"),
    "figure5c": Entry(TUNING, "Loss of these routes"),
    "table09": Entry(SECOND, "Searched again, against closed forms"),
    "table10": Entry(SHORT, "Perplexity with and without recovery"),
    "table08": Entry(SHORT, "Benchmarks"),
    "figure1": Entry(EXTENDED, "Perplexity over context length"),
    "table06": Entry(EXTENDED, "Perplexity by length, as on Books3"),
    "table05": Entry(EXTENDED, "Perplexity by length, as on Proof-pile"),
    "table07": Entry(EXTENDED, "Perplexity by length, as on PG19"),
    "figure4": Entry(EXTENDED, "Passkeys over context length"),
    "passkey": Entry(EXTENDED, "Passkeys by length"),
    "depths": Entry(EXTENDED, "Passkeys by length and depth"),
    "retrieval": Entry(EXTENDED, "Passkeys, and needles among other keys"),
}


def heading(name: str) -> str:
    """`6.3 Table 5`: its place in the study, and its number in the paper or its name."""
    part = [each for each, entry in CONTENTS.items() if entry.part == CONTENTS[name].part]
    place = f"{CONTENTS[name].part[0]}.{part.index(name) + 1}"
    for kind in ("table", "figure"):
        if name.startswith(kind) and (number := name.removeprefix(kind).lstrip("0")):
            return f"{place} {kind.title()} {number}"
    return f"{place} {name.title()}"


def index(config: Config) -> str:
    """What every file beside the summary shows, in Markdown."""
    lines = ["| file | shows |", "| :-- | :-- |"]
    for name in shown(config, CONTENTS):
        if name != "summary":
            file = f"figures/{name}.png" if name in FIGURES else f"tables/{name}.md"
            by = " (made by the target `study`)" if name in ABLATIONS else ""
            lines.append(f"| `{file}` | {CONTENTS[name].title}{by} |")
    return "\n\n".join([INDEX, "\n".join(lines)])
