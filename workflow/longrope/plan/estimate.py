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
from longrope.memory import is_generated
from longrope.plan import cost
from longrope.plan.architecture import Architecture, architecture_of
from longrope.plan.jobs import Job, jobs_of
from longrope.plan.machine import GIB, Machine
from longrope.plan.questions import sequences
from longrope.study import corpus_of, lengths_of, search_settings, source_files
from longrope.windows import window_label

START = 5.0  # seconds of a job before it works: Python, torch, the weights of a small model
HARNESS = 7.0  # and those of importing lm-evaluation-harness
PROCESS = GIB * 6 // 10  # bytes of such a process, which count where there is no GPU
CHARACTERS = 1.6e6  # a second that are tokenised on one core
PER_BIT = 0.27  # characters a token and bit of the vocabulary: 2.7 for 1,024 words, 4.0 for 32,000
PACKED = 3  # characters a byte of a compressed text
KEY = 6  # tokens that are generated after a passkey's prompt
BATCH = {"passkey": 1 << 14, "ruler": 1 << 14, "benchmarks": 1 << 12}  # tokens that run together
STORED = 2  # bytes a weight of a checkpoint, in bfloat16
STATE = 12  # and of a training's own checkpoint: float32, and AdamW's two moments
NEEDLE = 128  # tokens that are generated after one of RULER's prompts


@dataclass(frozen=True, slots=True)
class Work:
    """What a job does, whatever it runs on."""

    what: str = ""  # at which lengths, how often
    tokens: int = 0  # through the model
    flops: float = 0.0
    memory: int = 0  # bytes, on all GPUs together
    disk: int = 0  # bytes that are left afterwards, state included
    seconds: float = 0.0  # beside the FLOPs
    recompute: bool = False  # counted with activation checkpointing that is not configured


@dataclass(frozen=True, slots=True)
class Estimate:
    """A job with what it takes on a machine."""

    job: Job
    work: Work
    gpus: int  # that hold it, the memory parted among them
    seconds: float

    @property
    def hours(self) -> float:
        """From start to end."""
        return self.seconds / 3600


def estimate_study(config: Config, machine: Machine, target: str = "all") -> list[Estimate]:
    """Every job of a target with what it takes; UserError if a model's size is not known."""
    shapes = {name: architecture_of(name, each) for name, each in config.models.items()}
    found = []
    for job in jobs_of(config, target):
        work = Work()
        if job.model:
            work = _Model(config, job.model, shapes[job.model], machine).work(job)
        gpus = max(1, math.ceil(work.memory / machine.usable))
        seconds = START + work.seconds + machine.seconds(work.flops, gpus)
        found.append(Estimate(job, work, gpus, seconds))
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

    def _search(self, job: Job) -> Work:
        search = search_settings(self.config, self.name, job.weights, job.name, job.window)
        fitness, window, budget = search.fitness, search.window, search.budget
        passes = budget.scores * (1 + (fitness.needles if fitness.needle else 0))
        tokens, flops = passes * window, passes * cost.forward(self.shape, window)
        if fitness.long_tokens:  # once: each document whole, and by a window that slides by half
            short = self.settings.original_window
            if job.weights != BASE:
                short = self.settings.tunings[job.weights].window
            slides = math.ceil((window - short) / max(1, short // 2))
            tokens += budget.documents * (window + slides * short)
            both = cost.forward(self.shape, window) + slides * cost.forward(self.shape, short)
            flops += budget.documents * both
        memory = self._held(cost.inference_memory(self.shape, window, self.width))
        what = f"{window_label(window)}, {budget.evaluations} x {budget.documents}"
        return Work(what, tokens, flops, memory)

    def _tuning(self, job: Job) -> Work:
        tuning = self.settings.tunings[job.weights]
        length, held, lora = tuning.sequence_length, tuning.micro_batch, tuning.lora
        width = 2 if tuning.precision == "bfloat16" else 4

        def memory_of(recompute: bool) -> int:
            return self._held(
                cost.training_memory(
                    self.shape, held * length, width, recompute=recompute, lora=lora
                )
            )

        def flops_of(tokens: int, together: int) -> float:
            return cost.training(self.shape, tokens, together, recompute=recompute, lora=lora)

        recompute = tuning.checkpointing or memory_of(False) > self.machine.usable
        replaced = tuning.short_sequences
        flops = (tuning.batch - replaced) * flops_of(length, held)
        if tuning.short:
            short = tuning.short.length or self.settings.original_window
            flops += replaced * length // short * flops_of(short, held * length // short)
        trained = sum(cost.lora_weights(self.shape, lora)) if lora else self.shape.parameters
        return Work(
            f"{window_label(length)}, {tuning.steps} x {tuning.batch}",
            tuning.steps * tuning.batch * length,
            tuning.steps * flops,
            memory_of(recompute),
            STORED * self.shape.parameters + STATE * trained,
            recompute=recompute and not tuning.checkpointing,
        )

    def _pretraining(self) -> Work:
        made, tokens, flops, memory = self.settings.source, 0, 0.0, 0
        width = 2 if made.precision == "bfloat16" else 4
        for phase in made.phases:
            count = made.tokens_per_step // phase.length
            one = cost.training(self.shape, phase.length, count, recompute=False)
            tokens += phase.steps * count * phase.length
            flops += phase.steps * count * one
            held = cost.training_memory(self.shape, count * phase.length, width, recompute=False)
            memory = max(memory, self._held(held))
        steps = sum(phase.steps for phase in made.phases)
        disk = (STORED + STATE) * self.shape.parameters
        return Work(f"{steps} x {made.tokens_per_step} tokens", tokens, flops, memory, disk)

    def _evaluation(self, job: Job) -> Work:
        asked = self.settings.evaluation[job.evaluation]
        lengths = lengths_of(self.settings, job.weights, job.name, asked)
        tokens, flops, memory = 0, 0.0, 0
        for length, amount in lengths.items():
            if asked.task == "perplexity":
                passes, cached, together = self._windows(asked, length, amount), 0, length
                one = cost.forward(self.shape, length)
            else:
                new = KEY if asked.task == "passkey" else NEEDLE
                passes = amount * (1 if asked.task == "passkey" else len(asked.needles))
                rows = min(amount, max(1, BATCH[asked.task] // length))
                together = cached = rows * length
                one = cost.generation(self.shape, length, new)
                if asked.task == "passkey" and not is_generated(length):
                    cached, one = 0, cost.forward(self.shape, length)
            tokens += passes * length
            flops += passes * one
            held = cost.inference_memory(self.shape, together, self.width, cached)
            memory = max(memory, self._held(held))
        what = " to ".join(
            dict.fromkeys(window_label(each) for each in (min(lengths), max(lengths)))
        )
        return Work(what, tokens, flops, memory)

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
        tokens, flops = 0, 0.0
        for count, characters in sequences(asked):
            length = min(asked.window, round(characters / per_token))
            tokens += count * length
            flops += count * cost.forward(self.shape, length)
        together = max(asked.window, BATCH["benchmarks"])
        logits = together * self.shape.vocabulary * (self.width + 8)  # the harness holds them all
        memory = cost.inference_memory(self.shape, together, self.width) + logits
        what = f"up to {window_label(asked.window)}"
        return Work(what, tokens, flops, self._held(memory), seconds=HARNESS)
