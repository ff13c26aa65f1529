"""What deploy/ gives to Kubernetes, as helm and kustomize render it.

    python tests/support/manifests.py FOLDER    writes all of it: NAME.yaml, and typed.ts

typed.ts has the custom resources, and Grafana's dashboard, as objects of the types that their
projects' schemas give, so that a TypeScript compiler says which fields there are not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import yaml
from kubernetes_tools import find

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/polyhead"
KUSTOMIZATIONS = {
    "kustomize-base": "kustomize/base",
    "kustomize-production": "kustomize/overlays/production",
}
RELEASES = {
    "helm-defaults": {},
    "helm-claim": {
        "models": {"path": "/models", "persistentVolumeClaim": "polyhead-models"},
        "tls": {"secretName": "polyhead-tls", "clientCaSecretName": "polyhead-ca"},
        "tokensSecretName": "polyhead-tokens",
        "settings": {"POLYHEAD_WATCH": "1", "POLYHEAD_MAX_QUEUE_SIZE": "1024"},
        "autoscaling": {"by": "hpa", "queueRequests": 8},
        "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "drainDelaySeconds": 20,
        "graceSeconds": 300,
    },
    "helm-checkpoint": {
        "models": {
            "path": "/models",
            "initContainer": {
                "image": "registry.example.org/exporter:1",
                "command": ["polyhead", "export", "checkpoint", "/checkpoint", "--out", "/models"],
            },
        },
        "autoscaling": {
            "by": "keda",
            "queueRequests": 8,
            "prometheusUrl": "http://prometheus.monitoring:9090",
        },
        "route": {
            "enabled": True,
            "parentRefs": [{"name": "gateway", "namespace": "gateways"}],
            "hostnames": ["attention.example.org"],
        },
        "networkPolicy": {
            "from": [{"namespaceSelector": {}}],
            "egress": [{"ports": [{"port": 4317}]}],
        },
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4317"}],
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "attention", "operator": "Exists"}],
        "podAnnotations": {"example.org/team": "search"},
    },
    "helm-store": {
        "models": {"path": "s3://models/served", "cacheVolumeSize": "20Gi"},
        "settings": {"POLYHEAD_MODELS_CACHE_BYTES": "16GiB", "POLYHEAD_WATCH": "1"},
        "serviceAccountName": "reads-models",
        "env": [{"name": "AWS_DEFAULT_REGION", "value": "eu-central-1"}],
    },
    "helm-image": {"image": {"tag": "mine"}, "models": {"path": "/models"}},
}
"""Values of the releases that are looked at; between them they use every option."""
RENDERED = (*KUSTOMIZATIONS, *RELEASES)
TYPES = {
    "ServiceMonitor": "prometheus-operator/monitoring.coreos.com/v1",
    "ScaledObject": "keda/keda.sh/v1alpha1",
    "GRPCRoute": "gateway-api/gateway.networking.k8s.io/v1",
}
"""Where @kubernetes-models has the type of a custom resource."""
_DASHBOARD = "./node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen"


def helm(*arguments: str, values: dict) -> subprocess.CompletedProcess:
    """Run helm with these values, whatever comes of it."""
    return subprocess.run(
        [find("helm"), *arguments, "--values", "-"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
    )


@cache
def rendered(name: str) -> str:
    """Render one of RENDERED."""
    if name in RELEASES:
        done = helm("template", "polyhead", str(CHART), values=RELEASES[name])
        assert done.returncode == 0, done.stderr
        return done.stdout
    folder = DEPLOY / KUSTOMIZATIONS[name]
    command = [find("kubectl"), "kustomize", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def parse(text: str) -> list[dict]:
    """Read the objects of a rendering; by libyaml, which takes a tenth of the time."""
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


@cache
def _parsed(name: str) -> list[dict]:
    return parse(rendered(name))


def objects(name: str) -> list[dict]:
    """Return the objects of one of RENDERED."""
    return deepcopy(_parsed(name))


def kserve(name: str) -> dict:
    """Return an object of deploy/kserve."""
    return yaml.safe_load((DEPLOY / f"kserve/{name}.yaml").read_text())


def of_kind(kind: str, among: list[dict]) -> list[dict]:
    return [each for each in among if each["kind"] == kind]


def _typed() -> str:
    lines = [f'import type {{ Dashboard }} from "{_DASHBOARD}";']
    dashboard = (DEPLOY / "observe/grafana/dashboards/polyhead.json").read_text()
    lines.append(f"export const dashboard: Dashboard = {dashboard};")
    for name in RENDERED:
        for each in objects(name):
            if (kind := each["kind"]) in TYPES:
                number = len(lines)
                path = f"@kubernetes-models/{TYPES[kind]}/{kind}"
                lines.append(f'import type {{ I{kind} as T{number} }} from "{path}";')
                lines.append(f"export const object{number}: T{number} = {json.dumps(each)};")
    return "\n".join(lines)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in RENDERED:
        (target / f"{each}.yaml").write_text(rendered(each))
    (target / "typed.ts").write_text(_typed())
