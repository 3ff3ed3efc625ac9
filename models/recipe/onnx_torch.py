"""ONNX models as torch modules: the teachers and students of the recipes.

A student is the ONNX model that `likeness train` begins with too, so what is
taught here on a graphics card is the same graph. Only the operators that these
models have are known; another one is refused by name.
"""

import numpy
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper


def _key(name):
    return name.replace(".", "_").replace("/", "__")


class Net(torch.nn.Module):
    """The model of a file. Call it with its input [N,C,H,W]; it returns a dict
    of the tensors asked for, by their names in the graph.

    Learnt are the float tensors of one axis or more, but for running
    statistics, when learn is set; otherwise none are, and BatchNormalization
    uses the statistics that it has.
    """

    def __init__(self, path, learn=False):
        super().__init__()
        self.model = onnx.load(path)
        graph = self.model.graph
        self.learn = learn
        self.constants = {}
        statistics = {n for node in graph.node if node.op_type == "BatchNormalization" for n in node.input[3:5]}
        shapes = {n for node in graph.node if node.op_type in ("Reshape", "Resize", "Unsqueeze", "Squeeze", "Slice") for n in node.input[1:]}
        self.initial = {}
        for t in graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(t).copy())
            if value.dtype == torch.float16:
                value = value.float()
            if t.name in shapes:
                self.constants[t.name] = value
            elif learn and value.is_floating_point() and value.dim() > 0 and value.numel() > 1 and t.name not in statistics:
                self.register_parameter(_key(t.name), torch.nn.Parameter(value))
            else:
                self.register_buffer(_key(t.name), value)
        self.names = [t.name for t in graph.initializer]
        self.input = [i.name for i in graph.input if i.name not in self.names][0]
        self.outputs = [o.name for o in graph.output]

    def value(self, name):
        return self.constants[name] if name in self.constants else getattr(self, _key(name))

    def forward(self, x, want=None):
        want = self.outputs if want is None else want
        left = set(want)
        values = {self.input: x}

        def get(name):
            return values[name] if name in values else self.value(name)

        for node in self.model.graph.node:
            a = {t.name: helper.get_attribute_value(t) for t in node.attribute}
            i = [get(n) if n else None for n in node.input]
            y = self.run(node, node.op_type, a, i)
            for name, part in zip(node.output, y if isinstance(y, (tuple, list)) else (y,)):
                values[name] = part
                left.discard(name)
            if not left:
                break
        return {name: values[name] for name in want}

    def run(self, node, op, a, i):
        x = i[0] if i else None
        if op == "Conv":
            pads = a.get("pads", [0] * 4)
            half = len(pads) // 2
            if pads[:half] == pads[half:]:
                pad = pads[:half]
            else:
                x, pad = F.pad(x, (pads[1], pads[3], pads[0], pads[2])), 0
            return F.conv2d(x, i[1].to(x.dtype), i[2].to(x.dtype) if len(i) > 2 else None,
                            stride=a.get("strides", 1), padding=pad,
                            dilation=a.get("dilations", 1), groups=a.get("group", 1))
        if op == "BatchNormalization":
            return F.batch_norm(x, i[3], i[4], i[1], i[2], training=self.learn and self.training,
                                momentum=0.03, eps=a.get("epsilon", 1e-5))
        if op == "Relu":
            return F.relu(x)
        if op == "Sigmoid":
            return torch.sigmoid(x)
        if op == "PRelu":
            return torch.where(x >= 0, x, x * i[1].to(x.dtype))
        if op == "Clip":
            return torch.clamp(x, i[1] if len(i) > 1 else a.get("min"), i[2] if len(i) > 2 else a.get("max"))
        if op == "Max":
            return torch.maximum(i[0], i[1].to(x.dtype))
        if op == "Min":
            return torch.minimum(i[0], i[1].to(x.dtype))
        if op == "Neg":
            return -x
        if op in ("Add", "Sub", "Mul", "Div"):
            p, q = i
            # A constant takes the type of what it meets, also without autocast.
            if p.dtype != q.dtype and p.is_floating_point():
                p, q = (p, q.to(p.dtype)) if q.dim() <= p.dim() and q.dtype == torch.float32 else (p.to(q.dtype), q)
            return {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div}[op](p, q)
        if op == "Concat":
            # Shapes are computed on the host, wherever the net is.
            return torch.cat(i if i[0].is_floating_point() else [part.cpu() for part in i], a["axis"])
        if op == "MaxPool":
            return F.max_pool2d(x, a["kernel_shape"], a.get("strides"), a.get("pads", [0, 0])[:2], ceil_mode=bool(a.get("ceil_mode", 0)))
        if op == "AveragePool":
            return F.avg_pool2d(x, a["kernel_shape"], a.get("strides"), a.get("pads", [0, 0])[:2])
        if op == "GlobalAveragePool":
            return x.mean((2, 3), keepdim=True)
        if op == "ReduceMean":
            axes = a.get("axes") or [int(v) for v in i[1]]
            return x.mean(axes, keepdim=bool(a.get("keepdims", 1)))
        if op == "Reshape":
            shape = [int(n) for n in i[1]]
            # A batch of one in the file is a batch of any size here.
            shape = [x.shape[k] if n == 0 else n for k, n in enumerate(shape)]
            if -1 not in shape:
                shape[0] = -1
            elif shape[0] == 1:
                shape[0] = x.shape[0]
            return x.reshape(shape)
        if op == "Flatten":
            return x.flatten(a.get("axis", 1))
        if op == "Transpose":
            return x.permute(a["perm"])
        if op == "Gemm":
            w = i[1].to(x.dtype)
            y = x @ (w.t() if a.get("transB", 0) else w) * a.get("alpha", 1.0)
            return y + i[2].to(x.dtype) if len(i) > 2 else y
        if op == "MatMul":
            return x @ i[1].to(x.dtype)
        if op in ("Resize", "Upsample"):
            scales = [float(v) for v in i[-1]] if i[-1].numel() else None
            return F.interpolate(x, scale_factor=tuple(scales[2:]), mode="nearest")
        if op == "Shape":
            return torch.tensor(x.shape)
        if op == "Gather":
            return torch.index_select(x, a.get("axis", 0), i[1].reshape(-1).to(x.device)).reshape(i[1].shape)
        if op in ("Identity", "Dropout", "Cast"):
            return x
        if op == "Constant":
            return torch.from_numpy(numpy_helper.to_array(a["value"]).copy())
        if op == "Unsqueeze":
            return x.unsqueeze(int(i[1][0]) if len(i) > 1 else a["axes"][0])
        if op == "Squeeze":
            return x.squeeze(int(i[1][0]) if len(i) > 1 else a["axes"][0])
        raise ValueError("operator %s (%s) is not known" % (op, node.name))


def state(net):
    """The tensors of a net by their names in the graph, as numpy arrays."""
    return {name: net.value(name).detach().float().cpu().numpy() if net.value(name).is_floating_point()
            else net.value(name).cpu().numpy() for name in net.names}


def save(net, values, path, half=True):
    """Writes the model with these tensors, BatchNormalization folded into the
    convolution or product before it, and the larger tensors as float16 with a
    Cast behind each, which ONNX Runtime computes once, when it loads the model.
    """
    model = onnx.ModelProto()
    model.CopyFrom(net.model)
    graph = model.graph
    values = {k: v.copy() for k, v in values.items()}
    made = {node.output[0]: node for node in graph.node}
    uses = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for node in list(graph.node):
        before = made.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if before is None or before.op_type not in ("Conv", "Gemm") or uses[node.input[0]] != 1:
            continue
        scale, bias, mean, variance = (values[n].astype(numpy.float64) for n in node.input[1:5])
        epsilon = next((t.f for t in node.attribute if t.name == "epsilon"), 1e-5)
        factor = scale / numpy.sqrt(variance + epsilon)
        w = values[before.input[1]].astype(numpy.float64)
        out_axis = 0 if before.op_type == "Conv" or any(t.name == "transB" and t.i for t in before.attribute) else 1
        shape = [1] * w.ndim
        shape[out_axis] = -1
        values[before.input[1]] = (w * factor.reshape(shape)).astype(numpy.float32)
        old = values[before.input[2]].astype(numpy.float64) if len(before.input) > 2 else 0
        name = before.input[2] if len(before.input) > 2 else before.input[1] + "/bias"
        values[name] = ((old - mean) * factor + bias).astype(numpy.float32)
        if len(before.input) == 2:
            before.input.append(name)
        before.output[0] = node.output[0]
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    casts = []
    for name, v in values.items():
        if name not in used:
            continue
        if half and v.dtype == numpy.float32 and v.size >= 64:
            graph.initializer.append(numpy_helper.from_array(v.astype(numpy.float16), name + "/half"))
            casts.append(helper.make_node("Cast", [name + "/half"], [name], to=onnx.TensorProto.FLOAT))
        else:
            graph.initializer.append(numpy_helper.from_array(v, name))
    nodes = casts + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)
