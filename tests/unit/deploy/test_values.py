"""The chart's values: all are in the schema, and what cannot work is refused."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from manifests import CHART, DEPLOY, RELEASES, helm, parse

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_the_schema_accepts_the_defaults():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


def names_of(schema, values, path=""):
    """Yield the paths of values that the schema describes, and of those that there are."""
    for name in set(schema["properties"]) | set(values):
        inner, value = schema["properties"].get(name), values.get(name)
        yield f"{path}{name}", inner is not None, name in values
        if isinstance(value, dict) and value and "properties" in inner:
            yield from names_of(inner, value, f"{path}{name}.")


def test_schema_and_defaults_have_the_same_names():
    for name, is_described, has_default in names_of(SCHEMA, VALUES):
        assert name == "global" or (is_described and has_default), name  # helm adds global


INIT = {"image": "exporter"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replica": 3}, "replica"),
        ({"image": {"tags": "1"}}, "tags"),
        ({"settings": {"POLYHEAD_PORT": 1}}, "want string"),
        ({"settings": {"MAX_QUEUE_SIZE": "1"}}, "MAX_QUEUE_SIZE"),
        ({"models": {"persistentVolumeClaim": "models"}}, "path"),
        ({"models": {"path": "models"}}, "path"),
        ({"models": {"path": "s3://m", "persistentVolumeClaim": "c"}}, "path"),
        ({"models": {"path": "s3://m", "initContainer": INIT}}, "path"),
        (
            {"models": {"path": "/m", "persistentVolumeClaim": "c", "initContainer": INIT}},
            "initContainer",
        ),
        ({"models": {"path": "/m", "initContainer": {"command": ["true"]}}}, "image"),
        ({"tls": {"clientCaSecretName": "ca"}}, "secretName"),
        ({"autoscaling": {"by": "keda", "queueRequests": 1}}, "prometheusUrl"),
        ({"autoscaling": {"by": "vpa"}}, "hpa"),
        ({"route": {"enabled": True}}, "parentRefs"),
        (
            {"route": {"enabled": True, "parentRefs": [{"name": "g"}]}, "tls": {"secretName": "s"}},
            "secretName",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(values, said):
    done = helm("template", "polyhead", str(CHART), values=values)
    assert done.returncode != 0
    assert said in done.stderr


def test_helm_finds_nothing_to_complain_of():
    done = helm("lint", "--strict", str(CHART), values={})
    assert done.returncode == 0, done.stdout


def test_another_name_of_the_release_leads_every_reference():
    done = helm("template", "search", str(CHART), values=RELEASES["helm-checkpoint"])
    names = {each["metadata"]["name"] for each in parse(done.stdout)}
    assert names == {"search-polyhead", "search-polyhead-headless"}


def test_versions_are_those_of_the_package():
    text = (DEPLOY.parent / "client/polyhead/_version.py").read_text()
    version = text.partition('__version__ = "')[2].partition('"')[0]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    overlay = (DEPLOY / "kustomize/overlays/production/kustomization.yaml").read_text()
    assert chart["version"] == chart["appVersion"] == version
    assert yaml.safe_load(overlay)["images"][0]["newTag"] == version
