"""One of two processes that hold the layers of an audio encoder together; started by `test_backbones.py`.

The first encodes one clip, the second three of other lengths, each as a batch of one step.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402

from modeling_timepro import TimeProAudioForCausalLM  # noqa: E402

folder, out = sys.argv[1:]
mesh = init_device_mesh("cpu", (2,))
rank = torch.distributed.get_rank()
model = TimeProAudioForCausalLM.from_pretrained(folder).eval()
lengths = [[300], [3000, 200, 30]][rank]
generator = torch.Generator().manual_seed(rank)
features = torch.randn(len(lengths), model.config.audio_config.num_mel_bins, max(lengths), generator=generator)
mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
with torch.no_grad():
    expected = torch.cat([model.get_audio_features(features[[i]], mask[[i]]).pooler_output for i in range(len(mask))])
    for layer in model.model.audio_tower.layers:
        fully_shard(layer, mesh=mesh)
    found = model.get_audio_features(features, mask).pooler_output
Path(out, str(rank)).write_text(str((found - expected).abs().max().item()))
torch.distributed.destroy_process_group()
