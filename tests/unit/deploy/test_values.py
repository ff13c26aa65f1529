"""The chart's values: all are in the schema, and what cannot work is refused."""

from __future__ import annotations

import argparse
import json
import re

import jsonschema
import pytest
import yaml
from manifests import CHART, DEPLOY, RELEASES, helm, parse

from polyhead_server.settings import ServerSettings

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


def test_settings_are_those_of_serve_that_no_other_value_sets():
    parser = argparse.ArgumentParser()
    ServerSettings.add_arguments(parser)
    known = set(re.findall(r"POLYHEAD_[A-Z_]+", " ".join(str(a.help) for a in parser._actions)))
    templates = (CHART / "templates/deployment.yaml").read_text()
    set_by_values = set(re.findall(r"name: (POLYHEAD_\w+)", templates))
    assert set(SCHEMA["properties"]["settings"]["properties"]) == known - set_by_values


INIT = {"image": "exporter"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replica": 3}, "replica"),
        ({"image": {"tags": "1"}}, "tags"),
        ({"settings": {"POLYHEAD_WORKERS": 1}}, "want string"),
        ({"settings": {"MAX_QUEUE_SIZE": "1"}}, "MAX_QUEUE_SIZE"),
        ({"settings": {"POLYHEAD_GRACE_S": "300"}}, "POLYHEAD_GRACE_S"),
        ({"models": {"persistentVolumeClaim": "models"}}, "path"),
        ({"models": {"path": "models"}}, "path"),
        ({"models": {"path": "s3://m", "persistentVolumeClaim": "c"}}, "path"),
        ({"models": {"path": "s3://m", "initContainer": INIT}}, "path"),
        (
            {"models": {"path": "/m", "persistentVolumeClaim": "c", "initContainer": INIT}},
            "initContainer",
        ),
        ({"models": {"path": "/m", "initContainer": {"command": ["true"]}}}, "image"),
        ({"models": {"cacheVolumeSize": "8Gx"}}, "cacheVolumeSize"),
        ({"tls": {"clientCaSecretName": "ca"}}, "secretName"),
        ({"autoscaling": {"by": "keda", "queueRequests": 1}}, "prometheusUrl"),
        ({"autoscaling": {"by": "vpa"}}, "hpa"),
        ({"autoscaling": {"by": "hpa", "minReplicas": 9}}, "minReplicas is 9"),
        ({"podDisruptionBudget": {"maxUnavailable": "all"}}, "maxUnavailable"),
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
