"""What may be annotated: folders, manifests, tars and data sets, here or at any address of fsspec.

A source yields a row for each recording: `id`, unique; `audio`, its name for training on the annotations; `place`, the
address of the file that holds it; `place_start` and `place_size`, where it lies in a tar (bytes), or `place_start`
alone, the row of a table; and `columns`, what else the source says about it. Nothing is decoded here.
"""

import functools
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple

from processing.text_files import AUDIO_SUFFIXES
from recipes.bulk.storage import filesystem, is_remote, join, list_names
from recipes.data.find_recordings import find_recordings

AUDIO_COLUMNS = ("audio_filepath", "audio")
MANIFEST_SUFFIXES = (".jsonl", ".json", ".ndjson")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
ROWS_READ = 1000


class Source(NamedTuple):
    """Hold a function that yields the rows of a source, again with every call, and the types of its columns.

    Types (`pyarrow.Schema`) are `None` where they show in the rows alone.
    """

    rows: Callable[[], Iterator[dict]]
    schema: object = None


def open_source(source: str, audio_dir: str | None = None, split: str = "train") -> Source:
    """Return the source that a path, an address, a quoted pattern or the id of a data set stands for.

    Args:
        source: a folder of recordings, of tars or of Parquet files; a manifest, JSON Lines or Parquet, whose column
            `audio_filepath` or `audio` names recordings; a tar, or a pattern of tars such as `s3://bucket/*.tar`; a
            data set that `datasets` saved, or its id on the Hub.
        audio_dir: what names in a manifest are relative to, by default the folder of the manifest.
        split: of a data set.

    Raises:
        FileNotFoundError: there is no such thing.
        ValueError: a folder of nothing, or of several kinds, or a file that is no source.
    """
    fs, path = filesystem(source)
    if re.search(r"[*?\[]", path) and not fs.exists(path):
        files = sorted(fs.glob(path))
        if not files:
            raise FileNotFoundError(f"SOURCE is {source!r}, a pattern that no file fits; check it.")
        folder = os.path.dirname(re.split(r"[*?\[]", source)[0])
        return _open_files(source, [_address(source, file) for file in files], audio_dir, folder)
    if fs.isfile(path):
        return _open_files(source, [source], audio_dir, os.path.dirname(source))
    if not fs.isdir(path):
        if not is_remote(source) and HUB_ID.fullmatch(source):
            return _data_set({"path": source, "split": split})
        raise FileNotFoundError(f"SOURCE is {source!r}, which is not there; give a folder, manifest, tar or data set.")
    if {"state.json", "dataset_info.json", "dataset_dict.json"} & list_names(source):
        return _data_set({"disk": source, "split": split})
    return _open_folder(source, fs, path, audio_dir)


def _open_folder(source, fs, path, audio_dir):
    files = sorted(fs.find(path))
    if is_remote(source):
        recordings, errors = [file for file in files if file.lower().endswith(AUDIO_SUFFIXES)], {}
    else:
        recordings, errors = find_recordings([path])
        if problems := {name: error for name, error in errors.items() if name != path}:
            raise ValueError("; ".join(f"{name} {error}" for name, error in problems.items()))
    kinds = {"recordings": recordings}
    for suffix in ("tar", "parquet"):
        kinds[f"{suffix} files"] = [file for file in files if file.endswith(f".{suffix}")]
    found = {kind: some for kind, some in kinds.items() if some}
    # A table beside recordings describes them.
    if len(found) != 1 and set(found) != {"recordings", "parquet files"}:
        listed = " and ".join(f"{len(some)} {kind}" for kind, some in found.items()) or "no recordings, tars or Parquet"
        raise ValueError(f"SOURCE is {source!r}, a folder of {listed}; give a folder of one kind.")
    if not recordings:
        return _open_files(source, [_address(source, file) for file in next(iter(found.values()))], audio_dir, source)

    def rows():
        for file in recordings:
            name = os.path.relpath(file, path)
            yield {"id": name, "audio": name, "place": _address(source, file), "columns": {}}

    return Source(rows, _no_columns())


def _address(source, path):
    return f"{source.partition('://')[0]}://{path}" if is_remote(source) else path


def _open_files(source, files, audio_dir, folder) -> Source:
    # Ids begin with names below the folder: files of one name may lie in several.
    name_of = functools.partial(os.path.relpath, start=folder or ".")
    suffixes = {".tar" if (name := file.lower()).endswith(".tar") else os.path.splitext(name)[1] for file in files}
    if suffixes == {".tar"}:
        return Source(lambda: (row for file in files for row in _tar_rows(file, name_of(file))))
    if len(suffixes) == 1 and suffixes <= {*MANIFEST_SUFFIXES}:
        return Source(lambda: (row for file in files for row in _json_rows(file, audio_dir)))
    if suffixes == {".parquet"}:
        return _tables({file: name_of(file) for file in files}, audio_dir)
    advice = "give a manifest (.jsonl, .parquet) or an uncompressed .tar; for a single recording use `timepro detect`"
    raise ValueError(f"SOURCE is {source!r} with files of type {', '.join(sorted(suffixes))}; {advice}.")


def _tar_rows(address, name) -> Iterator[dict]:
    """Yield a row for each recording of a tar; keys of a `.json` beside it, as WebDataset has them, are its columns."""
    fs, path = filesystem(address)
    with fs.open(path, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                # WebDataset calls a sample what precedes the first dot of the file's name.
                members = (member for member in tar if member.isfile())
                for _, sample in groupby(members, lambda member: re.match(r"(?:.*/)?[^/.]*", member.name)[0]):
                    yield from _sample_rows(tar, list(sample), address, name)
                # What tarfile takes for no header, it takes for the end.
                file.seek(tar.offset)
                if any(file.read(512)):
                    raise tarfile.ReadError(f"no header at byte {tar.offset}")
        except tarfile.TarError as error:
            raise ValueError(f"{address} is no tar that can be read ({error}); decompress or write it again.") from None


def _sample_rows(tar, members, address, name):
    columns = {}
    for member in members:
        if member.name.endswith(".json"):
            try:
                columns = json.loads(tar.extractfile(member).read())
            except ValueError as error:
                raise ValueError(f"{address}: {member.name} is not JSON ({error}).") from None
            if not isinstance(columns, dict):
                raise ValueError(f"{address}: {member.name} is {str(columns)[:60]!r}; give a JSON object.")
    for member in members:
        if member.name.lower().endswith(AUDIO_SUFFIXES):
            yield {"id": f"{name}/{member.name}", "audio": member.name, "place": address,
                   "place_start": member.offset_data, "place_size": member.size, "columns": columns}  # fmt: skip


def _json_rows(address, audio_dir) -> Iterator[dict]:
    fs, path = filesystem(address)
    with fs.open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{address}, line {number}"
                try:
                    values = json.loads(line)
                except ValueError as error:
                    shown = line.strip()[:80].decode(errors="replace")
                    raise ValueError(f"{where} is not JSON in UTF-8 ({error}): {shown!r}.") from None
                if not isinstance(values, dict):
                    raise ValueError(f"{where} is {str(values)[:60]!r}; give a JSON object.")
                yield _manifest_row(values, audio_dir or os.path.dirname(address) or ".", where)


def _manifest_row(values, folder, where, column=None) -> dict:
    """Return the row of a recording that is named in `column`, or else in the first of these that has a value."""
    column = column or next((name for name in AUDIO_COLUMNS if values.get(name) is not None), None)
    audio = values.get(column)
    if audio is None:
        raise ValueError(f"{where} names no recording; its keys are {', '.join(values)}: add audio_filepath.")
    if values.get("offset"):
        raise ValueError(
            f"{where}: offset is {values['offset']!r}; parts of recordings are not cut here, cut them first."
        )
    # As a column of `datasets` holds it.
    name = audio.get("path") if isinstance(audio, dict) else audio
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{where}: {column} is {str(audio)[:60]!r}; give the path of a recording.")
    columns = {name: value for name, value in values.items() if name not in (column, "id", "offset")}
    id = name if values.get("id") is None else str(values["id"])
    return {"id": id, "audio": name, "place": join(folder, name), "columns": columns}


def _tables(files, audio_dir) -> Source:
    """Return the source of tables, given with their names below the source; names begin ids of what they hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def read(file, function):
        fs, path = filesystem(file)
        try:
            with fs.open(path, "rb") as opened, pq.ParquetFile(opened) as table:
                yield from function(table)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} is not Parquet that can be read ({error}); fetch or write it again.") from None

    def rows_of(file, table):
        schema, column, index = table.schema_arrow, audio_column(table), 0
        is_held = column is not None and _has_bytes(table.metadata, column)
        # Recordings themselves are left alone, they may be gigabytes.
        is_struct = column is not None and pa.types.is_struct(schema.field(column).type)
        names = [f"{name}.path" if is_struct and name == column else name for name in schema.names]
        for batch in table.iter_batches(ROWS_READ, columns=names):
            for values in batch.to_pylist():
                where = f"{file}, row {index}"
                if is_held:
                    path = (values[column] or {}).get("path")
                    # What lies in a table needs no name.
                    row = _manifest_row(values | {column: path or str(index)}, "", where, column)
                    id = f"{files[file]}/{row['id']}" if values.get("id") is None else row["id"]
                    yield row | {"id": id, "audio": path, "place": file, "place_start": index}
                else:
                    yield _manifest_row(values, audio_dir or os.path.dirname(file) or ".", where, column)
                index += 1

    def fields_of(table):
        left_out = ("id", "offset", audio_column(table))
        yield pa.schema([field for field in table.schema_arrow if field.name not in left_out])

    schema = _unify([schema for file in files for schema in read(file, fields_of)], next(iter(files)))
    rows = lambda: (row for file in files for row in read(file, functools.partial(rows_of, file)))  # noqa: E731
    return Source(rows, schema)


def audio_column(table) -> str | None:
    """Return the column of an open `pyarrow.parquet.ParquetFile` that names recordings or holds them."""
    found = [name for name in AUDIO_COLUMNS if name in table.schema_arrow.names]
    return next((name for name in found if _has_bytes(table.metadata, name)), found[0] if found else None)


def _has_bytes(metadata, name) -> bool:
    """Tell whether a column of structs holds the recordings themselves."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema == f"{name}.bytes":
                counts = column.statistics
                if counts is None or not counts.has_null_count or counts.null_count < group.num_rows:
                    return True
    return False


def _data_set(spec) -> Source:
    import pyarrow as pa

    data_set, column = load_data_set(json.dumps(spec))
    schema = data_set.features.arrow_schema
    schema = pa.schema([field for field in schema if field.name not in (column, "id")])

    def rows():
        index = 0
        for batch in data_set.with_format("arrow").iter(ROWS_READ):
            names = batch[column].combine_chunks().field("path").to_pylist()
            for name, values in zip(names, batch.drop_columns([column]).to_pylist(), strict=True):
                own = values.pop("id", None)
                id = str(own) if own is not None else f"{spec['split']}/{index}"
                yield {"id": id, "audio": name, "place": json.dumps(spec), "place_start": index, "columns": values}
                index += 1

    return Source(rows, schema)


@functools.lru_cache(maxsize=1)
def load_data_set(spec: str):
    """Return a data set of `datasets` and the name of its column of recordings, which stay encoded.

    Args:
        spec: JSON of `{"disk" or "path", "split"}`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has no such split or column.
    """
    from datasets import Audio, DatasetDict, load_dataset, load_from_disk

    place = json.loads(spec)
    split = place["split"]
    if "disk" in place:
        data_set = load_from_disk(place["disk"])
    else:
        try:
            data_set = load_dataset(place["path"])
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"SOURCE is {place['path']!r}: nothing here is called so, and as a data set it cannot be had: {error}"
            ) from None
    if isinstance(data_set, DatasetDict):
        if split not in data_set:
            raise ValueError(f"--split is {split!r}, but the data set has {', '.join(data_set)}; choose one of them.")
        data_set = data_set[split]
    columns = [name for name, feature in data_set.features.items() if isinstance(feature, Audio)]
    if len(columns) != 1:
        raise ValueError(f"the data set has {len(columns)} columns of type Audio; cast the one of the recordings.")
    return data_set.cast_column(columns[0], Audio(decode=False)), columns[0]


def infer_schema(rows: Iterator[list[dict]], name: str):
    """Return the common types of the columns of rows, which come in lists."""
    import pyarrow as pa

    schema = _no_columns()
    for some in rows:
        fields = []
        for column in dict.fromkeys(key for row in some for key in row):
            try:
                fields.append((column, pa.array([row.get(column) for row in some]).type))
            except (pa.ArrowException, OverflowError, UnicodeError) as error:
                raise ValueError(f"{name} has {column!r} of several types or none ({error}); give it one.") from None
        schema = _unify([schema, pa.schema(fields)], name)
    return schema


def _unify(schemas, name):
    import pyarrow as pa

    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise ValueError(f"{name} has a column of several types ({error}); give each column one.") from None


def _no_columns():
    import pyarrow as pa

    return pa.schema([])
