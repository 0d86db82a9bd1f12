#!/bin/bash
# cosmos-xenna 0.3.0, by which NeMo Curator 1.4 runs pipelines, with ray 2.60.0: a pipeline that ended, then ray.shutdown().
# Expected: all processes of Ray on this machine end.
# Seen: NodeResourceMonitor stays for good, an actor that looks at all processes every second in a thread that nobody
# stops: nothing sets its `_stop_event`, and the thread is no daemon. 140 MB, one for each pipeline that ran.
# For us: docs/bulk.md says so, tests/test_curator.py ends it.
set -euo pipefail
folder=$(mktemp -d); cd "$folder"
left() { for pid in $(pgrep -f '^ray::NodeResourceMonitor'); do
    ! grep -qz "^HOME=$folder\$" "/proc/$pid/environ" || echo "$pid"; done; }
trap 'left | xargs -r kill -9; rm -rf "$folder"' EXIT
python3 -m venv venv && venv/bin/pip install -q cosmos-xenna==0.3.0 tqdm 'ray[default]==2.60.0'
export HOME="$folder" RAY_USAGE_STATS_ENABLED=0 RAY_MAX_LIMIT_FROM_API_SERVER=40000
cat > run.py <<'PY'
import ray
from cosmos_xenna.pipelines import v1


class Twice(v1.Stage):
    required_resources = v1.Resources(cpus=1.0)

    def process_data(self, numbers):
        return [2 * number for number in numbers]


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=True, object_store_memory=100_000_000)
    config = v1.PipelineConfig(return_last_stage_outputs=True)
    print("answers", sorted(v1.run_pipeline(v1.PipelineSpec(input_data=[1, 2, 3], stages=[Twice()], config=config))))
    ray.shutdown()
PY
venv/bin/python run.py 2>run.log | grep answers | tee seen
sleep 30
echo "monitors $(left | wc -l)" | tee -a seen
diff seen - <<'EXPECTED'
answers [2, 4, 6]
monitors 1
EXPECTED
