"""
Whether all of a configuration fits together: everything that is wrong with it, in one error.

`config` checks what each key may hold; this module what they mean for each other: windows in their
order, names that exist, factors that some search makes.
"""

from longrope.baselines import CLOSED_FORMS, is_closed_form
from longrope.config import Config, Corpora, ModelSettings
from longrope.config.base import BASE
from longrope.config.evaluation import OF_EXTENDING, EvaluationSettings, PerplexitySettings
from longrope.config.export import ExportSettings
from longrope.errors import UserError, unknown_name
from longrope.export.engines import find_engine
from longrope.reading import parse
from longrope.study import lengths_of, methods_of, searched, searches
from longrope.windows import window_label


def load_config(raw: dict) -> Config:
    """Check a configuration as Snakemake read it; one UserError names all that is wrong."""
    config = parse(Config, raw, "configuration")
    check_config(config)
    return config


def check_config(config: Config) -> None:
    """Raise one UserError for everything that does not fit together."""
    problems = [
        f"models.{name}.{problem}"
        for name, settings in config.models.items()
        for problem in _problems(config, settings)
    ]
    if problems:
        raise UserError("\n  ".join(["configuration:", *problems]))


def _problems(config: Config, settings: ModelSettings) -> list[str]:
    problems = []
    original = settings.original_window
    named = {"corpus": settings.corpus}
    if isinstance(settings.corpus, Corpora):
        named = {f"corpus.{split}": name for split, name in settings.corpus}
    if settings.extension and settings.extension.corpus:
        named["extension.corpus"] = settings.extension.corpus
    problems += [
        f"{place}: {unknown_name('corpus', name, config.corpora)}"
        for place, name in named.items()
        if name not in config.corpora
    ]
    problems += [
        f"search.{window_label(window)}: the window must be above the original one,"
        f" {window_label(original)}"
        for window in settings.search
        if window <= original
    ]
    problems += _start_problems(settings) + _variant_problems(settings)
    for name, tuning in settings.tunings.items():
        problems += _tuning_problems(settings, name, tuning)
    if settings.extension:
        problems += _extension_problems(settings) or _export_problems(settings)
    elif settings.export != ExportSettings():
        problems.append("export: there is no extension, so nothing is exported; leave it out")
    problems += _own_rope_problems(settings)
    if problems:  # what follows relies on the windows and tunings above
        return problems
    for name, asked in settings.evaluation.items():
        problems += _evaluation_problems(config, settings, name, asked)
    return problems


def _export_problems(settings: ModelSettings) -> list[str]:
    export, extension = settings.export, settings.extension
    tuned = settings.tunings[extension.weights].window
    windows = sorted({*extension.recovery, tuned, *extension.search})
    problems = []
    if export.tier not in (None, *windows):
        known = ", ".join(map(window_label, windows))
        problems.append(
            f"export.tier: no tier for {window_label(export.tier)}: this extended model has {known}"
        )
    if export.two_tables:
        try:
            find_engine(export.engine).check_two_tables((1.0, 1.0))
        except UserError as error:
            problems.append(f"export.two_tables: {error}")
    return problems


def _evaluation_problems(
    config: Config, settings: ModelSettings, name: str, asked: EvaluationSettings
) -> list[str]:
    place, problems = f"evaluation.{name}", []
    tasks = {model: each.evaluation.get(name) for model, each in config.models.items()}
    problems += [
        f"{place}: {model} has another task by that name, {other.task}; rename one"
        for model, other in tasks.items()
        if other and other.task != asked.task
    ]
    if isinstance(asked, PerplexitySettings) and asked.corpus not in (None, *config.corpora):
        problems.append(f"{place}.corpus: {unknown_name('corpus', asked.corpus, config.corpora)}")
    for weights, methods in asked.methods.items():
        where = f"{place}.methods.{weights}"
        if weights != BASE and weights not in settings.tunings:
            known = [BASE, *settings.tunings]
            problems.append(f"{where}: {unknown_name('weights', weights, known)}")
            continue
        known = methods_of(settings, weights)
        for method in methods:
            if not (method in known or is_closed_form(method)):
                problems.append(f"{where}: {unknown_name('method', method, known)}")
            elif not lengths_of(settings, weights, method, asked):
                problems.append(
                    f"{where}: {method!r} has factors at none of the lengths measured there;"
                    " add one, or leave the method out"
                )
    return problems


def _own_rope_problems(settings: ModelSettings) -> list[str]:
    """What a model cannot be asked that keeps the RoPE it comes with."""
    if settings.rope == "plain":
        return []
    asked = [
        key for key in ("search", "variants", "tunings", "extension") if getattr(settings, key)
    ]
    asked += [
        f"evaluation.{name}.methods.{weights}.{method}"
        for name, evaluation in settings.evaluation.items()
        for weights, methods in evaluation.methods.items()
        for method in methods
        if (weights, method) != (BASE, "none")
    ]
    problems = [
        f"evaluation.{name}.shown_in: a model with its own RoPE is neither searched nor tuned, so"
        f" it has no place in {', '.join(wrong)}; leave them out"
        for name, evaluation in settings.evaluation.items()
        if (wrong := [each for each in evaluation.shown_in if each in OF_EXTENDING])
    ]
    if settings.source.kind == "pretrain":
        problems.append("rope: a model that is trained here has a plain RoPE; leave `rope` out")
    if asked:
        problems.append(
            "rope: a model with its own RoPE is only evaluated, as base with the method none; leave"
            f" out {', '.join(asked)}"
        )
    return problems


def _start_problems(settings: ModelSettings) -> list[str]:
    """What is wrong with the closed forms that searches start from, or choose tokens with."""
    optimisers, fitness = {"optimiser": settings.optimiser}, {"fitness": settings.fitness}
    parts = {"search": settings.search}
    if settings.extension:
        optimisers["extension.optimiser"] = settings.extension.optimiser
        fitness["extension.fitness"] = settings.extension.fitness
        parts["extension.search"] = settings.extension.search
        parts["extension.recovery"] = settings.extension.recovery
    for part, budgets in parts.items():
        for window, budget in budgets.items():
            optimisers[f"{part}.{window_label(window)}.optimiser"] = budget.optimiser
    for name, variant in settings.variants.items():
        optimisers[f"variants.{name}.optimiser"] = variant.optimiser
        if variant.budget:
            optimisers[f"variants.{name}.budget.optimiser"] = variant.budget.optimiser
        fitness[f"variants.{name}.fitness"] = variant.fitness
    named = [
        (f"{place}.starts", form)
        for place, optimiser in optimisers.items()
        for form in (optimiser.starts if optimiser else [])
    ]
    named += [(f"{place}.long_with", each.long_with) for place, each in fitness.items() if each]
    return [
        f"{place}: {unknown_name('closed form', form, CLOSED_FORMS)}"
        for place, form in named
        if form not in CLOSED_FORMS
    ]


def _variant_problems(settings: ModelSettings) -> list[str]:
    """What is wrong with the variants of the search."""
    problems, taken = [], {"search"}
    known = {*settings.search, *(settings.extension.search if settings.extension else {})}
    for name, variant in settings.variants.items():
        place = f"variants.{name}"
        names = [f"{name}-seed{seed}" for seed in variant.seeds] or [name]
        problems += [f"{place}: {each} is there twice" for each in names if each in taken]
        problems += [f"{place}.seeds: {variant.seeds} has one twice"] * (
            len(set(variant.seeds)) < len(variant.seeds)
        )
        taken |= set(names)
        problems += [
            f"{place}.windows: {window_label(window)} is not searched; add it to search"
            for window in variant.windows or []
            if window not in known
        ]
    for place, space, optimiser in [
        ("space", settings.space, settings.optimiser),
        *(
            (f"variants.{name}.space", each.space, each.optimiser or settings.optimiser)
            for name, each in settings.variants.items()
        ),
    ]:
        if space and "lambda" not in space.vary and not optimiser.starts:
            problems.append(f"{place}.vary: n_hat alone is tried on starts; the optimiser has none")
    return problems


def _tuning_problems(settings: ModelSettings, name: str, tuning) -> list[str]:
    place, problems = f"tunings.{name}", []
    if name == BASE:
        problems.append(f"{place}: base names the pre-trained weights; choose another name")
    if tuning.window <= settings.original_window:
        problems.append(
            f"{place}.window: {window_label(tuning.window)} is not above the original window,"
            f" {window_label(settings.original_window)}"
        )
    if tuning.short:
        short = tuning.short.length or settings.original_window
        if short > settings.original_window or tuning.sequence_length % short:
            problems.append(
                f"{place}.short.length: {window_label(short)} must be at most the original window,"
                f" {window_label(settings.original_window)}, and divide the length of a sequence,"
                f" {window_label(tuning.sequence_length)}"
            )
    seen, start = {name}, tuning.start
    while start != BASE:
        if start not in settings.tunings:
            known = [BASE, *settings.tunings]
            problems.append(f"{place}.start: {unknown_name('weights', start, known)}")
            break
        if start in seen:
            problems.append(f"{place}.start: the tunings start from each other in a circle")
            break
        seen.add(start)
        start = settings.tunings[start].start
    if tuning.method in searches(settings):
        if tuning.window not in searched(settings, BASE, tuning.method):
            problems.append(
                f"{place}.method: factors for {window_label(tuning.window)} are not searched by"
                f" {tuning.method}; add that window to search"
            )
    elif not is_closed_form(tuning.method):
        known = [*searches(settings), *CLOSED_FORMS]
        problems.append(f"{place}.method: {unknown_name('method', tuning.method, known)}")
    return problems


def _extension_problems(settings: ModelSettings) -> list[str]:
    extension = settings.extension
    if extension.weights not in settings.tunings:
        wrong = unknown_name("tuning", extension.weights, settings.tunings)
        return [f"extension.weights: {wrong}"]
    tuned = settings.tunings[extension.weights].window
    problems = [
        f"extension.search.{window_label(window)}: the window must be above that of"
        f" {extension.weights}, {window_label(tuned)}"
        for window in extension.search
        if window <= tuned
    ]
    problems += [
        f"extension.recovery.{window_label(window)}: the window must be below that of"
        f" {extension.weights}, {window_label(tuned)}"
        for window in extension.recovery
        if window >= tuned
    ]
    return problems
