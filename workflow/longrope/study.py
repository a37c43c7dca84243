"""
What a configuration asks for: which factors a method means, which lengths it is measured at, what
the corpus must hold, and whether all of it fits together.

Rules ask here; nothing is read or run.

The methods of an evaluation:

    none, pi, ntk, yarn, ...   closed forms from the original window to each length
    yarn-on-tuned, ...         closed forms from the tuned window, multiplied onto the tuned factors
    search                     searched factors, at the windows that were searched
    tuned                      the factors of the fine-tuning, at every length
    extended                   the extended model: at each length the factors of its tier
    longest                    the factors of its longest window, at lengths up to the tuned one
"""

from collections.abc import Iterable, Iterator
from glob import glob

from longrope.baselines import CLOSED_FORMS, is_closed_form
from longrope.config import (
    BASE,
    Budget,
    Config,
    EvaluationSettings,
    ModelSettings,
    Need,
    PaperSpace,
    PerplexitySettings,
    SearchSettings,
    Variant,
)
from longrope.errors import UserError, unknown_name
from longrope.reading import parse
from longrope.windows import window_label

ON_TUNED = "-on-tuned"
OF_EXTENDED = ("extended", "longest")


def factors_path(model: str, weights: str, method: str, window: int) -> str:
    """Where the factors of a method for a window are."""
    return f"results/{model}/{weights}/factors/{method}/{window_label(window)}/factors.json"


def tuned_path(model: str, settings: ModelSettings, weights: str) -> str:
    """The factors that a tuning uses."""
    tuning = settings.tunings[weights]
    return factors_path(model, BASE, tuning.method, tuning.window)


def searches(settings: ModelSettings) -> dict[str, tuple[Variant, int | None]]:
    """Method -> what it changes, and its seed where that is its own: `search` and its variants."""
    found: dict[str, tuple[Variant, int | None]] = {"search": (Variant(), None)}
    for name, variant in settings.variants.items():
        found |= {f"{name}-seed{seed}": (variant, seed) for seed in variant.seeds}
        if not variant.seeds:
            found[name] = (variant, None)
    return found


def budgets_of(settings: ModelSettings, weights: str) -> dict[int, Budget]:
    """The windows that are searched on some weights, and what each may spend."""
    budgets = dict(settings.search) if weights == BASE else {}
    if settings.extension and settings.extension.weights == weights:
        budgets |= settings.extension.search
    return budgets


def searched(settings: ModelSettings, weights: str, method: str = "search") -> list[int]:
    """The windows that a search is run for on some weights, rising."""
    variant, _ = searches(settings)[method]
    windows = list(budgets_of(settings, weights))
    if variant.windows is not None:
        windows = [each for each in windows if each in variant.windows]
    elif method != "search" and weights != BASE:
        windows = []
    return sorted(windows)


def search_settings(
    config: Config, model: str, weights: str, method: str, window: int
) -> SearchSettings:
    """Settings of one search or recovery; UserError if it is not configured."""
    settings = config.models[model]
    extension = settings.extension
    variant, seed = searches(settings).get(method, (Variant(), None))
    if method == "recovery":
        budgets = extension.recovery if extension and extension.weights == weights else {}
    elif method in searches(settings):
        windows = searched(settings, weights, method)
        budgets = {each: budgets_of(settings, weights)[each] for each in windows}
    else:
        raise UserError(f"{model}: {unknown_name('search', method, searches(settings))}")
    if window not in budgets:
        known = ", ".join(map(window_label, budgets)) or "none"
        raise UserError(
            f"{model}, {weights}: no {method} is configured at {window_label(window)}; configured"
            f" are {known}"
        )
    budget = variant.budget or budgets[window]
    if variant.optimiser:
        budget = budget.model_copy(update={"optimiser": variant.optimiser})
    layers = [variant, extension, settings] if weights != BASE else [variant, settings]

    def first_of(key: str):
        return next(found for each in layers if (found := getattr(each, key, None)) is not None)

    space, fitness = first_of("space"), first_of("fitness")
    if method == "recovery":  # what is made for stretching does not apply
        space = space if space.kind == "paper" else PaperSpace()
        fitness = fitness.without_long_tokens()
    return SearchSettings(
        window=window,
        budget=budget,
        optimiser=first_of("optimiser"),
        space=space,
        fitness=fitness,
        attention_factor=first_of("attention_factor"),
        seed=config.seed if seed is None else seed,
    )


def warm_window(config: Config, model: str, weights: str, method: str, window: int) -> int | None:
    """The window whose factors a search starts from: the one before, if it wants and has one."""
    search = search_settings(config, model, weights, method, window)
    optimiser = search.budget.optimiser or search.optimiser
    if method == "recovery" or search.space.kind == "critical" or not optimiser.warm:
        return None
    windows = searched(config.models[model], weights, method)
    return max([each for each in windows if each < window], default=None)


def tiers(model: str, settings: ModelSettings) -> list[str]:
    """The factors that make up the extended model: recovered, tuned, searched again."""
    extension = settings.extension
    weights = extension.weights
    return [
        *[factors_path(model, weights, "recovery", each) for each in extension.recovery],
        tuned_path(model, settings, weights),
        *[factors_path(model, weights, "search", each) for each in extension.search],
    ]


def lengths_of(
    settings: ModelSettings, weights: str, method: str, task: EvaluationSettings
) -> dict[int, int]:
    """At which of a task's lengths a method is measured on some weights, and how much at each."""
    amounts = task.amounts
    if bound := task.methods.get(weights, {}).get(method):
        amounts = {length: amount for length, amount in amounts.items() if length <= bound}
    original = settings.original_window
    if method == "none" or method == "tuned":
        chosen = list(amounts)
    elif is_closed_form(method):
        chosen = [length for length in amounts if length > original]
    elif method.endswith(ON_TUNED):
        tuned = settings.tunings[weights].window
        chosen = [length for length in amounts if length > tuned]
    elif method == "longest":
        tuned = settings.tunings[weights].window
        chosen = [length for length in amounts if length <= tuned]
    elif method == "extended":
        longest = max([settings.tunings[weights].window, *settings.extension.search])
        chosen = [length for length in amounts if length <= longest]
    else:
        chosen = [length for length in amounts if length in searched(settings, weights, method)]
    return {length: amounts[length] for length in chosen}


def factor_files(
    model: str, settings: ModelSettings, weights: str, method: str, lengths: dict[int, int]
) -> list[str]:
    """The files that hold a method's factors for some lengths."""
    if method == "none":
        return [factors_path(model, BASE, "none", settings.original_window)]
    if is_closed_form(method):
        return [factors_path(model, BASE, method, length) for length in lengths]
    if method == "tuned":
        return [tuned_path(model, settings, weights)]
    if method == "extended":
        return [f"results/{model}/{weights}/extended/extended.json"]
    if method == "longest":
        return [factors_path(model, weights, "search", max(settings.extension.search))]
    return [factors_path(model, weights, method, length) for length in lengths]


def source_files(source) -> list[str]:
    """The local files that a corpus or a model comes from, as far as they exist."""
    match source.kind:
        case "text" | "jsonl" | "parquet":
            return text_files(source.files)
        case "folder":
            return sorted(glob(f"{source.path}/*.json") + glob(f"{source.path}/*.safetensors"))
        case "gguf":
            return glob(source.path)
    return []


def text_files(patterns: Iterable[str]) -> list[str]:
    """The files that some globs match."""
    return sorted(path for pattern in patterns for path in glob(pattern))


def needs(config: Config, model: str, corpus: str) -> list[Need]:
    """What the configured stages of a model need of a corpus; what another implies is left out.

    They are parameters of the tokenisation: the fewer, the fewer changes run it again.
    """
    settings = config.models[model]
    found = _evaluation_needs(settings, corpus)
    if corpus == settings.corpus:
        found += _method_needs(settings)
    kept: list[Need] = []
    for need in sorted(found, key=_size, reverse=True):
        if not any(_implies(each, need) for each in kept):
            kept.append(need)
    return kept


def _size(need: Need) -> tuple[int, int, int]:
    return need.tokens, need.documents, need.windows


def _implies(more: Need, less: Need) -> bool:
    """Whether a corpus that serves one need serves the other."""
    enough = (own >= other for own, other in zip(_size(more), _size(less), strict=True))
    return more.split == less.split and all(enough)


def _evaluation_needs(settings: ModelSettings, corpus: str) -> list[Need]:
    return [
        Need(
            split="test",
            documents=windows if asked.mode == "truncate" else 1,
            tokens=length,
            reason=f"evaluation.{name} at {window_label(length)}",
            windows=windows,
        )
        for name, asked in settings.evaluation.items()
        if asked.task == "perplexity" and (asked.corpus or settings.corpus) == corpus
        for length, windows in asked.windows.items()
        if asked.methods
    ]


def _method_needs(settings: ModelSettings) -> list[Need]:
    budgets = []
    for weights in [BASE, *settings.tunings]:
        for method, (variant, _) in searches(settings).items():
            known = budgets_of(settings, weights)
            windows = searched(settings, weights, method)
            budgets += [(window, variant.budget or known[window]) for window in windows]
    if settings.extension:
        budgets += settings.extension.recovery.items()
    found = [
        Need(
            split="validation",
            documents=budget.documents,
            tokens=window,
            reason=f"the search at {window_label(window)}",
        )
        for window, budget in budgets
    ]
    found += [
        Need(
            split="train",
            documents=1,
            tokens=tuning.length or tuning.window,
            reason=f"the tuning {name!r} at {window_label(tuning.window)}",
        )
        for name, tuning in settings.tunings.items()
    ]
    return found


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
    if settings.corpus not in config.corpora:
        problems.append(f"corpus: {unknown_name('corpus', settings.corpus, config.corpora)}")
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
        problems += _extension_problems(settings)
    if problems:  # what follows relies on the windows and tunings above
        return problems
    for name, asked in settings.evaluation.items():
        problems += _evaluation_problems(config, settings, name, asked)
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


def methods_of(settings: ModelSettings, weights: str) -> list[str]:
    """The methods that can be measured on some weights."""
    methods = list(CLOSED_FORMS)
    methods += [each for each in searches(settings) if searched(settings, weights, each)]
    if weights != BASE:
        methods += ["tuned", *[f"{form}{ON_TUNED}" for form in CLOSED_FORMS if form != "none"]]
    if settings.extension and settings.extension.weights == weights:
        methods += OF_EXTENDED if settings.extension.search else OF_EXTENDED[:1]
    return methods


def _tuning_problems(settings: ModelSettings, name: str, tuning) -> list[str]:
    place, problems = f"tunings.{name}", []
    if name == BASE:
        problems.append(f"{place}: base names the pre-trained weights; choose another name")
    if tuning.window <= settings.original_window:
        problems.append(
            f"{place}.window: {window_label(tuning.window)} is not above the original window,"
            f" {window_label(settings.original_window)}"
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


# --- what the target rules ask for ----------------------------------------------------------


def search_files(config: Config) -> list[str]:
    """The factors of every search on pre-trained and tuned weights."""
    return [
        factors_path(model, weights, method, window)
        for model, settings in config.models.items()
        for weights in [BASE, *settings.tunings]
        for method in searches(settings)
        for window in searched(settings, weights, method)
    ]


def recovery_files(config: Config) -> list[str]:
    """The factors of every recovered window."""
    return [
        factors_path(model, settings.extension.weights, "recovery", window)
        for model, settings in config.models.items()
        if settings.extension
        for window in settings.extension.recovery
    ]


def evaluations(
    config: Config, task: str | None = None, shown_in: str | None = None
) -> Iterator[tuple[str, str, EvaluationSettings]]:
    """Model, name and settings of every evaluation, of one task, or of one table or figure."""
    for model, settings in config.models.items():
        for name, asked in settings.evaluation.items():
            if task in (None, asked.task) and (shown_in is None or shown_in in asked.shown_in):
                yield model, name, asked


def evaluation_files(
    config: Config, task: str | None = None, shown_in: str | None = None
) -> list[str]:
    """The records of every evaluation, of one task, or of one table or figure."""
    return [
        f"results/{model}/{weights}/evaluation/{name}/{method}.json"
        for model, name, asked in evaluations(config, task, shown_in)
        for weights, methods in asked.methods.items()
        for method in methods
    ]


def untouched_files(config: Config, model: str) -> list[str]:
    """The records of a model as it was pre-trained."""
    evaluation = config.models[model].evaluation
    return [
        f"results/{model}/{BASE}/evaluation/{name}/none.json"
        for name, asked in evaluation.items()
        if "none" in asked.methods.get(BASE, ())
    ]


def trace_files(config: Config, shown_in: str) -> list[str]:
    """The traces of the searches and recoveries whose factors a table or figure is about."""
    found = {}  # in order, once each
    for model, _, asked in evaluations(config, shown_in=shown_in):
        settings = config.models[model]
        for weights, methods in asked.methods.items():
            for method in methods:
                lengths = lengths_of(settings, weights, method, asked)
                files = factor_files(model, settings, weights, method, lengths)
                if method == "extended":
                    files = tiers(model, settings)
                found |= dict.fromkeys(files)
    return [
        path.replace("factors.json", "trace.jsonl") for path in found if _is_searched(config, path)
    ]


def _is_searched(config: Config, path: str) -> bool:
    _, model, _, _, method, *_ = path.split("/")
    return method == "recovery" or method in searches(config.models[model])


def training_files(config: Config, shown_in: str) -> list[str]:
    """The metrics of the tunings whose weights a table or figure is about, and of those before."""
    found = {}
    for model, _, asked in evaluations(config, shown_in=shown_in):
        tunings = config.models[model].tunings
        for weights in asked.methods:
            chain = []
            while weights != BASE:
                chain.insert(0, f"results/{model}/{weights}/training/metrics.jsonl")
                weights = tunings[weights].start
            found |= dict.fromkeys(chain)
    return list(found)


def figure2_files(config: Config) -> list[str]:
    """The factors that Figure 2 draws: those of every model's first searched window."""
    models = dict.fromkeys(model for model, _, _ in evaluations(config, shown_in="figure2"))
    windows = {model: searched(config.models[model], BASE) for model in models}
    return [
        factors_path(model, BASE, "search", found[0]) for model, found in windows.items() if found
    ]


def shown(config: Config, among: Iterable[str]) -> list[str]:
    """The tables and figures among these that the configuration has evaluations for."""
    asked = {each for _, _, evaluation in evaluations(config) for each in evaluation.shown_in}
    return [each for each in among if each in asked]
