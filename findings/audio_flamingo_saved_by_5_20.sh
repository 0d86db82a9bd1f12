#!/bin/bash
# transformers 5.20.0 and 5.23.0, torch 2.13.0: save_pretrained of AudioFlamingo3ForConditionalGeneration.
# Expected: both write the tensor names of the checkpoint on the Hub, language_model.model.layers.0. and so on.
# Seen: 5.20.0 writes language_model.model.model.layers.0.; only transformers, which renames on loading, reads both.
# For us: `timepro convert`, which reads tensors by name, takes either.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
cat > run.py <<'PY'
from safetensors import safe_open
from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration, __version__

size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
text = {"model_type": "qwen2", "vocab_size": 100, "num_key_value_heads": 2, **size}
config = AudioFlamingo3Config(audio_config=size, text_config=text)
AudioFlamingo3ForConditionalGeneration(config).save_pretrained("saved")
with safe_open("saved/model.safetensors", "pt") as file:
    print(__version__, *[name for name in file.keys() if "embed_tokens" in name])
PY
python3 -m venv venv && venv/bin/pip install -q torch==2.13.0 transformers==5.20.0
seen=$(venv/bin/python run.py 2>/dev/null)
venv/bin/pip install -q transformers==5.23.0
seen="$seen
$(venv/bin/python run.py 2>/dev/null)"
echo "$seen"
[ "$seen" = "5.20.0 language_model.model.model.embed_tokens.weight
5.23.0 language_model.model.embed_tokens.weight" ]
