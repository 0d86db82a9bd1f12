"""Train the small language model and its tokenizer on synthetic text about sounds and times.

The model is a Qwen2 of about five million parameters, with Qwen2's byte-level BPE trained for a small vocabulary.

    python -m recipes.small.language_model --out DIR [--num-steps 600]
"""

import itertools
import json
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from recipes.arguments import script_parser
from recipes.small.synthetic_text import documents

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
VOCAB_SIZE = 1024
TOKENIZER_DOCUMENTS = 20_000


def train_tokenizer(
    vocab_size: int = VOCAB_SIZE, num_documents: int = TOKENIZER_DOCUMENTS, seed: int = 0
) -> Qwen2Tokenizer:
    """Return a trained `Qwen2Tokenizer`: byte-level BPE with Qwen2's normaliser and pre-tokenizer, digits separate.

    Padding is `<|endoftext|>`, the end of an answer `<|im_end|>`.

    Args:
        vocab_size: number of tokens including special tokens; at least 262 (the bytes and the special tokens).
        num_documents: number of synthetic texts to train on.
        seed: seed of these texts.

    Raises:
        ValueError: the vocabulary is too small for the bytes and the special tokens.
    """
    if vocab_size < 256 + len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size={vocab_size}: bytes and special tokens need {256 + len(SPECIAL_TOKENS)}.")
    # Borrow Qwen2Tokenizer's own normaliser and pre-tokenizer, so that training and use cannot differ.
    borrowed = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = borrowed.normalizer, borrowed.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    # Replace special tokens by line breaks, because they must not be learned as ordinary text.
    special = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
    texts = itertools.islice(documents(seed), num_documents)
    tokenizer.train_from_iterator((special.sub("\n", text) for text in texts), trainer)
    state = json.loads(tokenizer.to_str())["model"]
    # Assign ids here, so that they are 0 to vocab_size - 1 without gaps.
    vocab = state["vocab"] | {token: len(state["vocab"]) + index for index, token in enumerate(SPECIAL_TOKENS)}
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(merge) for merge in state["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=4096,
    )


def language_config(vocab_size: int, tokenizer: Qwen2Tokenizer | None = None) -> Qwen2Config:
    """Return the configuration of the small language model: 4.5 M parameters with a vocabulary of 1,024."""
    ids = {}
    if tokenizer is not None:
        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=1024,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        use_sliding_window=False,
        **ids,
    )


def packed_batches(
    tokenizer: Qwen2Tokenizer, batch_size: int, sequence_length: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield input ids and labels, int64 `(batch_size, sequence_length)`, of texts separated by `<|endoftext|>`.

    In chats only the answer has labels (-100 elsewhere): the rest is random, and the noise of predicting it would drown
    the signal of what can be learned, which is to read times and names from the context.
    """
    separator, turn = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>"])
    size = batch_size * sequence_length
    stream, ids, labels = documents(seed), [], []
    while True:
        while len(ids) < size:
            texts = list(itertools.islice(stream, 64))
            for text_ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                text_ids.append(separator)
                num_context = len(text_ids) - text_ids[::-1].index(turn) if turn in text_ids else 0
                ids += text_ids
                labels += [-100] * num_context + text_ids[num_context:]
        # The mean over no tokens is NaN; only tiny batches can have no labels.
        if any(label != -100 for label in labels[:size]):
            yield tuple(torch.tensor(values[:size]).view(batch_size, sequence_length) for values in (ids, labels))
        ids, labels = ids[size:], labels[size:]


def scheduled_rate(step: int, num_steps: int, peak: float, warmup: int = 30) -> float:
    """Return the learning rate of a linear warm-up followed by a cosine decay to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def save_progress(folder: Path, model: Qwen2ForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Save weights, optimizer moments and the step, atomically replacing the previous state."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "resume.safetensors.partial"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata={"step": str(step)})
    partial.replace(folder / "resume.safetensors")


def load_progress(folder: Path, model: Qwen2ForCausalLM, optimizer: torch.optim.Optimizer) -> int:
    """Restore the state of `save_progress`; return the number of steps taken, 0 if there is no state."""
    path = folder / "resume.safetensors"
    if not path.is_file():
        return 0
    tensors = load_file(path)
    model.load_state_dict({name[len("model.") :]: t for name, t in tensors.items() if name.startswith("model.")})
    state = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state[0]["step"])


def train(
    out: Path | str,
    num_steps: int = 600,
    batch_size: int = 32,
    sequence_length: int = 256,
    learning_rate: float = 2e-3,
    save_every: int = 100,
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
    num_documents: int = TOKENIZER_DOCUMENTS,
    bf16: bool = True,
) -> list[float]:
    """Train tokenizer and model, and save both into `out` as a Hugging Face folder.

    An interrupted run resumes from its last checkpoint if started again with the same `out`.

    Args:
        out: folder; contains `resume.safetensors` until training is complete.
        num_steps: optimizer steps.
        batch_size: sequences per step.
        sequence_length: tokens per sequence.
        learning_rate: peak learning rate of AdamW.
        save_every: steps between checkpoints.
        seed: seed of weights and texts.
        vocab_size: tokens in the vocabulary.
        num_documents: number of texts to train the tokenizer on.
        bf16: use bfloat16 autocast.

    Returns:
        the loss of each step taken in this call, in nats per token with label.
    """
    out = Path(out)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(vocab_size, num_documents, seed)
    model = Qwen2ForCausalLM(language_config(len(tokenizer), tokenizer))
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    first_step = load_progress(out, model, optimizer)
    if first_step:
        logger.info("Resuming after %d steps", first_step)
    batches = packed_batches(tokenizer, batch_size, sequence_length, seed + 1 + first_step)
    losses = []
    model.train()
    progress = tqdm(range(first_step, num_steps), initial=first_step, total=num_steps, mininterval=10)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = scheduled_rate(step, num_steps, learning_rate)
        input_ids, labels = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(input_ids=input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", refresh=False)
        if step % 50 == 49:
            logger.info("step %d: loss %.4f", step + 1, float(np.mean(losses[-50:])))
        if (step + 1) % save_every == 0:
            save_progress(out, model, optimizer, step + 1)
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "resume.safetensors").unlink(missing_ok=True)
    return losses


def main(argv: list[str] | None = None):
    parser = script_parser("Train the small language model on synthetic text.")
    parser.add_argument("--out", required=True, help="folder to save the model and the tokenizer into")
    parser.add_argument("--num-steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    train(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
