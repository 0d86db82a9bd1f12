"""Generate answers: constrained to the grammar, greedy unless the caller samples, and faster with a draft."""

import copy
import threading
import weakref
from array import array

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.generation import GenerateDecoderOnlyOutput

from .answer_grammar import AnswerGrammar
from .prefix_cache import CACHE_NAME
from .token_masks import AnswerMasks

MAX_NEW_TOKENS = 256
# Generation settings of a checkpoint: those that any decoding needs, and all that the pipeline uses.
TOKEN_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id")
PIPELINE_SETTINGS = (
    *TOKEN_SETTINGS, "suppress_tokens", "max_new_tokens", "max_time", "num_beams", "length_penalty", "early_stopping",
    "use_cache",
)  # fmt: skip

# Generation settings under which decoding from a draft equals `generate`.
_PLAIN_SETTINGS = {
    *TOKEN_SETTINGS, "suppress_tokens", "max_new_tokens", "use_cache", "return_dict_in_generate", "output_logits",
    "transformers_version",
}  # fmt: skip

# Masks are cached per tokenizer across calls of `generate`. Threads may share a model, and therefore these.
_KNOWN = weakref.WeakKeyDictionary()
_TABLES = weakref.WeakKeyDictionary()
_LOCK = threading.RLock()
_MASK_BYTES = 64 * 2**20
# Masks at most: of a small vocabulary, tens of thousands would fit, and what they are of takes more than they do.
_MOST_MASKS = 4096
# Least recently used grammars are dropped beyond this number: each label set has its own.
_MOST_KNOWN = 16


def greedy_settings(generation_config: GenerationConfig, names) -> tuple[GenerationConfig, dict]:
    """Return the generation settings of these names, and the other settings that were present.

    An instruct backbone may sample or penalise repetition; answers must be deterministic, and may repeat themselves.
    """
    given = {k: v for k, v in generation_config.to_diff_dict().items() if k != "transformers_version" and k[0] != "_"}
    left_out = {name: value for name, value in given.items() if name not in names and value not in (None, False, [])}
    return GenerationConfig(**{name: value for name, value in given.items() if name in names}), left_out


def generation_settings(model, generate_kwargs) -> tuple[GenerationConfig, dict]:
    """Return the generation settings, the caller's before the checkpoint's, and the other arguments of `generate`.

    `max_new_tokens` is always set, unless the caller sets `max_length`.

    Raises:
        ValueError: several answers per question, or settings that transformers refuses.
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
    """Return natural log-probabilities of the tokens `(num_rows, length)`, and of all ticks `(..., num_ticks)`.

    Args:
        ticks: `range` of tick ids; `None` for none.
    """
    own, times = [], []
    # Beam search may run for more steps than the best answers have tokens.
    for place in range(answers.shape[1]):
        step = logits[place]
        # A beam's row changes from step to step; it is -1 after the end.
        step = step if beam_indices is None else step[beam_indices[:, place].clamp(min=0)]
        log_probs = step.float().log_softmax(-1)
        own.append(log_probs.gather(1, answers[:, place : place + 1])[:, 0])
        if ticks is not None:
            times.append(log_probs[:, ticks.start : ticks.stop])
    return torch.stack(own, 1), torch.stack(times, 1) if times else None


class _MaskTable:
    """Recent masks in one tensor `(num_masks, vocab_size)`: thousands of small ones would fragment memory."""

    def __init__(self, num_rows, vocab_size, device):
        most = max(min(_MASK_BYTES // vocab_size, _MOST_MASKS), num_rows)
        self.masks = torch.empty(most, vocab_size, dtype=torch.bool, device=device)
        self.places = {}

    def make_room(self, num_rows) -> bool:
        """Drop all masks if there is no room for `num_rows` more; return whether so many fit at all."""
        if len(self.places) + num_rows > len(self.masks):
            self.places.clear()
        return num_rows <= len(self.masks)

    def place(self, key, allowed) -> int:
        """Return the row of a mask; if it is new, call `allowed` for the ids that it does not ban."""
        if key not in self.places:
            row = torch.ones(self.masks.shape[1], dtype=torch.bool)
            ids = allowed()
            # `torch.tensor` would convert an array element by element.
            row[torch.frombuffer(ids, dtype=torch.int32).long() if isinstance(ids, array) and ids else ids] = False
            self.masks[len(self.places)] = row
            self.places[key] = len(self.places)
        return self.places[key]


class AnswerConstraint(LogitsProcessor):
    """Constrain every row of `generate` to the answers of [`AnswerGrammar`], ended by an end-of-sequence token.

    Pass it as `model.generate(..., logits_processor=[constraint])`. It works with greedy decoding, sampling and beam
    search; tokens that other processors ban are allowed again if nothing else would be left. It never forces an end: an
    answer that reaches `max_new_tokens` is a prefix of a valid answer, without an end-of-sequence token. Beam search
    may find fewer valid answers than `num_return_sequences`, for instance about a clip of one time step; transformers
    then pads.

    Args:
        tokenizer: a fast byte-level BPE or SentencePiece tokenizer; for `ticks` with the time tokens.
        grid: the times that can be written.
        answer_format: `digits` or `ticks`.
        task: `grounding`, `detection` or `captioning`.
        durations: seconds of each clip of the batch. Rows may be repeated as in transformers, those of a clip adjacent.
        prompt_length: number of columns of the left-padded `input_ids`.
        eos_token_id: id or ids that end an answer; the first also pads finished rows.
        event_labels: the only labels that detection may name.
        max_events: maximum number of events in an answer.

    Raises:
        ValueError: arguments that [`AnswerGrammar`] refuses, or a tokenizer that cannot write an answer.
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
        """Return `scores` (num_rows, vocab_size) with minus infinity for tokens that are not allowed.

        Raises:
            ValueError: the number of rows is not a multiple of the number of clips.
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
            # A copy, because another thread may overwrite the table.
            banned = table.masks[places]
        # Beams are reordered, but each continues one of the previous step.
        self._states = states
        if others:
            banned[tuple(torch.tensor(others, device=banned.device).T)] = False
        kept = scores.masked_fill(banned, -torch.inf)
        is_empty = kept.amax(-1, keepdim=True) == -torch.inf
        if is_empty.any():
            kept = torch.where(is_empty & ~banned, torch.zeros_like(kept), kept)
        return kept

    def _state(self, start, tokens):
        """Return the state after some tokens; `None` after the end, or if they are not allowed."""
        state = self._states.get((start, tokens[:-1]), start)
        is_known = (start, tokens[:-1]) in self._states
        # Assisted decoding may ask for the first token again.
        for index in range(max(0, len(tokens) - 1) if is_known else 0, len(tokens)):
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
        """Return the row of the mask of banned tokens, and ids that are allowed nevertheless.

        States of one kind share a row; any other state has its own.
        """
        key = (self._key, state, is_first)
        if key in table.places:
            return table.places[key], []
        ids, kind = self.masks.allowed(state, is_first)
        if kind is None:
            return table.place(key, lambda: ids), []
        return table.place((self._key, *kind), lambda: self.masks.ids_of_kind(kind)), ids


def generate_answers(model, inputs, config, draft, eos, **kwargs):
    """Return the output of `model.generate(**inputs, generation_config=config, **kwargs)`, faster where it can be."""
    names = {name for name, value in config.to_diff_dict().items() if value is not None and name[0] != "_"}
    if CACHE_NAME not in inputs or names - _PLAIN_SETTINGS or kwargs.keys() - {"logits_processor"}:
        return model.generate(**inputs, generation_config=config, **kwargs)
    processors = LogitsProcessorList(kwargs.get("logits_processor", []))
    if config.suppress_tokens:
        processors.insert(0, SuppressTokensLogitsProcessor(config.suppress_tokens, device=model.device))
    if draft is None:
        return generate_rows(model, inputs, config, processors, eos)
    return generate_from_draft(model, inputs, config, processors, draft, eos)


@torch.no_grad()
def generate_rows(model, inputs, config, processors, eos):
    """Return what greedy `model.generate` returns, `sequences (num_rows, length)` and `logits`, in less time.

    `generate` puts all rows through the model until the longest answer ends; here a row that has ended is left out. Its
    tokens are then padding, and its logits zero.

    Args:
        inputs: of any rows, from [`prefill_questions`], with a cache.
        config: greedy generation settings with `max_new_tokens`.
        processors: logits processors, which see all rows.
        eos: ids that end an answer.
    """
    cache, tokens, mask, logits = inputs[CACHE_NAME], inputs["input_ids"], inputs["attention_mask"], []
    padding = eos[0] if config.pad_token_id is None else config.pad_token_id
    rows, ends = torch.arange(len(tokens), device=tokens.device), torch.tensor(eos, device=tokens.device)
    fed = tokens[:, cache.get_seq_length() :]
    for _ in range(config.max_new_tokens):
        outputs = model(
            input_ids=fed,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -fed.shape[1] :],
            use_cache=True,
            logits_to_keep=1,
            **{CACHE_NAME: cache},
        )
        known = outputs.logits[:, -1].float()
        every = known.new_zeros(len(tokens), known.shape[1]).index_copy_(0, rows, known)
        found = processors(tokens, every).argmax(-1)[rows]
        tokens = torch.cat([tokens, tokens.new_full((len(tokens), 1), padding)], 1)
        tokens[rows, -1] = found
        if config.output_logits:
            logits.append(every)
        goes_on = (~torch.isin(found, ends)).nonzero()[:, 0]
        if not len(goes_on):
            break
        if len(goes_on) < len(rows):
            rows, mask = rows[goes_on], mask[goes_on]
            cache.batch_select_indices(goes_on)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        fed = tokens[rows, -1:]
    return GenerateDecoderOnlyOutput(sequences=tokens, logits=tuple(logits) if config.output_logits else None)


@torch.no_grad()
def generate_from_draft(model, inputs, config, processors, draft, eos):
    """Return what greedy `model.generate` returns for one row, `sequences (1, length)` and `logits`, in fewer passes.

    The rest of the draft goes through the model together with the last token, and the tokens that the model would have
    generated are accepted. After a mismatch the draft is tried again behind the mismatched token; if that fails too,
    decoding continues token by token until the model returns to where it left the draft.

    Args:
        inputs: of one row, from [`prefill_questions`], with a cache.
        config: greedy generation settings with `max_new_tokens`.
        processors: logits processors.
        draft: token ids of the expected answer, without end-of-sequence token.
        eos: ids that end an answer.
    """
    cache, tokens, logits = inputs[CACHE_NAME], inputs["input_ids"], []
    end, draft = tokens.shape[1] + config.max_new_tokens, list(draft)
    # Where the draft continues, where the answer left it, and whether a token replaced one of the draft's.
    place, left, is_replaced, is_astray = 0, 0, False, False
    while True:
        guess = [] if is_astray else draft[place:]
        num_cached = cache.get_seq_length()
        fed = torch.cat([tokens[:, num_cached:], tokens.new_tensor([guess])], 1)
        outputs = model(
            input_ids=fed,
            attention_mask=tokens.new_ones(1, num_cached + fed.shape[1]),
            position_ids=torch.arange(num_cached, num_cached + fed.shape[1], device=tokens.device)[None],
            use_cache=True,
            logits_to_keep=len(guess) + 1,
            **{CACHE_NAME: cache},
        )
        for num_right, row in enumerate(outputs.logits[0]):
            token = int(processors(tokens, row[None].float()).argmax())
            tokens = torch.cat([tokens, tokens.new_tensor([[token]])], 1)
            logits.append(row[None])
            if token in eos or tokens.shape[1] == end:
                return GenerateDecoderOnlyOutput(sequences=tokens, logits=tuple(logits))
            if num_right == len(guess) or token != guess[num_right]:
                break
        # The last token has not been through the model yet.
        if wrong := cache.get_seq_length() - tokens.shape[1] + 1:
            cache.crop(-wrong)
        if not is_astray and (num_right or not is_replaced):
            left = place + num_right
            place, is_replaced, is_astray = left + 1, True, left == len(draft)
        else:
            # The answer has something that the draft lacks; the draft may continue after it.
            is_astray = draft[left : left + 1] != [token]
            place, is_replaced = left + 1, False


__all__ = ["MAX_NEW_TOKENS", "PIPELINE_SETTINGS", "TOKEN_SETTINGS", "AnswerConstraint", "generate_answers",
           "generate_from_draft", "generate_rows", "generation_settings", "greedy_settings",
           "log_probs_of"]  # fmt: skip
