"""Time constrained decoding beside unconstrained decoding of the default model: one JSON line.

    python tests/benchmarks/bench_constrained.py [--batch-size 8] [--num-tokens 64] [--repeats 5]

Both answer about noise, sampled. The end of an answer and `none` are banned, so that both take about as many steps; the
cost is the processor's own time in a step beside a whole step without it. Whole steps with it are noisier.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch

from processing.constrained_decoding import AnswerConstraint
from recipes.checkpoint import load_checkpoint


class _Timed:
    def __init__(self, processor):
        self.processor, self.seconds, self.calls = processor, 0.0, 0

    def __call__(self, input_ids, scores):
        start = time.process_time()
        result = self.processor(input_ids, scores)
        self.seconds += time.process_time() - start
        self.calls += 1
        return result


def measure(checkpoint, batch_size, num_tokens, repeats) -> dict:
    """Return milliseconds of processor time a step with and without the constraint, the first run left out."""
    model, processor = load_checkpoint(checkpoint)
    model.eval()
    rng = np.random.default_rng(0)
    waveforms = [(0.1 * rng.standard_normal(160000)).astype(np.float32) for _ in range(batch_size)]
    content = [{"type": "audio"}, {"type": "text", "text": "List every sound event."}]
    text = processor.apply_chat_template(
        [[{"role": "user", "content": content}]] * batch_size, add_generation_prompt=True
    )
    inputs = dict(processor(text=text, audio=waveforms, return_tensors="pt", padding=True))
    eos = model.generation_config.eos_token_id
    banned = [*model.generation_config.suppress_tokens, eos, processor.tokenizer("none")["input_ids"][0]]
    num_steps = {"free": [], "constrained": []}
    times = {"free": [], "constrained": [], "processor": []}
    for repeat in range(repeats + 1):
        for name in ("free", "constrained"):
            options = {"max_new_tokens": num_tokens, "do_sample": True, "temperature": 2.0, "top_k": 0}
            options["suppress_tokens"] = banned
            if name == "constrained":
                constraint = AnswerConstraint(
                    processor.tokenizer, processor.grid, processor.answer_format, "detection", [10.0] * batch_size,
                    inputs["input_ids"].shape[1], num_tokens, eos, event_labels=model.config.event_labels,
                )  # fmt: skip
                timed = _Timed(constraint)
                options["logits_processor"] = [timed]
            torch.manual_seed(repeat)
            start = time.process_time()
            output = model.generate(**inputs, **options)
            steps = output.shape[1] - inputs["input_ids"].shape[1]
            if repeat:
                num_steps[name].append(steps)
                times[name].append(1000 * (time.process_time() - start) / steps)
                if name == "constrained":
                    times["processor"].append(1000 * timed.seconds / timed.calls)
    medians = {f"{name}_ms_per_step": statistics.median(values) for name, values in times.items()}
    share = medians["processor_ms_per_step"] / medians["free_ms_per_step"]
    return {"clock": "process_time", "batch_size": batch_size, "num_tokens": num_tokens, "repeats": repeats, **medians,
            **{f"{name}_num_steps": statistics.median(values) for name, values in num_steps.items()},
            "added_share": share}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Time constrained beside unconstrained decoding.")
    parser.add_argument("--checkpoint", default="recipes/checkpoints/timepro-small")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    print(json.dumps(measure(**vars(parser.parse_args(argv)))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
