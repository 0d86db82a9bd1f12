#!/usr/bin/env bash
# Run the adapter for NeMo Curator in Curator itself, its stage and its pipelines, in an environment of its own. 500 MB,
# minutes.
#
# Without Curator's extra `audio_cpu`, which wants transformers below 5; its stage for detectors imports none of it, but
# needs librosa for recordings of another rate. TIMEPRO_CURATOR_ENV names an environment to make once and keep.
set -euo pipefail
cd "$(dirname "$0")/.."

environment="${TIMEPRO_CURATOR_ENV:-$(mktemp -d)}"
[ -n "${TIMEPRO_CURATOR_ENV:-}" ] || trap 'rm -rf "$environment"' EXIT
python="${PYTHON:-python}"
if [ ! -e "$environment/ready" ]; then
  "$python" -m venv "$environment"
  site=$("$environment/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
  # Everything else is that of the environment that runs this.
  "$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$site/others.pth"
  "$environment/bin/python" -m pip install --quiet -c constraints.txt nemo-curator==1.4.0
  touch "$environment/ready"
fi
export HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
"$environment/bin/python" -m pytest -q -n 0 -m "slow or not slow" tests/test_curator.py "$@"
