"""Maximum (not greedy) one-to-one matching of reference and predicted events within collars.

Plain Python, because clips have few events, for which arrays are slower. With a tolerance of 0, float64 comparisons at
the edge of a collar give the same result as `sed_eval` 0.2.1 (`EventBasedMetrics` with
`event_matching_type="optimal"`).
"""

from bisect import bisect_left, bisect_right
from operator import itemgetter

# Seconds. Decimal times are rarely binary fractions: 3.0 - 2.8 is more than 0.2, 1.2 - 1.0 is less. A microsecond, to
# which sed_scores_eval rounds distances, is far above such errors and below any sample period.
TIME_TOLERANCE = 1e-6

# From this many predicted events on, sorting them beats comparing all of them with every reference.
_MANY = 32
# Most pairs within the collars of one clip, about 1 GB.
_MAX_PAIRS = 10_000_000


def match_events(
    reference, prediction, t_collar=0.2, percentage_of_length=0.2, time_only=False, tolerance=TIME_TOLERANCE
) -> list[tuple[int, int]]:
    """Pair the events of one clip one to one, as many as possible.

    A pair has the same label, onsets at most `t_collar` apart, and offsets at most
    `max(t_collar, percentage_of_length * reference length)` apart, bounds included (`sed_eval` 0.2.1,
    `EventBasedMetrics.validate_onset`, `validate_offset`). `sed_eval` also takes the label "none" for no label.

    Args:
        t_collar: in seconds.
        percentage_of_length: collar of offsets as a fraction of the reference event's length, 0 to 1.
        time_only: let events with different labels match.
        tolerance: seconds added to every collar, so that a distance of 0.2 s is always within 0.2 s. 0 leaves the
            decision to float64 arithmetic, as `sed_eval` does.

    Returns:
        Indices `(of reference, of prediction)`, sorted.

    Raises:
        ValueError: a collar out of range, or so many simultaneous events that their pairs do not fit in memory.
    """
    check_collars(t_collar, percentage_of_length)
    prediction = prediction or ()
    edges = pairs_in_reach(reference, prediction, t_collar, percentage_of_length, tolerance)
    if not time_only:
        edges = same_label(reference, prediction, edges)
    return sorted(maximum_matching(edges).items())


def count_matched_spans(references, predictions, t_collar=0.2, percentage_of_length=0.2) -> int:
    """Return the number of matches between events of one label and clip, see [`match_events`].

    Args:
        references: `(num_references, 2)` onsets and offsets in seconds, an array or pairs.
        predictions: `(num_predictions, 2)`.
    """
    indexed = [(onset, offset, j) for j, (onset, offset) in enumerate(predictions)]
    return len(maximum_matching(_edges(references, indexed, t_collar, percentage_of_length, TIME_TOLERANCE)))


def pairs_in_reach(reference, prediction, t_collar, percentage_of_length, tolerance) -> list[tuple[int, int]]:
    """Return all pairs `(of reference, of prediction)` within the collars, sorted, regardless of labels."""
    spans = [(event.onset, event.offset) for event in reference]
    indexed = [(event.onset, event.offset, j) for j, event in enumerate(prediction)]
    return _edges(spans, indexed, t_collar, percentage_of_length, tolerance)


def same_label(reference, prediction, edges) -> list[tuple[int, int]]:
    """Return the pairs whose labels agree."""
    return [(i, j) for i, j in edges if reference[i].event_label == prediction[j].event_label]


def count_substitutions(edges, matching) -> int:
    """Return how many unmatched reference events agree in time with an unmatched prediction of another label.

    As in `sed_eval`, each unmatched reference takes the first free prediction, in the given order. Therefore this
    number, and those of deletions and insertions, may vary slightly with the order of events; matches do not.

    Args:
        edges: [`pairs_in_reach`].
        matching: the matching among them, `{i: j}`.
    """
    if len(edges) == len(matching):
        return 0
    done, taken = set(matching), set(matching.values())
    for i, j in edges:
        if i not in done and j not in taken:
            done.add(i)
            taken.add(j)
    return len(done) - len(matching)


def check_collars(t_collar, percentage_of_length):
    """Raise `ValueError` for a collar out of range."""
    if not t_collar >= 0:
        raise ValueError(f"t_collar is {t_collar}; give seconds, 0 or more.")
    if not 0 <= percentage_of_length <= 1:
        raise ValueError(f"percentage_of_length is {percentage_of_length}; give a fraction from 0 to 1.")


def maximum_matching(edges) -> dict[int, int]:
    """Return a maximum matching `{i: j}` of a bipartite graph with sorted edges `(i, j)` (Hopcroft and Karp 1973).

    There may be several, and substitutions depend on the choice: this one visits the graph in the order of D.
    Eppstein's program (2002), as `mir_eval` and `sed_eval` do. It is not recursive, so chains of thousands of events do
    not exceed Python's stack.
    """
    matching = dict(edges)
    if len(edges) == len(matching) == len(set(matching.values())):
        return matching  # every event has one candidate, the usual case
    graph = {}
    for i, j in edges:
        graph.setdefault(j, []).append(i)
    num_references = len(matching)
    matching = {}
    for j, neighbors in graph.items():
        for i in neighbors:
            if i not in matching:
                matching[i] = j
                break
    while len(matching) < min(len(graph), num_references):
        before_i, before_j, ends = _layers(graph, matching)
        if not ends:
            break
        for end in ends:
            _augment(matching, before_i, before_j, end)
    return matching


def _layers(graph, matching):
    """Search breadth-first from the free j to the first layer with free i.

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
    """Search depth-first from a free i back to a free j over unused nodes, and match along the path."""
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


def _edges(references, indexed, t_collar, percentage_of_length, tolerance) -> list[tuple[int, int]]:
    """Return [`pairs_in_reach`] of `(onset, offset)` and `(onset, offset, j)`."""
    t_collar += tolerance
    edges = []
    are_many = len(indexed) > _MANY
    if are_many:
        indexed.sort()
    near = indexed
    for i, (onset, offset) in enumerate(references):
        if are_many:
            near = _near(indexed, onset, t_collar)
            if len(edges) > _MAX_PAIRS:
                raise ValueError(
                    f"a clip has {len(indexed)} predicted events, so dense that over {_MAX_PAIRS} pairs with reference "
                    f"events are within t_collar={t_collar}; drop duplicates or make t_collar smaller."
                )
        for start, end, j in near:
            if -t_collar <= start - onset <= t_collar and abs(offset - end) <= max(
                t_collar, percentage_of_length * (offset - onset) + tolerance
            ):
                edges.append((i, j))
    return edges


def _near(indexed, onset, t_collar):
    """Return the events whose onsets are in reach, by index, from a list sorted by onset.

    Rounding preserves the order of differences, so the same subtraction as in the comparison selects exactly one slice.
    """
    first = bisect_left(indexed, -t_collar, key=lambda event: event[0] - onset)
    last = bisect_right(indexed, t_collar, lo=first, key=lambda event: event[0] - onset)
    return sorted(indexed[first:last], key=itemgetter(2))
