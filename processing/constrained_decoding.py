"""Keep generation to answers that parse: a logits processor that bans every token no valid answer goes on with."""

import weakref

import torch
from transformers import LogitsProcessor

from .answer_grammar import AnswerGrammar, AnswerState, end_tail, step_tail
from .token_bytes import drops_first_space, token_bytes

# Masks of a tokenizer and a grammar outlive a call of `generate`, for the next one.
_KNOWN = weakref.WeakKeyDictionary()
_MASK_BYTES = 64 * 2**20
_X, _SPACE = b"x "


class AnswerConstraint(LogitsProcessor):
    """Hold every row of `generate` to the answers that [`AnswerGrammar`] allows, ended by an end-of-sequence token.

    Pass it as `model.generate(..., logits_processor=[constraint], max_new_tokens=max_new_tokens)`. Greedy, sampled and
    beam search all keep to it; what other processors ban is allowed again where nothing else would be left. With beams
    there may be fewer answers than `num_return_sequences`, to a clip of one step say; transformers fills with padding.

    Args:
        tokenizer: a fast tokenizer of byte-level BPE or SentencePiece; for `ticks` it has the time tokens.
        grid: the times that can be written.
        answer_format: `digits` or `ticks`.
        task: `grounding`, `detection` or `captioning`.
        durations: seconds of each clip of the batch. Rows are repeated as transformers does it, those of a clip together.
        prompt_length: columns of `input_ids`, padded on the left.
        max_new_tokens: tokens of an answer, its end included. The answer is brought to its end within them.
        eos_token_id: id that ends an answer, or several; the first is what rows get that are over.
        event_labels: the only labels that detection may name.
        max_events: events of one answer at most.

    Raises:
        ValueError: what [`AnswerGrammar`] refuses; a tokenizer that cannot write an answer; or `max_new_tokens` that
            leave no room for the shortest one.
    """

    def __init__(
        self,
        tokenizer,
        grid,
        answer_format,
        task,
        durations,
        prompt_length,
        max_new_tokens,
        eos_token_id,
        event_labels=None,
        max_events=None,
    ):
        eos = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
        labels = None if event_labels is None else tuple(event_labels)
        key = (len(tokenizer), grid, answer_format, task, labels, max_events, tuple(eos))
        known = _KNOWN.setdefault(tokenizer, {})
        if key not in known:
            known[key] = AnswerMasks(tokenizer, AnswerGrammar(grid, answer_format, task, labels, max_events), eos)
        self.masks, self.prompt_length, self.max_new_tokens = known[key], prompt_length, max_new_tokens
        self.starts = [self.masks.grammar.start(duration) for duration in durations]
        self._states = {}
        for start in self.starts:
            shortest = self.masks.cost(start) + 1
            if shortest > max_new_tokens:
                raise ValueError(f"max_new_tokens is {max_new_tokens}; the shortest answer takes {shortest} tokens.")

    def __call__(self, input_ids, scores):
        """Return `scores` (num_rows, vocab_size) with minus infinity where no valid answer goes on.

        Raises:
            ValueError: the rows are no multiple of the clips.
        """
        rows = input_ids[:, self.prompt_length :].tolist()
        repeats, rest = divmod(len(rows), len(self.starts))
        if rest or not repeats:
            raise ValueError(f"input_ids has {len(rows)} rows for {len(self.starts)} durations; give one for each clip.")
        remaining = self.max_new_tokens - len(rows[0])
        states, banned = {}, []
        for index, row in enumerate(rows):
            start = self.starts[index // repeats]
            key = (start, tuple(row))
            if key not in states:
                states[key] = self._state(start, key[1])
            banned.append(self.masks.banned(states[key], remaining, not row, scores))
        # Beams swap places, but each goes on from one of the step before.
        self._states = states
        banned = torch.stack(banned)
        kept = scores.masked_fill(banned, -torch.inf)
        is_empty = kept.amax(-1, keepdim=True) == -torch.inf
        if is_empty.any():
            kept = torch.where(is_empty & ~banned, torch.zeros_like(kept), kept)
        return kept

    def _state(self, start, tokens):
        """Return the state after some tokens; `None` after the end and where no answer goes on like this."""
        if not tokens:
            return start
        before = (start, tokens[:-1])
        state = self._states[before] if before in self._states else self._state(*before)
        return None if state is None else self.masks.advance(state, tokens[-1], len(tokens) == 1)


class AnswerMasks:
    """Know which tokens may follow a state of the grammar, and how many it takes to end.

    Args:
        tokenizer: see [`AnswerConstraint`].
        grammar: an [`AnswerGrammar`].
        eos: ids that end an answer.
    """

    def __init__(self, tokenizer, grammar, eos):
        self.grammar, self.eos = grammar, eos
        self.bytes_of = token_bytes(tokenizer)
        self.drops_first_space = drops_first_space(tokenizer)
        self.tick_ids, self.tick_of = None, {}
        if grammar.in_ticks:
            self.tick_ids = tokenizer.convert_tokens_to_ids(grammar.grid.tick_tokens())
            self.tick_of = {index: tick for tick, index in enumerate(self.tick_ids)}
            if len(self.tick_of) != grammar.grid.num_ticks or None in self.tick_of:
                raise ValueError("answer_format is 'ticks' but the tokenizer lacks time tokens of this grid; add them.")
        is_open = grammar.labels is None and grammar.task != "grounding"
        end = b":" if grammar.task == "detection" else b";"
        plain = [(index, spelled) for index, spelled in enumerate(self.bytes_of) if spelled and index not in eos]
        plain = [(index, spelled) for index, spelled in plain if index not in self.tick_of]
        self.trie = _trie(plain)
        # In an open label nearly every token goes on; only those that might end it hang on more than its last character.
        self.crossing = _trie([item for item in plain if end in item[1]]) if is_open else self.trie
        self.inner = [item for item in plain if end not in item[1]] if is_open else []
        self._spelled, self._inner_ids, self._masks, self._mask_bytes = {}, {}, {}, 0
        needed = set(b"0123456789." if not grammar.in_ticks else b"") | set(b"none")
        needed |= set({"grounding": b"-, ", "detection": b"-, :;", "captioning": b"-: ;"}[grammar.task])
        needed |= {byte for label in grammar.labels or () for byte in label} | (set(b"x\\") if is_open else set())
        missing = [chr(byte) for byte in sorted(needed) if not self.trie.get(byte, ({}, ()))[1]]
        if missing:
            raise ValueError(f"tokenizer has no single token for {missing}, which answers need; use another one.")

    def advance(self, state: AnswerState, token: int, is_first: bool = False) -> AnswerState | None:
        """Return the state after one more token; `None` if it ends the answer or may not stand here."""
        if token in self.tick_of:
            return self.grammar.step_time(state, self.tick_of[token])
        spelled = self.bytes_of[token] if token < len(self.bytes_of) and token not in self.eos else None
        if not spelled:
            return None
        if is_first and self.drops_first_space:
            spelled = spelled.removeprefix(b" ")
        for byte in spelled:
            state = self.grammar.step(state, byte)
            if state is None:
                return None
        return state

    def cost(self, state: AnswerState) -> int:
        """Return how many tokens end an answer at most, the end-of-sequence token not counted."""
        return sum(1 if isinstance(part, int) else self._num_tokens(part) for part in self.grammar.completion(state))

    def banned(self, state, remaining, is_first, like) -> torch.Tensor:
        """Return which tokens are banned, bool (vocab_size,).

        Args:
            state: where the answer stands, `None` if it is over.
            remaining: tokens that may still be generated, the end included.
            is_first: whether nothing was generated yet.
            like: scores, for their last dimension and device.
        """
        is_tight = state is not None and remaining - 2 < self.grammar.longest_completion(state)
        key = (state, remaining if is_tight else None, is_first, like.shape[-1], like.device)
        if key not in self._masks:
            mask = torch.ones(like.shape[-1], dtype=torch.bool)
            mask[self.allowed(state, remaining if is_tight else None, is_first)] = False
            if self._mask_bytes > _MASK_BYTES:
                self._masks.clear()
                self._mask_bytes = 0
            self._mask_bytes += len(mask)
            self._masks[key] = mask.to(like.device)
        return self._masks[key]

    def allowed(self, state, remaining=None, is_first=False) -> list[int]:
        """Return the tokens that may follow; see [`AnswerMasks.banned`]. Without `remaining` there is no hurry."""
        if state is None:
            return self.eos[:1]
        grammar = self.grammar
        ids = list(self.eos) if grammar.is_complete(state) else []
        if grammar.in_ticks and state.phase in ("onset", "offset"):
            low, high = grammar.time_range(state)
            # All of them leave equally much to say.
            if low <= high and self._fits(grammar.step_time(state, low), remaining):
                ids += self.tick_ids[low : high + 1]
        is_open = state.phase == "label" and grammar.labels is None
        is_open_start = is_open and (grammar.task == "captioning" or grammar.step(state, _X) is not None)
        if is_open_start and remaining is None:
            ids += self._inside(state.tail)
        for spelled_ids, after in self._reachable(self.crossing if is_open_start else self.trie, state):
            # A label that was begun now would have to end at once, whatever it means.
            is_forced = remaining is not None and grammar.labels is None and _begins_label(grammar.task, state, after)
            if not is_forced and self._fits(after, remaining):
                ids += spelled_ids
        if is_open_start and remaining is not None:
            ids += self._on_the_way(state, remaining)
        if is_first and self.drops_first_space and _SPACE in self.trie:
            children, space_ids = self.trie[_SPACE]
            ids += space_ids if self._fits(state, remaining) else []
            for spelled_ids, after in self._reachable(children, state):
                ids += spelled_ids if self._fits(after, remaining) else []
        return ids

    def _fits(self, after, remaining) -> bool:
        return remaining is None or self.cost(after) <= remaining - 2

    def _reachable(self, trie, state):
        """Yield `(ids, state after)` of the tokens of a trie that may follow."""
        stack = [(trie, state)]
        while stack:
            children, before = stack.pop()
            for byte, (grandchildren, ids) in children.items():
                after = self.grammar.step(before, byte)
                if after is not None:
                    if ids:
                        yield ids, after
                    if grandchildren:
                        stack.append((grandchildren, after))

    def _inside(self, tail) -> list[int]:
        """Return the tokens that stay within an open label."""
        if tail not in self._inner_ids:
            self._inner_ids[tail] = [index for index, spelled in self.inner if self._stays_inside(tail, spelled)]
        return self._inner_ids[tail]

    def _stays_inside(self, tail, spelled) -> bool:
        for byte in spelled:
            tail = step_tail(tail, byte)
            if tail is None:
                return False
        return self._num_tokens(end_tail(tail)) < float("inf")

    def _on_the_way(self, state, remaining) -> list[int]:
        """Return the tokens that the completion of a state starts with."""
        ids, trie = [], self.trie
        for byte in (self.grammar.completion(state) or [b""])[0]:
            trie, token_ids = trie.get(byte, ({}, []))
            state = self.grammar.step(state, byte)
            if token_ids and self._fits(state, remaining):
                ids += token_ids
        return ids

    def _num_tokens(self, text: bytes) -> float:
        """Return the least number of tokens that spell some bytes; infinity where none do."""
        if text not in self._spelled:
            least = [0] + [float("inf")] * len(text)
            for start in range(len(text)):
                trie = self.trie
                for end in range(start, len(text)):
                    trie, ids = trie.get(text[end], ({}, ()))
                    if ids:
                        least[end + 1] = min(least[end + 1], least[start] + 1)
            self._spelled[text] = least[-1]
        return self._spelled[text]


def _begins_label(task, before, after) -> bool:
    """Return whether a token goes on to another caption, or from times to another label."""
    if task == "captioning":
        return len(after.past) > len(before.past)
    return before.phase == "end" and (after.phase == "label" or after.then == "label")


def _trie(items) -> dict:
    """Return `{byte: (children, ids of the tokens that end here)}` of `(id, bytes)`."""
    root = {}
    for index, spelled in items:
        children = root
        for byte in spelled:
            children, ids = children.setdefault(byte, ({}, []))
        ids.append(index)
    return root


__all__ = ["AnswerConstraint", "AnswerMasks"]
