"""
A model as the harness drives it, with the factors of each sequence's whole length.

Needs lm_eval; import it after `harness.require_harness()`. The harness batches requests of many
lengths. Here they are parted by tier first, by the length of context and answer together, so that
no sequence ever runs with the factors of another's length. A sequence that is longer than the
window is refused: the harness would cut it from the left.
"""

from collections.abc import Callable

import torch
from lm_eval.models.huggingface import HFLM

from longrope.errors import UserError
from longrope.evaluate.records import factors_at
from longrope.extended import Tiers
from longrope.files import fingerprint
from longrope.memory import within_memory
from longrope.progress import Progress
from longrope.rope import RescaledRotary

PART = 512  # requests whose likelihoods are asked for between two lines of progress

Once = Callable[[str, Callable[[], list]], list]  # `Units.once`


def _not_kept(_: str, run: Callable[[], list]) -> list:
    return run()


class PinnedModel(HFLM):
    """The harness's model class around a model whose rotary embedding is rescaled."""

    def __init__(self, model, tokenizer, rotary: RescaledRotary, tiers: Tiers) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer)
        self._rotary, self._tiers = rotary, tiers
        self.begin("nothing", 0, 0)

    def begin(self, doing: str, window: int, batch_tokens: int, once: Once = _not_kept) -> None:
        """Say what the next requests are about, how long they may be, how many run together, and
        what keeps the answers of a batch that is generated."""
        self._doing, self._window, self._batch_tokens = doing, window, batch_tokens
        self._max_length = window  # the harness's own
        self._once = once
        self.longest = 0  # tokens of the longest sequence so far

    @property
    def puts_bos(self) -> bool:
        """Whether contexts begin with the tokenizer's BOS."""
        return self.tok_encode("a")[:1] == [self.tokenizer.bos_token_id]

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False):
        """Not supported: perplexity has a protocol of its own here."""
        raise UserError("the harness's perplexity tasks are not run: use `task: perplexity`")

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        answer = super()._loglikelihood_tokens
        return self._by_tier(
            requests,
            [len(context) + len(continuation) for _, context, continuation in requests],
            lambda part: answer(part, disable_tqdm=True, override_bs=override_bs),
            PART,
        )

    @torch.no_grad()
    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations; context and new tokens together are the length of a sequence."""
        generate = super().generate_until
        lengths = [
            len(self.tok_encode(context)) + settings["max_gen_toks"]
            for context, settings in (request.args for request in requests)
        ]

        def kept(part: list) -> list[str]:
            name = fingerprint([self._doing, [list(request.args) for request in part]])
            return self._once(name, lambda: generate(part, disable_tqdm=True))

        part = max(1, self._batch_tokens // max(lengths))  # a batch
        return self._by_tier(requests, lengths, kept, part)

    def _by_tier(
        self, requests: list, lengths: list[int], run: Callable[[list], list], size: int
    ) -> list:
        """Run requests tier by tier, short ones first, so many between two lines of progress;
        answers are in the order of the requests."""
        if long := [length for length in lengths if length > self._window]:
            raise UserError(
                f"{self._doing}: {len(long)} of {len(lengths)} sequences are longer than the window"
                f" of {self._window:,} tokens, up to {max(long):,}. Nothing is cut: raise `window`,"
                " or ask with fewer `shots`"
            )
        self.longest = max([self.longest, *lengths])
        tiers: dict[int, list[int]] = {}  # window of the factors -> requests
        for number in sorted(range(len(requests)), key=lengths.__getitem__):
            tier = factors_at(self._tiers, lengths[number]).window
            tiers.setdefault(tier, []).append(number)
        answers, done = [None] * len(requests), 0
        progress = Progress(self._doing, len(requests))
        for window, numbers in sorted(tiers.items()):
            self._rotary.use([each for each in self._tiers.factors if each.window == window])
            for first in range(0, len(numbers), size):
                part = numbers[first : first + size]
                self.batch_size_per_gpu = max(1, self._batch_tokens // lengths[part[-1]])
                found = within_memory(
                    self.model,
                    lambda part=part: run([requests[number] for number in part]),
                    (self.batch_size_per_gpu, lengths[part[-1]]),
                )
                for number, answer in zip(part, found, strict=True):
                    answers[number] = answer
                done += len(part)
                progress.update(done)
        progress.close()
        return answers
