"""
What each job of a study takes: tokens, FLOPs, memory, GPUs, seconds and disk.

The counts are those of the configuration: how many sequences of which length a stage runs, as it
would run them. `cost` says what one sequence takes. A search is counted at its whole budget; it
may end sooner. What is known only when a corpus is read is estimated: tokens from the size of its
files; windows that slide are taken to lie in as many documents as the configuration names, or,
where it names none, one in each.
"""

import math
import os
from dataclasses import dataclass

from longrope.config import Config, ModelSettings
from longrope.config.base import BASE
from longrope.inputs import source_files
from longrope.plan import cost
from longrope.plan.architecture import Architecture, architecture_of, stored_in_bfloat16
from longrope.plan.cost import Flops
from longrope.plan.jobs import Job, jobs_of
from longrope.plan.machine import GIB, Machine
from longrope.plan.questions import sequences
from longrope.plan.work import Memory, Work
from longrope.portions import ANSWER_TOKENS, BATCH_TOKENS, is_generated
from longrope.study import corpus_of, lengths_of, search_settings
from longrope.windows import window_label

START = 5.0  # seconds of a job before it works: Python, torch, the weights of a small model
HARNESS = 7.0  # and those of importing lm-evaluation-harness
PROCESS = GIB * 6 // 10  # bytes of such a process, which count where there is no GPU
CHARACTERS = 1.6e6  # a second that are tokenised on one core
PER_BIT = 0.27  # characters a token and bit of the vocabulary: 2.7 for 1,024 words, 4.0 for 32,000
PACKED = 3  # characters a byte of a compressed text
STORED = 2  # bytes a weight of a checkpoint, in bfloat16
STATE = 12  # and of a training's own checkpoint: float32, and AdamW's two moments


@dataclass(frozen=True, slots=True)
class Estimate:
    """A job with what it takes on a machine."""

    job: Job
    work: Work
    gpus: int  # that hold it; where none do, as many as have its bytes together
    seconds: float
    holds: bool = True  # whether so many do hold it
    lighter: int = 0  # of a tuning without activation checkpointing: GPUs with it, if fewer

    @property
    def hours(self) -> float:
        """From start to end."""
        return self.seconds / 3600

    @property
    def memory(self) -> int:
        """Bytes, on all its GPUs together."""
        over = self.work.over
        return self.gpus * over.on(self.gpus) if self.gpus > 1 and over else self.work.memory


def estimate_study(config: Config, machine: Machine, target: str = "all") -> list[Estimate]:
    """Every job of a target with what it takes; UserError if a model's size is not known."""
    shapes = {name: architecture_of(name, each) for name, each in config.models.items()}
    found = []
    for job in jobs_of(config, target):
        work, lighter = Work(), 0
        if job.model:
            model = _Model(config, job.model, shapes[job.model], machine)
            work = model.work(job)
            lighter = model.lighter(job)
        held = work.gpus(machine.usable)
        gpus = held or math.ceil(work.memory / machine.usable)
        seconds = START + work.seconds + machine.seconds(work.computed, gpus)
        lighter = lighter if held is None or lighter < gpus else 0
        found.append(Estimate(job, work, gpus, seconds, held is not None, lighter))
    return found


@dataclass(frozen=True, slots=True)
class _Model:
    """The jobs of one model on one machine."""

    config: Config
    name: str
    shape: Architecture
    machine: Machine

    @property
    def settings(self) -> ModelSettings:
        return self.config.models[self.name]

    @property
    def width(self) -> int:
        """Bytes of a number where nothing is trained."""
        precision = getattr(self.settings.source, "precision", "auto")
        if precision == "auto":
            precision = "float32" if self.machine.is_cpu else "bfloat16"
        return 4 if precision == "float32" else 2

    @property
    def stored(self) -> int:
        """Bytes of a weight as its checkpoint has it where that is bfloat16, else 4: a training
        holds no other type than these."""
        return 2 if stored_in_bfloat16(self.settings) else 4

    def work(self, job: Job) -> Work:
        """What a job does."""
        match job.rule:
            case "import_model":
                return Work(disk=STORED * self.shape.parameters)
            case "pretrain_model":
                return self._pretraining()
            case "tokenize_corpus":
                return self._tokenising(job.name)
            case "search_factors":
                return self._search(job)
            case "finetune_model":
                return self._tuning(job)
            case "evaluate_perplexity" | "evaluate_passkey" | "evaluate_ruler":
                return self._evaluation(job)
            case "evaluate_benchmarks":
                return self._benchmarks(job)
        return Work()

    def _held(self, bytes_: int) -> int:
        """With what the process itself takes, where that is the same memory."""
        return bytes_ + (PROCESS if self.machine.is_cpu else 0)

    def _tokenising(self, corpus: str) -> Work:
        source = self.config.corpora[corpus].source
        packed = {path: path.endswith((".gz", ".xz", ".bz2")) for path in source_files(source)}
        sizes = [os.path.getsize(path) * (PACKED if each else 1) for path, each in packed.items()]
        characters = sum(sizes)
        tokens = characters / (PER_BIT * math.log2(self.shape.vocabulary))
        width = 2 if self.shape.vocabulary <= 1 << 16 else 4
        known = "" if sizes else "size not known before it is fetched"
        return Work(known, disk=int(tokens * width), seconds=characters / CHARACTERS)

    def _scored(self, tokens: int, cached: int = 0, apart: int | None = None) -> tuple[int, Memory]:
        """Memory of forward passes, `cached` tokens of them with a cache: on one GPU, and over
        several, which hold the weights whole and keep no cache; `apart` tokens are one sequence's,
        which several share, where they are not all."""
        alone = self._held(cost.inference_memory(self.shape, tokens, self.width, cached))
        weights = self.shape.parameters * self.width
        one = cost.inference_memory(self.shape, apart or tokens, self.width) - weights
        return alone, Memory(self._held(weights), one)

    def _search(self, job: Job) -> Work:
        search = search_settings(self.config, self.name, job.weights, job.name, job.window)
        fitness, window, budget = search.fitness, search.window, search.budget
        passes = budget.scores * (1 + (fitness.needles if fitness.needle else 0))
        tokens, flops = passes * window, cost.forward(self.shape, window) * passes
        if fitness.long_tokens:  # once: each document whole, and by a window that slides by half
            short = self.settings.original_window
            if job.weights != BASE:
                short = self.settings.tunings[job.weights].window
            slides = math.ceil((window - short) / max(1, short // 2))
            tokens += budget.documents * (window + slides * short)
            both = cost.forward(self.shape, window) + cost.forward(self.shape, short) * slides
            flops += both * budget.documents
        what = f"{window_label(window)}, {budget.evaluations} x {budget.documents}"
        return Work(what, tokens, flops, *self._scored(window))

    def lighter(self, job: Job) -> int:
        """GPUs that hold a tuning with activation checkpointing, where it is not configured; else
        0."""
        if job.rule != "finetune_model" or self.settings.tunings[job.weights].checkpointing:
            return 0
        return self._tuning(job, recompute=True).gpus(self.machine.usable) or 0

    def _tuning(self, job: Job, recompute: bool = False) -> Work:
        tuning = self.settings.tunings[job.weights]
        length, held, lora = tuning.sequence_length, tuning.micro_batch, tuning.lora
        width = 2 if tuning.precision == "bfloat16" else 4
        options = {"recompute": recompute or tuning.checkpointing, "lora": lora}
        replaced = tuning.short_sequences
        flops = cost.training(self.shape, length, held, **options) * (tuning.batch - replaced)
        if tuning.short:
            short = tuning.short.length or self.settings.original_window
            one = cost.training(self.shape, short, held * length // short, **options)
            flops += one * (replaced * length // short)
        trained = sum(cost.lora_weights(self.shape, lora)) if lora else self.shape.parameters
        # Over several GPUs all weights are held in float32; a rank loads them before it parts them.
        alone = cost.training_memory(
            self.shape, held * length, width, **options, stored=self.stored
        )
        parted = cost.training_memory(self.shape, held * length, width, **options)
        whole = self._held(cost.gathered(self.shape, width))
        return Work(
            f"{window_label(length)}, {tuning.steps} x {tuning.batch}",
            tuning.steps * tuning.batch * length,
            flops * tuning.steps,
            self._held(alone),
            Memory(whole, parted) if 4 * self.shape.parameters < self.machine.usable else None,
            STORED * self.shape.parameters + STATE * trained,
        )

    def _pretraining(self) -> Work:
        made, tokens, flops, memory = self.settings.source, 0, Flops(), 0
        width = 2 if made.precision == "bfloat16" else 4
        for phase in made.phases:
            count = made.tokens_per_step // phase.length
            one = cost.training(self.shape, phase.length, count, recompute=False)
            tokens += phase.steps * count * phase.length
            flops += one * (phase.steps * count)
            held = cost.training_memory(self.shape, count * phase.length, width, recompute=False)
            memory = max(memory, self._held(held))
        steps = sum(phase.steps for phase in made.phases)
        disk = (STORED + STATE) * self.shape.parameters
        return Work(f"{steps} x {made.tokens_per_step} tokens", tokens, flops, memory, disk=disk)

    def _evaluation(self, job: Job) -> Work:
        asked = self.settings.evaluation[job.evaluation]
        lengths = lengths_of(self.settings, job.weights, job.name, asked)
        tokens, flops, memory, over = 0, Flops(), 0, None
        for length, amount in lengths.items():
            passes, cached = amount, 0
            together = apart = length
            if asked.task == "perplexity":
                passes = self._windows(asked, length, amount)
                one = cost.forward(self.shape, length)
            elif asked.task == "passkey" and not is_generated(length):
                one = cost.read_off(self.shape, length)
            else:
                passes *= len(asked.needles) if asked.task == "ruler" else 1
                together = length * min(amount, max(1, BATCH_TOKENS[asked.task] // length))
                cached = together
                one = cost.generation(self.shape, length, ANSWER_TOKENS[asked.task])
            tokens += passes * length
            flops += one * passes
            alone, several = self._scored(together, cached, apart)
            memory = max(memory, alone)
            if asked.task != "ruler" and (over is None or several.parted > over.parted):
                over = several
        what = " to ".join(
            dict.fromkeys(window_label(each) for each in (min(lengths), max(lengths)))
        )
        return Work(what, tokens, flops, memory, over)

    def _windows(self, asked, length: int, amount: int) -> int:
        """Forward passes of `amount` windows at a length, as `evaluate/perplexity.py` slides."""
        stride = min(asked.stride or length, length)
        if stride == length:
            return amount
        splits = self.config.corpora[asked.corpus or corpus_of(self.settings, "test")].splits
        listed = len(splits.test) if isinstance(splits.test, list) else amount
        listed = min(listed, asked.documents or listed)
        documents = min(amount, splits.limits.get("test", listed))
        each, more = divmod(amount, documents)
        dealt = [each + (number < more) for number in range(documents)]
        return sum(1 + (count - 1) * length // stride for count in dealt)

    def _benchmarks(self, job: Job) -> Work:
        asked = self.settings.evaluation[job.evaluation]
        per_token = PER_BIT * math.log2(self.shape.vocabulary)
        tokens, flops = 0, Flops()
        for count, characters in sequences(asked):
            length = min(asked.window, round(characters / per_token))
            tokens += count * length
            flops += cost.forward(self.shape, length) * count
        together = max(asked.window, BATCH_TOKENS["benchmarks"])
        logits = together * self.shape.vocabulary * (self.width + 8)  # the harness holds them all
        memory = cost.inference_memory(self.shape, together, self.width) + logits
        what = f"up to {window_label(asked.window)}"
        return Work(what, tokens, flops, self._held(memory), seconds=HARNESS)
