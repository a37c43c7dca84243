"""
How many tokens does the default optimiser need to be as good as the paper's algorithm?

    python tests/benchmarks/search_cost.py --cores 4

Runs both from one configuration on the carried model, the paper's algorithm at its full size
(P = 64, N1 = N2 = 16, k = 32, T = 40), at 4x and 8x, three seeds each, with the paper's fitness, on
the same validation windows; then evaluates both on held-out text. Of every seed it prints the
tokens forwarded, the tokens until the best validation perplexity was at most the final one of the
paper's algorithm (or `never`), how many times fewer that is than the paper's algorithm itself
needed to get there, and how much higher the held-out loss is (95%: bootstrap over documents, on the
same tokens). The last line of a window averages the losses over seeds.

What is in results/ already is not made again.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import geometric_mean

import yaml

from longrope.config import BASE, Config
from longrope.report.load import Evaluation, read_evaluations
from longrope.report.searches import Spent, read_traces
from longrope.statistics import Comparison, compare, mean_losses
from longrope.study import factors_path, load_config, searches
from longrope.windows import window_label

STUDY = Path("config/search-study.yaml")  # from the root of the repository
MODEL, PAPER, OURS = "tiny", "search-paper", "search-perplexity"
NO_WORSE = 0.005  # nats a token: the upper end of the interval must not be above


def main() -> int:
    """Make what is missing with Snakemake, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--cores", default="all")
    options = parser.parse_args()
    config = load_config(yaml.safe_load(STUDY.read_text()))
    settings = config.models[MODEL]
    methods = {
        name: [each for each in searches(settings) if each.startswith(f"{name}-seed")]
        for name in (PAPER, OURS)
    }
    traces = {
        (method, window): factors_path(MODEL, BASE, method, window).replace(
            "factors.json", "trace.jsonl"
        )
        for each in methods.values()
        for method in each
        for window in settings.search
    }
    records = {
        method: f"results/{MODEL}/{BASE}/evaluation/perplexity/{method}.json"
        for each in methods.values()
        for method in each
    }
    command = ["snakemake", "--cores", options.cores, "--configfile", str(STUDY)]
    if code := subprocess.call([*command, *traces.values(), *records.values()]):
        return code
    print_comparison(
        config,
        methods,
        {key: read_traces(config, [Path(path)])[path] for key, path in traces.items()},
        {
            method: read_evaluations(config, [Path(path)], "perplexity")[0]
            for method, path in records.items()
        },
    )
    return 0


def print_comparison(
    config: Config,
    methods: dict[str, list[str]],
    spent: dict[tuple[str, int], Spent],
    measured: dict[str, Evaluation],
) -> None:
    """One line a seed and window, and one for all seeds of a window."""
    form = "{:>6} {:>5} {:>14} {:>14} {:>18} {:>12}  {}"
    print(form.format("window", "seed", "paper M tokens", "ours M tokens", "ours until paper's",
                      "times fewer", "held-out loss above the paper's, nats"))  # fmt: skip
    for window in config.models[MODEL].search:
        label, ratios = window_label(window), []
        for paper, ours in zip(methods[PAPER], methods[OURS], strict=True):
            theirs, own = spent[paper, window], spent[ours, window]
            until = own.until(theirs.best[-1])
            if until:
                ratios.append(theirs.until(theirs.best[-1]) / until)
            above = compare(measured[paper].records, measured[ours].records, window)
            print(
                form.format(
                    label,
                    ours.rpartition("seed")[2],
                    f"{theirs.tokens[-1] / 1e6:.2f}",
                    f"{own.tokens[-1] / 1e6:.2f}",
                    f"{until / 1e6:.3f}" if until else "never",
                    f"{ratios[-1]:.0f}" if until else "-",
                    _worth(above),
                )
            )
        both = [
            mean_losses([measured[each].records for each in methods[name]], window)
            for name in (PAPER, OURS)
        ]
        few = f"{geometric_mean(ratios):.0f} ({len(ratios)} of {len(methods[OURS])})"
        few = few if ratios else "never"
        print(form.format(label, "all", "", "", "", few, _worth(compare(*both, window))))


def _worth(above: Comparison) -> str:
    low, high = above.interval
    verdict = "no worse" if high <= NO_WORSE else f"may be worse by {high:.3f}"
    return f"{above.difference:+.4f} [{low:+.4f}, {high:+.4f}] {verdict}"


if __name__ == "__main__":
    sys.exit(main())
