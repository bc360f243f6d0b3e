"""The page on scaling: its cluster files against their schemas, its commands and words against the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from helpers import ROOT

from edgelib.study.executors import EXECUTORS, Patience

CLUSTERS = ROOT / "book" / "reference" / "clusters"
PAGE = (ROOT / "book" / "reference" / "scaling.md").read_text(encoding="utf-8")


def closed(required: dict, optional: dict | None = None) -> dict:
    """The schema of a mapping with these keys and no others."""
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
MANY = lambda of: {"type": "array", "items": of, "minItems": 1}  # noqa: E731
CONTAINER = closed(
    {"name": TEXT, "image": TEXT, "resources": closed({"requests": TEXTS, "limits": TEXTS})},
    {"volumeMounts": MANY(closed({"name": TEXT, "mountPath": TEXT}))},
)
VOLUME = closed({"name": TEXT, "persistentVolumeClaim": closed({"claimName": TEXT})})
POD = closed({"spec": closed({"containers": MANY(CONTAINER)}, {"volumes": MANY(VOLUME)})})
# The part of ray.io/v1 RayCluster that the file uses, after ray-operator/apis/ray/v1/raycluster_types.go of KubeRay.
RAY_CLUSTER = closed(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayCluster"},
        "metadata": closed({"name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}}),
        "spec": closed(
            {"headGroupSpec": closed({"template": POD, "rayStartParams": TEXTS})},
            {
                "rayVersion": TEXT,
                "workerGroupSpecs": MANY(
                    closed(
                        {"groupName": TEXT, "template": POD},
                        {"replicas": NUMBER, "minReplicas": NUMBER, "maxReplicas": NUMBER, "rayStartParams": TEXTS},
                    )
                ),
            },
        ),
    }
)


def read(name: str) -> dict:
    return yaml.safe_load((CLUSTERS / name).read_text(encoding="utf-8"))


def test_the_ray_cluster_fits_the_schema_that_ray_ships():
    ray = pytest.importorskip("ray", reason="comes with the extra 'ray'")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    assert not list(jsonschema.Draft7Validator(schema).iter_errors(read("ray-cluster.yaml")))
    wrong = read("ray-cluster.yaml") | {"max_workers": "many"}
    assert list(jsonschema.Draft7Validator(schema).iter_errors(wrong))


def test_the_kuberay_cluster_fits_what_kuberay_defines():
    cluster = read("kuberay.yaml")
    jsonschema.validate(cluster, RAY_CLUSTER)
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    pods = [cluster["spec"]["headGroupSpec"]["template"]["spec"], group["template"]["spec"]]
    for pod in pods:
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_cluster_has_the_version_that_is_pinned():
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert read("kuberay.yaml")["spec"]["rayVersion"] == pinned


def test_no_cluster_shows_its_dashboard():
    assert read("kuberay.yaml")["spec"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    starts = [line for line in read("ray-cluster.yaml")["head_start_ray_commands"] if "ray start" in line]
    assert starts and all("--dashboard-host=127.0.0.1" in line for line in starts)


def test_the_page_names_every_executor_and_the_patience_that_there_is():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == ["executor", *EXECUTORS]
    assert Patience() == Patience(factor=20, at_least=120)
    assert "20 times what its task should take, at least two minutes" in PAGE


def test_every_option_on_the_page_is_one_of_the_command():
    import typer

    from edgelib.cli import app

    commands = typer.main.get_command(app).commands
    for line in re.findall(r"edgelib (?:sweep|verify-store) .*", PAGE):
        command = commands[line.split()[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= known
