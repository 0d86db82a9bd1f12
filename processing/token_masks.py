"""Which tokens of a vocabulary may follow an unfinished answer, and how many it takes to end it. No tensors here."""

from array import array

from .answer_grammar import AnswerGrammar, AnswerState
from .label_characters import WHOLE, end_tail
from .open_labels import OpenLabels
from .token_bytes import drops_first_space, token_bytes
from .token_trie import TokenTrie

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
        plain = [(index, spelled) for index, spelled in enumerate(self.bytes_of) if spelled and index not in eos]
        plain = [(index, spelled) for index, spelled in plain if index not in self.tick_of]
        self.trie = TokenTrie(plain)
        self._spelled = {}
        self._space_ids = self.trie.after(_SPACE).ids
        self.open_labels = self.spaced_labels = None
        if is_open:
            # Half of a vocabulary starts with the space that stands before a label.
            spaced = [(index, spelled[1:]) for index, spelled in plain if spelled[0] == _SPACE and len(spelled) > 1]
            self.open_labels = OpenLabels(grammar, plain, self._can_finish)
            self.spaced_labels = OpenLabels(grammar, spaced, self._can_finish)
        needed = set(b"0123456789." if not grammar.in_ticks else b"") | set(b"none")
        needed |= set({"grounding": b"-, ", "detection": b"-, :;", "captioning": b"-: ;"}[grammar.task])
        needed |= {byte for label in grammar.labels or () for byte in label} | (set(b"x\\") if is_open else set())
        missing = [chr(byte) for byte in sorted(needed) if not self.trie.after(byte).ids]
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
        return self.grammar.walk(state, spelled)

    def cost(self, state: AnswerState) -> int:
        """Return how many tokens end an answer at most, the end-of-sequence token not counted."""
        return sum(1 if isinstance(part, int) else self._num_tokens(part) for part in self.grammar.completion(state))

    def is_tight(self, state: AnswerState | None, remaining: int) -> bool:
        """Return whether so few tokens remain that some would leave no room to end."""
        return state is not None and remaining - 2 < self.grammar.longest_completion(state)

    def allowed(self, state, remaining=None, is_first=False) -> tuple[list[int], tuple | None]:
        """Return the ids of the tokens that may follow, and within an open label its kind, of which there are more.

        See [`AnswerMasks.ids_of_kind`] for those.

        Args:
            state: where the answer stands, `None` if it is over.
            remaining: tokens that may still be generated, the end included; `None` where no end is near, see
                [`AnswerMasks.is_tight`].
            is_first: whether nothing was generated yet.
        """
        if state is None:
            return self.eos[:1], None
        grammar, kind = self.grammar, None
        ids = list(self.eos) if grammar.is_complete(state) else []
        if grammar.in_ticks and state.phase in ("onset", "offset"):
            low, high = grammar.time_range(state)
            # All of them leave equally much to say.
            if low <= high and self._fits(grammar.step_time(state, low), remaining):
                ids += self.tick_ids[low : high + 1]
        labels, label = self._open_label(state)
        if labels is not None:
            kind, others = labels.kind_of(label, lambda after: self._may_follow(label, after, remaining))
            ids += others
            if labels is self.spaced_labels and self._fits(label, remaining):
                ids += self._space_ids
            if remaining is not None:
                # Of what goes on, only what ends soon.
                ids += self._on_the_way(state, remaining) + labels.ids_that_end(kind)
                kind = None
        else:
            for spelled_ids, after in self._reachable(self.trie, state):
                ids += spelled_ids if self._may_follow(state, after, remaining) else []
        if is_first and self.drops_first_space:
            ids += self._space_ids if self._fits(state, remaining) else []
            for spelled_ids, after in self._reachable(self.trie.after(_SPACE), state):
                ids += spelled_ids if self._fits(after, remaining) else []
        kind = None if kind is None else (labels is self.spaced_labels, *kind)
        return ids, kind

    def ids_of_kind(self, kind: tuple) -> array:
        """Return the ids that all states of a kind allow; nearly a whole vocabulary."""
        is_spaced, *kind = kind
        return (self.spaced_labels if is_spaced else self.open_labels).ids_of(tuple(kind))

    def _open_label(self, state) -> tuple[OpenLabels | None, AnswerState]:
        """Return what knows the tokens of an open label, and the state within it, if one goes on or starts here."""
        grammar, labels = self.grammar, self.open_labels
        if labels is not None and state.phase == "literal" and (state.text, state.then) == (b" ", "label"):
            labels, state = self.spaced_labels, grammar.step(state, _SPACE)
        is_label = labels is not None and state.phase == "label"
        goes_on = is_label and grammar.step(state._replace(tail=WHOLE), _X) is not None
        return labels if goes_on else None, state

    def _may_follow(self, state, after, remaining) -> bool:
        # A label that was begun now would have to end at once, whatever it means.
        is_forced = remaining is not None and self.grammar.labels is None
        return not (is_forced and _begins_label(self.grammar.task, state, after)) and self._fits(after, remaining)

    def _fits(self, after, remaining) -> bool:
        return remaining is None or self.cost(after) <= remaining - 2

    def _reachable(self, trie, state):
        """Yield `(ids, state after)` of the tokens of a trie that may follow."""
        stack = [(trie, state)]
        while stack:
            trie, before = stack.pop()
            for byte, longer in trie.children.items():
                after = self.grammar.step(before, byte)
                if after is not None:
                    if longer.ids:
                        yield longer.ids, after
                    stack.append((longer, after))

    def _can_finish(self, tail) -> bool:
        return self._num_tokens(end_tail(tail)) < float("inf")

    def _on_the_way(self, state, remaining) -> list[int]:
        """Return the tokens that the completion of a state starts with."""
        ids, trie = [], self.trie
        for byte in (self.grammar.completion(state) or [b""])[0]:
            trie, state = trie.after(byte), self.grammar.step(state, byte)
            if trie.ids and self._fits(state, remaining):
                ids += trie.ids
        return ids

    def _num_tokens(self, text: bytes) -> float:
        """Return the least number of tokens that spell some bytes; infinity where none do."""
        if text not in self._spelled:
            least = [0] + [float("inf")] * len(text)
            for start in range(len(text)):
                trie = self.trie
                for end in range(start, len(text)):
                    trie = trie.after(text[end])
                    if trie.ids:
                        least[end + 1] = min(least[end + 1], least[start] + 1)
            self._spelled[text] = least[-1]
        return self._spelled[text]


def _begins_label(task, before, after) -> bool:
    """Return whether a token goes on to another caption, or from times to another label."""
    if task == "captioning":
        return len(after.past) > len(before.past)
    return before.phase == "end" and (after.phase == "label" or after.then == "label")


__all__ = ["AnswerMasks"]
