"""
How many tokens does the default optimiser need to be as good as the paper's algorithm?

    python tests/benchmarks/search_cost.py --cores all

Runs the paper's algorithm at its full size (P = 64, N1 = N2 = 16, k = 32, T = 40) and the default
optimiser on the carried model, at 4x and 8x, three seeds each, on the same validation windows, and
evaluates both on held-out text. First ours has the paper's fitness, too; then all of its defaults
(needles count, the attention factor is searched, 25 evaluations), which is not what the paper's
algorithm minimises. Of every seed it prints the tokens forwarded, the tokens until the best
validation perplexity was at most the final one of the paper's algorithm (or `never`), how many
times fewer that is than the paper's algorithm itself needed to get there, and how much higher the
held-out loss is (95%, Student's t over documents, on the same tokens). The last line of a window
averages the losses over seeds.

What is in results/ already is not made again: an hour on two cores. Other options go to snakemake.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import geometric_mean

import yaml

from longrope.checks import load_config
from longrope.config.base import BASE
from longrope.report.load import Evaluation, read_evaluations
from longrope.report.trace import Spent, read_traces
from longrope.statistics import Comparison, compare, mean_losses
from longrope.study import factors_path, searches, trace_path
from longrope.windows import window_label

STUDY = Path("config/search-study.yaml")  # from the root of the repository
MODEL, PAPER = "tiny", "search-paper"
OURS = {
    "search-perplexity": "the paper's fitness, 40 evaluations",
    "search-needle": "its own defaults: needles, the attention factor, 25 evaluations",
}
NO_WORSE = 0.005  # nats a token: the upper end of the interval must not be above


def main() -> int:
    """Make what is missing with Snakemake, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--cores", default="all")
    options, more = parser.parse_known_args()
    config = load_config(yaml.safe_load(STUDY.read_text()))
    settings = config.models[MODEL]
    methods = {
        name: [each for each in searches(settings) if each.startswith(f"{name}-seed")]
        for name in (PAPER, *OURS)
    }
    traces = {
        (method, window): trace_path(factors_path(MODEL, BASE, method, window))
        for each in methods.values()
        for method in each
        for window in settings.search
    }
    records = {
        method: f"results/{MODEL}/{BASE}/evaluation/perplexity/{method}.json"
        for each in methods.values()
        for method in each
    }
    wanted = [*traces.values(), *records.values()]
    command = ["snakemake", *wanted, "--cores", options.cores, "--configfile", str(STUDY), *more]
    if code := subprocess.call(command):
        return code
    spent = {key: read_traces(config, [Path(path)])[path] for key, path in traces.items()}
    measured = {
        method: read_evaluations(config, [Path(path)])[0] for method, path in records.items()
    }
    for name, words in OURS.items():
        print(f"\n{name}: {words}")
        print("\n".join(comparison(methods[PAPER], methods[name], spent, measured)))
    return 0


def comparison(
    papers: list[str],
    ours: list[str],
    spent: dict[tuple[str, int], Spent],
    measured: dict[str, Evaluation],
) -> list[str]:
    """One line a seed and window, and one for all seeds of a window; the methods are one a seed."""
    form = "{:>6} {:>5} {:>14} {:>14} {:>18} {:>12}  {}"
    lines = [
        form.format("window", "seed", "paper M tokens", "ours M tokens", "ours until paper's",
                    "times fewer", "held-out loss above the paper's, nats")
    ]  # fmt: skip
    for window in sorted({window for _, window in spent}):
        label, ratios = window_label(window), []
        for paper, own in zip(papers, ours, strict=True):
            theirs, cost = spent[paper, window], spent[own, window]
            until = cost.until(theirs.best[-1])
            if until:
                ratios.append(theirs.until(theirs.best[-1]) / until)
            lines.append(
                form.format(
                    label,
                    own.rpartition("seed")[2],
                    f"{theirs.tokens[-1] / 1e6:.2f}",
                    f"{cost.tokens[-1] / 1e6:.2f}",
                    f"{until / 1e6:.3f}" if until else "never",
                    f"{ratios[-1]:.0f}" if until else "-",
                    _worth(compare(measured[paper].records, measured[own].records, window)),
                )
            )
        both = [
            mean_losses([measured[each].records for each in methods], window)
            for methods in (papers, ours)
        ]
        few = f"{geometric_mean(ratios):.0f} ({len(ratios)} of {len(ours)})" if ratios else "never"
        lines.append(form.format(label, "all", "", "", "", few, _worth(compare(*both, window))))
    return lines


def _worth(above: Comparison) -> str:
    low, high = above.interval
    verdict = "no worse" if high <= NO_WORSE else f"may be worse by {high:.3f}"
    return f"{above.difference:+.4f} [{low:+.4f}, {high:+.4f}] {verdict}"


if __name__ == "__main__":
    sys.exit(main())
