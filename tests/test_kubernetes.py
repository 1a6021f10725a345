"""The Kubernetes manifests: right by the API's own schemas, and in agreement with the server they start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from paceline.server import settings
from paceline.server.config import ServeConfig
from paceline.server.listener import LAST_WORDS_S
from paceline.server.metrics import Metrics

FOLDER = Path(__file__).parent.parent / "deploy" / "kubernetes"
KUBERNETES = "1.34"


def documents(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


BASE = {
    each["kind"]: each
    for path in sorted((FOLDER / "base").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for each in documents(path.read_text())
}
POD = BASE["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def served() -> ServeConfig:
    """What the server makes of the pod's flags."""
    return settings.read(CONTAINER["args"])


def built(folder: str) -> list[dict[str, Any]]:
    """What kustomize makes of a folder."""
    command = ["kubectl", "kustomize", str(FOLDER / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return documents(done.stdout)


@pytest.mark.parametrize("kind", [*BASE, "ConfigMap"])
def test_the_api_takes_them(kind: str) -> None:
    """Each object has the fields of its kind, and no others."""
    every = BASE | {"ConfigMap": yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())}

    kubernetes_validate.validate(every[kind], KUBERNETES, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds the overlay")
def test_the_gpu_overlay_changes_what_it_should() -> None:
    """The overlay builds, its objects are right, and its pods ask for one GPU and keep the base's volumes."""
    objects = {each["kind"]: each for each in built("gpu")}
    for each in objects.values():
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    pod = objects["Deployment"]["spec"]["template"]["spec"]

    assert objects.keys() == BASE.keys()
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {volume["name"] for volume in pod["volumes"]} > {v["name"] for v in POD["volumes"]}


def test_a_pod_is_given_the_time_that_its_drain_takes() -> None:
    """Kubernetes kills later than the server needs for its preStop, the delay, the drain and its last words."""
    config = served()
    sleep_s = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed_s = sleep_s + config.drain_delay_s + config.drain_timeout_s + LAST_WORDS_S

    assert needed_s < POD["terminationGracePeriodSeconds"]


def test_flags_name_files_that_are_mounted() -> None:
    """Certificate, key, tokens and the probe's authority lie in secrets that the pod mounts, read-only."""
    config = served()
    (authority,) = (
        word.removeprefix("--ca=")
        for word in CONTAINER["readinessProbe"]["exec"]["command"]
        if word.startswith("--ca=")
    )
    secrets = {volume["name"] for volume in POD["volumes"] if "secret" in volume}
    mounted = {
        mount["mountPath"]
        for mount in CONTAINER["volumeMounts"]
        if mount["name"] in secrets and mount["readOnly"]
    }

    for file in (config.tls_cert, config.tls_key, config.tokens, authority):
        assert file is not None
        assert str(Path(file).parent) in mounted


def test_ports_and_names_agree() -> None:
    """Service, probes, policy and scraping speak of the ports that the server is told to open."""
    config = served()
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    notes = BASE["Deployment"]["spec"]["template"]["metadata"]["annotations"]

    assert ports == {"grpc": config.port, "metrics": config.metrics_port}
    assert BASE["Service"]["spec"]["ports"][0]["port"] == config.port
    assert f"127.0.0.1:{config.port}" in CONTAINER["readinessProbe"]["exec"]["command"]
    assert notes["prometheus.io/port"] == str(config.metrics_port)


def test_selectors_find_the_pods() -> None:
    """Service, budget and policy select what the deployment's pods are labelled with."""
    labels = BASE["Deployment"]["spec"]["template"]["metadata"]["labels"]

    assert BASE["Service"]["spec"]["selector"] == labels
    assert BASE["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert BASE["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels


def test_the_autoscaler_asks_for_a_metric_that_the_server_has() -> None:
    """The queue's length is exported under the name that autoscaler and adapter use."""
    metric = BASE["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    adapter = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())
    (rule,) = yaml.safe_load(adapter["data"]["config.yaml"])["rules"]

    assert f"\n{metric} " in Metrics().text().decode()
    assert rule["seriesQuery"].startswith(f"{metric}{{")
    assert rule["name"]["as"] == metric
