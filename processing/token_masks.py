"""The bytes of a fast tokenizer's tokens, and which tokens may follow a partial answer. No tensors here."""

import itertools
import json
import re
import weakref
from array import array
from functools import cached_property

from .answer_grammar import WHOLE, AnswerGrammar, AnswerState, end_tail, step_tail

_X, _SPACE = b"x "
_BACKSLASH = b"\\"
_CONTINUING = bytes(range(0x80, 0xC0))

# Lists by vocabulary size, because tokens may be added later.
_KNOWN = weakref.WeakKeyDictionary()


def token_bytes(tokenizer) -> list[bytes | None]:
    """Return the decoded bytes of every token by id; `None` for special tokens and unused ids.

    Supports byte-level BPE (GPT-2, Qwen2, Llama 3) and SentencePiece with `▁` for spaces. The latter drops the first
    space of a text, see [`drops_first_space`].

    Raises:
        ValueError: the tokenizer is slow, or of another kind.
    """
    known = _KNOWN.setdefault(tokenizer, {})
    if len(tokenizer) not in known:
        known[len(tokenizer)] = _spell_vocabulary(tokenizer)
    return known[len(tokenizer)]


def _spell_vocabulary(tokenizer) -> list[bytes | None]:
    decoder = _decoder(tokenizer)
    if '"ByteLevel"' not in decoder and "▁" not in decoder and '"Metaspace"' not in decoder:
        raise ValueError(f"tokenizer decodes by {decoder}; byte-level BPE and SentencePiece are understood.")
    to_bytes = _byte_level if '"ByteLevel"' in decoder else _sentencepiece
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids) | {index for index, token in added.items() if token.special}
    vocabulary = tokenizer.get_vocab()
    spelled = [None] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        if index not in special:
            spelled[index] = token.encode() if index in added else to_bytes(token)
    return spelled


def drops_first_space(tokenizer) -> bool:
    """Return whether decoding strips one leading space, as SentencePiece does."""
    return '"ByteLevel"' not in _decoder(tokenizer)


def _decoder(tokenizer) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        raise ValueError(f"tokenizer is {type(tokenizer).__name__}, which is slow or has no decoder; load a fast one.")
    return json.dumps(json.loads(backend.decoder.__getstate__()), ensure_ascii=False)


def _byte_alphabet() -> dict[str, int]:
    # GPT-2's: printable bytes stand for themselves, the others for characters from U+0100 on, in order.
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes((int(token[3:5], 16),))
    return token.replace("▁", " ").encode()


class TokenTrie:
    """Tokens with a common prefix, by the bytes that follow.

    Branches are built only when visited: a grammar allows few of them, and building all for 150,000 tokens takes
    seconds.

    Args:
        items: `(id, bytes)` of tokens that agree in their first `depth` bytes.
    """

    def __init__(self, items, depth=0):
        self.ids = [index for index, spelled in items if len(spelled) == depth]
        self._items, self._depth = items, depth

    @cached_property
    def children(self) -> dict[int, "TokenTrie"]:
        """Subtries by the next byte."""
        depth, groups = self._depth, {}
        for item in self._items:
            if len(item[1]) > depth:
                groups.setdefault(item[1][depth], []).append(item)
        return {byte: TokenTrie(items, depth + 1) for byte, items in groups.items()}

    def after(self, byte: int) -> "TokenTrie":
        """Return the subtrie of a byte; an empty one if there is none."""
        return self.children.get(byte, _EMPTY)


_EMPTY = TokenTrie([])


class AnswerMasks:
    """Which tokens may follow a state of the grammar.

    Args:
        tokenizer: a fast byte-level BPE or SentencePiece tokenizer; for `ticks` with the time tokens.
        grammar: the answers that are allowed.
        eos: ids that end an answer; the first also pads finished answers.

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
        self._space_ids = self.trie.after(_SPACE).ids
        self.open_labels = self.spaced_labels = None
        if is_open:
            # Half of a vocabulary starts with a space, which precedes labels.
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
        """Return the state after one more token; `None` if it ends the answer or is not allowed."""
        if token in self.tick_of:
            return self.grammar.step_time(state, self.tick_of[token])
        spelled = self.bytes_of[token] if token < len(self.bytes_of) and token not in self.eos else None
        if not spelled:
            return None
        if is_first and self.drops_first_space:
            spelled = spelled.removeprefix(b" ")
        return self.grammar.walk(state, spelled)

    def allowed(self, state: AnswerState | None, is_first: bool = False) -> tuple[list[int], tuple | None]:
        """Return the ids of tokens that may follow, and for open labels the kind, whose ids are allowed as well.

        See [`AnswerMasks.ids_of_kind`] for the latter.

        Args:
            state: state of the answer, `None` if it is finished.
            is_first: whether nothing has been generated yet.
        """
        if state is None:
            return self.eos[:1], None
        grammar, kind = self.grammar, None
        ids = list(self.eos) if grammar.is_complete(state) else []
        if grammar.in_ticks and state.phase in ("onset", "offset"):
            low, high = grammar.time_range(state)
            ids += self.tick_ids[low : high + 1] if low <= high else []
        labels, label = self._open_label(state)
        if labels is not None:
            kind, others = labels.kind_of(label)
            is_spaced = labels is self.spaced_labels
            kind = (is_spaced, *kind)
            ids += others + (self._space_ids if is_spaced else [])
        else:
            ids += self._reachable(self.trie, state)
        if is_first and self.drops_first_space:
            ids += [*self._space_ids, *self._reachable(self.trie.after(_SPACE), state)]
        return ids, kind

    def ids_of_kind(self, kind: tuple) -> array:
        """Return the ids that all states of a kind allow, nearly the whole vocabulary."""
        is_spaced, *kind = kind
        return (self.spaced_labels if is_spaced else self.open_labels).ids_of(tuple(kind))

    def _open_label(self, state) -> "tuple[OpenLabels | None, AnswerState]":
        """Return the tokens of open labels and the state within the label, if one continues or starts here."""
        grammar, labels = self.grammar, self.open_labels
        if labels is not None and state.phase == "literal" and (state.text, state.then) == (b" ", "label"):
            labels, state = self.spaced_labels, grammar.step(state, _SPACE)
        is_label = labels is not None and state.phase == "label"
        goes_on = is_label and grammar.step(state._replace(tail=WHOLE), _X) is not None
        return labels if goes_on else None, state

    def _reachable(self, trie, state) -> list[int]:
        """Return the ids of a trie's tokens that may follow."""
        ids, stack = [], [(trie, state)]
        while stack:
            trie, before = stack.pop()
            for byte, longer in trie.children.items():
                after = self.grammar.step(before, byte)
                if after is not None:
                    ids += longer.ids
                    stack.append((longer, after))
        return ids

    def _can_finish(self, tail) -> bool:
        return all(self.trie.after(byte).ids for byte in end_tail(tail))


class OpenLabels:
    """Which tokens continue an open-vocabulary label, and which end it.

    Nearly every token can continue such a label. Which ones depends on the tail and on the possible next times, but
    hardly ever on the text of the label; so they are computed once for each *kind* of state, `(tail, endings)`, rather
    than for each state.

    Args:
        grammar: a grammar with open labels.
        plain: `(id, bytes)` of text tokens.
        can_finish: function from a tail to whether the vocabulary can complete it.
    """

    def __init__(self, grammar: AnswerGrammar, plain, can_finish):
        self.grammar, self.can_finish = grammar, can_finish
        self.end = end = b":" if grammar.task == "detection" else b";"
        # An escape is a backslash and one more byte.
        split = re.compile(rb"(?s)((?:[^\\%s]|\\.)*\\?)(%s.*)?" % (end, end))
        begins_time = re.compile(rb"(?s). ?\Z|. [0-9]")
        # `{ending: {bytes before it: ids}}`; an ending is, for example, `: `.
        self.inner, self.ending, self.endings = [], [], {}
        for index, spelled in plain:
            before, ending = split.fullmatch(spelled).groups()
            if ending is None:
                self.inner.append((index, spelled))
            elif begins_time.match(ending):
                self.endings.setdefault(ending, {}).setdefault(before, []).append(index)
            if end in spelled:
                self.ending.append((index, spelled))
        self._inner_ids, self._endings_after = {}, {}

    def kind_of(self, state: AnswerState) -> tuple[tuple, list[int]]:
        """Return the kind of a state whose label can continue, and the ids that it allows beyond those of the kind."""
        if state.tail == _BACKSLASH:
            # After a backslash, what would end a label is escaped, and vice versa.
            walked = ((index, self.grammar.walk(state, spelled)) for index, spelled in self.ending)
            return (state.tail, ()), [index for index, after in walked if after is not None]
        # Continuations that would repeat an earlier label.
        rests = {name[len(state.text) :] for name, _ in state.past if name.startswith(state.text)}
        fresh = state._replace(text=b"-" * (1 + max((len(name) for name, _ in state.past), default=0)), tail=WHOLE)
        endings, others = [], []
        for ending, ids_by_rest in self._after(state.tail).items():
            may_end = self.grammar.walk(fresh, ending) is not None
            met = rests & ids_by_rest.keys()
            if may_end and not met:
                endings.append(ending)
            elif may_end:
                others += [index for rest, ids in ids_by_rest.items() if rest not in met for index in ids]
            for rest in met:
                if self.grammar.walk(state, rest + ending) is not None:
                    others += ids_by_rest[rest]
        return (state.tail, tuple(endings)), others

    def ids_of(self, kind: tuple) -> array:
        """Return the ids that all states of a kind allow, as C integers because there are so many."""
        tail = kind[0]
        if tail not in self._inner_ids:
            self._inner_ids[tail] = array("i", self._inside(tail))
        endings = (ids for ending in kind[1] for ids in self._after(tail)[ending].values())
        return self._inner_ids[tail] + array("i", itertools.chain.from_iterable(endings))

    def _after(self, tail) -> dict[bytes, dict[bytes, list[int]]]:
        """Return those `endings` that complete the last character and then end the label."""
        if tail not in self._endings_after:
            self._endings_after[tail] = {
                ending: kept
                for ending, ids_by_rest in self.endings.items()
                if (kept := {rest: ids for rest, ids in ids_by_rest.items() if _step_all(tail, rest) == WHOLE})
            }
        return self._endings_after[tail]

    def _inside(self, tail):
        """Yield the ids that stay within a label with this tail."""
        if tail == _BACKSLASH:
            # `kind_of` handles tokens that contain the end of a label.
            walked = ((i, _step_all(tail, spelled)) for i, spelled in self.inner if self.end not in spelled)
            yield from (index for index, after in walked if after is not None and self.can_finish(after))
            return
        for rest, (bare_ids, ids, spaced_ids) in self._by_rest_of_character.items():
            after = _step_all(tail, rest)
            if after == WHOLE:
                yield from (*bare_ids, *ids, *spaced_ids)
            elif after in (b"", b" "):
                # A label has no leading space and no two spaces in a row.
                yield from ids
            elif after is not None and self.can_finish(after):
                yield from bare_ids

    @cached_property
    def _by_rest_of_character(self) -> dict[bytes, tuple[list[int], list[int], list[int]]]:
        """Ids that stay within a label, by the leading bytes that complete a character of the previous token.

        For each of these: the tokens that consist of nothing else, those followed by a character other than a space,
        and those followed by a space. So one pass over the vocabulary serves all characters that tokens may cut.
        """
        found = {}
        for index, spelled in self.inner:
            rest = spelled[: len(spelled) - len(spelled.lstrip(_CONTINUING))]
            follows = spelled[len(rest) :]
            after = _step_all(WHOLE, follows)
            if after is not None and self.can_finish(after):
                place = 0 if not follows else 1 + (follows[:1] == b" ")
                found.setdefault(rest, ([], [], []))[place].append(index)
        return found


def _step_all(tail, spelled) -> bytes | None:
    for byte in spelled:
        tail = step_tail(tail, byte)
        if tail is None:
            break
    return tail
