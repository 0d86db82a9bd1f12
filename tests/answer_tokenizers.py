"""Tokenizers that make constrained decoding hard: tokens that cross everything, and bytes with spaces of their own."""

import itertools

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from processing.answer_text import format_events
from processing.events import Event, TimeGrid

LABELS = ["dog bark", "dög: ä;b", "犬の鳴き声", "none", "nonesuch", "car <horn>", "Ж", "back\\slash"]
EOS, PAD = "<|im_end|>", "<|endoftext|>"


def nasty_tokenizer(grid):
    """Return a byte-level BPE that learnt from answers alone, without splitting words: its tokens cross everything."""
    generator = torch.Generator().manual_seed(0)
    texts = []
    for index in range(400):
        times = torch.rand(8, generator=generator).mul(grid.max_time).sort().values.tolist()
        events = [Event(a, b, LABELS[(index + k) % 8]) for k, (a, b) in enumerate(itertools.pairwise(times))]
        texts += [format_events(events, task, grid) for task in ("detection", "captioning")]
        texts.append(format_events([Event(e.onset, e.offset, "x") for e in events], "grounding", grid))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    )
    return finished(tokenizer, grid)


def sentencepiece_tokenizer(grid):
    """Return a BPE with `▁` for spaces, and bytes for what it does not know."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for piece in [
        "▁",
        *"0123456789.-,:;\\abdegklnorux<>",
        "▁dog",
        "▁bark",
        "▁none",
        ":▁",
        ",▁1",
        "-1",
        ".0",
        "no",
        "▁1",
    ]:
        vocabulary.setdefault(piece, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return finished(tokenizer, grid)


def finished(tokenizer, grid):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in grid.tick_tokens()])
    return tokenizer


GRID = TimeGrid(12.5, 0.08, 30.0)
COARSE = TimeGrid(25, 0.125, 10.0)
