"""Which tokens of a vocabulary may follow an unfinished answer, and how many it takes to end it. No tensors here."""

import re
from array import array

from .answer_grammar import AnswerGrammar, AnswerState, end_tail, step_tail
from .token_bytes import drops_first_space, token_bytes

_X, _SPACE = b"x "


class AnswerMasks:
    """Know which tokens may follow a state of the grammar, and how many it takes to end.

    Args:
        tokenizer: a fast tokenizer of byte-level BPE or SentencePiece; for `ticks` it has the time tokens.
        grammar: the answers that are allowed.
        eos: ids that end an answer; the first is what may follow one that is over.

    Raises:
        ValueError: the tokenizer is of another kind, or lacks time tokens or a character that answers need.
    """

    def __init__(self, tokenizer, grammar: AnswerGrammar, eos: list[int]):
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
        # In an open label nearly every token goes on; only what might end it hangs on more than its last character.
        # Behind the end of a label there may be a space and a time. An end that might be escaped tells nothing.
        never = re.compile(rb"(?s)(?<!^)(?<!\\)" + end + rb"(?! ?\Z| [0-9])")
        self.crossing = self.trie
        if is_open:
            self.crossing = _trie([item for item in plain if end in item[1] and not never.search(item[1])])
        self.inner = [item for item in plain if end not in item[1]] if is_open else []
        self._spelled, self._inner_ids, self._end_ids = {}, {}, {}
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

    def is_tight(self, state: AnswerState | None, remaining: int) -> bool:
        """Return whether so few tokens remain that some would leave no room to end."""
        return state is not None and remaining - 2 < self.grammar.longest_completion(state)

    def allowed(self, state, remaining=None, is_first=False) -> tuple[list[int], array]:
        """Return the ids of the tokens that may follow.

        Those that stay within an open label are nearly all of a vocabulary and the same for many states, so they come
        apart, as an array of C integers that need not be taken apart again.

        Args:
            state: where the answer stands, `None` if it is over.
            remaining: tokens that may still be generated, the end included; `None` where no end is near, see
                [`AnswerMasks.is_tight`].
            is_first: whether nothing was generated yet.
        """
        inner = array("i")
        if state is None:
            return self.eos[:1], inner
        grammar = self.grammar
        ids = list(self.eos) if grammar.is_complete(state) else []
        if grammar.in_ticks and state.phase in ("onset", "offset"):
            low, high = grammar.time_range(state)
            # All of them leave equally much to say.
            if low <= high and self._fits(grammar.step_time(state, low), remaining):
                ids += self.tick_ids[low : high + 1]
        is_open = state.phase == "label" and grammar.labels is None
        is_open_start = is_open and (grammar.task == "captioning" or grammar.step(state, _X) is not None)
        ends = None
        if is_open_start and remaining is None:
            inner, ends = self._inside(state.tail), self._label_ends(state)
        ids += ends or []
        trie = self.crossing if is_open_start else self.trie
        for spelled_ids, after in self._reachable(trie, state) if ends is None else ():
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
        return ids, inner

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

    def _label_ends(self, state) -> list[int] | None:
        """Return the tokens that end an open label, where these do not hang on what it says; else `None`."""
        is_simple = self.grammar.task == "detection" and self.grammar.in_ticks
        # A label that lasts to the end of the clip may not return.
        if not is_simple or any(low >= state.last for _, low in state.past):
            return None
        if state.tail not in self._end_ids:
            found = self._reachable(self.crossing, state)
            self._end_ids[state.tail] = [index for ids, _ in found for index in ids]
        return self._end_ids[state.tail]

    def _inside(self, tail) -> array:
        """Return the tokens that stay within an open label."""
        if tail not in self._inner_ids:
            self._inner_ids[tail] = array(
                "i", (index for index, spelled in self.inner if self._stays_inside(tail, spelled))
            )
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
            if byte not in children:
                children[byte] = {}, []
            children, ids = children[byte]
        ids.append(index)
    return root


__all__ = ["AnswerMasks"]
