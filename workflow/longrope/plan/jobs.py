"""
Which jobs a study has: the workflow's own, walked from its targets back to the models.

The inputs of each rule come from `study` and `targets`, as the rules' do; a test holds the list
against Snakemake's. One job a rule and output, each once, in an order in which they could run.
"""

from dataclasses import dataclass

from longrope.config import Config
from longrope.config.base import BASE
from longrope.config.evaluation import ABLATIONS, MAIN
from longrope.errors import unknown_name
from longrope.study import (
    corpus_of,
    factor_files,
    factors_path,
    lengths_of,
    searches,
    tiers,
    tuned_path,
    warm_window,
)
from longrope.targets import (
    evaluation_files,
    extended_files,
    figure_files,
    figures_among,
    table_files,
    tables_among,
)
from longrope.windows import parse_window

TARGETS = {"all": MAIN, "study": (*MAIN, *ABLATIONS)}  # and the tables and figures of each


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the workflow."""

    rule: str
    output: str  # its first one
    inputs: tuple[str, ...]  # outputs of other jobs, any of theirs
    model: str = ""
    weights: str = ""
    name: str = ""  # of the method, of the corpus, of the table; of a tuning the weights
    evaluation: str = ""
    window: int = 0  # of factors


def jobs_of(config: Config, target: str = "all") -> list[Job]:
    """The jobs of a target, each after those that it needs."""
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)
    shown = TARGETS[target]
    wanted = [
        *extended_files(config),
        *tables_among(config, shown),
        *figures_among(config, shown),
    ]
    found: dict[str, Job] = {}  # output -> job, in order
    for path in wanted:
        _visit(config, path, found)
    return list(found.values())


def _visit(config: Config, path: str, found: dict[str, Job]) -> None:
    """Find the job that makes a file, after those before it."""
    job = job_that_makes(config, path)
    if job.output not in found:
        for each in dict.fromkeys(job.inputs):
            _visit(config, each, found)
        found[job.output] = job


def job_that_makes(config: Config, path: str) -> Job:
    """The job of an output, by its path."""
    match path.split("/"):
        case ["results", "tables", file] if file.startswith("summary."):
            files = evaluation_files(config, shown_in="summary")
            return Job("make_summary", "results/tables/summary.json", tuple(files), name="summary")
        case ["results", "tables", file]:
            name = file.split(".")[0]
            made = f"results/tables/{name}.csv"
            return Job("make_table", made, tuple(table_files(config, name)), name=name)
        case ["results", "figures", file]:
            name = file.split(".")[0]
            made = f"results/figures/{name}.png"
            return Job("plot_figure", made, tuple(figure_files(config, name)), name=name)
        case ["results", model, "data", corpus, _]:
            made = f"results/{model}/data/{corpus}/train"
            return Job("tokenize_corpus", made, (_model(model),), model, BASE, corpus)
        case ["results", model, weights, "model" | "training", *_]:
            return _weights_job(config, model, weights)
        case ["results", model, weights, "factors", method, label, _]:
            return _factors_job(config, model, weights, method, parse_window(label))
        case ["results", model, weights, "extended", _]:
            inputs = (_model(model, weights), *tiers(model, config.models[model]))
            return Job("assemble_extended", path, inputs, model, weights, "extended")
        case ["results", model, weights, "evaluation", name, file]:
            method = file.removesuffix(".json")
            return _evaluation_job(config, path, model, weights, name, method)
    raise ValueError(f"no rule makes {path}")


def _model(model: str, weights: str = BASE) -> str:
    return f"results/{model}/{weights}/model"


def _tokens(
    config: Config, model: str, split: str, weights: str = BASE, corpus: str | None = None
) -> str:
    corpus = corpus or corpus_of(config.models[model], split, weights)
    return f"results/{model}/data/{corpus}/{split}"


def _weights_job(config: Config, model: str, weights: str) -> Job:
    settings, made = config.models[model], _model(model, weights)
    if weights == BASE:
        rule = "pretrain_model" if settings.source.kind == "pretrain" else "import_model"
        return Job(rule, made, (), model, BASE, "model")
    start = _model(model, settings.tunings[weights].start)
    tokens = _tokens(config, model, "train")
    inputs = (start, tuned_path(model, settings, weights), tokens)
    return Job("finetune_model", made, inputs, model, weights, weights)


def _factors_job(config: Config, model: str, weights: str, method: str, window: int) -> Job:
    made, start = factors_path(model, weights, method, window), _model(model, weights)
    place = model, weights, method
    if method != "recovery" and method not in searches(config.models[model]):
        return Job("derive_factors", made, (start,), *place, window=window)
    before = warm_window(config, *place, window)
    warm = [] if before is None else [factors_path(*place, before)]
    inputs = (start, _tokens(config, model, "validation", weights), *warm)
    return Job("search_factors", made, inputs, *place, window=window)


def _evaluation_job(
    config: Config, path: str, model: str, weights: str, name: str, method: str
) -> Job:
    settings = config.models[model]
    asked = settings.evaluation[name]
    lengths = lengths_of(settings, weights, method, asked)
    inputs = [_model(model, weights)]
    if asked.task == "perplexity":
        inputs.append(_tokens(config, model, "test", corpus=asked.corpus))
    inputs += factor_files(model, settings, weights, method, lengths)
    rule = f"evaluate_{asked.task}"
    return Job(rule, path, tuple(inputs), model, weights, method, evaluation=name)
