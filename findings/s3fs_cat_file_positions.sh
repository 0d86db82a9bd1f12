#!/bin/bash
# A range of bytes of a file in S3 by fsspec's cat_file(path, start, end): fsspec 2026.9.0, s3fs 2026.9.0.
# Expected: every filesystem takes start and end in the places that fsspec's own class gives them.
# Seen: s3fs has version_id in the second place, so that what reads members of WebDataset tars on disk, in memory and over
# http asks S3 for the version 512 of the tar: ParamValidationError, and only there.
# For us: start and end by name; a test reads tars from an S3 server.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q fsspec==2026.9.0 s3fs==2026.9.0
cat > run.py <<'PY'
import inspect

import fsspec
from fsspec.spec import AbstractFileSystem

memory = fsspec.filesystem("memory")
memory.pipe_file("/a.tar", bytes(range(100)))
print("memory", list(memory.cat_file("/a.tar", 10, 13)))
for name, function in (("fsspec", AbstractFileSystem.cat_file), ("s3", fsspec.get_filesystem_class("s3")._cat_file)):
    print(name, *list(inspect.signature(function).parameters)[1:4])
PY
venv/bin/python run.py | tee seen
diff seen - <<'EXPECTED'
memory [10, 11, 12]
fsspec path start end
s3 path version_id start
EXPECTED
