"""Selectors of deploy/ find the pods and Services that they are meant for."""

from __future__ import annotations

import promql_parser as promql
import pytest
from manifests import RENDERED, objects, of_kind


@pytest.fixture(params=RENDERED)
def manifests(request):
    return objects(request.param)


def deployment_of(manifests):
    [deployment] = of_kind("Deployment", manifests)
    return deployment


def pod_labels(manifests):
    return deployment_of(manifests)["spec"]["template"]["metadata"]["labels"].items()


def selectors_of(manifests):
    """The labels by which each object looks for the server's pods."""
    for each in manifests:
        spec = each["spec"]
        match each["kind"]:
            case "Service":
                yield each, spec["selector"]
            case "NetworkPolicy":
                yield each, spec["podSelector"]["matchLabels"]
            case "Deployment":
                yield each, spec["selector"]["matchLabels"]
                for spread in spec["template"]["spec"]["topologySpreadConstraints"]:
                    yield each, spread["labelSelector"]["matchLabels"]
            case "PodDisruptionBudget":
                yield each, spec["selector"]["matchLabels"]


def test_selectors_find_the_pods_and_no_others(manifests):
    found = list(selectors_of(manifests))
    assert {each["kind"] for each, _ in found} == {
        *("Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service")
    }
    for each, selector in found:
        assert set(selector) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}, each
        assert selector.items() <= pod_labels(manifests), each


def test_named_ports_are_ports_of_the_container(manifests):
    [container] = deployment_of(manifests)["spec"]["template"]["spec"]["containers"]
    names = {port["name"] for port in container["ports"]}
    used = [p["targetPort"] for s in of_kind("Service", manifests) for p in s["spec"]["ports"]]
    [policy] = of_kind("NetworkPolicy", manifests)
    used += [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    assert set(used) == names == {"grpc", "metrics"}


def test_one_service_is_an_address_and_the_other_the_addresses(manifests):
    services = {s["metadata"]["name"]: s["spec"] for s in of_kind("Service", manifests)}
    assert set(services) == {"polyhead", "polyhead-headless"}
    assert services["polyhead-headless"]["clusterIP"] == "None"
    assert "clusterIP" not in services["polyhead"]


def test_with_tls_no_service_says_h2c(manifests):
    [container] = deployment_of(manifests)["spec"]["template"]["spec"]["containers"]
    has_tls = any(each["name"] == "POLYHEAD_TLS_CERT" for each in container["env"])
    for service in of_kind("Service", manifests):
        [port] = (port for port in service["spec"]["ports"] if port["name"] == "grpc")
        assert port.get("appProtocol") == (None if has_tls else "kubernetes.io/h2c")


def test_monitors_find_one_service(manifests):
    for monitor in of_kind("ServiceMonitor", manifests):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        [service] = (
            s for s in of_kind("Service", manifests) if wanted <= s["metadata"]["labels"].items()
        )
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= ports


def test_what_counts_replicas_names_the_deployment_which_does_not(manifests):
    kinds = ("HorizontalPodAutoscaler", "ScaledObject")
    scalers = [each for kind in kinds for each in of_kind(kind, manifests)]
    deployment = deployment_of(manifests)
    assert len(scalers) == ("replicas" not in deployment["spec"])
    for scaler in scalers:
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_keda_asks_for_the_queue_of_a_service_that_there_is(manifests):
    services = {service["metadata"]["name"] for service in of_kind("Service", manifests)}
    for scaler in of_kind("ScaledObject", manifests):
        [trigger] = (t for t in scaler["spec"]["triggers"] if t["type"] == "prometheus")
        selector = promql.parse(trigger["metadata"]["query"]).expr
        labels = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        assert selector.name == "polyhead_queue_requests"
        assert labels["service"] in services


def test_routes_lead_to_a_service(manifests):
    ports = {
        (service["metadata"]["name"], port["port"])
        for service in of_kind("Service", manifests)
        for port in service["spec"]["ports"]
    }
    for route in of_kind("GRPCRoute", manifests):
        [[backend]] = [rule["backendRefs"] for rule in route["spec"]["rules"]]
        assert (backend["name"], backend["port"]) in ports


def test_options_are_rendered_somewhere():
    kinds = {each["kind"] for name in RENDERED for each in objects(name)}
    assert {"GRPCRoute", "HorizontalPodAutoscaler", "ScaledObject", "ServiceMonitor"} <= kinds
