"""
What a configuration asks for: which factors a method means, and which lengths it is measured at.
`needs.py` has what texts must hold for it, `checks.py` whether all of it fits together.

Rules ask here; nothing is read or run.

The methods of an evaluation:

    none, pi, ntk, yarn, ...   closed forms from the original window to each length; pi-n16 leaves
                               the first 16 tokens, yarn-critical-c6 has its critical pair at 6
    yarn-on-tuned, ...         closed forms from the tuned window, multiplied onto the tuned factors
    search, search-NAME        searched factors, at the windows that were searched
    tuned                      the factors of the fine-tuning, at every length
    extended                   the extended model: at each length the factors of its tier
    longest                    the factors of its longest window, at lengths up to the tuned one; of
                               weights that were only searched, at lengths below that window
"""

from longrope.baselines import CLOSED_FORMS, is_closed_form
from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.config.evaluation import EvaluationSettings
from longrope.config.search import FINDS, Budget, PaperSpace, SearchSettings, Variant
from longrope.errors import UserError, unknown_name
from longrope.windows import window_label

ON_TUNED = "-on-tuned"
OF_EXTENDED = ("extended", "longest")


def factors_path(model: str, weights: str, method: str, window: int) -> str:
    """Where the factors of a method for a window are."""
    return f"results/{model}/{weights}/factors/{method}/{window_label(window)}/factors.json"


def trace_path(factors: str) -> str:
    """Where the trace is of the search that found factors."""
    return factors.replace("factors.json", "trace.jsonl")


def tuned_path(model: str, settings: ModelSettings, weights: str) -> str:
    """The factors that a tuning uses."""
    tuning = settings.tunings[weights]
    return factors_path(model, BASE, tuning.method, tuning.window)


def corpus_of(settings: ModelSettings, split: str, weights: str | None = None) -> str:
    """The corpus whose split a stage uses; searches on the extended weights may have their own."""
    extension = settings.extension
    if split == "validation" and extension and extension.corpus and weights == extension.weights:
        return extension.corpus
    return settings.corpus if isinstance(settings.corpus, str) else getattr(settings.corpus, split)


def chain_of(settings: ModelSettings, weights: str) -> list[str]:
    """The tunings that led to some weights, first to last; none for the pre-trained ones."""
    chain: list[str] = []
    while weights != BASE:
        chain.insert(0, weights)
        weights = settings.tunings[weights].start
    return chain


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


def is_trial(settings: ModelSettings) -> bool:
    """Whether a model's searches are only to show that they run: none may find anything."""
    extension = settings.extension
    budgets = [*settings.search.values()]
    budgets += [*extension.search.values(), *extension.recovery.values()] if extension else []
    return bool(budgets) and all(each.evaluations < FINDS for each in budgets)


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
        bound = _longest(settings, weights) - 1
        if weights != BASE:
            bound = settings.tunings[weights].window
        chosen = [length for length in amounts if length <= bound]
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
        return [factors_path(model, weights, "search", _longest(settings, weights))]
    return [factors_path(model, weights, method, length) for length in lengths]


def _longest(settings: ModelSettings, weights: str) -> int:
    """The longest window that is searched on some weights."""
    return max(searched(settings, weights))


def methods_of(settings: ModelSettings, weights: str) -> list[str]:
    """The methods that can be measured on some weights."""
    methods = list(CLOSED_FORMS)
    methods += [each for each in searches(settings) if searched(settings, weights, each)]
    if weights != BASE:
        methods += ["tuned", *[f"{form}{ON_TUNED}" for form in CLOSED_FORMS if form != "none"]]
    if settings.extension and settings.extension.weights == weights:
        methods += OF_EXTENDED if settings.extension.search else OF_EXTENDED[:1]
    elif weights == BASE and settings.search:
        methods.append("longest")
    return methods
