"""The pods of deploy/ start the server that their probes ask, and give it time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from manifests import RENDERED, kserve, objects, of_kind
from variables import known_variables, settings_of

DEPLOYMENTS = [*RENDERED, "kserve"]


@dataclass(frozen=True)
class Pod:
    """The pod of a rendering, and its one container."""

    spec: dict
    container: dict

    @property
    def environment(self):
        return {each["name"]: each["value"] for each in self.container["env"]}

    @property
    def settings(self):
        """The server's settings, as `polyhead serve` reads them."""
        command, *flags = self.container["args"]
        assert command == "serve"
        return settings_of(self.environment, flags)

    @property
    def probes(self):
        return {name: probe for name, probe in self.container.items() if name.endswith("Probe")}


def pod_of(name):
    if name == "kserve":
        runtime, predictor = kserve("serving-runtime"), kserve("inference-service")["spec"]
        spec = runtime["spec"] | predictor["predictor"]
    else:
        [deployment] = of_kind("Deployment", objects(name))
        spec = deployment["spec"]["template"]["spec"]
    [container] = spec["containers"]
    return Pod(spec, container)


@pytest.fixture(params=DEPLOYMENTS)
def pod(request):
    return pod_of(request.param)


def test_every_variable_is_one_that_polyhead_reads(pod):
    ours = {name for name in pod.environment if name.startswith("POLYHEAD_")}
    assert len(ours) == len([e for e in pod.container["env"] if e["name"].startswith("POLYHEAD_")])
    assert len(ours) >= 6
    assert ours <= known_variables()


def test_links_of_services_set_no_setting(pod):
    assert pod.spec["enableServiceLinks"] is False


def test_ports_are_those_that_the_server_listens_on(pod):
    settings, ports = pod.settings, pod.container["ports"]
    assert settings.host == settings.metrics_host == "0.0.0.0"
    assert ports[0]["containerPort"] == settings.port
    assert all(p["containerPort"] == settings.metrics_port for p in ports if p["name"] == "metrics")


def test_probes_ask_the_port_as_it_speaks(pod):
    assert "readinessProbe" in pod.probes
    for probe in pod.probes.values():
        if pod.settings.tls_cert:
            assert probe["exec"] == {"command": ["polyhead", "health"]}
        else:
            assert probe["grpc"] == {"port": pod.settings.port}


@pytest.mark.parametrize("name", RENDERED)
def test_the_pod_is_restarted_neither_while_models_load_nor_for_a_moment_of_silence(name):
    pod = pod_of(name)
    lasting = {
        each: probe["periodSeconds"] * probe["failureThreshold"]
        for each, probe in pod.probes.items()
    }
    assert lasting["startupProbe"] >= 2 * pod.settings.load_timeout_s
    assert lasting["livenessProbe"] >= 60


def test_the_grace_period_is_as_long_as_a_stop_may_take(pod):
    assert pod.settings.drain_delay_s > 0  # until no balancer knows the address any more
    assert pod.spec["terminationGracePeriodSeconds"] >= pod.settings.max_stop_s


def test_containers_have_no_rights_that_they_do_not_need(pod):
    contexts = [pod.spec.get("securityContext", {}) | pod.container["securityContext"]]
    contexts += [
        pod.spec["securityContext"] | each["securityContext"]
        for each in pod.spec.get("initContainers", [])
    ]
    for context in contexts:
        assert context["runAsNonRoot"] is context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"cpu", "memory"} <= set(pod.container["resources"]["limits"])


def test_every_file_that_a_variable_names_is_mounted(pod):
    mounts = [each["mountPath"] for each in pod.container["volumeMounts"]]
    volumes = {each["name"] for each in pod.spec["volumes"]}
    assert {each["name"] for each in pod.container["volumeMounts"]} == volumes
    assert "/tmp" in mounts
    for name, value in pod.environment.items():
        in_image = pod.container["image"] == "polyhead:mine" and name == "POLYHEAD_MODELS"
        if value.startswith("/") and not in_image and not value.startswith("/mnt/models"):
            assert value in mounts or value.rpartition("/")[0] in mounts, name


def test_a_model_repository_comes_from_a_claim_an_init_container_or_the_image():
    sources = {
        name: {v["name"]: v for v in pod_of(name).spec["volumes"]}.get("models", {}) | {"name": ""}
        for name in ("helm-claim", "helm-checkpoint", "helm-image", "kustomize-production")
    }
    assert "persistentVolumeClaim" in sources["helm-claim"]
    assert "persistentVolumeClaim" in sources["kustomize-production"]
    assert "emptyDir" in sources["helm-checkpoint"]
    assert sources["helm-image"] == {"name": ""}
    [init] = pod_of("helm-checkpoint").spec["initContainers"]
    assert {"name": "models", "mountPath": "/models"} in init["volumeMounts"]


def test_models_of_a_url_have_a_disk_that_is_never_full_and_a_way_to_the_store():
    pod = pod_of("helm-store")
    assert pod.settings.models == "s3://models/served"
    [disk] = [v["emptyDir"] for v in pod.spec["volumes"] if v["name"] == "cache"]
    assert disk["sizeLimit"] == "20Gi"
    assert 0 < pod.settings.models_cache_bytes < 20 << 30
    assert pod.spec["serviceAccountName"] == "reads-models"
    [policy] = of_kind("NetworkPolicy", objects("helm-store"))
    [rule] = policy["spec"]["egress"]
    assert [(port["port"], port["protocol"]) for port in rule["ports"]] == [
        (53, "UDP"),
        (53, "TCP"),
        (443, "TCP"),
    ]
    [policy] = of_kind("NetworkPolicy", objects("helm-image"))
    assert policy["spec"]["egress"] == []


def test_kserve_gives_the_runtime_what_it_serves():
    runtime, service = kserve("serving-runtime"), kserve("inference-service")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] == runtime["spec"]["supportedModelFormats"][0]["name"]
    assert [model["protocolVersion"]] == runtime["spec"]["protocolVersions"] == ["grpc-v2"]
    assert pod_of("kserve").container["ports"][0]["name"] == "h2c"


def test_kustomize_and_helm_describe_the_same_pod():
    [base] = of_kind("Deployment", objects("kustomize-base"))
    [chart] = of_kind("Deployment", objects("helm-defaults"))
    for each in (base, chart):
        each["spec"]["template"]["spec"]["containers"][0]["image"] = ""
        for labels in (each["metadata"], each["spec"]["template"]["metadata"]):
            del labels["labels"]
    assert base == chart
