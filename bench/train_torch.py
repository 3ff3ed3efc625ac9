"""A step of learning on torch with autograd, one evaluation for each line on
the standard input: the yardstick of `make bench-train`.

The line names the layout of memory: "nchw" or "channels_last". The network is
that of the ONNX model which ours imports, node by node. After "gradient" the
last gradients are written to gradient.f32, one after the other.
"""

import os
import sys
import time

import numpy
import torch
import torch.nn.functional as F

from yardstick import folder, hello, peak, say, task, tensor

layouts = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
constants = {name: tensor(part) for name, part in task["weights"].items() if name not in task["learnt"]}
images = tensor(task["images"])
anchors, positives, negatives = (torch.tensor(task[k]) for k in ("anchors", "positives", "negatives"))


def in_layout(x, layout):
    return x.contiguous(memory_format=layouts[layout]) if x.dim() == 4 else x


weights = {
    layout: {
        name: in_layout(tensor(task["weights"][name]), layout).requires_grad_(True) for name in task["learnt"]
    }
    for layout in layouts
}
pictures = {layout: in_layout(images, layout) for layout in layouts}


def embed(x, learnt):
    values = {**constants, **learnt, task["image"]: x}
    for node in task["nodes"]:
        op, a = node["op"], [values[name] for name in node["in"]]
        if op == "Conv":
            y = F.conv2d(a[0], a[1], None, stride=node["stride"], padding=node["pad"], groups=node["group"])
        elif op == "BatchNormalization":
            y = F.batch_norm(a[0], None, None, a[1], a[2], training=True, eps=node["epsilon"])
        elif op == "Relu":
            y = F.relu(a[0])
        elif op == "Add":
            y = a[0] + a[1]
        elif op == "Sub":
            y = a[0] - a[1]
        elif op == "Mul":
            y = a[0] * a[1]
        elif op == "Reshape":
            y = a[0].reshape(a[0].shape[0], -1)
        elif op == "Gemm":
            y = a[0] @ a[1].t()
        else:
            raise ValueError("operator " + op)
        values[node["out"]] = y
    return F.normalize(values[task["embedding"]], dim=1)


def loss(e):
    a, p, n = e[anchors], e[positives], e[negatives]
    nearer = (a - p).square().sum(1) - (a - n).square().sum(1)
    return F.relu(nearer + task["margin"]).mean()


hello()
last = None
for line in sys.stdin:
    what = line.strip()
    if what == "gradient":
        grads = [last[name].grad.contiguous().numpy().ravel() for name in task["learnt"]]
        numpy.concatenate(grads).astype("<f4").tofile(os.path.join(folder, "gradient.f32"))
        say(peak=peak())
        continue
    last = weights[what]
    for w in last.values():
        w.grad = None
    start = time.perf_counter()
    total = loss(embed(pictures[what], last))
    total.backward()
    say(seconds=time.perf_counter() - start, losses=[float(total.detach())])
