"""Read the variables of a TensorFlow SavedModel without TensorFlow.

A tensor bundle is a `.index` file, a LevelDB table whose values are BundleEntry protocol buffers, and a `.data` file of
raw little-endian tensors. Formats: tensorflow/core/protobuf/tensor_bundle.proto and LevelDB's doc/table_format.md.
"""

import struct
from collections.abc import Iterator

import numpy as np

FOOTER_LENGTH = 48
TABLE_MAGIC = 0xDB4775248B80FB57
# TensorFlow's DataType numbers of the types that can be read.
TENSORFLOW_DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<i4"), 9: np.dtype("<i8"), 10: np.dtype("?")}


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Decode a base-128 varint; return its value and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def proto_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of one protocol buffer message."""
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        wire_type = tag & 7
        if wire_type == 0:
            value, position = read_varint(data, position)
        elif wire_type in (1, 2, 5):
            length = {1: 8, 5: 4}.get(wire_type)
            if length is None:
                length, position = read_varint(data, position)
            value = data[position : position + length]
            position += length
        else:
            raise ValueError(f"Tensor bundle index: protocol buffer wire type {wire_type} is not supported.")
        yield tag >> 3, value


def table_block(index: bytes, handle: bytes) -> bytes:
    """Return the block of `index` to which an encoded LevelDB block handle points."""
    offset, position = read_varint(handle, 0)
    size, _ = read_varint(handle, position)
    if index[offset + size] != 0:
        raise ValueError("Tensor bundle index: compressed blocks are not supported.")
    return index[offset : offset + size]


def block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of a LevelDB block; keys share prefixes with the previous one."""
    (num_restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 - 4 * num_restarts
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        value_length, position = read_varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + value_length]
        position += value_length


def bundle_entry(value: bytes) -> dict[str, int | list[int]]:
    """Decode a BundleEntry into dtype, shape, shard, offset and size."""
    entry = {"dtype": 0, "shape": [], "shard": 0, "offset": 0, "size": 0}
    names = {1: "dtype", 3: "shard", 4: "offset", 5: "size"}
    for number, field in proto_fields(value):
        if number in names:
            entry[names[number]] = field
        elif number == 2:
            dims = [dict(proto_fields(dim)) for dim_number, dim in proto_fields(field) if dim_number == 2]
            entry["shape"] = [dim.get(1, 0) for dim in dims]
    return entry


def read_tensor_bundle(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Read all numeric tensors of a bundle of one shard.

    Args:
        index: content of the `.index` file.
        data: content of the `.data-00000-of-00001` file.

    Returns:
        tensors by their checkpoint key; entries of other types (strings) are skipped.

    Raises:
        ValueError: `index` is not a table, is compressed, or points outside `data`.
    """
    if len(index) < FOOTER_LENGTH or struct.unpack("<Q", index[-8:])[0] != TABLE_MAGIC:
        raise ValueError("Tensor bundle index: no LevelDB table footer found; is this the `.index` file?")
    footer = index[-FOOTER_LENGTH:]
    _, position = read_varint(footer, 0)
    _, position = read_varint(footer, position)
    tensors = {}
    for _, handle in block_entries(table_block(index, footer[position:])):
        for key, value in block_entries(table_block(index, handle)):
            entry = bundle_entry(value) if key else {"dtype": 0}
            dtype = TENSORFLOW_DTYPES.get(entry["dtype"])
            if dtype is None:
                continue
            raw = data[entry["offset"] : entry["offset"] + entry["size"]]
            expected = int(np.prod(entry["shape"], dtype=np.int64)) * dtype.itemsize
            if entry["shard"] != 0 or len(raw) != expected:
                raise ValueError(
                    f"Tensor {key.decode()}: expected {expected} bytes in shard 0, found {len(raw)} in shard "
                    f"{entry['shard']}; the data file is cut or has more shards."
                )
            tensors[key.decode()] = np.frombuffer(raw, dtype).reshape(entry["shape"])
    return tensors
