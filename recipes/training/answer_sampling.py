"""What GRPO keeps of sampled answers: log-probabilities, banned tokens, and the answers as shipped."""

import numpy as np
import torch
from transformers import LogitsProcessor

from processing.answer_text import format_events
from processing.constrained_decoding import AnswerConstraint
from processing.event_scores import score_events

# vLLM's names: normalised over all tokens, or over those that the answer constraint allows.
LOGPROBS_MODES = ("raw_logprobs", "processed_logprobs")


class TokenLogProbs(LogitsProcessor):
    """Record the log-probabilities of the tokens that `generate` chooses; scores pass unchanged.

    These are computed from the scores passed in, so the last processor in the list records the sampling distribution
    (before `top_k` and the like). If `observe` is given the model's own logits first, they are the model's own.

    Args:
        temperature: divisor of the scores.
        ticks: `range` of ids whose log-probabilities are recorded at every position; `None` for none.
    """

    def __init__(self, temperature: float = 1.0, ticks: range | None = None):
        self.temperature, self.ticks = temperature, ticks
        self._own, self._last, self._chosen, self._times = None, None, [], []

    def observe(self, logits):
        self._own = logits

    def __call__(self, input_ids, scores):
        self._take(input_ids)
        own = scores if self._own is None else self._own
        self._last = (own.float() / self.temperature).log_softmax(-1)
        if self.ticks is not None:
            self._times.append(self._last[:, self.ticks.start : self.ticks.stop])
        return scores

    def finish(self, sequences) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return log-probabilities `(num_rows, num_tokens)`, and of ticks `(num_rows, num_tokens, num_ticks)`."""
        self._take(sequences)
        return torch.stack(self._chosen, 1), torch.stack(self._times, 1) if self._times else None

    def _take(self, input_ids):
        if self._last is not None:
            self._chosen.append(self._last.gather(1, input_ids[:, -1:])[:, 0])
        self._last = None


class TaskConstraints(LogitsProcessor):
    """Constrain rows of several tasks to valid answers, and record which tokens were banned.

    Args:
        processor: a [`TimeProAudioProcessor`].
        tasks, durations: of each row; durations in seconds.
        prompt_length, eos_token_id: see [`AnswerConstraint`].
    """

    def __init__(self, processor, tasks, durations, prompt_length, eos_token_id):
        self._parts, self._known, self._steps = [], {}, []
        for task in dict.fromkeys(tasks):
            rows = [row for row, name in enumerate(tasks) if name == task]
            constraint = AnswerConstraint(
                processor.tokenizer, processor.grid, processor.answer_format, task, [durations[row] for row in rows],
                prompt_length, eos_token_id,
            )  # fmt: skip
            self._parts.append((torch.tensor(rows), constraint))

    def __call__(self, input_ids, scores):
        kept = scores.clone()
        for rows, constraint in self._parts:
            rows = rows.to(scores.device)
            kept[rows] = constraint(input_ids[rows], scores[rows])
        # Most rows share masks, which are stored as bits.
        packed = np.packbits((kept == -torch.inf).cpu().numpy(), axis=1)
        self._steps.append([self._known.setdefault(row.tobytes(), len(self._known)) for row in packed])
        self._vocab_size = scores.shape[1]
        return kept

    def banned_tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return masks `(num_masks, vocab_size)`, true for banned tokens, and their indices `(num_rows, num_steps)`."""
        packed = np.stack([np.frombuffer(mask, dtype=np.uint8) for mask in self._known])
        masks = np.unpackbits(packed, axis=1, count=self._vocab_size).astype(bool)
        return torch.from_numpy(masks), torch.tensor(self._steps).T


def agreement(accelerator, sampled, trained, mask) -> dict[str, float]:
    """Compare log-probabilities of the same tokens over all processes: `mean` and `max` difference, `correlation`.

    The correlation is Pearson's, of probabilities; NaN if these are constant.

    Args:
        sampled, trained, mask: `(num_rows, num_tokens)`; masked tokens (0) are ignored.
    """
    kept = mask.bool()
    first, second = (values.detach()[kept].double() for values in (sampled, trained))
    difference, (p, q) = (first - second).abs(), (first.exp(), second.exp())
    ones = torch.ones_like(p)
    sums = torch.stack([x.sum() for x in (ones, difference, p, q, p * p, q * q, p * q)]).float()
    largest = accelerator.gather(difference.max() if len(difference) else sums.new_zeros(())).max().item()
    count, total, *moments = accelerator.reduce(sums, reduction="sum").double()
    p, q, pp, qq, pq = (moment / count for moment in moments)
    correlation = (pq - p * q) / ((pp - p * p) * (qq - q * q)).clamp(min=0).sqrt()
    return {"mean": (total / count).item(), "max": largest, "correlation": correlation.item()}


def shipped_answer(processor, token_ids, log_probs, times, task, query, min_score, truncated) -> str | None:
    """Return an answer as shipped, in its own format: without detected events whose score is below `min_score`.

    A truncated answer keeps its complete events; without any it counts as unparseable.

    Args:
        token_ids, log_probs, times: see [`~processing.event_scores.score_events`].

    Returns:
        The text; `None` for an answer that is not canonical and therefore has no scores.
    """
    soft = {} if times is None else {"time_log_probs": times, "grid": processor.grid}
    events = score_events(processor.tokenizer, token_ids, log_probs, task, query or "", **soft, truncated=truncated)
    if events is None or (truncated and not events):
        return None if events is None else ""
    kept = [event for event in events if task != "detection" or event.score >= min_score]
    return format_events(kept, task, processor.grid, processor.answer_format)
