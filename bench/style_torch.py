"""The losses of style transfer on torch with autograd, one evaluation for
each line on the standard input: the yardstick of `make bench-style`.

The folder given has task.json (the network, its losses and where its numbers
lie) and numbers.f32 (pictures and weights, float32), as bench/style.go writes
them. After "gradient" the last gradient is written to gradient.f32.
"""

import os
import sys
import time

import torch
import torch.nn.functional as F

from yardstick import folder, hello, peak, say, task, tensor

ops = [dict(op) for op in task["ops"]]
for op in ops:
    if op["kind"] == "conv":
        op["w"], op["b"] = tensor(op["weights"]), tensor(op["bias"])
picture, content, style = tensor(task["picture"]), tensor(task["content"]), tensor(task["style"])
wanted = {loss["layer"] for loss in task["losses"]}


def activations(x):
    values, kept = {"image": x}, {}
    for op in ops:
        x = values[op["in"][0]]
        if op["kind"] == "conv":
            x = F.relu(F.conv2d(x, op["w"], op["b"], stride=op["stride"], padding=op["pad"]))
        elif op["kind"] == "pool":
            x = F.avg_pool2d(x, op["kernel"], op["stride"])
        else:
            x = torch.cat([values[name] for name in op["in"]], 1)
        values[op["name"]] = x
        if op["name"] in wanted:
            kept[op["name"]] = x
    return kept


def gram(a):
    a = a.reshape(a.shape[1], -1)
    return a @ a.t()


with torch.no_grad():
    of_content, of_style = activations(content), activations(style)
    targets = [
        of_content[loss["layer"]] if loss["kind"] == "content" else gram(of_style[loss["layer"]])
        for loss in task["losses"]
    ]
del of_content, of_style


def losses(x):
    """The weighted content, style and tv losses."""
    parts = {"content": 0.0, "style": 0.0}
    kept = activations(x)
    for loss, target in zip(task["losses"], targets):
        a = kept[loss["layer"]]
        if loss["kind"] == "content":
            part = 0.5 * (a - target).square().sum()
        else:
            part = ((gram(a) - target) * loss["scale"]).square().sum()
        parts[loss["kind"]] = parts[loss["kind"]] + loss["weight"] * part
    across, down = x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]
    tv = task["tv"] * (across.square().sum() + down.square().sum())
    return parts["content"], parts["style"], tv


hello()
picture.requires_grad_(True)
for line in sys.stdin:
    if line.strip() == "gradient":
        picture.grad.numpy().astype("<f4").tofile(os.path.join(folder, "gradient.f32"))
        say(peak=peak())
        continue
    picture.grad = None
    start = time.perf_counter()
    parts = losses(picture)
    total = sum(parts)
    total.backward()
    say(seconds=time.perf_counter() - start, losses=[float(p) for p in (total, *parts)])
