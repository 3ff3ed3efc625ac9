"""Refits where the built-in detector puts its points, and nothing else.

    for i in 0 1; do
        python3 points.py rows$i.npz --share $i 2 --photos known/lfw \\
                --teacher yunet_n_dynamic.onnx --model builtin-detector.onnx &
    done; wait
    python3 points.py rows0.npz rows1.npz --model builtin-detector.onnx --out refit.onnx

The last convolution of a grid gives score, box and points from the same 64
numbers a cell. Its ten rows for points are linear, and so they can be fitted
without a card: by weighted least squares, drawn towards what they are. The
target is no single look of the teacher but the mean of six, at three sizes
and mirrored, which scatters less. Scores and boxes stay what they were, to
the bit. With --rows, what the networks said is kept for the next call.
"""

import argparse
import os
import sys
import time

import cv2
import numpy
import onnx
import torch
from onnx import numpy_helper

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import onnx_torch  # noqa: E402
from detector import STRIDES, Teacher  # noqa: E402

LOOKS = (256, 320, 416)
# Name; side of the scene; photos along a side; width of a face in pixels;
# scenes for a hundred photos to learn from, and to measure on.
KINDS = (
    ("whole 320", 320, 1, None, 200, 100),
    ("whole 640", 640, 1, None, 150, 100),
    ("whole 1024", 1024, 1, None, 25, 30),
    ("48 to 160 at 320", 320, 2, (48, 150), 50, 50),
    ("64 to 200 at 640", 640, 3, (64, 200), 25, 25),
    ("24 to 64 at 320", 320, 4, (24, 64), 12, 12),
)
COLUMNS = ("kind", "part", "stride", "rank", "score", "iod", "said", "meant", "feature")
MIRROR = [2, 3, 0, 1, 4, 5, 8, 9, 6, 7]


def cells(side):
    """Column, row and stride of each cell, the finest grid first."""
    return numpy.concatenate([numpy.stack([g.ravel() for g in numpy.meshgrid(numpy.arange(side // s), numpy.arange(side // s))] + [
        numpy.full((side // s) ** 2, s)], 1) for s in STRIDES]).astype(numpy.float32)


def placed(box, points, grid):
    """Boxes [.., 4] as centre, width and height, and points [.., 5, 2], in pixels."""
    at, s = grid[:, :2], grid[:, 2:]
    points = (points.reshape(points.shape[:-1] + (5, 2)) + at[:, None]) * s[:, None]
    return numpy.concatenate([(at + box[..., :2]) * s, numpy.exp(box[..., 2:].clip(-4, 5)) * s], -1), points


def blob(pictures):
    return torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2).float()


def truth(photo, teacher):
    """Box and points of the one face in a photo, or None where the looks differ."""
    boxes, points = [], []
    for side in LOOKS:
        x = cv2.resize(photo, (side, side), interpolation=cv2.INTER_LINEAR)
        score, box, pts = (y.numpy() for y in teacher(blob([x, x[:, ::-1]])))
        box, pts = placed(box, pts, cells(side))
        for i in range(2):
            best = score[i].argmax()
            if score[i, best] < 0.8:
                return None
            b, p = box[i, best] * photo.shape[0] / side, pts[i, best] * photo.shape[0] / side
            # Another face, far from the best.
            far = numpy.abs(box[i, :, :2] * photo.shape[0] / side - b[:2]).max(1) > 0.6 * b[2:].max()
            if (score[i][far] > 0.4).any():
                return None
            if i:
                b[0], p[:, 0] = photo.shape[1] - b[0], photo.shape[1] - p[:, 0]
                p = p.ravel()[MIRROR].reshape(5, 2)
            boxes.append(b)
            points.append(p)
    if numpy.std(points, 0).max() > 0.15 * numpy.mean(boxes, 0)[2]:
        return None
    return numpy.mean(boxes, 0), numpy.mean(points, 0)


def scene(kind, people, rng, still):
    """A picture, and the boxes and points in it. A still one is the photo as it is."""
    _, side, tiles, width, _, _ = kind
    picture, boxes, points = numpy.zeros((side, side, 3), numpy.uint8), [], []
    edges = [side * i // tiles for i in range(tiles + 1)]
    for k in range(tiles * tiles):
        photo, box, pts = people[rng.integers(len(people))] if tiles > 1 else people
        x0, x1, y0, y1 = edges[k % tiles], edges[k % tiles + 1], edges[k // tiles], edges[k // tiles + 1]
        tile = x1 - x0
        if width:
            # The face fits its tile.
            high = min(width[1], 0.75 * tile)
            scale = width[0] * (high / width[0]) ** rng.random() / box[2]
            centre, room = box[:2], 0.5 * (tile - 1.1 * scale * box[3])
            to = tile / 2 + rng.uniform(-1, 1, 2) * max(room, 0)
        else:
            scale = tile / photo.shape[0] * (1 if still else rng.uniform(0.8, 1.2))
            centre = numpy.array([photo.shape[1] / 2, photo.shape[0] / 2])
            to = tile / 2 + (0 if still else rng.uniform(-0.09, 0.09, 2) * tile)
        exact = still and not width
        turn = 0 if exact else rng.normal(0, 0.12)
        flip = -1 if not exact and rng.random() < 0.5 else 1
        a = scale * numpy.array([[numpy.cos(turn) * flip, -numpy.sin(turn)], [numpy.sin(turn) * flip, numpy.cos(turn)]])
        shift = to - a @ centre
        # Centres of pixels are at halves.
        m = numpy.column_stack([a, shift + a @ [0.5, 0.5] - 0.5])
        how = cv2.INTER_CUBIC if exact or rng.random() < 0.5 else cv2.INTER_LINEAR
        source = photo
        if scale < 0.6:
            small = max(1, int(photo.shape[0] * scale * 1.2))
            source = cv2.resize(photo, (small, small), interpolation=cv2.INTER_AREA)
            grown = photo.shape[0] / small
            m = numpy.column_stack([a * grown, shift + a @ [0.5 * grown, 0.5 * grown] - 0.5])
        picture[y0:y1, x0:x1] = cv2.warpAffine(source, m, (x1 - x0, y1 - y0), flags=how, borderMode=cv2.BORDER_REFLECT_101)
        p = pts @ a.T + shift + [x0, y0]
        boxes.append(numpy.concatenate([a @ box[:2] + shift + [x0, y0], scale * box[2:]]))
        points.append(p.ravel()[MIRROR].reshape(5, 2) if flip < 0 else p)
    return picture, numpy.array(boxes), numpy.array(points)


@torch.no_grad()
def said(net, pictures, boxes, points, most=10):
    """Of each face its surest cells: which face, which cell, its numbers."""
    want = ["head%d.point.relu" % s for s in STRIDES] + ["raw_%d" % s for s in STRIDES]
    got = net(blob(pictures), want)
    raw = numpy.concatenate([got["raw_%d" % s].numpy() for s in STRIDES], 1)
    grid = cells(pictures[0].shape[0])
    rows = []
    for n in range(len(pictures)):
        score = 1 / (1 + numpy.exp(-raw[n, :, 0]))
        near = numpy.flatnonzero(score > 0.25)
        box, _ = placed(raw[n, near, 1:5], raw[n, near, 5:], grid[near])
        for b, p in zip(boxes[n], points[n]):
            mine = near[(numpy.abs(box[:, :2] - b[:2]).max(1) < 0.35 * b[2]) & (numpy.abs(numpy.log(box[:, 2] / b[2])) < 0.5)]
            mine = mine[numpy.argsort(-score[mine])][:most]
            for rank, c in enumerate(mine):
                x, y, s = (int(v) for v in grid[c])
                feature = got["head%d.point.relu" % s][n, :, y, x].numpy()
                rows.append((s, rank, score[c], numpy.hypot(*(p[0] - p[1])) / s, raw[n, c, 5:].copy(),
                             (p / s - [x, y]).ravel().astype(numpy.float32), feature))
    return rows


def gather(o):
    torch.manual_seed(o.seed)
    rng = numpy.random.default_rng(o.seed)
    teacher = Teacher(o.teacher, torch.device("cpu"))
    net = onnx_torch.Net(o.model).eval()
    names = sorted(os.listdir(o.photos))
    names = [names[i] for i in rng.permutation(len(names))][o.share[0]::o.share[1]]
    people, start = [], time.time()
    for name in names:
        if len(people) == o.learn + o.measure:
            break
        folder = os.path.join(o.photos, name)
        photo = cv2.imread(os.path.join(folder, sorted(os.listdir(folder))[0]))
        if photo.shape[0] != photo.shape[1]:
            continue
        found = truth(photo, teacher)
        if found:
            people.append((photo,) + found)
    print("%d people of %d looked at in %.0f s" % (len(people), names.index(name) + 1, time.time() - start), flush=True)
    kept = []
    for k, kind in enumerate(KINDS):
        begun = time.time()
        for part, group in enumerate((people[o.measure:], people[:o.measure])):
            count = len(group) * kind[4 + part] // 100
            todo = []
            for i in range(count):
                todo.append(scene(kind, group if kind[2] > 1 else group[i % len(group)], rng, part == 1))
                if len(todo) == (8 if kind[1] == 320 else 1) or i == count - 1:
                    kept += [(k, part) + row for row in said(net, *zip(*todo))]
                    todo = []
        print("%s: %.0f s" % (kind[0], time.time() - begun), flush=True)
    # The teacher's own error, on what is measured.
    grid_error = []
    for k, kind in enumerate(KINDS):
        rng2 = numpy.random.default_rng(o.seed + 1)
        errors = []
        for i in range(min(o.measure, (70, 50, 8, 25, 8, 8)[k])):
            picture, boxes, points = scene(kind, people[:o.measure] if kind[2] > 1 else people[i], rng2, True)
            score, box, pts = (y.numpy()[0] for y in teacher(blob([picture])))
            box, pts = placed(box, pts, cells(kind[1]))
            for b, p in zip(boxes, points):
                mine = (numpy.abs(box[:, :2] - b[:2]).max(1) < 0.35 * b[2]) & (score > 0.4)
                if mine.any():
                    best = numpy.argmax(score * mine)
                    errors.append(numpy.hypot(*(pts[best] - p).T).mean() / numpy.hypot(*(p[0] - p[1])))
        grid_error.append(numpy.mean(errors))
        print("the teacher on %s: %.2f %%" % (kind[0], 100 * grid_error[-1]), flush=True)
    out = {name: numpy.array(column) for name, column in zip(COLUMNS, zip(*kept))}
    numpy.savez(o.rows[0], teacher=numpy.array(grid_error), **out)


def fit(d, rows, ridge, other):
    """What to add to the ten rows and their biases, [65, 10]: least squares of
    the error in parts of the distance of the eyes, whose weights come to the
    mean distance's; cells that are not a face's surest count as other says."""
    x = numpy.column_stack([d["feature"][rows], numpy.ones(rows.sum())]).astype(numpy.float64)
    y = (d["meant"] - d["said"])[rows].astype(numpy.float64)
    size = d["iod"][rows]
    least = numpy.where(d["rank"][rows] == 0, 1.0, other) / size ** 2
    add = None
    for _ in range(4):
        w = least
        if add is not None:
            off = numpy.hypot(*(y - x @ add).reshape(-1, 5, 2).transpose(2, 0, 1)).mean(1) / size
            w = least / numpy.maximum(off, 0.02)
        w = (w / w.mean())[:, None]
        g = (x * w).T @ x
        add = numpy.linalg.solve(g + ridge * numpy.diag(g).mean() * numpy.eye(len(g)), (x * w).T @ y)
    return add


def refit(o):
    parts = [numpy.load(path) for path in o.rows]
    d = {name: numpy.concatenate([part[name] for part in parts]) for name in COLUMNS}
    model = onnx.load(o.model)
    tensors = {t.name: t for t in model.graph.initializer}
    after = d["said"].astype(numpy.float64)
    for s in o.grids:
        on = d["stride"] == s
        add = fit(d, on & (d["part"] == 0), o.ridge, o.other)
        for name, more in (("head%d.out.weight/half" % s, add[:-1].T[:, :, None, None]), ("head%d.out.bias" % s, add[-1])):
            value = numpy_helper.to_array(tensors[name]).copy()
            value[5:] = (value[5:].astype(numpy.float64) + more).astype(value.dtype)
            tensors[name].CopyFrom(numpy_helper.from_array(value, name))
        after[on] += numpy.column_stack([d["feature"], numpy.ones(len(on))])[on] @ add

    def off(points, rows):
        return 100 * (numpy.hypot(*(points - d["meant"])[rows].reshape(-1, 5, 2).transpose(2, 0, 1)).mean(1) / d["iod"][rows]).mean()

    print("| scenes kept back | faces | yardstick off % | before | after |\n|---|---|---|---|---|")
    yard = numpy.mean([part["teacher"] for part in parts], 0)
    best = (d["part"] == 1) & (d["rank"] == 0)
    for k, kind in enumerate(KINDS):
        rows = best & (d["kind"] == k)
        print("| %s | %d | %.2f | %.2f | %.2f |" % (kind[0], rows.sum(), 100 * yard[k], off(d["said"], rows), off(after, rows)))
    for s in STRIDES:
        rows = best & (d["stride"] == s)
        print("| from the grid of %d | %d |  | %.2f | %.2f |" % (s, rows.sum(), off(d["said"], rows), off(after, rows)))
    onnx.checker.check_model(model)
    onnx.save(model, o.out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("rows", nargs="+", help="what the networks said: one file to write with --photos, or all of them to fit")
    p.add_argument("--photos", help="a folder of people's folders; the first photo of each is used")
    p.add_argument("--teacher", help="yunet_n_dynamic.onnx")
    p.add_argument("--model", required=True, help="the detector")
    p.add_argument("--out", default="refit.onnx", help="the detector with other points")
    p.add_argument("--share", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every Nth person from the Ith on")
    p.add_argument("--learn", type=int, default=280, help="people to learn from")
    p.add_argument("--measure", type=int, default=70, help="people kept back, to measure on")
    p.add_argument("--grids", type=int, nargs="+", default=(16, 32), help="the grids that are refitted")
    p.add_argument("--ridge", type=float, default=1e-4, help="how much it is drawn towards what it was")
    p.add_argument("--other", type=float, default=0.03, help="weight of a face's cells that are not its surest")
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    gather(o) if o.photos else refit(o)


if __name__ == "__main__":
    main()
