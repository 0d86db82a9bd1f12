"""Inputs of the pipeline: one or several recordings with their queries; and batches of their windows."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch


def is_one_recording(inputs: Any) -> bool:
    """Return whether inputs are one recording; also true for unknown types, which are refused later."""
    is_several = isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")
    # An AudioDecoder of `datasets` has __getitem__.
    is_several = is_several and not hasattr(inputs, "get_all_samples")
    is_one = isinstance(inputs, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, torch.Tensor, Mapping))
    return is_one or hasattr(inputs, "read") or not is_several


def pair_with_queries(inputs: Iterable, query: Any) -> Iterator[tuple[Any, Any, str]]:
    """Return each recording with its query and its name."""
    is_one = query is None or isinstance(query, str)
    if not is_one and hasattr(inputs, "__len__") and hasattr(query, "__len__") and len(query) != len(inputs):
        raise ValueError(f"query has {len(query)} entries for {len(inputs)} recordings; give one for each.")
    if not isinstance(inputs, Iterable) and hasattr(inputs, "__len__"):
        # A torch data set, such as `KeyDataset`, need not raise IndexError at its end.
        inputs = map(inputs.__getitem__, range(len(inputs)))
    pairs = zip(inputs, itertools.repeat(query)) if is_one else zip(inputs, query, strict=True)
    return ((source, asked, name_of(source, f"inputs[{index}]")) for index, (source, asked) in enumerate(pairs))


def name_of(source: Any, otherwise: str = "recording") -> str:
    """Return the name of a recording for messages: its path, if it has one."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else otherwise


def batch_windows(pieces: Iterable[tuple], batch_size: int) -> Iterator[list[tuple]]:
    """Yield lists of windows with at most `batch_size` questions, but at least one window."""
    batch, size = [], 0
    try:
        for piece in pieces:
            num_questions = len(piece[0].queries)
            if batch and size + num_questions > batch_size:
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += num_questions
            if size >= batch_size:
                yield batch
                batch, size = [], 0
    except (ImportError, OSError, ValueError):
        # Recordings before an unreadable one still get their answers.
        if batch:
            yield batch
        raise
    if batch:
        yield batch
