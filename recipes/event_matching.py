"""One-to-one matching of reference and predicted events within collars: the largest one, not a greedy one.

Everything is done on Python floats: clips have few events, for which arrays are slower, and float64 comparisons decide
at the edge of a collar exactly as `sed_eval` 0.2.1 does (`EventBasedMetrics` with `event_matching_type="optimal"`).
"""

from bisect import bisect_left, bisect_right
from operator import itemgetter

# From this many events of one label in a clip, sorting them beats looking at all of them.
_MANY = 16


def match_events(
    reference, prediction, t_collar=0.2, percentage_of_length=0.2, time_only=False
) -> list[tuple[int, int]]:
    """Pair the events of one clip one to one, as many as can be.

    A pair has the same label, onsets at most `t_collar` apart, and offsets at most
    `max(t_collar, percentage_of_length * reference length)` apart; all bounds belong to the collar (`sed_eval` 0.2.1,
    `EventBasedMetrics.validate_onset`, `validate_offset`). Labels are compared as they are, see
    [`~recipes.scoring.apply_aliases`].

    Args:
        t_collar: tolerance in seconds.
        percentage_of_length: tolerance of offsets as a fraction of the reference event's length, 0 to 1.
        time_only: let events with different labels match.

    Returns:
        Indices `(of reference, of prediction)`, sorted.

    Raises:
        ValueError: a tolerance out of its range.
    """
    check_collars(t_collar, percentage_of_length)
    return match_spans(spans_of(reference, time_only), spans_of(prediction, time_only), t_collar, percentage_of_length)


def count_matches(references, predictions, t_collar=0.2, percentage_of_length=0.2) -> int:
    """Return how many events of one label and clip match, see [`match_events`].

    Args:
        references: `(num_references, 2)` onsets and offsets in seconds, lists or an array.
        predictions: `(num_predictions, 2)`.
    """
    spans = [[("", float(onset), float(offset)) for onset, offset in side] for side in (references, predictions)]
    return len(match_spans(*spans, t_collar, percentage_of_length))


def spans_of(events, time_only=False) -> list[tuple[str, float, float]]:
    """Return `(label, onset, offset)` of events, all with the label "" if `time_only`."""
    if time_only:
        return [("", event.onset, event.offset) for event in events]
    return [(event.event_label, event.onset, event.offset) for event in events]


def match_spans(reference, prediction, t_collar, percentage_of_length) -> list[tuple[int, int]]:
    """Match what [`spans_of`] returns; see [`match_events`] for the rest."""
    graph = {}
    for i, candidates in _within_collars(reference, prediction, t_collar, percentage_of_length):
        for j in candidates:
            if j in graph:
                graph[j].append(i)
            else:
                graph[j] = [i]
    return sorted(_maximum_matching(graph).items())


def count_substitutions(reference, prediction, pairs, t_collar, percentage_of_length) -> int:
    """Return how many events that `pairs` leaves over agree in time with a left-over event of another label.

    As in `sed_eval`, each left-over reference takes the first free prediction, in the order given. So this number, and
    what is left as deletions and insertions, may change by a few with the order of events; matches never do.
    """
    if len(pairs) in (len(reference), len(prediction)):
        return 0
    matched = set(map(itemgetter(0), pairs)), set(map(itemgetter(1), pairs))
    reference, prediction = (
        [("", onset, offset) for k, (_, onset, offset) in enumerate(side) if k not in done]
        for side, done in zip((reference, prediction), matched, strict=True)
    )
    taken = set()
    for _, candidates in _within_collars(reference, prediction, t_collar, percentage_of_length):
        first = next((j for j in candidates if j not in taken), None)
        if first is not None:
            taken.add(first)
    return len(taken)


def check_collars(t_collar, percentage_of_length):
    """Raise `ValueError` for a tolerance out of its range."""
    if not t_collar >= 0:
        raise ValueError(f"t_collar is {t_collar}; give seconds, 0 or more.")
    if not 0 <= percentage_of_length <= 1:
        raise ValueError(f"percentage_of_length is {percentage_of_length}; give a fraction from 0 to 1.")


def _within_collars(reference, prediction, t_collar, percentage_of_length):
    """Yield `(i, [j, ...])`: the predictions of the same label in reach of each reference that has any, ascending."""
    groups = {}
    for j, (label, onset, offset) in enumerate(prediction):
        if label in groups:
            groups[label].append((onset, offset, j))
        else:
            groups[label] = [(onset, offset, j)]
    for group in groups.values():
        if len(group) > _MANY:
            group.sort()
    for i, (label, onset, offset) in enumerate(reference):
        group = groups.get(label)
        if group is None:
            continue
        collar = max(t_collar, percentage_of_length * (offset - onset))
        if len(group) > _MANY:
            group = _near(group, onset, t_collar)
        found = [j for start, end, j in group if abs(onset - start) <= t_collar and abs(offset - end) <= collar]
        if found:
            yield i, found


def _near(group, onset, t_collar):
    """Return the events of a sorted group whose onsets may be in reach, in the order of their indices.

    Rounding a difference keeps its order, so the same subtraction as in the comparison cuts exactly one slice.
    """
    first = bisect_left(group, -t_collar, key=lambda event: event[0] - onset)
    last = bisect_right(group, t_collar, lo=first, key=lambda event: event[0] - onset)
    return sorted(group[first:last], key=itemgetter(2))


def _maximum_matching(graph) -> dict[int, int]:
    """Return the largest matching `{i: j}` of a bipartite graph `{j: [i, ...]}` (Hopcroft and Karp 1973).

    There may be several; this visits the graph in the order of D. Eppstein's program (2002), which `sed_eval` took from
    `mir_eval`, and finds the same one, for the substitutions depend on it. It keeps its own stack, so that a chain of
    thousands of events cannot exceed Python's.
    """
    matching = {}
    for j, neighbors in graph.items():
        for i in neighbors:
            if i not in matching:
                matching[i] = j
                break
    # Nearly always everything is matched by now.
    while len(matching) < len(graph):
        before_i, before_j, ends = _layers(graph, matching)
        if not ends:
            break
        for end in ends:
            _augment(matching, before_i, before_j, end)
    return matching


def _layers(graph, matching):
    """Search breadth first from the free j until the first layer with free i.

    Returns:
        `{i: [j, ...]}` and `{j: i}`, the neighbors in the layer before (`None` where a path starts), and the free i.
    """
    matched = set(matching.values())
    before_j = {j: None for j in graph if j not in matched}
    before_i, ends = {}, []
    layer = list(before_j)
    while layer and not ends:
        new = {}
        for j in layer:
            for i in graph[j]:
                if i not in before_i:
                    new.setdefault(i, []).append(j)
        before_i.update(new)
        layer = [matching[i] for i in new if i in matching]
        before_j.update((matching[i], i) for i in new if i in matching)
        ends = [i for i in new if i not in matching]
    return before_i, before_j, ends


def _augment(matching, before_i, before_j, end):
    """Search depth first from a free i back to a free j, over what no other path has used, and match along the path."""
    stack, path = [(end, iter(before_i.pop(end, ())))], []
    while stack:
        i, neighbors = stack[-1]
        j = next((j for j in neighbors if j in before_j), None)
        if j is None:
            stack.pop()
            if path:
                path.pop()
            continue
        path.append((i, j))
        previous = before_j.pop(j)
        if previous is None:
            matching.update(path)
            return
        stack.append((previous, iter(before_i.pop(previous, ()))))


__all__ = ["check_collars", "count_matches", "count_substitutions", "match_events", "match_spans", "spans_of"]
