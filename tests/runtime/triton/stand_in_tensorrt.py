"""A module `tensorrt` where none can be installed: NVIDIA's own `tensorrt.plugin`, over stand-ins for its library.

The Python half of TensorRT, which checks a plugin and asks it for its launches, is in the package
tensorrt-cu13-bindings; what a builder does with it is done here. Networks are those of TensorRT for RTX, which has the
same API but for plugins.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import tensorrt_rtx


class Expression:
    """A size that depends on a call's shapes: of(sizes) with sizes = {"n": 4, …}."""

    def __init__(self, of):
        self.of = of


OPERATIONS = {
    "SUM": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "PROD": lambda a, b: a * b,
    "CEIL_DIV": lambda a, b: -(-a // b),
    "LESS": lambda a, b: int(a < b),
}


class Expressions:
    """TensorRT's builder of expressions."""

    def constant(self, value):
        return Expression(lambda sizes: value)

    def operation(self, operation, left, right):
        compute = OPERATIONS[operation.name]
        return Expression(lambda sizes: compute(left.of(sizes), right.of(sizes)))


class Registry:
    def __init__(self):
        self.creators = {}

    def register_creator(self, creator, namespace):
        self.creators[namespace, creator.name] = creator

    def get_creator(self, name, version, namespace):
        return self.creators.get((namespace, name))


def install(monkeypatch):
    """`import tensorrt` and `import tensorrt.plugin` work from here to the test's end; returns the former."""
    registry = Registry()
    made = ModuleType("tensorrt")
    vars(made).update({name: value for name, value in vars(tensorrt_rtx).items() if not name.startswith("__")})
    for name in ("IPluginV3", "IPluginV3QuickCore", "IPluginV3QuickBuild", "IPluginV3QuickAOTBuild", "ISymExpr"):
        setattr(made, name, type(name, (), {}))
    for name in ("IPluginV3QuickRuntime", "IPluginCreatorV3Quick"):
        setattr(made, name, type(name, (), {}))
    vars(made).update(
        __version__="11.4.0",
        IDimensionExpr=Expression,
        DimsExprs=lambda size: [None] * size,
        QuickPluginCreationRequest=SimpleNamespace(STRICT_AOT="AOT", STRICT_JIT="JIT"),
        TensorRTPhase=SimpleNamespace(BUILD="build"),
        PluginFieldCollection=list,
        DynamicPluginTensorDesc=_Dynamic,
        get_plugin_registry=lambda: registry,
    )
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    bindings = importlib.util.find_spec("tensorrt_bindings").submodule_search_locations[0]
    where = Path(bindings) / "plugin"
    spec = importlib.util.spec_from_file_location(
        "tensorrt.plugin", where / "__init__.py", submodule_search_locations=[str(where)]
    )
    plugin = importlib.util.module_from_spec(spec)
    for name in [name for name in sys.modules if name.startswith("tensorrt.plugin")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", plugin)
    spec.loader.exec_module(plugin)
    made.plugin = plugin
    return made


class Network:
    """A network of TensorRT for RTX, and what it lacks: `add_plugin`."""

    def __init__(self, trt):
        self._builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        self.real = self._builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.plugin = self.inputs = None

    def __getattr__(self, name):
        return getattr(self.real, name)

    def add_plugin(self, create, aot):
        self.inputs, shape_inputs, self.plugin = create("AOT" if aot else "JIT")
        assert shape_inputs == []
        # TensorRT for RTX has to know a layer that makes the scores.
        layer = self.real.add_constant((1, 1), tensorrt_rtx.Weights(tensorrt_rtx.float32))
        return SimpleNamespace(get_output=layer.get_output)


class _Dynamic:
    def __init__(self, desc):
        self.desc = desc


def launches(trt, network, sizes):
    """What TensorRT would build and launch, {tactic: launch}, for a call of these sizes: {"n", "m", "R", "T"}.

    It asks the plugin for its outputs, its types and tactics, then for every tactic's launch and its kernel.
    """
    plugin, expressions = network.plugin, Expressions()
    axes = {"image_states": "nR", "image_lengths": "n", "text_states": "mT", "text_lengths": "m"}
    dims = []
    for tensor in network.inputs:
        names = axes.get(tensor.name, "")
        dims.append(
            [
                Expression(lambda sizes, name=names[i : i + 1], size=size: sizes[name] if size < 0 else size)
                for i, size in enumerate(tensor.shape)
            ]
        )
    kinds = [tensor.dtype for tensor in network.inputs]
    outputs = plugin.get_output_data_types(kinds, [len(own) for own in dims])
    ((rows, columns),) = plugin.get_output_shapes(dims, [], expressions)
    assert (rows.of(sizes), columns.of(sizes)) == (sizes["n"], sizes["m"])
    ends = [
        _Dynamic(_desc(trt, kind, own)) for kind, own in zip([*kinds, *outputs], [*dims, [rows, columns]], strict=True)
    ]
    supported = plugin.get_supported_format_combinations(ends, len(kinds))
    assert [(one.type, one.format) for one in supported] == [(end.desc.type, trt.TensorFormat.LINEAR) for end in ends]
    plugin.configure_plugin(ends[: len(kinds)], ends[len(kinds) :])
    found = {}
    for tactic in plugin.get_valid_tactics():
        plugin.set_tactic(tactic)
        place, arguments = SimpleNamespace(), _Arguments()
        plugin.get_launch_params(dims, ends, len(kinds), place, arguments, expressions)
        name, ptx = plugin.get_kernel(
            [end.desc for end in ends[: len(kinds)]], [end.desc for end in ends[len(kinds) :]]
        )
        assert len(arguments) == arguments.nbSymExprs
        assert {argument.dtype for argument in arguments.values()} == {trt.PluginArgDataType.INT32}
        found[tactic] = SimpleNamespace(
            **{side: expression.expr.of(sizes) for side, expression in vars(place).items()},
            arguments=[arguments[number].expr.of(sizes) for number in range(len(arguments))],
            name=name,
            ptx=ptx.decode(),
        )
    return found


class _Arguments(dict):
    nbSymExprs = None  # noqa: N815  # TensorRT's name


def _desc(trt, kind, dims):
    made = trt.PluginTensorDesc()
    made.type, made.format, made.dims = kind, trt.TensorFormat.LINEAR, (-1,) * len(dims)
    return made
