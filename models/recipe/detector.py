"""The built-in face detector, taught to give what YuNet-n gives.

The student is a network of its own, begun at random. It learns the teacher's
dense outputs, by function matching: both see the same pictures, and whatever
is in them, the student is to say what the teacher says. So no photo needs a
label, and scenes are composed from parts of photos as they come.
"""

import argparse
import json
import math
import os
import signal
import sys
import time

import numpy
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import onnx_torch  # noqa: E402
import photos  # noqa: E402

STRIDES = (8, 16, 32)


def student(path, seed=1, stem=16, quarter=32, wide=(64, 96, 128), deep=(1, 6, 3, 2), neck=64):
    """Writes the network with random weights: a stem and a backbone of
    depthwise-separable blocks with most of their work at strides of 8 and
    more, where it is cheap; a pyramid from the coarsest grid down; and on each
    grid 15 numbers a cell: score, box, five points."""
    rng = numpy.random.default_rng(seed)
    nodes, tensors = [], []

    def tensor(name, value):
        tensors.append(numpy_helper.from_array(value, name))
        return name

    def conv(name, x, c_in, c_out, kernel=1, stride=1, group=1, relu=True, add=None, plain=False):
        fan = c_in // group * kernel * kernel
        w = rng.normal(0, math.sqrt((2 if relu else 0.1) / fan), (c_out, c_in // group, kernel, kernel))
        inputs = [x, tensor(name + ".weight", w.astype(numpy.float32))]
        if plain:
            # Most cells hold nothing, and a face is some cells wide.
            inputs.append(tensor(name + ".bias", numpy.array([-4, 0, 0, 1, 1] + [0] * 10, numpy.float32)))
        nodes.append(helper.make_node("Conv", inputs, [name], kernel_shape=[kernel] * 2, strides=[stride] * 2,
                                      pads=[kernel // 2] * 4, group=group))
        if plain:
            return name
        y = name + ".norm"
        nodes.append(helper.make_node("BatchNormalization", [name] + [
            tensor(y + "." + part, numpy.full(c_out, fill, numpy.float32))
            for part, fill in (("scale", 1 if add is None else 0.5), ("shift", 0), ("mean", 0), ("variance", 1))], [y]))
        if add is not None:
            nodes.append(helper.make_node("Add", [y, add], [name + ".sum"]))
            y = name + ".sum"
        if relu:
            nodes.append(helper.make_node("Relu", [y], [name + ".relu"]))
            y = name + ".relu"
        return y

    def block(name, x, c_in, c_out, stride=1, kernel=3):
        y = conv(name + ".depth", x, c_in, c_in, kernel, stride, c_in)
        return conv(name + ".point", y, c_in, c_out, add=x if stride == 1 and c_in == c_out else None)

    x = conv("stem", "input", 3, stem, 3, 2)
    levels, c = [], stem
    for stage, (width, depth) in enumerate(zip((quarter,) + tuple(wide), deep)):
        kernel = 5 if stage >= 2 else 3
        x = block("stage%d.0" % stage, x, c, width, 2)
        for i in range(depth):
            x = block("stage%d.%d" % (stage, i + 1), x, width, width, 1, kernel)
        c = width
        levels.append((x, width))
    levels = levels[1:]
    tensor("double", numpy.array([1, 1, 2, 2], numpy.float32))
    tensor("everywhere", numpy.zeros(0, numpy.float32))
    above, heads = None, []
    for level in (2, 1, 0):
        x, width = levels[level]
        name = "neck%d" % STRIDES[level]
        if above is None:
            x = conv(name + ".side", x, width, neck)
        else:
            nodes.append(helper.make_node("Resize", [above, "everywhere", "double"], [name + ".up"], mode="nearest",
                                          coordinate_transformation_mode="asymmetric", nearest_mode="floor"))
            x = conv(name + ".side", x, width, neck, add=name + ".up")
        above = x = block(name, x, neck, neck)
        heads.append((STRIDES[level], x))
    tensor("cells", numpy.array([0, -1, 15], numpy.int64))
    for s, x in heads:
        x = block("head%d" % s, x, neck, neck)
        x = conv("head%d.out" % s, x, neck, 15, plain=True)
        nodes.append(helper.make_node("Transpose", [x], [x + ".last"], perm=[0, 2, 3, 1]))
        nodes.append(helper.make_node("Reshape", [x + ".last", "cells"], ["raw_%d" % s]))
    # The rest is for those who use the model: it is trained on raw_8 to raw_32.
    outputs = []
    for s in STRIDES:
        nodes.append(helper.make_node("Split", ["raw_%d" % s], ["logit_%d" % s, "bbox_%d" % s, "kps_%d" % s], axis=2, split=[1, 4, 10]))
        nodes.append(helper.make_node("Sigmoid", ["logit_%d" % s], ["cls_%d" % s]))
        # A reader takes the root of their product, and so the score itself.
        nodes.append(helper.make_node("Identity", ["cls_%d" % s], ["obj_%d" % s]))
    for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for s in STRIDES:
            outputs.append(helper.make_tensor_value_info("%s_%d" % (kind, s), TensorProto.FLOAT, ["batch", "cells_%d" % s, width]))
    graph = helper.make_graph(nodes, "builtin-detector", [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, "height", "width"])], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], producer_name="likeness")
    model.ir_version = 6
    onnx.checker.check_model(model)
    onnx.save(model, path)



def grids(net):
    """The names of the convolutions behind a detector's outputs: what comes
    after them only sorts numbers, and takes a sigmoid of scores."""
    made = {o: node for node in net.model.graph.node for o in node.output}
    names = {}
    for name in net.outputs:
        node = made[name]
        while node.op_type != "Conv":
            node = made[node.input[0]]
        names[name] = node.output[0]
    return names


class Pool:
    """Photos of one size on the card, as bytes, whole and halved twice, so
    that a small face is sampled from a small photo and does not alias. Centre
    and width of the one face are where they mostly are in such photos."""

    def __init__(self, path, device, centre, width, limit=None):
        _, whole = photos.read(path)
        if limit:
            whole = whole[:limit]
        self.levels, self.width = [whole.to(device)], width
        for _ in range(2):
            self.levels.append(torch.cat([F.avg_pool2d(part.float(), 2).round_().byte() for part in self.levels[-1].split(512)]))
        # Made once: each number that goes to a card waits for all its work.
        self.sizes = [torch.tensor(level.shape[3:1:-1], dtype=torch.float32, device=device) for level in self.levels]
        self.centres = [torch.tensor(centre, device=device) * size for size in self.sizes]

    def __len__(self):
        return len(self.levels[0])

    def tiles(self, n, side, level, low, high, parts=False):
        """n squares with a photo each, and where in each the photo is. Faces
        are low to high pixels wide, somewhere in the square, mostly upright.
        With parts it is any part of a photo, and low to high are how many
        pixels of the square one of the photo becomes."""
        data = self.levels[level]
        dev = data.device
        rand = lambda *shape: torch.rand(*shape, device=dev)  # noqa: E731
        photo = data[torch.randint(len(data), (n,), device=dev)].float()
        size = self.sizes[level]
        scale = low * (high / low) ** rand(n)
        if parts:
            at = rand(n, 2) * size
            to = torch.full((n, 2), side / 2.0, device=dev)
        else:
            scale = scale / (self.width / 2 ** level)
            at = self.centres[level]
            to = side * (0.5 + 0.7 * (rand(n, 2) - 0.5))
        angle = torch.randn(n, device=dev) * 0.2
        angle = torch.where(rand(n) < 0.12, rand(n) * 2 * math.pi, angle)
        aspect = torch.exp(torch.randn(n, device=dev) * 0.07)
        flip = torch.where(rand(n) < 0.5, 1.0, -1.0)
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        back = torch.stack([torch.stack([cos * aspect * flip, sin * aspect * flip], 1), torch.stack([-sin / aspect, cos / aspect], 1)], 1)
        shift = (back @ (side / 2 - to).unsqueeze(2)).squeeze(2) + at
        theta = torch.cat([back * side / size.view(1, 2, 1), (shift * 2 / size - 1).unsqueeze(2)], 2)
        grid = F.affine_grid(theta, (n, 3, side, side), align_corners=False)
        inside = (grid.abs() < 1).all(3).unsqueeze(1)
        # Some photos go on as their own mirror image, so that an edge is no sign of a face.
        inside = inside | (rand(n, 1, 1, 1) < 0.3)
        return F.grid_sample(photo, grid, mode="bilinear", padding_mode="reflection", align_corners=False), inside


class Scenes:
    """Pictures to ask the teacher about, composed on the card."""

    # The share of the scenes; tiles along a side; which photos, at which
    # level; width of the faces in pixels of a 320-pixel scene.
    KINDS = (
        (0.16, 1, "lfw", 0, 60, 400),
        (0.08, 1, "celeba", 0, 60, 300),
        (0.13, 2, "lfw", 0, 36, 190),
        (0.08, 2, "celeba", 0, 30, 170),
        (0.13, 4, "lfw", 1, 16, 95),
        (0.09, 4, "celeba", 0, 18, 80),
        (0.06, 8, "lfw", 2, 9, 45),
        (0.05, 8, "celeba", 1, 9, 42),
        (0.10, 1, "parts", 0, 1.5, 10),
        (0.12, 1, None, 0, 0, 0),
    )

    def __init__(self, lfw, celeba, device):
        self.pools = {"lfw": lfw, "celeba": celeba}
        self.device = device
        k = torch.arange(8, dtype=torch.float32, device=device)
        self.dct = torch.cos((2 * k.view(1, 8) + 1) * k.view(8, 1) * math.pi / 16) * 0.5
        self.dct[0] /= math.sqrt(2)

    def rand(self, *shape):
        return torch.rand(*shape, device=self.device)

    def pick(self, n, chance):
        return self.rand(n, 1, 1, 1) < chance

    def backdrop(self, n, side):
        """Clouds, stripes and plain colours."""
        x = self.rand(n, 3, 1, 1) * 255 + torch.zeros(n, 3, side, side, device=self.device)
        for cells in (2, 6, 24, 96):
            x += F.interpolate(torch.randn(n, 3, cells, cells, device=self.device), (side, side), mode="bilinear", align_corners=False) * (80 * self.rand(n, 1, 1, 1) ** 3)
        at = torch.linspace(0, 1, side, device=self.device)
        turn = self.rand(n, 3, 1, 1)
        bend = torch.randn(n, 2, 1, 1, device=self.device) * 60
        x += torch.sin(bend[:, :1] * at.view(1, 1, 1, -1) + bend[:, 1:] * at.view(1, 1, -1, 1) + 6.3 * turn) * (60 * self.rand(n, 1, 1, 1) * self.pick(n, 0.3))
        return x.clamp_(0, 255)

    def base(self, n, side):
        x = self.backdrop(n, side)
        done, share = 0, 0.0
        for part, tiles, source, level, low, high in self.KINDS:
            share += part
            count = int(round(n * share)) - done
            at, done = done, done + count
            if count == 0 or source is None:
                continue
            grown = side / 320.0
            if tiles > 2:
                tiles, grown = max(1, int(round(tiles * grown))), 1.0
            while side % tiles:
                tiles -= 1
            pool = self.pools["lfw" if source == "parts" else source]
            y, inside = pool.tiles(count * tiles * tiles, side // tiles, level, low * grown, high * grown, source == "parts")

            def joined(t):
                t = t.view(count, tiles, tiles, t.shape[1], side // tiles, side // tiles)
                return t.permute(0, 3, 1, 4, 2, 5).reshape(count, -1, side, side)

            x[at:at + count] = torch.where(joined(inside), joined(y), x[at:at + count])
        return x[torch.randperm(n, device=self.device)]

    def paste(self, x, source, level, low, high, chance):
        """One more photo on some scenes, cut to a rectangle or an oval."""
        n, _, side, _ = x.shape
        y, inside = self.pools[source].tiles(n, side, level, low, high)
        at = torch.linspace(0, 1, side, device=self.device)
        centre, half = self.rand(n, 2, 1, 1), 0.08 + 0.5 * self.rand(n, 2, 1, 1) ** 2
        across = ((at.view(1, 1, 1, -1) - centre[:, :1]) / half[:, :1]).abs()
        down = ((at.view(1, 1, -1, 1) - centre[:, 1:]) / half[:, 1:]).abs()
        cut = torch.where(self.pick(n, 0.3), across ** 2 + down ** 2 < 1, torch.maximum(across, down) < 1)
        return torch.where(inside & (cut | self.pick(n, 0.5)) & self.pick(n, chance), y, x)

    def occlude(self, x):
        n, _, side, _ = x.shape
        at = torch.linspace(0, 1, side, device=self.device)
        for _ in range(3):
            half = 0.01 * 30 ** self.rand(n, 2, 1, 1)
            centre = self.rand(n, 2, 1, 1)
            across = (at.view(1, 1, 1, -1) - centre[:, :1]).abs() < half[:, :1]
            down = (at.view(1, 1, -1, 1) - centre[:, 1:]).abs() < half[:, 1:]
            cover = torch.where(self.pick(n, 0.5), self.rand(n, 3, 1, 1) * 255, x.roll(1, 0))
            x = torch.where(across & down & self.pick(n, 0.25), cover, x)
        return x

    def coarse(self, x):
        """Fewer pixels than it has, for some."""
        n, _, side, _ = x.shape
        at = 0
        for factor, count in ((2, n // 8), (4, n // 16)):
            if count and side % factor == 0:
                part = F.avg_pool2d(x[at:at + count], factor)
                x[at:at + count] = F.interpolate(part, (side, side), mode="bilinear", align_corners=False)
            at += count
        count = n // 8
        if count:
            sigma = 0.3 + 2.5 * self.rand(count, 1) ** 2
            kernel = torch.exp(-0.5 * (torch.arange(-4, 5, device=self.device).view(1, 9) / sigma) ** 2)
            kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
            part = x[at:at + count].reshape(1, count * 3, side, side)
            part = F.conv2d(F.pad(part, (4, 4, 0, 0), mode="replicate"), kernel.view(-1, 1, 1, 9), groups=count * 3)
            part = F.conv2d(F.pad(part, (0, 0, 4, 4), mode="replicate"), kernel.view(-1, 1, 9, 1), groups=count * 3)
            x[at:at + count] = part.view(count, 3, side, side)
        return x

    def light(self, x):
        n, before = len(x), x
        grey = x.mean(1, keepdim=True)
        x = torch.where(self.pick(n, 0.15), grey, x)
        x = grey + (x - grey) * (0.4 + 1.2 * self.rand(n, 1, 1, 1))
        x = (x / 255).clamp_(1e-4, 1) ** torch.exp(torch.randn(n, 1, 1, 1, device=self.device) * 0.35)
        x = (x - 0.5) * torch.exp(torch.randn(n, 1, 1, 1, device=self.device) * 0.25) + 0.5
        x = x + torch.randn(n, 1, 1, 1, device=self.device) * 0.1 + torch.randn(n, 3, 1, 1, device=self.device) * 0.04
        return torch.where(self.pick(n, 0.4), before, x.clamp_(0, 1) * 255)

    def jpeg(self, x):
        n, c, side, _ = x.shape
        count = n // 4
        if not count:
            return x
        y = x[n - count:].reshape(count, c, side // 8, 8, side // 8, 8) - 128
        y = torch.einsum("ui,ncaibj,vj->ncaubv", self.dct, y, self.dct)
        k = torch.arange(8, dtype=torch.float32, device=self.device)
        step = (4 * 12 ** self.rand(count, 1, 1, 1, 1, 1)) * (1 + 0.5 * (k.view(8, 1, 1) + k)).view(1, 1, 1, 8, 1, 8)
        y = torch.round(y / step) * step
        x[n - count:] = torch.einsum("ui,ncaubv,vj->ncaibj", self.dct, y, self.dct).reshape(count, c, side, side) + 128
        return x

    @torch.no_grad()
    def __call__(self, n, side):
        """n scenes [n,3,side,side] as the detector takes them: BGR, 0..255."""
        x = self.base(n, side)
        x = self.paste(x, "lfw", 1, 14, 110, 0.35)
        x = self.paste(x, "celeba", 0, 20, 200, 0.35)
        x = self.occlude(x)
        x = self.coarse(x)
        x = self.light(x)
        x = x + torch.randn_like(x) * (20 * self.rand(n, 1, 1, 1) ** 2 * self.pick(n, 0.4))
        x = self.jpeg(x)
        # A photo that is not square leaves the rest of the input black.
        end = 1 - 0.6 * self.rand(n, 1, 1, 1) * self.pick(n, 0.2)
        at = torch.linspace(0, 1, side, device=self.device)
        wide = self.pick(n, 0.5)
        x = x * torch.where(wide, at.view(1, 1, -1, 1) <= end, at.view(1, 1, 1, -1) <= end)
        return x.clamp_(0, 255).round_().flip(1)


class Teacher:
    def __init__(self, path, device):
        self.net = onnx_torch.Net(path).to(device).eval()
        self.names = grids(self.net)
        self.layout = torch.contiguous_format

    @torch.no_grad()
    def __call__(self, x):
        """Scores [n,cells], boxes [n,cells,4] and points [n,cells,10] of all
        grids, the finest first, in units of their cells."""
        got = self.net(x.contiguous(memory_format=self.layout), list(self.names.values()))

        def flat(kind, s):
            y = got[self.names["%s_%d" % (kind, s)]].float()
            return y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, y.shape[1])

        score = torch.cat([torch.sigmoid(flat("cls", s)) * torch.sigmoid(flat("obj", s)) for s in STRIDES], 1).squeeze(2).sqrt()
        return score, torch.cat([flat("bbox", s) for s in STRIDES], 1), torch.cat([flat("kps", s) for s in STRIDES], 1)


def asked(net, x):
    """The student's logits, boxes and points, as the teacher gives them."""
    got = net(x, ["raw_%d" % s for s in STRIDES])
    y = torch.cat([got["raw_%d" % s].float() for s in STRIDES], 1)
    return y[..., 0], y[..., 1:5], y[..., 5:15]


def losses(said, meant):
    """How far the student is off: scores everywhere, but where nothing is
    less; boxes and points where the teacher sees a face, in parts of its size."""
    logit, box, points = said
    score, box_t, points_t = meant
    score = score.clamp(1e-6, 1 - 1e-6)
    with torch.no_grad():
        entropy = -(score * score.log() + (1 - score) * (1 - score).log())
        care = 0.1 + score + (torch.sigmoid(logit) - score).abs()
        sure = score ** 2 * (score > 0.2)
        total, certain = score.sum() + 1, sure.sum() + 1
        size = torch.exp(0.5 * (box_t[..., 2] + box_t[..., 3])).clamp(0.1, 100)
    match = (care * (F.binary_cross_entropy_with_logits(logit, score, reduction="none") - entropy)).sum() / total

    def corners(b):
        half = torch.exp(b[..., 2:].clamp(-4, 5)) / 2
        return b[..., :2] - half, b[..., :2] + half

    (a0, a1), (b0, b1) = corners(box), corners(box_t)
    shared = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp(min=0).prod(-1)
    iou = shared / ((a1 - a0).prod(-1) + (b1 - b0).prod(-1) - shared + 1e-6)
    edges = ((a0 - b0).abs() + (a1 - b1).abs()).sum(-1) / size
    where = (sure * (1 - iou + 0.5 * edges)).sum() / certain
    points = (sure * ((points - points_t).abs().mean(-1) / size)).sum() / certain
    return match, where, points


def agreement(said, meant):
    """Of the cells that the teacher calls a face, the share that the student
    does too, and the other way round; error of its points, in % of the face."""
    logit, _, points = said
    score, box_t, points_t = meant
    a, b = torch.sigmoid(logit) > 0.6, score > 0.6
    both = (a & b).sum()
    size = torch.exp(0.5 * (box_t[..., 2] + box_t[..., 3])).clamp(0.1, 100)
    off = ((points - points_t).view(*score.shape, 5, 2).norm(dim=-1).mean(-1) / size)[b]
    return {"recall": float(both / b.sum().clamp(min=1)), "precision": float(both / a.sum().clamp(min=1)),
            "points": float(100 * off.mean()), "faces": int(b.sum())}


class Averaged:
    """The running mean of a network's numbers, which is what is kept."""

    def __init__(self, net):
        self.net = net
        self.live = [v for v in list(net.parameters()) + list(net.buffers()) if v.is_floating_point()]
        self.mean = [v.detach().clone() for v in self.live]
        self.steps = 0

    @torch.no_grad()
    def update(self):
        self.steps += 1
        keep = min(0.999, (1 + self.steps) / (10 + self.steps))
        torch._foreach_mul_(self.mean, keep)
        torch._foreach_add_(self.mean, [v.detach() for v in self.live], alpha=1 - keep)

    @torch.no_grad()
    def swap(self):
        for v, m in zip(self.live, self.mean):
            held = v.detach().clone()
            v.copy_(m)
            m.copy_(held)

    def save(self, path):
        self.swap()
        # On a CPU these are the live numbers themselves.
        values = {name: value.copy() for name, value in onnx_torch.state(self.net).items()}
        self.swap()
        onnx_torch.save(self.net, values, path + ".part")
        os.replace(path + ".part", path)


def clock(run, device, times=4):
    for _ in range(3):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.time()
    for _ in range(times):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.time() - start) / times


def sheet(x, path):
    from PIL import Image
    x = x[:48].flip(1).byte().cpu()
    rows = [torch.cat(list(x[i:i + 8]), 2) for i in range(0, len(x) // 8 * 8, 8)]
    Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).numpy()).save(path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lfw", required=True, help="photos of 250x250, a .zip or .tar")
    p.add_argument("--celeba", required=True, help="photos of 89x109, a .zip or .tar")
    p.add_argument("--teacher", required=True, help="yunet_n_dynamic.onnx")
    p.add_argument("--seconds", type=float, default=300, help="how long to train")
    p.add_argument("--out", required=True, help="folder for builtin-detector.onnx and detector.json")
    p.add_argument("--batch", type=int, default=128, help="scenes in a step")
    p.add_argument("--side", type=int, default=320, help="pixels of a scene; one step in six has a quarter of the scenes with twice the side")
    p.add_argument("--rate", type=float, default=3e-3, help="learning rate at its highest")
    p.add_argument("--replay", type=int, default=0, help="steps for each composed batch; 0: 2 where composing takes longer than learning, else 1")
    p.add_argument("--tune", action="store_true", help="let cuDNN try its ways to convolve, which takes its time at first")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--limit", type=int, default=0, help="photos of each kind at most")
    p.add_argument("--smoke", action="store_true", help="no more than 40 seconds, and a picture of some scenes")
    o = p.parse_args()
    if o.smoke:
        o.seconds = min(o.seconds, 40)
    os.makedirs(o.out, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(o.seed)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = o.tune
        # Ten bits would put a pixel in the wrong place, and a point as well.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    begun = time.time()
    lfw = Pool(o.lfw, device, (0.5, 0.5), 95.0, o.limit)
    celeba = Pool(o.celeba, device, (0.5, 0.56), 48.0, o.limit)
    scenes = Scenes(lfw, celeba, device)
    teacher = Teacher(o.teacher, device)
    path = os.path.join(o.out, "builtin-detector.onnx")
    student(path, o.seed)
    net = onnx_torch.Net(path, learn=True).to(device).train()
    print("%d + %d photos on %s in %.1f s; torch %s; %d numbers to learn" % (
        len(lfw), len(celeba), device, time.time() - begun, torch.__version__, sum(v.numel() for v in net.parameters())), flush=True)

    # Which memory layout and type is fastest differs between cards and torch versions.
    x = scenes(o.batch, o.side)
    if o.smoke:
        sheet(x, os.path.join(o.out, "scenes.png"))
    layout, half = torch.contiguous_format, False

    def learn(x, meant, half):
        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=half):
            said = asked(net, x.contiguous(memory_format=layout))
        match, where, points = losses(said, meant)
        (match + where + 10 * points).backward()
        return torch.stack([match.detach(), where.detach(), points.detach()])

    meant = teacher(x)
    if device.type == "cuda":
        compose = clock(lambda: scenes(o.batch, o.side), device)
        took = {}
        for teacher.layout in (torch.contiguous_format, torch.channels_last):
            teacher.net.to(memory_format=teacher.layout)
            took[teacher.layout] = clock(lambda: teacher(x), device)
        teacher.layout = min(took, key=took.get)
        teacher.net.to(memory_format=teacher.layout)
        asking = took[teacher.layout]
        took = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            net.to(memory_format=layout)
            for half in (False, True):
                took[layout, half] = clock(lambda: learn(x, meant, half), device)
        layout, half = min(took, key=took.get)
        net.to(memory_format=layout)
        print("ms a step: compose %.1f, teacher %.1f, student %s" % (compose * 1e3, asking * 1e3, ", ".join(
            "%s %s %.1f" % (str(k[0]).split(".")[-1], "bf16" if k[1] else "fp32", v * 1e3) for k, v in took.items())), flush=True)
        if o.replay == 0:
            o.replay = 2 if compose + asking > took[layout, half] else 1
    o.replay = max(o.replay, 1)
    # The timing runs have moved the statistics of a network with random weights, and nothing else.
    net.zero_grad(set_to_none=True)

    decays = [v for v in net.parameters() if v.dim() > 1]
    plain = [v for v in net.parameters() if v.dim() <= 1]
    kinds = [{"params": decays, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    try:
        optimizer = torch.optim.AdamW(kinds, lr=o.rate, betas=(0.9, 0.99), fused=device.type == "cuda")
    except (TypeError, RuntimeError):
        optimizer = torch.optim.AdamW(kinds, lr=o.rate, betas=(0.9, 0.99))
    mean = Averaged(net)
    state = torch.get_rng_state()
    fixed = [scenes(o.batch, o.side), scenes(max(o.batch // 4, 1), o.side * 2)]
    fixed = [(x, teacher(x)) for x in fixed]
    torch.set_rng_state(state)

    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    curve, ring, sums, counted, seen, step = [], [], None, 0, 0, 0
    start = told = kept = time.time()

    def measure():
        mean.swap()
        net.eval()
        with torch.no_grad():
            found = [agreement(asked(net, x), meant) for x, meant in fixed]
        net.train()
        mean.swap()
        return found

    def report(now, progress):
        nonlocal sums, counted
        match, where, points = (sums / max(counted, 1)).tolist()
        line = {"seconds": round(now - start, 1), "steps": step, "scenes": seen, "scenes_per_second": round(seen / max(now - start, 1e-3), 1),
                "score": round(match, 4), "box": round(where, 4), "points": round(points, 5), "rate": optimizer.param_groups[0]["lr"]}
        curve.append(line)
        sums, counted = None, 0
        print("%5.0f s %3.0f %%  step %d  %.0f scenes/s  score %.4f  box %.4f  points %.5f" % (
            now - start, 100 * progress, step, line["scenes_per_second"], match, where, points), flush=True)

    def keep(final=False):
        found = measure()
        for f, size in zip(found, (o.side, 2 * o.side)):
            print("        at %4d: of %d cells %.1f %% found, %.1f %% right, points off by %.2f %%" % (
                size, f["faces"], 100 * f["recall"], 100 * f["precision"], f["points"]), flush=True)
        if curve:
            curve[-1]["agreement"] = found
        mean.save(path)
        with open(os.path.join(o.out, "detector.json"), "w") as f:
            json.dump({"options": {k: v for k, v in vars(o).items() if k not in ("lfw", "celeba", "teacher", "out")},
                       "torch": torch.__version__, "steps": step, "scenes": seen, "final": final, "curve": curve}, f, indent=1)

    while True:
        now = time.time()
        progress = (now - start) / o.seconds
        if progress >= 1 or stopped:
            break
        if step % o.replay == 0 or not ring:
            large = step // o.replay % 6 == 5
            x = scenes(max(o.batch // 4, 1), 2 * o.side) if large else scenes(o.batch, o.side)
            pair = (x.byte(), teacher(x))
            if o.replay > 1:
                ring = ring[-23:] + [pair]
        else:
            pair = ring[int(torch.randint(len(ring), (1,)))]
        rate = o.rate * min(1, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if half and progress >= 0.8:
            # Towards the end a number's ninth bit matters.
            half, torch.backends.cudnn.benchmark = False, False
        got = learn(pair[0].float(), pair[1], half)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean.update()
        sums, counted = got if sums is None else sums + got, counted + 1
        step, seen = step + 1, seen + len(pair[0])
        if now - told >= 10:
            told = now
            report(now, progress)
        if now - kept >= 60:
            kept = now
            keep()
    if counted:
        report(time.time(), min((time.time() - start) / o.seconds, 1))
    keep(final=True)
    print("wrote %s: %d bytes" % (path, os.path.getsize(path)), flush=True)


if __name__ == "__main__":
    main()
