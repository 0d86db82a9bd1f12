#!/usr/bin/env bash
# Run the tests of torchaudio and torchcodec beside a CPU build of torch, in an environment of their own. torchcodec needs
# the libraries of ffmpeg (apt-get install ffmpeg).
#
# The published torchaudio is built for CUDA: its extension does not load beside CPU torch, and its presence then breaks
# parts of transformers. Without the extension what we use of it works, for that is written in Python.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python="${PYTHON:-python}"
"$python" -m venv "$environment"
site=$("$environment/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
# Everything else is that of the environment that runs this.
"$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$site/others.pth"
"$environment/bin/python" -m pip install --quiet --no-deps torchaudio==2.11.0 torchcodec==0.13.0
rm -f "$site"/torchaudio/lib/*.so
"$environment/bin/python" -m pytest tests/test_torchaudio_features.py tests/test_yamnet_encoder.py tests/test_dataset_columns.py "$@"
