"""Teaches the built-in encoder to say what a better one says: function
matching (Beyer et al., arXiv 2106.05237) on faces that are changed, warped and
mixed anew each time, so that a few thousand photos are enough. No labels.

    python3 encoder.py --photos lfw.zip --photos celeba.zip --detector yunet_n_dynamic.onnx \
        --teacher mobileface-v2.onnx --student student.onnx --seconds 400 --out out

What `likeness train --teacher mobileface-v2 --from residual` does on two
cores, on a graphics card in minutes.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import time

import numpy
import torch
import torch.nn.functional as F

import onnx_torch
import photos

# The points in pixels of the encoder's input on which a face is laid: those
# of models/mobileface-v2.json.
SIDE = 112
POINTS = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
MARGIN = 24  # pixels around the input that a changed alignment can reach
CANVAS = SIDE + 2 * MARGIN


def similarity(src, dst):
    """The least-squares similarities that lay src on dst, both [n,5,2], as
    [n,2,3]."""
    ms, md = src.mean(1, keepdim=True), dst.mean(1, keepdim=True)
    s, d = src - ms, dst - md
    norm = (s * s).sum((1, 2))
    a = (s * d).sum((1, 2)) / norm
    b = (s[..., 0] * d[..., 1] - s[..., 1] * d[..., 0]).sum(1) / norm
    rot = torch.stack([torch.stack([a, -b], 1), torch.stack([b, a], 1)], 1)
    return torch.cat([rot, (md.squeeze(1) - (rot @ ms.transpose(1, 2)).squeeze(2)).unsqueeze(2)], 2)


@torch.no_grad()
def landmarks(detector, batch, side=320):
    """The five points and the score of the face nearest to the middle of each
    photo [n,3,h,w], in its pixels."""
    h, w = batch.shape[2:]
    scale = side / max(h, w)
    small = F.interpolate(batch.float(), size=(round(h * scale), round(w * scale)), mode="bilinear", align_corners=False)
    small = F.pad(small, (0, side - small.shape[3], 0, side - small.shape[2]))
    y = detector(small.flip(1))  # blue first
    scores, points = [], []
    for stride in (8, 16, 32):
        n = side // stride
        cell = torch.arange(n * n, device=batch.device)
        at = torch.stack([cell % n, cell // n], 1).float()
        kps = (y["kps_%d" % stride].view(len(batch), -1, 5, 2) + at[None, :, None]) * stride / scale
        score = (y["cls_%d" % stride] * y["obj_%d" % stride]).squeeze(2).sqrt()
        middle = kps.mean(2)
        off = ((middle - torch.tensor([w / 2, h / 2], device=batch.device)) / max(h, w)).norm(dim=2)
        scores.append(score * (off < 0.2))
        points.append(kps)
    best = torch.cat(scores, 1).max(1)
    return torch.cat(points, 1)[torch.arange(len(batch)), best.indices], best.values


def aligned(path, detector, device):
    """Aligned faces with a margin, uint8 [n,3,CANVAS,CANVAS], and their names."""
    names, all_photos = photos.read(path)
    want = torch.tensor(POINTS, device=device) + MARGIN
    kept_names, faces = [], []
    for i in range(0, len(names), 250):
        batch = all_photos[i : i + 250].to(device)
        points, score = landmarks(detector, batch)
        good = score > 0.6
        h, w = batch.shape[2:]
        # From the canvas back to the photo.
        back = similarity(want.expand(len(batch), 5, 2), points)
        ys, xs = torch.meshgrid(torch.arange(CANVAS, device=device), torch.arange(CANVAS, device=device), indexing="ij")
        at = torch.stack([xs, ys, torch.ones_like(xs)], 2).float().view(1, -1, 3) @ back.transpose(1, 2)
        grid = (at + 0.5) / torch.tensor([w, h], device=device) * 2 - 1
        face = F.grid_sample(batch.float(), grid.view(len(batch), CANVAS, CANVAS, 2), padding_mode="zeros", align_corners=False)
        faces.append(face[good].round().clamp(0, 255).byte())
        kept_names += [name for name, ok in zip(names[i : i + 250], good.tolist()) if ok]
    return kept_names, torch.cat(faces)


class Changes:
    """Faces changed at random, on the device."""

    def __init__(self, faces, seed):
        self.faces = faces
        self.device = faces.device
        self.rng = torch.Generator(device=self.device).manual_seed(seed)
        self.host = numpy.random.default_rng(seed)
        ys, xs = torch.meshgrid(torch.arange(SIDE, device=self.device), torch.arange(SIDE, device=self.device), indexing="ij")
        self.at = torch.stack([xs, ys], 2).float() - (SIDE - 1) / 2

    def uniform(self, low, high, *shape):
        return torch.rand(*shape, device=self.device, generator=self.rng) * (high - low) + low

    def normal(self, *shape):
        return torch.randn(*shape, device=self.device, generator=self.rng)

    def chance(self, p, n, dims=4):
        return (torch.rand(n, *[1] * (dims - 1), device=self.device, generator=self.rng) < p)

    def shown(self, n):
        """n faces of the set, each aligned a little wrong and, half of them, with
        features moved, which makes other people of them: [n,3,SIDE,SIDE], 0..255."""
        which = torch.randint(len(self.faces), (n,), device=self.device, generator=self.rng)
        turn = self.uniform(-10, 10, n) * math.pi / 180
        grow = self.uniform(-0.12, 0.12, n).exp()
        aspect = self.uniform(-0.06, 0.06, n).exp()
        mirror = torch.where(self.chance(0.5, n, 1), -1.0, 1.0)
        cos, sin = turn.cos() * grow, turn.sin() * grow
        m = torch.stack([torch.stack([cos * aspect * mirror, -sin], 1), torch.stack([sin * mirror * aspect, cos], 1)], 1)
        at = self.at.view(1, -1, 2) @ m.transpose(1, 2) + self.uniform(-4, 4, n, 1, 2)
        at = at.view(n, SIDE, SIDE, 2)
        coarse = self.normal(n, 2, 5, 5) * self.uniform(0, 4, n, 1, 1, 1) * self.chance(0.5, n)
        warp = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
        grid = (at + warp.permute(0, 2, 3, 1)) / (CANVAS / 2)
        return F.grid_sample(self.faces[which].float(), grid, padding_mode="border", align_corners=False)

    def mixed(self, x):
        """Some of the faces blended with, or partly covered by, others."""
        n = len(x)
        other = x.roll(1, 0)
        part = self.uniform(0, 1, n, 1, 1, 1)
        # One half of the face, or a band of it, with a soft edge.
        angle = self.uniform(0, 2 * math.pi, n, 1, 1)
        edge = (self.at[..., 0] * angle.cos() + self.at[..., 1] * angle.sin() - self.uniform(-25, 25, n, 1, 1)) / self.uniform(1, 12, n, 1, 1)
        half = torch.sigmoid(edge).unsqueeze(1)
        soft = F.interpolate(self.normal(n, 1, 4, 4), size=(SIDE, SIDE), mode="bicubic", align_corners=True).mul(4).sigmoid()
        kind = self.uniform(0, 1, n, 1, 1, 1)
        weight = torch.where(kind < 0.25, part, torch.where(kind < 0.36, half, torch.where(kind < 0.45, soft, torch.ones_like(part))))
        return x * weight + other * (1 - weight)

    def worse(self, x):
        """Light, colour, sharpness, grain and things before the face."""
        n = len(x)
        # Blurred, or small in the photo: one factor to a quarter of the batch.
        q = n // 4
        parts = list(x.split([q, q, n - 2 * q]))
        low = int(self.host.integers(24, 80))
        parts[0] = F.interpolate(F.interpolate(parts[0], size=(low, low), mode="bilinear", antialias=True, align_corners=False),
                                 size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        sigma = float(self.host.uniform(0.4, 2.2))
        k = torch.arange(-5, 6, device=self.device, dtype=torch.float32)
        k = torch.exp(-k * k / (2 * sigma * sigma))
        k = (k / k.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
        b = F.pad(parts[1], (5, 5, 5, 5), mode="replicate")
        parts[1] = F.conv2d(F.conv2d(b, k, groups=3), k.transpose(2, 3), groups=3)
        x = torch.cat(parts)
        grey = (x * torch.tensor([0.299, 0.587, 0.114], device=self.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
        x = torch.where(self.chance(0.12, n), grey.expand_as(x), x)
        gamma = self.uniform(-0.45, 0.45, n, 1, 1, 1).exp()
        gamma = torch.where(self.chance(0.4, n), gamma, torch.ones_like(gamma))
        x = 255 * (x.clamp(0, 255) / 255 + 1e-4) ** gamma
        # Light from one side.
        angle = self.uniform(0, 2 * math.pi, n, 1, 1, 1)
        slope = self.at[..., 0] * angle.cos() + self.at[..., 1] * angle.sin()
        x = x * (1 + self.chance(0.3, n) * self.uniform(0, 0.7, n, 1, 1, 1) * slope / (SIDE / 2))
        contrast = 1 + self.uniform(-0.35, 0.35, n, 1, 1, 1)
        tint = 1 + self.uniform(-0.12, 0.12, n, 3, 1, 1)
        x = (x - 127.5) * contrast * tint + 127.5 + self.uniform(-35, 35, n, 1, 1, 1)
        x = x + self.chance(0.3, n) * self.uniform(0, 14, n, 1, 1, 1) * self.normal(*x.shape)
        # A bar, a hand, sunglasses: something before up to a third of it.
        size, at = self.uniform(6, 22, n, 2, 1, 1), self.uniform(-50, 50, n, 2, 1, 1)
        over = ((self.at[..., 0] - at[:, 0]).abs() < size[:, 0]) & ((self.at[..., 1] - at[:, 1]).abs() < size[:, 1])
        over = over.unsqueeze(1) & self.chance(0.15, n)
        x = torch.where(over, self.uniform(0, 255, n, 3, 1, 1).expand_as(x), x)
        return x.clamp(0, 255).round()

    def batch(self, n):
        return self.worse(self.mixed(self.shown(n)))


def crops(faces):
    """The faces as they are enrolled."""
    return faces[:, :, MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE].float()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--photos", action="append", required=True)
    p.add_argument("--detector", required=True)
    p.add_argument("--teacher", required=True)
    p.add_argument("--student", required=True)
    p.add_argument("--resume", help="a state that an earlier run left")
    p.add_argument("--out", required=True)
    p.add_argument("--seconds", type=float, default=400, help="of learning; the rate falls to nothing at their end")
    p.add_argument("--batch", type=int, default=1024)
    p.add_argument("--rate", type=float, default=3e-3)
    p.add_argument("--decay", type=float, default=0.02)
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    os.makedirs(o.out, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = device == "cuda"
    torch.manual_seed(o.seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    started = time.time()

    detector = onnx_torch.Net(o.detector).to(device).eval()
    names, faces = [], []
    for path in o.photos:
        n, f = aligned(path, detector, device)
        names, faces = names + n, faces + [f]
        print("%s: %d faces, %.0f s" % (path, len(n), time.time() - started), flush=True)
    faces = torch.cat(faces)
    # A handful to watch the learning on; nothing is decided by them.
    watch = torch.arange(len(names), device=device) % 40 == 0
    watched, faces = crops(faces[watch]), faces[~watch].contiguous()
    changes = Changes(faces, o.seed)

    teacher = onnx_torch.Net(o.teacher).to(device).eval()
    student = onnx_torch.Net(o.student, learn=True).to(device)
    if fast:
        teacher, student = teacher.to(memory_format=torch.channels_last), student.to(memory_format=torch.channels_last)
    if o.resume:
        student.load_state_dict(torch.load(o.resume, map_location=device))
    half = lambda kind: torch.autocast("cuda", dtype=kind) if fast else contextlib.nullcontext()
    say = student.outputs[0]

    @torch.no_grad()
    def teach(x):
        with half(torch.float16):
            return F.normalize(teacher(x)[teacher.outputs[0]].float(), dim=1)

    with torch.no_grad():
        exact = F.normalize(teacher(watched)[teacher.outputs[0]].float(), dim=1)
        print("half precision moves the teacher by %.1e" % (1 - (exact * teach(watched)).sum(1)).max().item(), flush=True)

    decayed = [w for w in student.parameters() if w.dim() > 1]
    others = [w for w in student.parameters() if w.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": o.decay}, {"params": others, "weight_decay": 0.0}],
                                  lr=o.rate, betas=(0.9, 0.99), **({"fused": True} if fast else {}))
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    curve, recent, step, shown = [], [], 0, 0
    begin = said = saved = time.time()

    def measure():
        student.eval()
        with torch.no_grad():
            e = F.normalize(student(watched)[say].float(), dim=1)
        student.train()
        return (1 - (e * exact).sum(1)).mean().item()

    def save():
        onnx_torch.save(student, onnx_torch.state(student), os.path.join(o.out, "builtin-encoder.onnx"))
        torch.save(student.state_dict(), os.path.join(o.out, "encoder.pt"))
        with open(os.path.join(o.out, "encoder.json"), "w") as f:
            json.dump({"batch": o.batch, "rate": o.rate, "decay": o.decay, "seed": o.seed, "seconds": o.seconds, "curve": curve}, f)

    student.train()
    while not stop:
        done = (time.time() - begin) / o.seconds
        if done >= 1:
            break
        rate = o.rate * min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = changes.batch(o.batch)
        if fast:
            x = x.contiguous(memory_format=torch.channels_last)
        want = teach(x)
        with half(torch.bfloat16):
            e = student(x)[say]
        e = F.normalize(e.float(), dim=1)
        # Where each face lies, and how alike any two are.
        apart = 1 - (e * want).sum(1).mean()
        k = min(256, len(e))
        pairs = ((e[:k] @ e.t()) - (want[:k] @ want.t())).square().mean()
        loss = apart + 4 * pairs
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        step, shown = step + 1, shown + o.batch
        recent.append(torch.stack([apart.detach(), pairs.detach()]))
        if time.time() - said > 10:
            a, b = torch.stack(recent).mean(0).tolist()
            point = {"seconds": round(time.time() - begin, 1), "step": step, "images": shown, "rate": rate, "apart": a, "pairs": b, "watched": measure()}
            curve.append(point)
            print("%(seconds)5.0f s, step %(step)d, %(images)d images, rate %(rate).1e: apart %(apart).4f, pairs %(pairs).5f, watched %(watched).4f" % point, flush=True)
            recent, said = [], time.time()
        if time.time() - saved > 60:
            save()
            saved = time.time()
    curve.append({"seconds": round(time.time() - begin, 1), "step": step, "images": shown, "watched": measure()})
    print("%d images in %.0f s, watched %.4f" % (shown, time.time() - begin, curve[-1]["watched"]), flush=True)
    save()


if __name__ == "__main__":
    main()
