"""Measure what a training step holds beside weights, gradients and optimiser: memory of this process, then a JSON line.

python tests/memory_worker.py sft CHECKPOINT AUDIO.wav IS_LORA IS_CHECKPOINTED
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

from recipes.conversion.checkpoint import load_checkpoint  # noqa: E402
from recipes.training.collator import TimeProCollator  # noqa: E402
from recipes.training.memory_estimate import model_sizes, sft_bytes  # noqa: E402
from recipes.training.sft_trainer import time_aware_loss  # noqa: E402

TARGETS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
ANSWER = ", ".join(f"{index}.24-{index}.96" for index in range(9))


def memory(name):
    """Return a figure of this process in bytes; the step reuses nothing that was freed, see the test."""
    return 1024 * int(re.search(name + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main(checkpoint, audio, is_lora, is_checkpointed, num_clips=2):
    torch.set_num_threads(1)
    model, processor = load_checkpoint(checkpoint)
    model.model.audio_tower.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(False)
    if is_lora:
        model = get_peft_model(model, LoraConfig(r=8, target_modules=TARGETS))
        model.enable_input_require_grads()
    if is_checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    turns = [{"question": question, "answer": ANSWER} for question in ("When is a dog?", "When is a cat?")]
    piece = {"audio": audio, "start": 0.0, "duration": None}
    batch = TimeProCollator(processor)([{"pieces": [piece], "duration": 30.0, "turns": turns}] * num_clips)
    labels = batch.pop("labels")[:, 1:]
    kept = (labels != -100).any(0).nonzero().squeeze(1)

    def step():
        logits = model(**batch, use_cache=False, logits_to_keep=kept).logits
        chosen = labels[:, kept] != -100
        time_aware_loss(logits[chosen], labels[:, kept][chosen], range(0)).backward()

    step()
    # Gradients stay, so that what is measured is the rest.
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step()
    rows, length = batch["input_ids"].shape
    answers = int((labels != -100).sum()) // rows
    estimate = sft_bytes(model_sizes(model.config, 4, 4), rows, length, answers, 30.0, is_checkpointed, False)[
        "activations"
    ]
    print(json.dumps({"measured": memory("VmHWM") - before, "estimate": estimate, "tokens": rows * length}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(text == "yes" for text in sys.argv[3:]))
