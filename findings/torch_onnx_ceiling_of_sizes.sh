#!/bin/bash
# torch.onnx.export of torch 2.13.0 (onnxscript 0.7.2, onnxruntime 1.32.0) and the ceiling of a division of sizes.
#
# Expected: a model that pads its input to a multiple of 30 by Python's usual ceiling, -(-n // 30), gives the same length
#   as a graph: Python, the exported program and ONNX all make 120 of 96.
# Seen: Python and the exported program make 120, the ONNX graph 90, without an error or a warning. Division of integers
#   in ONNX rounds towards zero, and // of a negative size is exported as it. An encoder that cuts its input into chunks
#   so loses the last one. (n + 29) // 30 is exported correctly.
set -e
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"
python3.11 -m venv venv && . venv/bin/activate
pip install -q --retries 0 --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
python -W ignore - 2>/dev/null <<'END'
import onnxruntime
import torch
from torch.nn.functional import pad


class Negative(torch.nn.Module):
    def forward(self, x):
        return pad(x, (0, -(-x.shape[1] // 30) * 30 - x.shape[1]))


class Positive(torch.nn.Module):
    def forward(self, x):
        return pad(x, (0, (x.shape[1] + 29) // 30 * 30 - x.shape[1]))


x, found = torch.zeros(1, 96), []
for module in (Negative(), Positive()):
    program = torch.export.export(module, (x,), dynamic_shapes=({1: torch.export.Dim("n", min=31, max=300)},))
    torch.onnx.export(program, verbose=False).save("graph.onnx")
    session = onnxruntime.InferenceSession("graph.onnx", providers=["CPUExecutionProvider"])
    (graph,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    found.append((module(x).shape[1], program.module()(x).shape[1], graph.shape[1]))
    print(type(module).__name__, "Python, exported program, ONNX:", *found[-1])
assert found == [(120, 120, 90), (120, 120, 120)], found
END
