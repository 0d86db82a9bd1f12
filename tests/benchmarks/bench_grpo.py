"""Measure a GRPO step with shared prompts beside one that computes all per answer, as one line of JSON.

    python tests/benchmarks/bench_grpo.py

Both train the same model on the same prompts, with the same seed and answers of the same length; `same_answers` says
whether these were the same answers. Each runs in a process of its own, for the peak of its memory, one after the
other. Seconds are medians over steps, of the clock and (`cpu`) of the processor, which other programs disturb less.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import GRPOConfig  # noqa: E402
from trl.models import unwrap_model_for_generation  # noqa: E402

from recipes.conversion.checkpoint import load_checkpoint  # noqa: E402
from recipes.training.answer_scoring import joined  # noqa: E402
from recipes.training.freezing import freeze_time_embeddings  # noqa: E402
from recipes.training.grpo_trainer import TimeProGRPOTrainer  # noqa: E402

DEFAULT_MODEL = ROOT / "recipes" / "checkpoints" / "timepro-small"
PATHS = ("per_answer", "shared")


class PerAnswerTrainer(TimeProGRPOTrainer):
    """Hear as ours does, but as TRL would: read, encode, prefill and score each answer with a prompt of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, shared_prefix=False, **kwargs)

    def _tokenize_prompts(self, prompts):
        ids, self._clips = [], []
        for prompt in prompts:
            inputs = self.processing_class.apply_chat_template(
                [prompt], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            ).to(self.accelerator.device)
            ids.append(inputs["input_ids"][0].tolist())
            self._clips.append({name: inputs[name] for name in ("input_features", "input_features_mask")})
        return ids, None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        width = max(map(len, prompt_ids))
        pad_id, device = self._tokenizer.pad_token_id, self.accelerator.device
        ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in prompt_ids], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompt_ids], device=device)
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model, torch.no_grad():
            sequences = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=self.generation_config, **joined(self._clips)
            )
        return sequences[:, width:].tolist(), None


class Stopwatch(TrainerCallback):
    """Seconds `(clock, processor)` of each step and of what generates its answers, and a digest of the answers."""

    def __init__(self, trainer):
        self.steps, self.generations, self.digest = [], [], hashlib.sha1()
        generate = trainer._generate_and_score_completions

        def timed(inputs):
            start = now()
            batch = generate(inputs)
            self.generations.append(since(start))
            self.digest.update(json.dumps(batch["completion_ids"].tolist()).encode())
            return batch

        trainer._generate_and_score_completions = timed
        trainer.add_callback(self)

    def on_step_begin(self, *args, **kwargs):
        self.start = now()

    def on_step_end(self, *args, **kwargs):
        self.steps.append(since(self.start))


def now():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def since(start):
    return [after - before for before, after in zip(start, now(), strict=True)]


def parity_reward(completion_ids, **kwargs):
    """Reward something that varies, whatever a model says."""
    return [sum(token % 2 for token in ids) / len(ids) for ids in completion_ids]


def measure(arguments, path, num_generations, folder):
    """Return the figures of one path in this process."""
    rows = []
    for index in range(arguments.num_prompts * (arguments.num_steps + 1)):
        clip = Path(folder) / f"{index}.wav"
        if not clip.exists():
            noise = 0.1 * np.random.default_rng(index).normal(size=int(arguments.seconds * 16000))
            soundfile.write(clip, noise, 16000)
        blocks = [{"type": "audio", "audio": str(clip)}, {"type": "text", "text": "What events can you detect?"}]
        rows.append({"prompt": [{"role": "user", "content": blocks}]})
    model, processor = load_checkpoint(arguments.model, dtype="float32")
    model.model.audio_tower.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(False)
    freeze_time_embeddings(model)
    suppressed = model.generation_config.suppress_tokens
    config = GRPOConfig(
        output_dir=folder, num_generations=num_generations, seed=0, bf16=False, report_to="none", save_strategy="no",
        per_device_train_batch_size=arguments.num_prompts * num_generations, max_steps=arguments.num_steps + 1,
        gradient_checkpointing=False, max_completion_length=arguments.answer_length, disable_tqdm=True,
        generation_kwargs={"suppress_tokens": suppressed, "min_new_tokens": arguments.answer_length},
        learning_rate=1e-6, logging_strategy="no", use_cpu=not torch.cuda.is_available(), disable_dropout=True,
    )  # fmt: skip
    trainer = (PerAnswerTrainer if path == "per_answer" else TimeProGRPOTrainer)(
        model=model, reward_funcs=parity_reward, args=config, train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )  # fmt: skip
    watch = Stopwatch(trainer)
    before = memory()
    trainer.train()
    figures = {"peak_gib": (memory() - before) / 2**30, "answers": watch.digest.hexdigest()}
    for clock, suffix in enumerate(("", "_cpu")):
        # The first step warms up.
        steps, generations = ([times[clock] for times in log[1:]] for log in (watch.steps, watch.generations))
        updates = [step - generation for step, generation in zip(steps, generations, strict=True)]
        for name, values in (("step", steps), ("generation", generations), ("update", updates)):
            figures[f"{name}_seconds{suffix}"] = statistics.median(values)
    return figures


def memory():
    """Return the peak so far, in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compare(arguments, num_generations, folder):
    """Return both paths' figures, each from a process of its own, and how many times faster ours is."""
    figures = {}
    for path in PATHS:
        options = [item for name, value in vars(arguments).items() if name in PASSED
                   for item in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
        command = [sys.executable, __file__, *options, "--only", path, str(num_generations), folder]
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures[path] = json.loads(output.splitlines()[-1])
    answers = [figures[path].pop("answers") for path in PATHS]
    per_answer, shared = (figures[path] for path in PATHS)
    ratios = {name: per_answer[name] / shared[name] for name in shared}
    return figures | {"ratios": ratios, "same_answers": answers[0] == answers[1]}


PASSED = ("model", "seconds", "num_prompts", "num_steps", "answer_length")


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Time GRPO steps with and without shared prompts.")
    parser.add_argument("--model", default=str(DEFAULT_MODEL), help="checkpoint directory")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the clips")
    parser.add_argument("--num-prompts", type=int, default=2, help="prompts a step")
    parser.add_argument("--num-steps", type=int, default=3, help="steps measured, after one to warm up")
    parser.add_argument("--answer-length", type=int, default=40, help="tokens")
    parser.add_argument("--num-generations", type=int, nargs="+", default=[4, 8, 16], help="answers per prompt")
    parser.add_argument("--only", nargs=3, metavar=("PATH", "G", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.only:
        path, num_generations, folder = arguments.only
        print(json.dumps(measure(arguments, path, int(num_generations), folder)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        results = {str(count): compare(arguments, count, folder) for count in arguments.num_generations}
    settings = {name: value for name, value in vars(arguments).items() if name in PASSED}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(json.dumps({"device": device, "threads": torch.get_num_threads(), **settings, "num_generations": results}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
