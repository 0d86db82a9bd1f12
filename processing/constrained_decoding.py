"""How answers are generated: held to what can be read, greedily unless the caller samples, with probabilities."""

import copy
import threading
import weakref
from array import array

import torch
from transformers import GenerationConfig, LogitsProcessor

from .answer_grammar import AnswerGrammar
from .token_masks import AnswerMasks

MAX_NEW_TOKENS = 256
# Of a checkpoint's generation settings: what any decoding needs, and all that the pipeline goes by.
TOKEN_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id")
PIPELINE_SETTINGS = (
    *TOKEN_SETTINGS, "suppress_tokens", "max_new_tokens", "max_time", "num_beams", "length_penalty", "early_stopping",
    "use_cache",
)  # fmt: skip

# Masks of a tokenizer outlive a call of `generate`, for the next one: what makes them, and those that were made.
# Threads may share a model, and so these too.
_KNOWN = weakref.WeakKeyDictionary()
_TABLES = weakref.WeakKeyDictionary()
_LOCK = threading.RLock()
_MASK_BYTES = 64 * 2**20
# Grammars kept for a tokenizer, the last ones used: each label set has its own.
_MOST_KNOWN = 16


def greedy_settings(generation_config: GenerationConfig, names) -> tuple[GenerationConfig, dict]:
    """Return generation settings with these names alone, and the others that were set.

    An instruct backbone may sample or penalise repetition. Answers must be the same in each run, and may repeat
    themselves.
    """
    given = {k: v for k, v in generation_config.to_diff_dict().items() if k != "transformers_version" and k[0] != "_"}
    left_out = {name: value for name, value in given.items() if name not in names and value not in (None, False, [])}
    return GenerationConfig(**{name: value for name, value in given.items() if name in names}), left_out


def generation_settings(model, generate_kwargs) -> tuple[GenerationConfig, dict]:
    """Return the settings of generation, a caller's before the checkpoint's, and what else `generate` is given.

    Either `max_new_tokens` is set, or the caller has set `max_length`.

    Raises:
        ValueError: several answers to one question, or what transformers refuses.
    """
    kwargs = dict(generate_kwargs)
    config = copy.deepcopy(kwargs.pop("generation_config", None)) or GenerationConfig()
    rest = config.update(**kwargs)
    stored = model.generation_config.to_dict()
    stored["max_new_tokens"] = None if config.max_length else stored.get("max_new_tokens") or MAX_NEW_TOKENS
    config.update(**stored, defaults_only=True)
    if (config.num_return_sequences or 1) != 1:
        given = config.num_return_sequences
        raise ValueError(f"num_return_sequences is {given}; a question has one answer here, so leave it out.")
    return config, rest


def log_probs_of(answers, logits, beam_indices, ticks):
    """Return natural log-probabilities of the tokens `(num_rows, length)`, and of all ticks there `(..., num_ticks)`.

    Args:
        ticks: the `range` of their ids; `None` for none.
    """
    own, times = [], []
    # Beam search may go on for a step that none of the best answers took.
    for place in range(answers.shape[1]):
        step = logits[place]
        # A beam's row changes from step to step; -1 stands after its end.
        step = step if beam_indices is None else step[beam_indices[:, place].clamp(min=0)]
        log_probs = step.float().log_softmax(-1)
        own.append(log_probs.gather(1, answers[:, place : place + 1])[:, 0])
        if ticks is not None:
            times.append(log_probs[:, ticks.start : ticks.stop])
    return torch.stack(own, 1), torch.stack(times, 1) if times else None


class _MaskTable:
    """Keep the last masks in one tensor `(num_masks, vocab_size)`: thousands of small ones would scatter the memory."""

    def __init__(self, num_rows, vocab_size, device):
        self.masks = torch.empty(max(_MASK_BYTES // vocab_size, num_rows), vocab_size, dtype=torch.bool, device=device)
        self.places = {}

    def make_room(self, num_rows) -> bool:
        """Forget all masks if fewer can be added; return whether so many fit at all."""
        if len(self.places) + num_rows > len(self.masks):
            self.places.clear()
        return num_rows <= len(self.masks)

    def place(self, key, allowed) -> int:
        """Return the row of a mask; `allowed` returns the ids that it does not ban, if it is not there yet."""
        if key not in self.places:
            row = torch.ones(self.masks.shape[1], dtype=torch.bool)
            ids = allowed()
            # `torch.tensor` would take an array apart.
            row[torch.frombuffer(ids, dtype=torch.int32).long() if isinstance(ids, array) and ids else ids] = False
            self.masks[len(self.places)] = row
            self.places[key] = len(self.places)
        return self.places[key]


class AnswerConstraint(LogitsProcessor):
    """Hold every row of `generate` to the answers that [`AnswerGrammar`] allows, ended by an end-of-sequence token.

    Pass it as `model.generate(..., logits_processor=[constraint])`. Greedy, sampled and beam search all keep to it;
    what other processors ban is allowed again where nothing else would be left. It never hurries an answer to its end:
    one that runs out of `max_new_tokens` is a beginning of a valid answer, without an end-of-sequence token. With beams
    there may be fewer answers than `num_return_sequences`, to a clip of one step say; transformers fills with padding.

    Args:
        tokenizer: a fast tokenizer of byte-level BPE or SentencePiece; for `ticks` it has the time tokens.
        grid: the times that can be written.
        answer_format: `digits` or `ticks`.
        task: `grounding`, `detection` or `captioning`.
        durations: seconds of each clip of the batch. Rows may be repeated as transformers does it, a clip's together.
        prompt_length: columns of `input_ids`, padded on the left.
        eos_token_id: id that ends an answer, or several; the first is what rows get that are over.
        event_labels: the only labels that detection may name.
        max_events: events of one answer at most.

    Raises:
        ValueError: what [`AnswerGrammar`] refuses, or a tokenizer that cannot write an answer.
    """

    def __init__(
        self, tokenizer, grid, answer_format, task, durations, prompt_length, eos_token_id, event_labels=None,
        max_events=None,
    ):  # fmt: skip
        eos = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
        labels = None if event_labels is None else tuple(event_labels)
        key = (len(tokenizer), grid, answer_format, task, labels, max_events, tuple(eos))
        with _LOCK:
            known = _KNOWN.setdefault(tokenizer, {})
            self.masks = known.pop(key, None)
            if self.masks is None:
                grammar = AnswerGrammar(grid, answer_format, task, labels, max_events)
                self.masks = AnswerMasks(tokenizer, grammar, eos)
            known[key] = self.masks
            while len(known) > _MOST_KNOWN:
                del known[next(iter(known))]
            self._tables, self._key = _TABLES.setdefault(tokenizer, {}), key
        self.prompt_length = prompt_length
        self.starts = [self.masks.grammar.start(duration) for duration in durations]
        self._states = {}

    def __call__(self, input_ids, scores):
        """Return `scores` (num_rows, vocab_size) with minus infinity where no valid answer goes on.

        Raises:
            ValueError: the rows are no multiple of the clips.
        """
        rows = input_ids[:, self.prompt_length :].tolist()
        repeats, rest = divmod(len(rows), len(self.starts))
        if rest or not repeats:
            raise ValueError(
                f"input_ids has {len(rows)} rows for {len(self.starts)} durations; give one for each clip."
            )
        states, places, others = {}, [], []
        with _LOCK:
            table = self._table(len(rows), scores)
            for index, row in enumerate(rows):
                start = self.starts[index // repeats]
                key = (start, tuple(row))
                if key not in states:
                    states[key] = self._state(start, key[1])
                place, ids = self._place(table, states[key], not row)
                places.append(place)
                others += [(index, other) for other in ids]
            # A copy: another thread may need the room.
            banned = table.masks[places]
        # Beams swap places, but each goes on from one of the step before.
        self._states = states
        if others:
            banned[tuple(torch.tensor(others, device=banned.device).T)] = False
        kept = scores.masked_fill(banned, -torch.inf)
        is_empty = kept.amax(-1, keepdim=True) == -torch.inf
        if is_empty.any():
            kept = torch.where(is_empty & ~banned, torch.zeros_like(kept), kept)
        return kept

    def _state(self, start, tokens):
        """Return the state after some tokens; `None` after the end and where no answer goes on like this."""
        state = self._states.get((start, tokens[:-1]), start)
        is_known = (start, tokens[:-1]) in self._states
        for index in range(len(tokens) - 1 if is_known else 0, len(tokens)):
            if state is None:
                break
            state = self.masks.advance(state, tokens[index], index == 0)
        return state

    def _table(self, num_rows, scores) -> _MaskTable:
        key = scores.shape[-1], scores.device
        if key not in self._tables or not self._tables[key].make_room(num_rows):
            self._tables[key] = _MaskTable(num_rows, *key)
        return self._tables[key]

    def _place(self, table, state, is_first) -> tuple[int, list[int]]:
        """Return the row of the mask of tokens that are banned, and ids that are allowed all the same.

        States of one kind share a row; of other states each has its own.
        """
        key = (self._key, state, is_first)
        if key in table.places:
            return table.places[key], []
        ids, kind = self.masks.allowed(state, is_first)
        if kind is None:
            return table.place(key, lambda: ids), []
        return table.place((self._key, *kind), lambda: self.masks.ids_of_kind(kind)), ids


__all__ = ["MAX_NEW_TOKENS", "PIPELINE_SETTINGS", "TOKEN_SETTINGS", "AnswerConstraint", "generation_settings",
           "greedy_settings", "log_probs_of"]  # fmt: skip
