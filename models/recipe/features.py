#!/usr/bin/env python3
"""builtin-features: a network for style transfer, taught by SqueezeNet 1.1.

    python3 features.py --lfw lfw.zip --celeba celeba.zip \\
        --teacher squeezenet11-features.onnx --seconds 200 --out DIR
    python3 features.py --refresh DIR/builtin-features.onnx

A chain of eight stages of plain convolutions, drawn at random, learns to give
what the teacher gives after conv1 and fire2 to fire8: on photos, and on
pictures that look painted, which this file makes (class Painter). The second
form writes the file's hash and size into models/builtin-features.json.

The teacher runs with average pooling in the place of max pooling, since that is
how pkg/style runs it: what is matched are the features that pictures are made
with, not those that classify. Sizes agree to the pixel: no padding at relu1 and
at the pools, one pixel at the other 3x3, and pools that round down.

Besides activations and Gram matrices, gradients are matched: pictures are
painted while the network learns, with the loss of pkg/style, and the pixels'
gradient through the student is held against that through the teacher. So it
sees what an optimiser makes of it, which no collection of pictures has.
"""

import argparse
import hashlib
import json
import math
import os
import random
import signal
import sys
import time
import types

import onnx
import torch
import torch.nn.functional as F
from onnx import helper

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import onnx_torch  # noqa: E402
import photos  # noqa: E402

NAME = "builtin-features"
MEAN = (123.0, 117.0, 104.0)
# Of each stage: the teacher's tensor, those before its ReLU, channels, the
# width of the 1x1 convolution before the 3x3. Widths are half again the
# teacher's: at its own widths a random start does not find its way as well.
STAGES = [("conv1", ["conv1_c"], 64, 0)] + [
    ("fire%d/concat" % k, ["fire%d/expand1x1_c" % k, "fire%d/expand3x3_c" % k], c, w)
    for k, c, w in ((2, 128, 24), (3, 128, 24), (4, 256, 48), (5, 256, 48), (6, 384, 72), (7, 384, 72), (8, 512, 96))]
POOLED = (1, 3, 5)  # stages that begin with the pool
STYLE = {0: 8.0, 1: 4.0, 3: 2.0, 5: 1.0, 7: 0.5}  # what pkg/style weighs, as in squeezenet11.json
CONTENT, CONTENT_WEIGHT = 2, 0.2


class Teacher:
    """SqueezeNet with average pooling. Call it for the activations by stage,
    and with before=True for those before the ReLU too."""

    def __init__(self, path, device):
        self.net = onnx_torch.Net(path)
        for node in self.net.model.graph.node:
            if node.op_type == "MaxPool":
                node.op_type = "AveragePool"
        self.net.to(device).eval().requires_grad_(False)
        self.mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)

    def __call__(self, x, before=False, stages=range(len(STAGES))):
        want = [STAGES[k][0] for k in stages]
        y = self.net(x - self.mean, want + [n for k in stages for n in STAGES[k][1]] if before else want)
        after = {k: y[STAGES[k][0]] for k in stages}
        if not before:
            return after
        return after, {k: torch.cat([y[n] for n in STAGES[k][1]], 1) for k in stages}


class Student(torch.nn.Module):
    """The network in its own units: a stage's channels are in the teacher's
    standard deviations, so that all learn at one pace. fold takes them out."""

    def __init__(self, scales):
        super().__init__()
        self.first = torch.nn.ModuleList()
        self.second = torch.nn.ModuleList()
        for k, (_, _, channels, width) in enumerate(STAGES):
            before = 3 if k == 0 else STAGES[k - 1][2]
            self.first.append(torch.nn.Conv2d(before, width, 1) if width else torch.nn.Identity())
            self.second.append(torch.nn.Conv2d(width or before, channels, 3, 1 if k else 2, 1 if k else 0))
            self.register_buffer("scale%d" % k, scales[k].clone().view(1, -1, 1, 1))
        for m in self.modules():
            if isinstance(m, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                torch.nn.init.zeros_(m.bias)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))

    def scale(self, k):
        return getattr(self, "scale%d" % k)

    def stage(self, k, x):
        """Before and after the ReLU."""
        if k == 0:
            x = (x - self.mean) / 60
        else:
            if k in POOLED:
                x = F.avg_pool2d(x, 3, 2)
            x = F.relu(self.first[k](x))
        y = self.second[k](x)
        return y, F.relu(y)

    def forward(self, x, given=None):
        """The stages of x; given, if it is, has stages to take in place of the
        own as the next one's input."""
        before, after = {}, {}
        for k in range(len(STAGES)):
            before[k], after[k] = self.stage(k, x)
            x = given[k] if given and k in given else after[k]
        return before, after

    def features(self, x):
        """The stages in the teacher's units."""
        return {k: v * self.scale(k) for k, v in self(x)[1].items()}

    def fold(self):
        """The tensors of the file: scales go into the weights, which ReLU and
        average pooling allow, and those between the two convolutions of a stage
        are chosen so that both use the range of float16 alike."""
        out = {}
        for k, (_, _, _, width) in enumerate(STAGES):
            own = self.scale(k).double().cpu().view(-1, 1, 1, 1)
            w, b = self.second[k].weight.detach().double().cpu() * own, self.second[k].bias.detach().double().cpu() * own.view(-1)
            if k == 0:
                w = w / 60
            else:
                v = self.first[k].weight.detach().double().cpu() / self.scale(k - 1).double().cpu().view(1, -1, 1, 1)
                a = self.first[k].bias.detach().double().cpu()
                r = (w.square().mean() / v.square().mean()).sqrt().sqrt()
                v, a, w = v * r, a * r, w / r
                out["squeeze%d.w" % (k + 1)], out["squeeze%d.b" % (k + 1)] = v, a
            out["conv%d.w" % (k + 1)], out["conv%d.b" % (k + 1)] = w, b
        return {name: t.float().numpy() for name, t in out.items()}


def export(student, path):
    """Writes the ONNX file, whole or not at all."""
    nodes, x = [], "image"

    def conv(x, name, w, relu, **more):
        nodes.append(helper.make_node("Conv", [x, name + ".w", name + ".b"], [name], name=name, kernel_shape=[w, w], **more))
        nodes.append(helper.make_node("Relu", [name], [relu], name=relu))
        return relu

    for k in range(len(STAGES)):
        if k in POOLED:
            nodes.append(helper.make_node("AveragePool", [x], ["pool%d" % k], name="pool%d" % k, kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4))
            x = "pool%d" % k
        if k:
            x = conv(x, "squeeze%d" % (k + 1), 1, "narrow%d" % (k + 1), pads=[0] * 4, strides=[1, 1])
        x = conv(x, "conv%d" % (k + 1), 3, "relu%d" % (k + 1), pads=[int(k > 0)] * 4, strides=[1 if k else 2] * 2)
    values = student.fold()
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, NAME, [info("image", onnx.TensorProto.FLOAT, [1, 3, "height", "width"])],
                              [info(x, onnx.TensorProto.FLOAT, [1, STAGES[-1][2], "h", "w"])],
                              [onnx.numpy_helper.from_array(v, n) for n, v in values.items()])
    model = helper.make_model(graph, producer_name="likeness", opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx_torch.save(types.SimpleNamespace(model=model), values, path + ".part")
    os.replace(path + ".part", path)


class Painter:
    """Pictures [n,3,size,size] of 0..255 and a little beyond, of many kinds."""

    def __init__(self, sources, size, device):
        self.size, self.device = size, device
        self.sources = sources  # uint8 [n,3,h,w]
        line = torch.arange(size, device=device, dtype=torch.float32)
        self.y, self.x = line.view(1, size, 1).expand(1, size, size), line.view(1, 1, size).expand(1, size, size)

    # Numbers.
    def u(self, n, low=0.0, high=1.0, *shape):
        return torch.rand(n, *(shape or (1, 1, 1)), device=self.device) * (high - low) + low

    def chance(self, n, p):
        return torch.rand(n, 1, 1, 1, device=self.device) < p

    # Building blocks.
    def sample(self, image, x, y):
        """image at the pixels x, y, [n,h,w] each; beyond the edge mirrored."""
        h, w = image.shape[-2:]
        return F.grid_sample(image, torch.stack(((2 * x + 1) / w - 1, (2 * y + 1) / h - 1), -1),
                             padding_mode="reflection", align_corners=False)

    def fractal(self, n, channels=1, low=None, high=None):
        """Noise of many octaves, mean 0 and deviation 1; power: how fast finer
        ones fade."""
        power = self.u(n, 0.0 if low is None else low, 1.6 if high is None else high)
        total = 0
        for r in (3, 5, 9, 17, 33, 65, 129):
            if r < self.size:
                field = torch.randn(n, channels, r, r, device=self.device)
                total = total + F.interpolate(field, (self.size,) * 2, mode="bicubic", align_corners=True) * r ** -power
        total = total - total.mean((2, 3), keepdim=True)
        return total / total.std((2, 3), keepdim=True).clamp_min(1e-4)

    def colours(self, n, k):
        c = self.u(n, 0, 255, k, 3)
        grey = c.mean(2, keepdim=True)
        c = (grey + (c - grey) * self.u(n, 0.2, 2.5, 1, 1)).clamp(0, 255)
        rising = torch.gather(c, 1, c.mean(2).argsort(1).unsqueeze(2).expand(-1, -1, 3))
        return torch.where(self.chance(n, 0.5).view(n, 1, 1), rising, c)

    def paint(self, t, k=None):
        """A field [n,1,h,w] of 0..1 in colours, with steps or without."""
        n, k = t.shape[0], k or random.choice((2, 3, 4, 6, 9))
        c = self.colours(n, k).transpose(1, 2)  # n,3,k
        t = t.clamp(0, 1) * (k - 1)
        hard = self.chance(n, 0.3)
        at = t.floor().clamp(0, max(k - 2, 0))
        part = torch.where(hard, (t - at).round(), t - at)
        flat = at.long().view(n, 1, -1).expand(-1, 3, -1)
        a, b = (torch.gather(c, 2, i).view(n, 3, *t.shape[2:]) for i in (flat, (flat + 1).clamp_max(k - 1)))
        return a + (b - a) * part

    def field(self, n):
        """0..1, evenly spread or so."""
        return torch.sigmoid(self.fractal(n) * self.u(n, 0.8, 4))

    def angle(self, n):
        return self.u(n, 0, 2 * math.pi) + self.fractal(n, low=1.0, high=2.0) * self.u(n, 0, 2)

    def smear(self, image, angle, steps, stride=1.0):
        """Mean along the flow: line integral convolution."""
        flow = torch.cat((angle.cos(), angle.sin()), 1)
        total, count = image.clone(), 1
        for sign in (1, -1):
            x, y = self.x.expand(len(image), -1, -1), self.y.expand(len(image), -1, -1)
            d = flow
            for _ in range(steps):
                x, y = x + sign * stride * d[:, 0], y + sign * stride * d[:, 1]
                total, count = total + self.sample(image, x, y), count + 1
                d = self.sample(flow, x, y)
        return total / count

    def blur(self, image, r):
        return F.avg_pool2d(F.pad(image, (r,) * 4, mode="reflect"), 2 * r + 1, 1) if r else image

    def kuwahara(self, image, r):
        """Of four squares around a pixel the mean of the least uneven."""
        padded = F.pad(image, (r,) * 4, mode="reflect")
        grey = padded.mean(1, keepdim=True)
        mean, spread = F.avg_pool2d(padded, r + 1, 1), F.avg_pool2d(grey ** 2, r + 1, 1) - F.avg_pool2d(grey, r + 1, 1) ** 2
        best, out = None, None
        for a in (0, r):
            for b in (0, r):
                m, s = (t[:, :, a:a + self.size, b:b + self.size] for t in (mean, spread))
                out = m if out is None else torch.where(s < best, m, out)
                best = s if best is None else torch.minimum(s, best)
        return out

    def seeds(self, n, base, cell, angle, wild):
        """One seed in each cell of a grid, with what a stroke needs, as channels:
        x, y, cos, sin, 1/length, 1/width, rank, red, green, blue."""
        m = self.size // cell + 5
        row = (torch.arange(m, device=self.device, dtype=torch.float32) - 2) * cell
        x = row.view(1, 1, m) + self.u(n, 0, cell, m, m)
        y = row.view(1, m, 1) + self.u(n, 0, cell, m, m)
        turn = self.sample(angle, x, y) + torch.randn(n, 1, m, m, device=self.device) * self.u(n, 0, wild)
        colour = self.sample(base, x, y) + torch.randn(n, 3, m, m, device=self.device) * self.u(n, 0, 30)
        length = cell * self.u(n, 0.8, 2.2) * self.u(n, 0.7, 1.1, 1, m, m)
        width = cell * self.u(n, 0.25, 0.8) * self.u(n, 0.7, 1.2, 1, m, m)
        return torch.cat((x.unsqueeze(1), y.unsqueeze(1), turn.cos(), turn.sin(), 1 / length, 1 / width, self.u(n, 0, 1, 1, m, m), colour), 1)

    def around(self, seeds, cell, reach):
        """The seeds of the cells around each pixel, one cell at a time, with the
        pixel's place along and across the stroke."""
        at = torch.arange(self.size, device=self.device) // cell + 2
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                s = seeds[:, :, at + dy][:, :, :, at + dx]
                px, py = self.x.unsqueeze(1) - s[:, 0:1], self.y.unsqueeze(1) - s[:, 1:2]
                yield s, (px * s[:, 2:3] + py * s[:, 3:4]) * s[:, 4:5], (py * s[:, 2:3] - px * s[:, 3:4]) * s[:, 5:6]

    def strokes(self, base, cell, ground=None):
        """Short strokes laid over each other, in the colours of base."""
        n = len(base)
        out = self.blur(base, 3) if ground is None else ground
        top = torch.zeros(n, 1, self.size, self.size, device=self.device)
        bristle, ridge = self.u(n, 2, 9), self.u(n, 0, 40)
        for s, along, across in self.around(self.seeds(n, base, cell, self.angle(n), 0.5), cell, 2):
            over = (along.abs() ** 3 + across.abs() ** 3 < 1) & (s[:, 6:7] > top)
            colour = s[:, 7:10] + ridge * ((across * bristle).sin() * 0.6 - across)
            out, top = torch.where(over, colour, out), torch.where(over, s[:, 6:7], top)
        return out

    def mosaic(self, base, cell):
        """Cells in the colours of base, with joints between them or none."""
        n = len(base)
        near = torch.full((n, 1, self.size, self.size), 1e9, device=self.device)
        next_, out = near.clone(), torch.zeros(n, 3, self.size, self.size, device=self.device)
        seeds = self.seeds(n, base, cell, self.angle(n), 1.0)
        seeds[:, 4:5] = 1 / cell
        seeds[:, 5:6] = self.u(n, 0.8, 1.8) / cell
        for s, along, across in self.around(seeds, cell, 2):
            d = (along ** 2 + across ** 2).sqrt()
            next_ = torch.minimum(next_, torch.maximum(d, near))
            out, near = torch.where(d < near, s[:, 7:10], out), torch.minimum(d, near)
        joint = torch.sigmoid((next_ - near - self.u(n, 0.02, 0.2)) * cell * self.u(n, 0.7, 2))
        joint = torch.where(self.chance(n, 0.3), torch.ones_like(joint), joint)
        return out * joint + self.colours(n, 1).view(n, 3, 1, 1) * (1 - joint)

    def waves(self, n, angle=None):
        """-1..1 in stripes of some angle, bent by noise."""
        angle = self.u(n, 0, math.pi) if angle is None else angle
        period = torch.exp(self.u(n, math.log(3), math.log(40)))
        bend = self.fractal(n, low=0.9, high=1.8) * self.u(n, 0, 3) * self.chance(n, 0.6)
        return ((self.x * angle.cos() + self.y * angle.sin()) * (2 * math.pi / period) + bend + self.u(n, 0, 6.3)).sin()

    # Kinds.
    def photo(self, n):
        source = random.choice(self.sources)
        at = torch.randint(len(source), (n,), device=source.device)
        image = source[at].to(self.device).float()
        zoom, turn = torch.exp(self.u(n, -1.3, 0.3)), torch.randn(n, 1, 1, 1, device=self.device) * 0.3
        if random.random() < 0.4:  # smaller, so that detail is as fine as in large pictures
            image = F.avg_pool2d(image, 2)
        h, w = image.shape[-2:]
        x, y = (self.x - self.size / 2) * zoom.squeeze(1), (self.y - self.size / 2) * zoom.squeeze(1)
        c, s, cx, cy = turn.cos().squeeze(1), turn.sin().squeeze(1), self.u(n, 0.2, 0.8, 1, 1) * w, self.u(n, 0.2, 0.8, 1, 1) * h
        flip = torch.where(self.chance(n, 0.5), 1.0, -1.0).squeeze(1)
        return self.sample(image, (x * c - y * s) * flip + cx, x * s + y * c + cy)

    def recoloured(self, n):
        p = self.photo(n)
        grey = p.mean(1, keepdim=True) / 255
        return self.paint(grey, 6) * 0.8 + p * 0.2 if random.random() < 0.5 else self.paint(grey)

    def clouds(self, n):
        if random.random() < 0.3:
            return 128 + self.fractal(n, 3) * self.u(n, 20, 80)
        return self.paint(self.field(n))

    def warped(self, n):
        base = random.choice((self.clouds, self.hatched, self.photo))(n)
        shift = self.fractal(n, 2, 0.8, 1.8) * self.u(n, 4, 30)
        return self.sample(base, self.x + shift[:, 0], self.y + shift[:, 1])

    def base(self, n):
        return random.choice((self.photo, self.photo, self.recoloured, self.clouds, self.warped))(n)

    def stroked(self, n):
        base = self.base(n)
        big, small = random.choice((8, 11, 15, 20)), random.choice((4, 5, 6, 8))
        if random.random() < 0.5:
            return self.strokes(base, random.choice((big, small)))
        return self.strokes(base, small, torch.where(self.fractal(n) > 0, self.strokes(base, big), base))

    def smeared(self, n):
        base = self.base(n)
        grain = torch.randn(n, 3 if random.random() < 0.5 else 1, *([self.size // random.choice((1, 2, 3))] * 2), device=self.device)
        base = base + F.interpolate(grain, (self.size,) * 2) * self.u(n, 20, 160)
        return self.contrast(self.smear(base, self.angle(n), random.choice((4, 7, 10)), random.choice((1.0, 1.5))))

    def mosaics(self, n):
        return self.mosaic(self.base(n), random.choice((5, 7, 10, 14, 20)))

    def hatched(self, n):
        """Stripes, checks, dots and hatching, plain or by the tone of a photo."""
        a = self.u(n, 0, math.pi)
        one, two = self.waves(n, a), self.waves(n, a + math.pi / 2)
        what = random.randrange(4)
        field = one if what == 0 else one * two if what == 1 else (one + two) / 2 if what == 2 else torch.maximum(one, two)
        if random.random() < 0.5:
            field = field + (self.photo(n).mean(1, keepdim=True) / 127 - 1)
        t = torch.sigmoid(field * self.u(n, 1, 15))
        c, d = (random.choice((lambda: self.colours(n, 1).view(n, 3, 1, 1), lambda: self.clouds(n)))() for _ in range(2))
        return c * t + d * (1 - t)

    def smooth(self, n):
        """Flats and gradients."""
        x, y = (self.x / self.size - self.u(n)) * self.u(n, -2, 2), (self.y / self.size - self.u(n)) * self.u(n, -2, 2)
        t = torch.where(self.chance(n, 0.5), x + y, (x ** 2 + y ** 2).sqrt())
        t = torch.where(self.chance(n, 0.3), torch.zeros_like(t), t)
        return self.paint(t + 0.3) + torch.randn(n, 3, self.size, self.size, device=self.device) * self.u(n, 0, 12) * self.chance(n, 0.6)

    def static(self, n):
        """White and blurred noise, as the start from noise."""
        grain = torch.randn(n, 3 if random.random() < 0.7 else 1, self.size, self.size, device=self.device)
        r = random.choice((0, 0, 1, 2))
        return self.u(n, 60, 200, 3, 1, 1) + self.blur(grain, r) * (2 * r + 1) * self.u(n, 5, 90)

    def softened(self, n):
        return self.kuwahara(self.base(n), random.choice((2, 3, 5, 7)))

    def blended(self, n):
        a, b = self.one(n), self.one(n)
        if random.random() < 0.4:
            t = torch.sigmoid(self.fractal(n, low=0.8) * self.u(n, 1, 20))
            return a * t + b * (1 - t)
        # The layout of one and the fine grain of another: a picture under way.
        return self.blur(a, random.choice((0, 1, 2))) + (b - self.blur(b, random.choice((2, 4, 7)))) * self.u(n, 0.3, 1.3)

    def contrast(self, image):
        m = image.mean((1, 2, 3), keepdim=True)
        return m + (image - m) / image.std((1, 2, 3), keepdim=True).clamp_min(4) * self.u(len(image), 25, 75)

    KINDS = (("photo", 4), ("recoloured", 2), ("clouds", 2), ("warped", 2), ("stroked", 5), ("smeared", 4), ("mosaics", 3),
             ("hatched", 3), ("smooth", 1), ("static", 1), ("softened", 2))

    def one(self, n):
        names, weights = zip(*self.KINDS)
        return getattr(self, random.choices(names, weights)[0])(n)

    def make(self, n, kind=None):
        image = getattr(self, kind)(n) if kind else self.blended(n) if random.random() < 0.25 else self.one(n)
        # Colours, light, canvas and grain of each its own.
        if random.random() < 0.5:
            image = image[:, torch.randperm(3, device=self.device)]
        grey = image.mean(1, keepdim=True)
        image = grey + (image - grey) * torch.where(self.chance(n, 0.3), self.u(n, 0, 2.2), self.u(n, 0.9, 1.1))
        image = 128 + (image - 128) * torch.where(self.chance(n, 0.4), self.u(n, 0.3, 1.5), self.u(n, 0.9, 1.1))
        image = image + torch.where(self.chance(n, 0.4), self.u(n, -50, 50, 3, 1, 1), self.u(n, -5, 5, 3, 1, 1))
        if random.random() < 0.2:
            image = image + self.waves(n, self.u(n, -0.05, 0.05)) * self.waves(n, self.u(n, 1.5, 1.6)) * self.u(n, 0, 15)
        image = image + torch.randn_like(image) * self.u(n, 0, 14) * self.chance(n, 0.35)
        # As a picture is mostly, and as one is that the optimiser drives on.
        return torch.where(self.chance(n, 0.6), image.clamp(0, 255), image.clamp(-70, 325))


def grams(values):
    """Gram matrices by stage, divided by their size as pkg/style does."""
    out = {}
    for k in STYLE:
        f = values[k].float().flatten(2)
        out[k] = torch.bmm(f, f.transpose(1, 2)) / (2 * f.shape[1] * f.shape[2])
    return out


def square(t):
    return t.flatten(1).square().sum(1)


class Easel:
    """Pictures that are being painted, some by the student's gradient, some by
    the teacher's."""

    def __init__(self, painter, pictures, size, device):
        self.painter, self.pictures, self.size = painter, pictures, size
        self.x, self.content, self.style, self.mean = (torch.zeros(pictures, 3, size, size, device=device) for _ in range(4))
        self.left = torch.zeros(pictures, dtype=torch.long)
        self.next = 0
        for i in range(0, pictures, 16):
            self.begin(torch.arange(i, min(i + 16, pictures)))
        self.left = torch.randint(5, 80, (pictures,))

    def begin(self, rows):
        content, style = (self.painter.make(len(rows), kind)[:, :, :self.size, :self.size]
                          for kind in (random.choice(("photo", "photo", "softened", "recoloured")), random.choice(("stroked", "smeared", "mosaics", None))))
        self.content[rows], self.style[rows], self.mean[rows] = content, style, 0
        self.x[rows] = content if random.random() < 0.8 else self.painter.make(len(rows), "static")[:, :, :self.size, :self.size]
        self.left[rows] = torch.randint(30, 120, (len(rows),))

    def loss(self, features, x, content, style, weights):
        with torch.no_grad():
            g, f = grams(features(style)), features(content)[CONTENT].float()
        values = features(x)
        own = grams(values)
        total = CONTENT_WEIGHT * square(values[CONTENT].float() - f) / square(f).clamp_min(1e-6)
        for k, w in STYLE.items():
            total = total + w * weights[k] * square(own[k] - g[k]) / square(g[k]).clamp_min(1e-12)
        return total.sum(), values

    def step(self, n, student, teacher, learn=True):
        """The squared relative error of the student's gradients, and the cosine;
        the pictures go on by a step. Not learnt from, the first n are looked at
        and stay as they are."""
        rows = (torch.arange(n) + self.next) % self.pictures if learn else torch.arange(n)
        # Each stage has its say: weights as in the product, times a factor.
        weights = {k: math.exp(random.gauss(0, 0.8)) if learn else 1.0 for k in STYLE}
        x, content, style = self.x[rows].requires_grad_(), self.content[rows], self.style[rows]
        total, truth = self.loss(lambda v: teacher(v, stages=range(len(STAGES))), x, content, style, weights)
        target, = torch.autograd.grad(total, x)
        total, values = self.loss(student.features, x, content, style, weights)
        got, = torch.autograd.grad(total, x, create_graph=learn)
        error = square(got - target) / square(target).clamp_min(1e-20)
        cosine = F.cosine_similarity(got.detach().flatten(1), target.flatten(1))
        if learn:
            self.next = (self.next + n) % self.pictures
            with torch.no_grad():
                move = target if random.random() < 0.3 else got.detach()
                move = move / move.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-20)
                self.mean[rows] = self.mean[rows] * 0.8 + move * 0.2
                # Steps of 9 to 1 levels: coarse at first, fine at the end.
                length = (1 + self.left[rows] / 15).view(-1, 1, 1, 1).to(x.device)
                self.x[rows] = (x.detach() - self.mean[rows] * length).clamp(-120, 375)
                self.left[rows] -= 1
                done = rows[self.left[rows] <= 0]
                if len(done):
                    self.begin(done)
        return error, cosine, {k: v.detach() for k, v in truth.items()}, values


def measure(student, teacher, images, easel):
    """By stage the unexplained variance and the Gram error, and the gradients'
    cosine, of pictures that are not learnt from."""
    wrong, spread, gram = ({k: 0.0 for k in range(len(STAGES))} for _ in range(3))
    parts = images.split(16)
    with torch.no_grad():
        for part in parts:
            a, b = student.features(part), teacher(part)
            ga, gb = grams(a), grams(b)
            for k in wrong:
                wrong[k] += (a[k] - b[k]).square().sum().item()
                spread[k] += (b[k] - b[k].mean((0, 2, 3), keepdim=True)).square().sum().item()
            for k in STYLE:
                gram[k] += (square(ga[k] - gb[k]) / square(gb[k]).clamp_min(1e-12)).sqrt().mean().item() / len(parts)
    error, cosine, _, _ = easel.step(min(16, easel.pictures), student, teacher, learn=False)
    return {"feature_error": [round(wrong[k] / max(spread[k], 1e-9), 5) for k in wrong],
            "gram_error": [round(gram[k], 5) for k in STYLE],
            "gradient_cosine": round(cosine.mean().item(), 5), "gradient_error": round(error.detach().sqrt().mean().item(), 5)}


def read_photos(path, device, smoke):
    if not path:
        return None
    _, images = photos.read(path)
    if smoke:
        images = images[:: max(1, len(images) // 400)]
    # The last of them only measure.
    cut = len(images) * 19 // 20
    print("%s: %d photos of %dx%d" % (os.path.basename(path), len(images), images.shape[3], images.shape[2]), flush=True)
    return images[:cut].to(device), images[cut:].to(device)


def train(args):
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    signal.signal(signal.SIGINT, lambda *_: stop.append(True))
    os.makedirs(args.out, exist_ok=True)
    small = args.smoke or not cuda
    size, crops = (88, (72, 80, 88)) if small else (192, (128, 176))
    batch, slots, fresh = (8, 96, 4) if small else (96, 4096, 64)
    painted, easel_size, gradient_batch = (8, 72, 3) if small else (256, 144, 24)

    sources = [s for s in (read_photos(p, device, small) for p in (args.lfw, args.celeba)) if s]
    teacher = Teacher(args.teacher, device)
    painter = Painter([s[0] for s in sources], size, device)
    apart = Painter([s[1] for s in sources], size, device)
    with torch.no_grad():
        test = torch.cat([apart.make(2 if small else 8, k) for k, _ in Painter.KINDS] + [apart.make(2 if small else 8, "blended")])
        easel_test = Easel(apart, 8 if small else 16, easel_size, device)
        store = torch.cat([painter.make(fresh) for _ in range(slots // fresh)]).half()
        easel = Easel(painter, painted, easel_size, device)
        # Units: the teacher's deviation by channel; hardly used channels get no
        # say that they do not have there.
        sums = {k: 0.0 for k in range(len(STAGES))}
        parts = store[:: max(1, slots // 512)].split(16)
        for part in parts:
            for k, v in teacher(part.float()).items():
                sums[k] = sums[k] + torch.stack((v.mean((0, 2, 3)), v.square().mean((0, 2, 3)))) / len(parts)
        scales = {}
        for k, (mean, power) in sums.items():
            deviation = (power - mean ** 2).clamp_min(0).sqrt()
            scales[k] = deviation.clamp_min(0.1 * deviation.square().mean().sqrt().item())
        # Half way, the pictures to measure with look painted.
        easel_test.x = easel_test.x * 0.5 + test[torch.randperm(len(test))[:easel_test.pictures], :, :easel_size, :easel_size] * 0.5
    student = Student(scales).to(device)
    if cuda:
        student = student.to(memory_format=torch.channels_last)
        teacher.net.to(memory_format=torch.channels_last)
    ema = Student(scales).to(device)
    ema.load_state_dict(student.state_dict())
    ema.requires_grad_(False)
    if cuda:
        ema = ema.to(memory_format=torch.channels_last)
    params, means = list(student.parameters()), list(ema.parameters())
    optimizer = torch.optim.Adam(params, lr=args.rate, betas=(0.9, 0.98))
    print("%s, torch %s, %d parameters, %d pictures to begin with" % (torch.cuda.get_device_name(0) if cuda else "cpu", torch.__version__,
                                                                     sum(p.numel() for p in params), slots), flush=True)
    path = os.path.join(args.out, NAME + ".onnx")
    begun = time.monotonic()
    curve, step, seen, told, kept, at = [], 0, 0, begun, begun, begun
    recent = {}

    def note(name, value):
        recent.setdefault(name, []).append(value.detach())

    def report():
        nonlocal told, recent
        r = measure(ema, teacher, test, easel_test)
        r.update({"seconds": round(at - begun, 1), "step": step, "images": seen})
        r.update({name: round(torch.stack(v).mean().item(), 4) for name, v in recent.items()})
        curve.append(r)
        rate = (seen - (curve[-2]["images"] if len(curve) > 1 else 0)) / max(1e-9, r["seconds"] - (curve[-2]["seconds"] if len(curve) > 1 else 0))
        print("%5.0f s step %6d %5.0f images/s | error %s | gram %s | gradient cos %.4f err %.3f | loss %s" % (
            r["seconds"], step, rate, " ".join("%.4f" % e for e in r["feature_error"]), " ".join("%.4f" % e for e in r["gram_error"]),
            r["gradient_cosine"], r["gradient_error"], " ".join("%s %.4f" % (n, r[n]) for n in recent)), flush=True)
        recent, told = {}, time.monotonic()

    def write():
        export(ema, path)
        with open(os.path.join(args.out, "features.json"), "w") as f:
            json.dump({"seed": args.seed, "seconds": args.seconds, "torch": torch.__version__, "parameters": sum(p.numel() for p in params),
                       "stages": [s[0] for s in STAGES], "curve": curve}, f, indent=1)
            f.write("\n")

    while not stop:
        at = time.monotonic()
        done = (at - begun) / args.seconds
        if done >= 1:
            break
        if at - told > 10:
            report()
        if at - kept > 60:
            write()
            kept = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, done / 0.02) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-7
        with torch.no_grad():
            if step % (10 if small else 2) == 0:
                put = random.randrange(slots // fresh) * fresh
                store[put:put + fresh] = painter.make(fresh).half()
            c = random.choice(crops)
            oy, ox = random.randrange(size - c + 1), random.randrange(size - c + 1)
            x = store[torch.randint(slots, (batch,), device=device), :, oy:oy + c, ox:ox + c].float()
            if random.random() < 0.5:
                x = x.flip(3)
            if random.random() < 0.25:
                x = x.transpose(2, 3)
            x = x.contiguous(memory_format=torch.channels_last)
        # At first each stage gets the teacher's activations, so that all learn
        # at once; later more and more its own forerunner's.
        forced = min(1, max(0, 1.3 - 3 * done))
        # Rounding to 8 bits teaches the coarse, then it is in the way.
        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=cuda and done < 0.5):
            with torch.no_grad():
                after, before = teacher(x, before=True)
                unit = {k: student.scale(k) for k in after}
                after, before = ({k: v[k] / unit[k] for k in v} for v in (after, before))
            pre, post = student(x, {k: v for k, v in after.items() if random.random() < forced})
        loss = torch.zeros((), device=device)
        for k in post:
            e = (post[k].float() - after[k].float()).square().mean()
            # Before the ReLU there is something to learn from also where it is
            # shut; far from zero it does not matter.
            low = (pre[k].float() - before[k].float()).clamp(-2, 2).square().mean()
            loss = loss + e + 0.05 * low
        note("mse", loss / len(post))
        a, b = grams({k: post[k].float() * unit[k] for k in STYLE}), grams({k: after[k].float() * unit[k] for k in STYLE})
        gram = sum((square(a[k] - b[k]) / square(b[k]).clamp_min(1e-12)).clamp_max(4).mean() for k in STYLE)
        note("gram", gram / len(STYLE))
        loss = loss + gram
        if args.gradients > 0 and done > 0.15 and step % args.every == 0:
            error, _, truth, values = easel.step(gradient_batch, student, teacher)
            error = (error / (1 + error / 4)).mean()  # a lone wild one has no more to say than another
            note("gradient", error)
            loss = loss + args.gradients * error
            for k in values:
                loss = loss + 0.5 * ((values[k] - truth[k]) / unit[k]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for p in params:  # one picture that overflows must not spoil the run
            torch.nan_to_num(p.grad, 0, 0, 0, out=p.grad)
        torch.nn.utils.clip_grad_norm_(params, 2.0)
        optimizer.step()
        step, seen = step + 1, seen + batch
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_mul_(means, decay)
            torch._foreach_add_(means, params, alpha=1 - decay)
    at = time.monotonic()
    report()
    write()
    print("%s: %d bytes after %d steps" % (path, os.path.getsize(path), step), flush=True)
    refresh(path, os.path.join(args.out, NAME + ".json"))


def refresh(path, to=None):
    """Writes the manifest with hash and size of the file at path."""
    own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", NAME + ".json")
    if not os.path.exists(own):
        return
    with open(path, "rb") as f:
        data = f.read()
    with open(own) as f:
        text = f.read().splitlines(True)
    for i, line in enumerate(text):
        if line.startswith('  "sha256"'):
            text[i] = '  "sha256": "%s",\n' % hashlib.sha256(data).hexdigest()
        if line.startswith('  "size"'):
            text[i] = '  "size": %d,\n' % len(data)
    with open(to or own, "w") as f:
        f.writelines(text)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lfw", help="photos of 250x250, .zip")
    p.add_argument("--celeba", help="photos of 89x109, .zip")
    p.add_argument("--teacher", help="squeezenet11-features.onnx")
    p.add_argument("--seconds", type=float, default=200, help="of the training loop")
    p.add_argument("--out", help="folder")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--rate", type=float, default=3e-3)
    p.add_argument("--gradients", type=float, default=0.3, help="weight of the gradients' error")
    p.add_argument("--every", type=int, default=3, help="steps between those that match gradients")
    p.add_argument("--smoke", action="store_true", help="tiny sizes")
    p.add_argument("--refresh", metavar="FILE", help="write hash and size of FILE into the manifest, and nothing else")
    args = p.parse_args()
    if args.refresh:
        return refresh(args.refresh)
    if not args.out or not args.teacher or not (args.lfw or args.celeba):
        p.error("--teacher, --out and photos are needed")
    train(args)


if __name__ == "__main__":
    main()
