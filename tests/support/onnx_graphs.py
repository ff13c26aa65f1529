"""Small ONNX graphs, with functions and graphs within graphs."""

from __future__ import annotations

from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT
STANDARD = helper.make_opsetid("", 17)


def node(name="Relu", domain="", inputs=("x",), output="y", **attributes):
    return helper.make_node(name, inputs, [output], domain=domain, **attributes)


def graph(*nodes, name="g", inputs=("x",), output="y"):
    return helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(each, FLOAT, [2, 2]) for each in inputs],
        [helper.make_tensor_value_info(output, FLOAT, None)],
    )


def function(name, *nodes, domain="own"):
    imports = [STANDARD, helper.make_opsetid("own", 1)]
    return helper.make_function(domain, name, ["x"], ["y"], nodes, imports)


def model(*nodes, functions=(), domains=("com.microsoft", "ai.onnx.ml", "own")):
    imports = [STANDARD, *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph(*nodes), opset_imports=imports, ir_version=9)
    made.functions.extend(functions)
    return made


def choosing(inner):
    """A node with a graph in each of two attributes, the second of which is given."""
    condition = helper.make_node(
        "Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True])
    )
    branches = {"then_branch": graph(node(), inputs=()), "else_branch": graph(inner, inputs=())}
    return condition, helper.make_node("If", ["c"], ["y"], **branches)


def chain(depth, calls=1):
    """Functions, each of which calls the next one so many times, one after the other."""
    made = []
    for number in range(depth):
        names = [f"F{number + 1}" if number + 1 < depth else "Relu"] * calls
        domain = "own" if number + 1 < depth else ""
        values = ["x", *(f"v{index}" for index in range(1, calls)), "y"]
        nodes = [
            node(name, domain, [values[index]], values[index + 1])
            for index, name in enumerate(names)
        ]
        made.append(function(f"F{number}", *nodes))
    return made
