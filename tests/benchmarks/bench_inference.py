"""Time stock Qwen2-Audio beside ours with the same random weights, the time prompt off and on: one JSON line.

    python tests/benchmarks/bench_inference.py [--seconds 5 10 30] [--batch-sizes 1 8] [--num-tokens 1] [--repeats 3]

A run goes from waveforms to tokens: processor, encoder, prompt and answer, each class with its own processor. The sizes
are those of Qwen2-Audio-7B with half its widths and an eighth of its layers; a sixteenth of its vocabulary keeps the
head's share. So encoder, language model and head stand to each other as in the 7B, but for attention, which weighs
twice as much. Runs of the three take turns. Clips per second are medians, of the clock and (`cpu`) of the processor,
which other programs disturb less; ratios to stock are of the latter, 2 meaning twice as fast. `hear` is processor and
encoder alone. Memory is what a run adds at its peak.
"""

import argparse
import ctypes
import json
import re
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from memory_conversion import add_time_tokens  # noqa: E402
from transformers import (  # noqa: E402
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from modeling_timepro import TimeProAudioForCausalLM  # noqa: E402
from processing import TimeGrid, TimeProAudioProcessor  # noqa: E402
from recipes.conversion.backbones import backbone_config, backbone_key  # noqa: E402
from recipes.small.language_model import train_tokenizer  # noqa: E402

AUDIO = {"d_model": 640, "encoder_layers": 4, "encoder_attention_heads": 10, "encoder_ffn_dim": 2560}
TEXT = {"hidden_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 16,
        "intermediate_size": 5504, "vocab_size": 9752}  # fmt: skip
QUESTION = "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nWhat events can you hear, and when does each start and end?"


def build_models():
    """Return `{name: (model, processor)}` of stock and, with its weights, ours with the prompt off and on."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(vocab_size=400, num_documents=300)
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder"} | AUDIO,
        text_config={"model_type": "qwen2"} | TEXT,
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    stock = Qwen2AudioForConditionalGeneration(config).eval()
    stock_processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer)
    ours = TimeProAudioForCausalLM(backbone_config(config)).eval()
    ours.load_state_dict({backbone_key("qwen2_audio", key): weight for key, weight in stock.state_dict().items()})
    extractor = WhisperFeatureExtractor(feature_size=128)
    off = TimeProAudioProcessor(extractor, tokenizer, time_prompt=False)
    models = {"stock": (stock, stock_processor), "off": (ours, off)}
    # Ticks take spare rows of the vocabulary, so that with and without them it is one model.
    on = add_time_tokens(ours, off, TimeGrid(25.0, 0.04, 30.0), "place")
    ours.generation_config.suppress_tokens = None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {name: (model.to(device), processor) for name, (model, processor) in models.items()}
    return models | {"on": (ours, on)}


def now():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def status(name):
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def start_memory():
    """Forget the peak so far, and return what is in use."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak_memory():
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else status("VmHWM")


def time_tower(model):
    """Return a list that grows by `[start, end]` of the encoder's runs, in seconds of the processor."""
    spans = []
    model.model.audio_tower.register_forward_pre_hook(lambda *args: spans.append([now()[1]]))
    model.model.audio_tower.register_forward_hook(lambda *args: spans[-1].append(now()[1]))
    return spans


@torch.no_grad()
def run(model, processor, spans, waveforms, num_tokens):
    """Return `(seconds, processor seconds, the same of hearing, bytes, prompt tokens of a clip)` of one run."""
    before, start = start_memory(), now()
    inputs = processor(
        text=[QUESTION] * len(waveforms), audio=waveforms, sampling_rate=16000, return_tensors="pt", padding=True
    ).to(model.device)
    processed = now()
    model.generate(**inputs, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False, pad_token_id=0)
    end = now()
    clock, cpu = (after - earlier for earlier, after in zip(start, end))
    hear = processed[1] - start[1] + spans[-1][1] - spans[-1][0]
    return clock, cpu, hear, peak_memory() - before, inputs["input_ids"].shape[1]


def measure(seconds, batch_sizes, num_tokens, repeats):
    """Return the figures of each length of clip and batch size, by the name of the model."""
    models = build_models()
    spans = {id(model): time_tower(model) for model in {id(model): model for model, _ in models.values()}.values()}
    for model, processor in models.values():
        run(model, processor, spans[id(model)], [np.zeros(16000, dtype=np.float32)], 2)
    rng = np.random.default_rng(0)
    report = {"threads": torch.get_num_threads(), "num_tokens": num_tokens, "repeats": repeats}
    report |= {"audio": AUDIO, "text": TEXT, "runs": []}
    for length in seconds:
        for batch_size in batch_sizes:
            waveforms = [(0.1 * rng.normal(size=round(length * 16000))).astype(np.float32) for _ in range(batch_size)]
            runs = {name: [] for name in models}
            for _ in range(repeats):
                for name, (model, processor) in models.items():
                    runs[name].append(run(model, processor, spans[id(model)], waveforms, num_tokens))
            row = {"seconds": length, "batch_size": batch_size}
            for name, found in runs.items():
                clock, cpu, hear, memory, tokens = (statistics.median(values) for values in zip(*found))
                row[name] = {"clips_per_s": round(batch_size / clock, 3), "clips_per_cpu_s": round(batch_size / cpu, 3),
                             "hear_per_cpu_s": round(batch_size / hear, 3), "peak_mb": round(memory / 1e6),
                             "prefill_tokens": int(tokens)}  # fmt: skip
            for name in ("off", "on"):
                for part in ("clips", "hear"):
                    key = f"{part}_per_cpu_s"
                    row[f"{name}_to_stock_{part}"] = round(row[name][key] / row["stock"][key], 2)
            report["runs"].append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 10.0, 30.0], metavar="S")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8], metavar="N")
    parser.add_argument("--num-tokens", type=int, default=1, metavar="N", help="answer tokens (default 1)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    print(json.dumps(measure(**vars(parser.parse_args()))))
