"""`LiveState`: all that a stream of sound leaves behind, to be saved, restored and gone on from."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

VERSION = 1


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


__all__ = ["LiveState"]
