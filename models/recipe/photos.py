"""Photos for the recipes: read once, kept on the card as bytes, changed there."""

import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy
import torch
from PIL import Image


def read(path):
    """The photos of a .zip or .tar in the order of their names: their names,
    and one uint8 tensor [n,3,height,width]; photos of another size than the
    first are left out."""
    if path.endswith(".zip"):
        with zipfile.ZipFile(path) as z:
            files = [(name, z.read(name)) for name in sorted(z.namelist())]
    else:
        with tarfile.open(path) as t:
            files = sorted((m.name, t.extractfile(m).read()) for m in t if m.isfile())

    def decode(data):
        return numpy.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    with ThreadPoolExecutor(16) as pool:
        photos = list(pool.map(lambda f: decode(f[1]), files))
    names, kept = [], []
    for (name, _), photo in zip(files, photos):
        if photo.shape == photos[0].shape:
            names.append(name)
            kept.append(photo)
    return names, torch.from_numpy(numpy.stack(kept)).permute(0, 3, 1, 2).contiguous()
