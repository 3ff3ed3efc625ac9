"""What the scripts on torch share: a task, its numbers, and answers as lines
of JSON. The folder named first has task.json and numbers.f32 (float32), as
bench/torch.go writes them.
"""

import json
import os
import sys

import numpy
import torch

folder = sys.argv[1]
with open(os.path.join(folder, "task.json")) as f:
    task = json.load(f)
numbers = numpy.fromfile(os.path.join(folder, "numbers.f32"), dtype="<f4")
torch.set_num_threads(task["threads"])


def tensor(part):
    shape = part["shape"]
    size = int(numpy.prod(shape))
    return torch.from_numpy(numbers[part["at"] : part["at"] + size].reshape(shape).copy())


def peak():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def blas():
    """The name of the BLAS library in use: much hangs on it."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            name = os.path.basename(line.split()[-1])
            if "blas" in name or "mkl_rt" in name:
                return name
    return "unknown"


def say(**what):
    print(json.dumps(what), flush=True)


def hello():
    say(torch=torch.__version__, blas=blas(), threads=torch.get_num_threads())
