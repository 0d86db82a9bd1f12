"""Recordings and annotations in S3, by a server of moto on loopback.

It needs `pip install s3fs 'moto[s3]' flask flask-cors`, which are not among the project's own.
"""

import io
import json
import tarfile

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from recipes.cli.main import main

moto = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket():
    """Return a bucket, `s3://timepro`, with three recordings, one of them damaged, a manifest and a tar of them."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    names["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    monkeypatch = pytest.MonkeyPatch()
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.mkdir("timepro")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for index, name in enumerate(("a.wav", "more/b c.flac", "more/bad.wav")):
            content = io.BytesIO()
            noise = 0.1 * np.random.default_rng(index).standard_normal(64000)
            soundfile.write(content, noise, 16000, format=name.rpartition(".")[2])
            content = b"this is no audio" if "bad" in name else content.getvalue()
            fs.pipe_file(f"timepro/sounds/{name}", content)
            member = tarfile.TarInfo(f"{index}.{name.rpartition('.')[2]}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    fs.pipe_file("timepro/set-0.tar", packed.getvalue())
    rows = [{"audio_filepath": name, "city": "Rome"} for name in ("sounds/a.wav", "sounds/gone.wav")]
    fs.pipe_file("timepro/manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    yield fs
    monkeypatch.undo()
    server.stop()


@pytest.mark.parametrize(("source", "found", "failed"), [
    ("s3://timepro/sounds", ["a.wav", "more/b c.flac"], "more/bad.wav"),
    ("s3://timepro/set-*.tar", ["set-0.tar/0.wav", "set-0.tar/1.flac"], "set-0.tar/2.wav"),
    ("s3://timepro/manifest.jsonl", ["sounds/a.wav"], "sounds/gone.wav"),
])  # fmt: skip
def test_what_lies_in_s3_is_annotated_into_s3(source, found, failed, bucket, scripted_checkpoint):
    model, out = str(scripted_checkpoint("dog: <1.20>-<3.44>")), f"timepro/labels/{len(source)}"
    command = ["annotate", source, "--out", f"s3://{out}", "--model", model, "--shard-size", "1"]
    for _ in range(2):  # a later run tries again what failed
        assert main(command) == 1
        bucket.invalidate_cache()
        rows = {}
        for kind in ("annotations", "failures"):
            tables = [pq.read_table(io.BytesIO(bucket.cat(path))) for path in bucket.ls(f"{out}/{kind}")]
            rows[kind] = sorted(
                (row for table in tables for row in table.to_pylist()), key=lambda row: row["recording"]
            )
        assert [row["id"] for row in rows["annotations"]] == found
        assert all(row["events"][0]["event_label"] == "dog" for row in rows["annotations"])
        assert [row["recording"] for row in rows["failures"]] == [failed]
    assert json.loads(bucket.cat(f"{out}/manifest.json"))["num_failed"] == 1
    assert sorted(path.rpartition("/")[2] for path in bucket.ls(out)) == [
        "annotations",
        "failures",
        "manifest.json",
    ]
