"""Teaches the quality network on the crops that ./crops makes.

    python3 quality.py crops [crops ...] --epochs 10 --out quality.onnx

Each folder holds crops.bin, pictures of 96 x 96 RGB bytes, and crops.tsv, a
line of class, condition and photo for each. One person in ten, by name, is
kept back; how many of them pass is printed for each condition. The state is
saved after each epoch beside the output, and a run goes on from there.
"""

import argparse
import os
import time
import zlib

import numpy
import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 7
SIDE = 96


def read(folder):
    pixels = numpy.memmap(os.path.join(folder, "crops.bin"), dtype=numpy.uint8, mode="r").reshape(-1, SIDE, SIDE, 3)
    lines = [line.rstrip("\n").split("\t") for line in open(os.path.join(folder, "crops.tsv"), encoding="utf-8")]
    n = min(len(lines), len(pixels))
    return pixels[:n], lines[:n]


def kept_back(name):
    person = os.path.dirname(name) if name.startswith("lfw/") else name
    return zlib.crc32(person.encode()) % 10 == 0


class Block(nn.Module):
    """A depthwise and a pointwise convolution, with a shortcut where the shape stays."""

    def __init__(self, i, o, stride):
        super().__init__()
        self.same = i == o and stride == 1
        self.body = nn.Sequential(
            nn.Conv2d(i, i, 3, stride, 1, groups=i, bias=False), nn.BatchNorm2d(i), nn.ReLU(),
            nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        y = self.body(x)
        return F.relu(x + y if self.same else y)


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        w = width
        self.body = nn.Sequential(
            nn.Conv2d(3, w, 3, 2, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU(),
            Block(w, 2 * w, 2), Block(2 * w, 2 * w, 1),
            Block(2 * w, 4 * w, 2), Block(4 * w, 4 * w, 1), Block(4 * w, 4 * w, 1),
            Block(4 * w, 8 * w, 2), Block(8 * w, 8 * w, 1), Block(8 * w, 8 * w, 1))
        self.head = nn.Linear(8 * w, CLASSES)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class WithSoftmax(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return torch.softmax(self.net(x), 1)


def batch_of(pixels, where, rng, change):
    x = torch.from_numpy(numpy.stack([pixels[f][i] for f, i in where]).astype(numpy.float32)).permute(0, 3, 1, 2)
    if not change:
        return (x - 127.5) / 128
    if rng.random() < 0.5:
        x = x.flip(3)
    n = len(x)
    dx, dy = rng.integers(-2, 3, 2)
    x = torch.roll(x, (int(dy), int(dx)), (2, 3))
    gain = torch.from_numpy(numpy.exp(rng.uniform(-0.35, 0.25, (n, 1, 1, 1))).astype(numpy.float32))
    cast = torch.from_numpy(rng.uniform(0.92, 1.08, (n, 3, 1, 1)).astype(numpy.float32))
    lift = torch.from_numpy(rng.uniform(-12, 12, (n, 1, 1, 1)).astype(numpy.float32))
    x = (x * gain * cast + lift).clamp(0, 255)
    return (x - 127.5) / 128


def export(net, path):
    net.eval()
    torch.onnx.export(WithSoftmax(net), torch.zeros(1, 3, SIDE, SIDE), path, input_names=["image"],
                      output_names=["probabilities"], opset_version=13, do_constant_folding=True)


def report(net, pixels, lines, where):
    net.eval()
    out = []
    with torch.no_grad():
        for i in range(0, len(where), 256):
            out.append(torch.softmax(net(batch_of(pixels, where[i:i + 256], None, False)), 1).numpy())
    p = numpy.concatenate(out)
    truth = numpy.array([int(lines[f][i][0]) for f, i in where])
    names = numpy.array([lines[f][i][1] for f, i in where])
    ok = numpy.sort(p[(truth == 0) & (names == "clean"), 0])
    thresholds = [ok[int(len(ok) * q)] for q in (0.005, 0.01, 0.02)]
    print("thresholds at which 0.5, 1, 2 % of clean faces fail:", " ".join("%.3f" % t for t in thresholds))
    for c in range(CLASSES):
        for name in sorted(set(names[truth == c])):
            m = (truth == c) & (names == name)
            if m.sum() >= 10:
                print("  %d %-22s %5d pass %s %%, at 0.5 %5.1f" % (
                    c, name, m.sum(), " ".join("%5.1f" % (100 * (p[m, 0] >= t).mean()) for t in thresholds), 100 * (p[m, 0] >= 0.5).mean()))
    print("right class: %.2f %%" % (100 * (p.argmax(1) == truth).mean()), flush=True)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("crops", nargs="+")
    a.add_argument("--epochs", type=int, default=10)
    a.add_argument("--width", type=int, default=16)
    a.add_argument("--batch", type=int, default=128)
    a.add_argument("--rate", type=float, default=3e-3)
    a.add_argument("--out", default="quality.onnx")
    a.add_argument("--start", help="the .state file of an earlier run, whose weights this one begins with")
    a = a.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(2)
    pixels, lines = zip(*[read(f) for f in a.crops])
    every = [(f, i) for f in range(len(lines)) for i in range(len(lines[f]))]
    train = [w for w in every if not kept_back(lines[w[0]][w[1]][2])]
    held = [w for w in every if kept_back(lines[w[0]][w[1]][2])]
    truth = numpy.array([int(lines[f][i][0]) for f, i in train])
    counts = numpy.bincount(truth, minlength=CLASSES)
    print("crops:", len(train), "to learn from,", len(held), "kept back; by class", counts.tolist())
    weights = torch.from_numpy((counts.sum() / CLASSES / numpy.maximum(counts, 1)) ** 0.5).float()
    net = Net(a.width)
    print("parameters:", sum(p.numel() for p in net.parameters()))
    optimizer = torch.optim.AdamW(net.parameters(), lr=a.rate, weight_decay=0.02)
    if a.start:
        net.load_state_dict(torch.load(a.start)["net"])
    state, first = a.out + ".state", 0
    if os.path.exists(state):
        saved = torch.load(state)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epoch"]
    steps = len(train) // a.batch
    for epoch in range(first, a.epochs):
        rng = numpy.random.default_rng(epoch)
        order = rng.permutation(len(train))
        net.train()
        start, total = time.time(), 0.0
        for s in range(steps):
            done = (epoch * steps + s) / (a.epochs * steps)
            for g in optimizer.param_groups:
                g["lr"] = a.rate * min(1, (epoch * steps + s + 1) / 200) * 0.5 * (1 + numpy.cos(numpy.pi * done))
            chosen = order[s * a.batch:(s + 1) * a.batch]
            x = batch_of(pixels, [train[i] for i in chosen], rng, True)
            loss = F.cross_entropy(net(x), torch.from_numpy(truth[chosen]), weight=weights, label_smoothing=0.03)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            if s % 50 == 0:
                print("epoch %d step %d/%d loss %.4f %.0f s" % (epoch, s, steps, total / (s + 1), time.time() - start), flush=True)
        torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}, state)
        report(net, pixels, lines, held)
    export(net, a.out)


if __name__ == "__main__":
    main()
