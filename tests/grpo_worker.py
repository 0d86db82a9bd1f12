"""GRPO with given answers, as `python tests/grpo_worker.py CHECKPOINT DATA OUT SETTINGS` or by torchrun."""

import json
import os
import sys
from pathlib import Path

import conftest
from datasets import Dataset
from safetensors.torch import save_file

from recipes.conversion.checkpoint import load_checkpoint
from recipes.training.grpo_trainer import TimeProGRPOTrainer

# For each question the answers of its group. The reference is 0.24-0.80 s. In the last two groups the main reward ties,
# at 0 and at 1.
ANSWERS = (
    ("<0.24>-<0.80>", "<0.24>-<1.60>", "none", "what"),
    ("<0.24>-<0.80>, <1.20>-<1.60>", "<0.24>-<0.80>", "<0.16>-<0.80>", "<1.20>-<1.60>"),
    ("<0.48>-<1.60>", "<0.56>-<1.60>", "<1.20>-<1.60>", "<0.48>-<1.20>"),
    ("<0.24>-<0.80>", "<0.24>-<0.88>", "<0.32>-<0.80>", "<0.32>-<0.88>"),
)


class GivenAnswers(TimeProGRPOTrainer):
    """Answer as `ANSWERS` says."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        answers = []
        for index, ids in enumerate(prompt_ids):
            question = self._tokenizer.decode(ids).count("When?") - 1
            text = ANSWERS[question][index % num_generations] + self._tokenizer.eos_token
            answers.append(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return answers, None


def main(checkpoint, data, out, settings):
    rows = []
    for index in range(4):
        audio = str(Path(data) / "train" / f"{index}.wav")
        blocks = [{"type": "audio", "audio": audio}, {"type": "text", "text": "When?" * (index + 1)}]
        rows.append({
            "id": str(index), "prompt": [{"role": "user", "content": blocks}], "task": "grounding", "query": "siren",
            "events": [{"onset": 0.24, "offset": 0.8, "event_label": "siren"}],
        })  # fmt: skip
    num_processes = int(os.environ.get("WORLD_SIZE", 1))
    model, processor = load_checkpoint(checkpoint)
    model.model.audio_tower.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(False)
    settings = json.loads(settings)
    resume = settings.pop("resume_from_checkpoint", None)
    # Of all processes together.
    settings["per_device_train_batch_size"] //= num_processes
    if num_processes > 1:
        settings["ddp_backend"] = "gloo"
    trainer = conftest.make_grpo_trainer(
        (model, processor), Dataset.from_list(rows), Path(out), cls=GivenAnswers, tie_break="sum", learning_rate=1e-3,
        beta=0.1, gradient_checkpointing=False, log_completions=True, **settings,
    )  # fmt: skip
    assert trainer.accelerator.num_processes == num_processes
    trainer.train(resume_from_checkpoint=resume)
    if trainer.is_world_process_zero():
        logs = trainer._logs
        table = {name: list(values) for name, values in logs["rewards"].items()}
        table |= {
            "completion": [chat[0]["content"] for chat in logs["completion"]],
            "advantage": list(logs["advantages"]),
        }
        (Path(out) / "table.json").write_text(json.dumps(table))
        (Path(out) / "log.json").write_text(json.dumps(trainer.state.log_history[0]))
        model = trainer.accelerator.unwrap_model(trainer.model)
        save_file({name: p.detach() for name, p in model.named_parameters()}, Path(out) / "weights.safetensors")
    conftest.pytest_unconfigure(None)


if __name__ == "__main__":
    main(*sys.argv[1:])
