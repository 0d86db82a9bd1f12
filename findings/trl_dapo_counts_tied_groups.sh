#!/bin/bash
# GRPO of groups whose rewards are all equal: TRL 1.16.0 (transformers 5.23.0, torch 2.13.0), loss_type "dapo", the default.
# Expected: they neither help nor hurt. DAPO (arXiv 2503.14476) is named after its dynamic sampling, which leaves such
# groups out, and their advantages are 0.
# Seen: nothing is left out, and their tokens count in what the loss is divided by. A group that teaches something beside
# one that is tied has half of the gradient that it has alone, beside three a quarter: the more ties, the lower the
# learning rate. The rewards that are logged do not show it, frac_reward_zero_std does.
# For us: `drop_tied_groups` takes them out of the loss and of its denominator.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 transformers==5.23.0 trl==1.16.0
cat > run.py <<'PY'
import logging
import warnings

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

warnings.filterwarnings("ignore")
logging.disable(logging.ERROR)
words = {word: index for index, word in enumerate(["<pad>", "<end>", *"abcdefgh"])}
backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")
config = Qwen2Config(vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=2)


def answers(prompts, trainer):
    """Two different answers of five tokens to every prompt."""
    ids = [[3, 4, 5, 6, 1] if index % 2 else [7, 8, 9, 2, 1] for index in range(len(prompts))]
    return {"prompt_ids": [tokenizer(prompt)["input_ids"] for prompt in prompts], "completion_ids": ids,
            "logprobs": [[0.0] * 5 for _ in prompts]}


def reward(prompts, **kwargs):
    """Tell the answers to "a" apart, and no others."""
    return [float(prompt == "a" and index % 2) for index, prompt in enumerate(prompts)]


for num_tied in (0, 1, 3):
    torch.manual_seed(0)
    rows = Dataset.from_list([{"prompt": "a"}] + [{"prompt": "b"}] * num_tied)
    settings = GRPOConfig(output_dir="out", num_generations=2, per_device_train_batch_size=2 * len(rows), max_steps=1,
                          logging_steps=1, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
                          disable_tqdm=True, max_completion_length=5, gradient_checkpointing=False)
    trainer = GRPOTrainer(model=Qwen2ForCausalLM(config), reward_funcs=reward, args=settings, train_dataset=rows,
                          processing_class=tokenizer, rollout_func=answers)
    trainer.train()
    norm = float(trainer.state.log_history[0]["grad_norm"])
    alone = norm if num_tied == 0 else alone
    print(f"{num_tied} tied groups: {norm / alone:.2f} of the gradient, loss_type {settings.loss_type}")
PY
venv/bin/python run.py 2> errors | grep tied > seen || { cat errors >&2; exit 1; }
cat seen
diff seen - <<'EXPECTED'
0 tied groups: 1.00 of the gradient, loss_type dapo
1 tied groups: 0.50 of the gradient, loss_type dapo
3 tied groups: 0.25 of the gradient, loss_type dapo
EXPECTED
