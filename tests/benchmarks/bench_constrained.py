"""Time constrained decoding beside unconstrained decoding: one JSON line.

    python tests/benchmarks/bench_constrained.py [--batch-size 8] [--num-tokens 64] [--repeats 5]
    python tests/benchmarks/bench_constrained.py --vocab-size 150000

Both ways answer sampled, the default model about noise. The end of an answer and `none` are banned, so that both take
about as many steps; the cost is the processor's own time in a step beside a whole step without it. Whole steps with it
are noisier. `build_seconds` is what the first constraint takes, once for a tokenizer and grammar; the first run, which
is left out of the others, takes more too (`first_run_seconds`, all its steps together).

With `--vocab-size` a language model of that many tokens and the shape of the default one, with random weights, names
labels of any kind after a prompt of 250 tokens; its tokenizer is a byte-level BPE of random merges.
"""

import argparse
import json
import random
import statistics
import time

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from processing.constrained_decoding import AnswerConstraint
from recipes.conversion.checkpoint import load_checkpoint


class _Timed:
    def __init__(self, processor):
        self.processor, self.seconds, self.calls = processor, 0.0, 0

    def __call__(self, input_ids, scores):
        start = time.process_time()
        result = self.processor(input_ids, scores)
        self.seconds += time.process_time() - start
        self.calls += 1
        return result


def ask_checkpoint(checkpoint, batch_size):
    """Return a checkpoint, its processor and its inputs, and the labels that it knows."""
    model, processor = load_checkpoint(checkpoint)
    rng = np.random.default_rng(0)
    waveforms = [(0.1 * rng.standard_normal(160000)).astype(np.float32) for _ in range(batch_size)]
    content = [{"type": "audio"}, {"type": "text", "text": "List every sound event."}]
    text = processor.apply_chat_template(
        [[{"role": "user", "content": content}]] * batch_size, add_generation_prompt=True
    )
    inputs = dict(processor(text=text, audio=waveforms, return_tensors="pt", padding=True))
    return model, processor.tokenizer, processor.grid, inputs, model.config.event_labels


def ask_random_model(checkpoint, batch_size, vocab_size):
    """Return a language model of so many tokens, its tokenizer, the grid of a checkpoint, inputs, and no labels."""
    small, processor = load_checkpoint(checkpoint)
    tokenizer = random_tokenizer(vocab_size, processor.grid)
    config = small.config.text_config
    config.vocab_size = len(tokenizer)
    config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    torch.manual_seed(0)
    prompt = torch.randint(0, 256, (batch_size, 250))
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    return Qwen2ForCausalLM(config), tokenizer, processor.grid, inputs, None


def random_tokenizer(vocab_size, grid):
    """Return a byte-level BPE of so many tokens, the ticks of a grid among them; merged are random earlier tokens."""
    generator = random.Random(0)
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    # As in a vocabulary that was trained, most are parts of words, with a space before them or none.
    parts, merges = [*"abcdefghijklmnopqrstuvwxyz" * 4, "Ġ", *vocabulary], []
    while len(vocabulary) < vocab_size - grid.num_ticks - 1:
        pair = generator.choice(parts), generator.choice(parts)
        if (token := "".join(pair)) not in vocabulary and len(token) <= 12 and "Ġ" not in token[1:]:
            vocabulary[token] = len(vocabulary)
            merges.append(pair)
            parts.append(token)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in grid.tick_tokens()])
    return tokenizer


def measure(model, tokenizer, grid, inputs, labels, num_tokens, repeats) -> dict:
    """Return milliseconds of processor time a step with and without the constraint, the first run left out."""
    model.eval()
    batch_size, width = inputs["input_ids"].shape
    eos = tokenizer.eos_token_id
    banned = [*(model.generation_config.suppress_tokens or ()), eos, tokenizer("none")["input_ids"][0]]

    def constrain():
        return AnswerConstraint(
            tokenizer, grid, "ticks", "detection", [10.0] * batch_size, width, eos, event_labels=labels
        )

    start = time.process_time()
    constrain()
    build_seconds = time.process_time() - start
    num_steps, first_run_seconds = {"free": [], "constrained": []}, 0.0
    times = {"free": [], "constrained": [], "processor": []}
    for repeat in range(repeats + 1):
        for name in ("free", "constrained"):
            options = {"max_new_tokens": num_tokens, "do_sample": True, "temperature": 2.0, "top_k": 0}
            options["suppress_tokens"] = banned
            if name == "constrained":
                timed = _Timed(constrain())
                options["logits_processor"] = [timed]
            torch.manual_seed(repeat)
            start = time.process_time()
            output = model.generate(**inputs, **options)
            steps = output.shape[1] - width
            if not repeat and name == "constrained":
                first_run_seconds = timed.seconds
            if repeat:
                num_steps[name].append(steps)
                times[name].append(1000 * (time.process_time() - start) / steps)
                if name == "constrained":
                    times["processor"].append(1000 * timed.seconds / timed.calls)
    medians = {f"{name}_ms_per_step": statistics.median(values) for name, values in times.items()}
    share = medians["processor_ms_per_step"] / medians["free_ms_per_step"]
    return {"clock": "process_time", "vocab_size": len(tokenizer), "batch_size": batch_size, "num_tokens": num_tokens,
            "repeats": repeats, "build_seconds": build_seconds, "first_run_seconds": first_run_seconds, **medians,
            **{f"{name}_num_steps": statistics.median(values) for name, values in num_steps.items()},
            "added_share": share}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Time constrained beside unconstrained decoding.")
    parser.add_argument("--checkpoint", default="recipes/checkpoints/timepro-small")
    parser.add_argument("--vocab-size", type=int, help="ask a random language model of so many tokens instead")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(argv)
    if arguments.vocab_size is None:
        asked = ask_checkpoint(arguments.checkpoint, arguments.batch_size)
    else:
        asked = ask_random_model(arguments.checkpoint, arguments.batch_size, arguments.vocab_size)
    print(json.dumps(measure(*asked, arguments.num_tokens, arguments.repeats)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
