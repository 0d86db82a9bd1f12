"""Which tokens go on with a label of no given set, and which end it. No tensors here.

In such a label nearly every token of a vocabulary goes on. What may follow hangs on what the last character has so far,
on the next times that are possible, and hardly ever on what the label says; so it is worked out once for each *kind* of
state, `(tail, endings)`, instead of once for each state.
"""

import re
from array import array
from functools import cached_property

from .answer_grammar import AnswerGrammar, AnswerState
from .answer_text import unescape_label
from .label_characters import WHOLE, step_tail

_BACKSLASH = b"\\"
_CONTINUING = bytes(range(0x80, 0xC0))


class OpenLabels:
    """Know the tokens of a vocabulary by what they do in an open label.

    Args:
        grammar: answers with open labels.
        plain: `(id, bytes)` of the tokens that are text.
        can_finish: whether the last character can be made whole, from what it has so far.
    """

    def __init__(self, grammar: AnswerGrammar, plain, can_finish):
        self.grammar, self.can_finish = grammar, can_finish
        end = b":" if grammar.task == "detection" else b";"
        begins_time = re.compile(rb"(?s) ?\Z| [0-9]")
        self.inner, self.escaping, self.ending = [], [], []
        # `{ending: {bytes before it: ids}}`, where an ending is `: ` say.
        self.endings = {}
        for index, spelled in plain:
            before, found, behind = spelled.partition(end)
            if not found:
                self.inner.append((index, spelled))
                continue
            self.ending.append((index, spelled))
            if _BACKSLASH in spelled:
                self.escaping.append((index, spelled))
            elif begins_time.match(behind):
                self.endings.setdefault(found + behind, {}).setdefault(before, []).append(index)
        self._inner_ids, self._endings_after = {}, {}

    def kind_of(self, state: AnswerState, fits) -> tuple[tuple, list[int]]:
        """Return the kind of a state within an open label, and the ids that it allows beyond those of its kind.

        Args:
            state: its label can go on.
            fits: whether a state that follows leaves room to end the answer.
        """
        if state.tail[:1] == _BACKSLASH:
            # What ends a label may be escaped here.
            return (state.tail, ()), self._follow(state, self.ending, fits)
        others = self._follow(state, self.escaping, fits)
        known = self._known_rests(state)
        name_length = 1 + max((len(name.encode()) for name, _ in state.past), default=0)
        # The completions of other states name labels of `x`, so a label of `-` is as good as any new one.
        fresh = state._replace(text=b"-" * name_length, tail=WHOLE)
        endings = []
        for ending, ids_by_rest in self._after(state.tail).items():
            after = self.grammar.walk(fresh, ending)
            may_end = after is not None and fits(after)
            met = known & ids_by_rest.keys()
            if may_end and not met:
                endings.append(ending)
            elif may_end:
                others += [index for rest, ids in ids_by_rest.items() if rest not in met for index in ids]
            for rest in met:
                after = self.grammar.walk(state, rest + ending)
                if after is not None and fits(after):
                    others += ids_by_rest[rest]
        return (state.tail, tuple(endings)), others

    def ids_of(self, kind: tuple) -> array:
        """Return the ids that all states of a kind allow, as C integers: there may be as many as tokens."""
        tail = kind[0]
        if tail not in self._inner_ids:
            self._inner_ids[tail] = array("i", self._inside(tail))
        return self._inner_ids[tail] + array("i", self.ids_that_end(kind))

    def ids_that_end(self, kind: tuple) -> list[int]:
        """Return of the ids of a kind those that end the label."""
        after = self._after(kind[0])
        return [index for ending in kind[1] for ids in after[ending].values() for index in ids]

    def _after(self, tail) -> dict[bytes, dict[bytes, list[int]]]:
        """Return of `endings` what makes the last character whole, and then ends the label."""
        if tail not in self._endings_after:
            self._endings_after[tail] = {
                ending: kept
                for ending, ids_by_rest in self.endings.items()
                if (kept := {rest: ids for rest, ids in ids_by_rest.items() if _step_all(tail, rest) == WHOLE})
            }
        return self._endings_after[tail]

    def _known_rests(self, state) -> set[bytes]:
        """Return the bytes that would make the label one there has been, escapes left out."""
        cut = len(state.tail) if state.tail[:1] >= b"\x80" else 0
        whole = unescape_label(state.text[: len(state.text) - cut].decode()).encode()
        said = whole + state.text[len(state.text) - cut :]
        names = (name.encode() for name, _ in state.past)
        return {name[len(said) :] for name in names if name.startswith(said)}

    def _follow(self, state, items, fits) -> list[int]:
        """Return the ids of `items` that may follow, each followed byte by byte."""
        walked = ((index, self.grammar.walk(state, spelled)) for index, spelled in items)
        return [index for index, after in walked if after is not None and fits(after)]

    def _inside(self, tail):
        """Yield the ids that stay within a label whose last character has `tail` so far."""
        if tail[:1] == _BACKSLASH:
            walked = ((index, _step_all(tail, spelled)) for index, spelled in self.inner)
            yield from (index for index, after in walked if after is not None and self.can_finish(after))
            return
        for rest, (bare_ids, ids, spaced_ids) in self._by_rest_of_character.items():
            after = _step_all(tail, rest)
            if after in (WHOLE, b" "):
                yield from (*bare_ids, *ids, *spaced_ids)
            elif after == b"":
                # A label starts with no space.
                yield from ids
            elif after is not None and self.can_finish(after):
                yield from bare_ids

    @cached_property
    def _by_rest_of_character(self) -> dict[bytes, tuple[list[int], list[int], list[int]]]:
        """What stays within a label, by the bytes that complete a character of the token before.

        For each, the ids of the tokens that are no more than that, and of those where another character than a space
        follows, or a space does. So one walk through a vocabulary does for all characters that a token may cut.
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


__all__ = ["OpenLabels"]
