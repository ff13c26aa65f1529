"""Kubernetes' own schemas accept what deploy/ gives to it, and know every field of it."""

from __future__ import annotations

import kubernetes_validate
import pytest
from manifests import RENDERED, TYPES, kserve, objects, of_kind

VERSIONS = ("1.31", "1.37")
"""The oldest that the chart asks for, and the newest that there are schemas of."""


@pytest.mark.parametrize("name", RENDERED)
def test_every_object_is_valid_and_has_no_unknown_field(name):
    checked = [each for each in objects(name) if each["kind"] not in TYPES]
    assert len(checked) >= 5
    for each in checked:
        for version in VERSIONS:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pod_of_kserve_is_valid(version):
    spec = kserve("serving-runtime")["spec"]
    pod = {"containers": spec["containers"], "volumes": spec["volumes"]}
    each = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "polyhead"}, "spec": pod}
    kubernetes_validate.validate(each, version, strict=True)


def test_an_unknown_field_is_noticed():
    [deployment] = of_kind("Deployment", objects("helm-defaults"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    container["readinessProbe"]["grpcs"] = container["readinessProbe"].pop("grpc")
    with pytest.raises(kubernetes_validate.ValidationError, match="grpcs"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)
