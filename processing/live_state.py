"""What a live stream remembers: `LiveState`, all that it goes on from, and `LiveReport`, what was told of its events.

The state can be saved and restored. Events are told once while they go on, and once when they have ended.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .events import Event

VERSION = 1
# Seconds. What an answer says up to here before the end of its sound goes on, for all that is known.
SETTLED_S = 0.2
# Seconds that an event which goes on must have lasted before it is told.
SHORTEST_OPEN_S = 0.4
# Intersection over union with what an event that goes on was told to be; with less, it is another one.
LEAST_AGREEMENT = 0.25


@dataclass
class LiveState:
    """Hold a live stream between two chunks. Its size does not grow: some 15 s of sound, and what was made of it.

    Args:
        settings: what the stream was opened with; a state goes on in a stream of equal settings alone.
        samples: `(num_samples,)` float32, the last sound, at the model's rate.
        start: position of the first of them in the stream, in samples.
        heard: position up to which the stream was looked at, in samples.
        raw: `(num_samples,)` float32, the last sound at the rate that comes in, where that is resampled.
        raw_start: position of the first of these.
        index: number of the window that is filling.
        texts: the last answer about that window, one for each query; none before the first.
        stem: tensors of its [`StreamingStem`], by name.
        mergers: for each query the state of its [`EventMerger`].
        reported: events that were reported and may still be told again, as dicts.
        num_reported: how many events were reported in all.
        credit: looks that may be taken at once.
        is_sounding: whether something has begun since the last look, or went on then.
        is_pending: whether the next hop is looked at in any case.
    """

    settings: dict[str, Any]
    samples: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    start: int = 0
    heard: int = 0
    raw: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    raw_start: int = 0
    index: int = 0
    texts: list[str] = field(default_factory=list)
    stem: dict[str, torch.Tensor] = field(default_factory=dict)
    mergers: list[dict] = field(default_factory=list)
    reported: list[dict] = field(default_factory=list)
    num_reported: int = 0
    credit: float = 0.0
    is_sounding: bool = False
    is_pending: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and JSON values by name, `version` among them; tensors of the stem are called `stem.NAME`."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        stem = {f"stem.{name}": tensor for name, tensor in values.pop("stem").items()}
        return {"version": VERSION, **values, **stem}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "LiveState":
        """Return the state that [`LiveState.state_dict`] told of.

        Raises:
            ValueError: another version, names that are missing or unknown, or values of another type.
        """
        values = dict(state)
        if (version := values.pop("version", None)) != VERSION:
            raise ValueError(f"state has version {version!r}, but this code reads {VERSION}; start the stream again.")
        stem = {name.removeprefix("stem."): values.pop(name) for name in list(values) if name.startswith("stem.")}
        expected = {part.name: part for part in fields(cls) if part.name != "stem"}
        if values.keys() != expected.keys():
            missing, unknown = sorted(expected.keys() - values.keys()), sorted(values.keys() - expected.keys())
            raise ValueError(f"state has wrong names: missing {missing}, unknown {unknown}; give what state_dict gave.")
        blank = cls({})
        for name, value in values.items():
            kind = type(getattr(blank, name))
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise ValueError(f"state has {name} {value!r}; give a {kind.__name__}, as state_dict did.")
        return cls(**values, stem=stem)

    def save(self, path: str | os.PathLike) -> None:
        """Write the state to one safetensors file, whose header holds the rest as JSON."""
        state = self.state_dict()
        tensors = {name: value.contiguous() for name, value in state.items() if isinstance(value, torch.Tensor)}
        rest = {name: value for name, value in state.items() if name not in tensors}
        save_file(tensors, path, {"timepro_live": json.dumps(rest, allow_nan=False)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LiveState":
        """Read what [`LiveState.save`] wrote.

        Raises:
            ValueError: the file is no state of a live stream, or see [`LiveState.from_state_dict`].
            OSError: the file cannot be opened.
        """
        with safe_open(path, "pt") as file:
            rest = (file.metadata() or {}).get("timepro_live")
            if rest is None:
                raise ValueError(f"path is {os.fspath(path)!r}, a safetensors file without the state of a live stream.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return cls.from_state_dict(json.loads(rest) | tensors)


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
