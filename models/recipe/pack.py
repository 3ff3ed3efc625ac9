"""Photos as the recipes read them, small enough to be sent to another machine:
WebP in a .zip, without those of the people who are held out.

    python3 pack.py ../../shared/data/lfw-dev.tar lfw.zip --quality 60
"""

import argparse
import io
import os
import tarfile
import zipfile
from concurrent.futures import ProcessPoolExecutor

from PIL import Image


def webp(photo):
    name, data, quality = photo
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(out, "WEBP", quality=quality)
    return os.path.splitext(name)[0] + ".webp", out.getvalue()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tar")
    p.add_argument("zip")
    p.add_argument("--quality", type=int, default=80)
    p.add_argument("--without", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "pairs", "heldout.txt"))
    o = p.parse_args()
    with open(o.without) as f:
        held_out = set(f.read().split())
    with tarfile.open(o.tar) as t:
        files = [(m.name, t.extractfile(m).read(), o.quality) for m in t
                 if m.isfile() and os.path.basename(os.path.dirname(m.name)) not in held_out]
    with ProcessPoolExecutor() as pool, zipfile.ZipFile(o.zip, "w", zipfile.ZIP_STORED) as z:
        for name, data in pool.map(webp, files, chunksize=64):
            z.writestr(name, data)
    print("%d photos in %s" % (len(files), o.zip))


if __name__ == "__main__":
    main()
