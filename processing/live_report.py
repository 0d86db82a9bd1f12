"""Which events of a live stream are told, and when: once while they go on, and once when they have ended."""

from collections.abc import Iterable

from .events import Event

# Seconds. What an answer says up to here before the end of its sound goes on, for all that is known.
SETTLED_S = 0.2
# Seconds that an event which goes on must have lasted before it is told.
SHORTEST_OPEN_S = 0.4
# Intersection over union with what an event that goes on was told to be; with less, it is another one.
LEAST_AGREEMENT = 0.25


class LiveReport:
    """Turn what a stream's answers say so far into reports that are never taken back once an event was closed.

    A report is `{"state", "id", "onset", "offset", "event_label", "score", "heard"}`, times in seconds; `heard` is how
    much of the stream was known. `state` is

    - `open`: the event goes on; `offset` is `None`;
    - `closed`: it has ended; this is the last report of its `id`;
    - `withdrawn`: an open event that answers no longer name.

    Args:
        reported: reports that later answers may name again; kept, and changed in place.
        num_reported: how many events were reported before.
    """

    def __init__(self, reported: list[dict], num_reported: int = 0):
        self.reported, self.num_reported = reported, num_reported

    def update(self, events: Iterable[Event], heard: float, is_last: bool = False) -> list[dict]:
        """Return the reports that are due.

        Args:
            events: of one query; all that may still change, and those that were finished since the last update.
            heard: seconds of the stream that they are about.
            is_last: nothing follows: all events end.
        """
        events, reports = sorted(events), []
        partners = self._pair(events)
        for index, event in enumerate(events):
            known = partners.get(index)
            if known is not None and known["state"] == "closed":
                continue
            goes_on = not is_last and event.offset > heard - SETTLED_S
            if known is None:
                if goes_on and heard - event.onset < SHORTEST_OPEN_S:
                    continue
                known = {"state": None, "id": self.num_reported}
                self.num_reported += 1
                self.reported.append(known)
            elif goes_on:
                continue
            known |= {"state": "open" if goes_on else "closed", **event.as_dict(), "heard": heard}
            if goes_on:
                known["offset"] = None
            reports.append(dict(known))
        named = {report["id"] for report in (*partners.values(), *reports)}
        for known in [one for one in self.reported if one["state"] == "open" and one["id"] not in named]:
            self.reported.remove(known)
            reports.append(known | {"state": "withdrawn", "heard": heard})
        return reports

    def forget(self, before: float):
        """Forget closed events that no answer can name any more: those that ended before a time, in seconds."""
        self.reported[:] = [one for one in self.reported if one["state"] == "open" or one["offset"] >= before]

    def _pair(self, events: list[Event]) -> dict[int, dict]:
        """Return which reported event each event is, by index.

        It is one of its label whose middle it holds, or that holds its middle, those that agree best first. A closed
        event may be named by several, an open one, whose end is not known, by one that agrees well.
        """
        ranked, partners, taken = [], {}, set()
        for index, event in enumerate(events):
            for place, known in enumerate(self.reported):
                if known["event_label"] != event.event_label:
                    continue
                is_open = known["state"] == "open"
                onset, offset = known["onset"], event.offset if is_open else known["offset"]
                holds = onset <= (event.onset + event.offset) / 2 <= offset
                if holds or event.onset <= (onset + offset) / 2 <= event.offset:
                    union = max(offset, event.offset) - min(onset, event.onset)
                    agreement = (min(offset, event.offset) - max(onset, event.onset)) / union if union else 1.0
                    if not is_open or agreement >= LEAST_AGREEMENT:
                        ranked.append((-agreement, index, place))
        for _, index, place in sorted(ranked):
            known = self.reported[place]
            if index not in partners and (known["state"] == "closed" or place not in taken):
                partners[index] = known
                taken.add(place)
        return partners


__all__ = ["LiveReport"]
