#!/bin/bash
# ray 2.60.0: `ray.init()` on one machine, then a cluster by `ray start --head` and `ray start --address` on the same.
# Expected: the second node joins, as it does on a machine where Ray has not run before.
# Seen: ray.init() leaves a token in ~/.ray/auth_token. The head started after it asks for the token, a node does not send
# it: "InvalidAuthToken ... RAY_AUTH_MODE is currently 'disabled'". It joins where all have RAY_AUTH_MODE=disabled, or token.
# For us: docs/bulk.md says so, tests/test_annotate_ray.py sets it.
set -euo pipefail
folder=$(mktemp -d); trap 'pkill -f "$folder" || true; rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q 'ray[default]==2.60.0'
export HOME="$folder" RAY_USAGE_STATS_ENABLED=0
size="--num-cpus 1 --object-store-memory 100000000 --disable-usage-stats"

join() {
    port=$(python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
    # shellcheck disable=SC2086
    venv/bin/ray start --head --port "$port" --include-dashboard false --temp-dir "$folder/$1" $size >head.log 2>&1
    # shellcheck disable=SC2086
    if venv/bin/ray start --address "127.0.0.1:$port" $size >node.log 2>&1; then echo "$1: joined"
    else echo "$1: $(grep -o InvalidAuthToken node.log | head -1)"; fi
    pkill -f "$folder" || true
    sleep 3
}

seen=$(
    join before
    venv/bin/python -c "
import ray
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100_000_000)
ray.shutdown()" >/dev/null 2>&1
    join after
    RAY_AUTH_MODE=disabled join disabled
)
echo "$seen"
[ "$seen" = "before: joined
after: InvalidAuthToken
disabled: joined" ]
