"""Tests are left out where a package or a tool of constraints/manifests.txt is missing."""

from __future__ import annotations

from importlib.util import find_spec

from kubernetes_tools import TOOLS, find

collect_ignore = []
if not (all(map(find, TOOLS)) and find_spec("kubernetes_validate")):
    collect_ignore += [f"test_{name}.py" for name in ("pods", "selectors", "schemas", "values")]
if not (find_spec("promql_parser") and find_spec("yaml")):
    collect_ignore += ["test_queries.py"]
if not find_spec("yaml"):
    collect_ignore += ["test_containers.py"]
