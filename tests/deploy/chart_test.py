# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The Helm chart: lint, its rendering with every value set of ci/ against Kubernetes' schemas, values that it must refuse."""

import functools
import json
import re
import shutil

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as monitoring

from tools import CHART, helm, run

SETS = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
KUBERNETES = ("1.27", "1.31", "1.35")  # the oldest that the chart takes, and newer ones
CUSTOM = {"ScaledObject": keda.ScaledObject, "ServiceMonitor": monitoring.ServiceMonitor, "PodMonitor": monitoring.PodMonitor,
          "PrometheusRule": monitoring.PrometheusRule}


def render(*flags, kube="1.31"):
    """Everything that the chart makes, by (kind, name)."""
    text = run(helm(), "template", "rel", CHART, "--namespace=search", f"--kube-version={kube}", *flags)
    documents = [d for d in yaml.safe_load_all(text) if d]
    objects = {(d["kind"], d["metadata"]["name"]): d for d in documents}
    assert len(objects) == len(documents)
    return objects


def values(name):
    return render(f"--values={SETS[name]}")


def pod(objects):
    return objects["Deployment", "rel-lion-serve"]["spec"]["template"]["spec"]


def server(objects):
    (container,) = pod(objects)["containers"]
    return container


@functools.cache
def custom_schema(kind):
    """A custom resource's JSON schema, closed: an unknown field is an error, as `kubectl apply --validate=strict` has it."""

    def close(node):
        if isinstance(node, dict):
            if "properties" in node:
                node.setdefault("additionalProperties", False)
            if isinstance(node.get("pattern"), str):
                node["pattern"] = re.sub(r"^\^\(\?i\)", "(?i)^", node["pattern"])  # Go's way to write it
            for child in node.values():
                close(child)
        elif isinstance(node, list):
            for child in node:
                close(child)

    schema = CUSTOM[kind].model_json_schema()
    close(schema)
    return schema


def check_schema(document, kube):
    if document["kind"] in CUSTOM:
        jsonschema.validate(document, custom_schema(document["kind"]))
    else:
        kubernetes_validate.validate(document, kube, strict=True)


def test_lint():
    assert "0 chart(s) failed" in run(helm(), "lint", "--strict", CHART)
    for path in SETS.values():
        assert "0 chart(s) failed" in run(helm(), "lint", "--strict", CHART, f"--values={path}")


def test_the_sets_are_those_that_the_docs_name():
    assert set(SETS) == {"cpu", "gpu", "two-gpus", "tls-keys", "keda"}


@pytest.mark.parametrize("kube", KUBERNETES)
@pytest.mark.parametrize("name", ["defaults", *SETS])
def test_against_the_schemas(name, kube):
    if (name, kube) == ("two-gpus", "1.27"):
        kube = "1.31"  # image volumes came with it
    objects = render(*([f"--values={SETS[name]}"] if name != "defaults" else []), kube=kube)
    assert ("Deployment", "rel-lion-serve") in objects
    for document in objects.values():
        check_schema(document, kube)


def test_the_schemas_see_a_mistake():
    """What passes above passes because it is right: a misspelt field in each kind fails."""
    objects = {kind: d for (kind, _), d in [*values("cpu").items(), *values("keda").items(), *values("gpu").items()]}
    assert {"Deployment", "Service", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", *CUSTOM} <= set(objects)
    for kind, document in objects.items():
        broken = json.loads(json.dumps(document))
        broken.setdefault("spec", {} if kind in CUSTOM or "spec" in document else None)
        if broken["spec"] is None:
            broken = {**document, "bogusField": 1}
        else:
            broken["spec"]["bogusField"] = 1
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check_schema(broken, "1.31")


def test_two_releases_and_long_names():
    objects = render("--set=nameOverride=vectors")
    assert ("Deployment", "rel-vectors") in objects
    assert objects["Deployment", "rel-vectors"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lion-serve"
    long = "a" * 50
    for kind, name in render(f"--set=fullnameOverride={long}", "--set=metrics.dashboard.enabled=true"):
        assert len(name) <= 63, (kind, name)


# ------------------------------------------------------------------------------------------------------------ what it makes


def test_probes_by_grpc_where_the_server_speaks_plaintext():
    container = server(render())
    ready = {"port": 50051, "service": "lion.v1.EncoderService"}
    assert container["startupProbe"]["grpc"] == container["readinessProbe"]["grpc"] == ready
    assert container["livenessProbe"]["grpc"] == {"port": 50051}  # the process alone: a drain or a warm-up is no reason to kill


def test_probes_by_the_client_where_it_speaks_tls():
    container = server(values("tls-keys"))
    flags = ["--deadline=4s", "--tls_ca=/etc/lion/tls/ca.crt", "--tls_server_name=rel-lion-serve.search.svc", "--tls_cert=/etc/lion/client-tls/tls.crt",
             "--tls_key=/etc/lion/client-tls/tls.key"]
    ready = ["lion-client", "health", "lion.v1.EncoderService", *flags]
    assert container["startupProbe"]["exec"]["command"] == container["readinessProbe"]["exec"]["command"] == ready
    assert container["livenessProbe"]["exec"]["command"] == ["lion-client", "health", *flags]
    assert all("grpc" not in container[p] for p in ("startupProbe", "readinessProbe", "livenessProbe"))
    for secret, mount in (("lion-tls", "/etc/lion/tls"), ("lion-client-ca", "/etc/lion/client-ca"), ("lion-keys", "/etc/lion/api-keys")):
        (volume,) = [v["name"] for v in pod(values("tls-keys"))["volumes"] if v["secret"]["secretName"] == secret]
        assert {"name": volume, "mountPath": mount, "readOnly": True} in container["volumeMounts"]
    assert {"--tls_cert=/etc/lion/tls/tls.crt", "--tls_key=/etc/lion/tls/tls.key", "--tls_client_ca=/etc/lion/client-ca/ca.crt",
            "--api_key_file=/etc/lion/api-keys/keys"} <= set(container["args"])


def test_termination_is_longer_than_the_drain():
    objects = render("--set=drain.timeoutSeconds=120")
    assert {"--drain_delay=5s", "--drain_timeout=120s"} <= set(server(objects)["args"])
    assert pod(objects)["terminationGracePeriodSeconds"] > 120


def test_gpus():
    for name, count in (("gpu", 1), ("two-gpus", 2)):
        objects = values(name)
        container = server(objects)
        assert container["image"] == "lion-serve:0.1.0-cuda"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == count
        assert "--device=cuda" in container["args"]
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod(objects)["tolerations"]
    assert pod(values("gpu"))["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    plain = render()
    assert "nvidia.com/gpu" not in json.dumps(pod(plain)) and "--device=cpu" in server(plain)["args"]


@pytest.mark.parametrize("limit, request_, threads", [("4", "2", 4), (None, "2", 2), ("3500m", "1", 3), ("500m", "100m", None), (None, "16", 16)])
def test_threads_follow_the_pods_cores_not_the_nodes(limit, request_, threads):
    flags = [f"--set-string=resources.requests.cpu={request_}"] + ([f"--set-string=resources.limits.cpu={limit}"] if limit else [])
    args = server(render(*flags))["args"]
    assert [a for a in args if "compute_threads" in a] == ([f"--compute_threads={threads}"] if threads else [])
    assert [a for a in args if "tokenizer_threads" in a] == ([f"--tokenizer_threads={max(1, threads // 2)}"] if threads else [])


def test_the_largest_picture():
    assert not [a for a in server(render())["args"] if "max_image_pixels" in a]  # 0: the server's own
    assert "--max_image_pixels=200000000" in server(render("--set=server.maxImagePixels=200000000"))["args"]


def test_models_from_everywhere():
    assert "volumes" not in pod(render())
    (volume,) = pod(values("cpu"))["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "lion-models", "readOnly": True}
    (mount,) = server(values("cpu"))["volumeMounts"]
    assert mount == {"name": "models", "mountPath": "/models", "readOnly": True, "subPath": "release-7"}
    assert server(values("cpu"))["args"][-2:] == ["small=/models/small", "names=/models/names"]
    (init,) = pod(values("gpu"))["initContainers"]
    assert init["command"] == ["fetch"] and init["volumeMounts"] == [{"name": "models", "mountPath": "/models"}]
    (volume,) = pod(values("two-gpus"))["volumes"]
    assert volume["image"]["reference"] == "example.org/models/large:7"


def test_every_container_is_locked_down():
    for name in SETS:
        objects = values(name)
        pods = [pod(objects), objects["Pod", "rel-lion-serve-test"]["spec"]]
        for spec in pods:
            assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert spec["automountServiceAccountToken"] is False
            for container in spec["containers"] + spec.get("initContainers", []):
                context = container["securityContext"]
                assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"] and context["capabilities"] == {"drop": ["ALL"]}


def test_services():
    objects = render()
    balanced, headless = objects["Service", "rel-lion-serve"]["spec"], objects["Service", "rel-lion-serve-headless"]["spec"]
    assert headless["clusterIP"] == "None" and balanced["selector"] == headless["selector"]
    labels = objects["Deployment", "rel-lion-serve"]["spec"]["template"]["metadata"]["labels"]
    assert balanced["selector"].items() <= labels.items()
    # helm test's pod must not be one of them.
    assert not balanced["selector"].items() <= objects["Pod", "rel-lion-serve-test"]["metadata"]["labels"].items()


def test_helm_test_makes_a_real_call():
    def command(objects):
        return objects["Pod", "rel-lion-serve-test"]["spec"]["containers"][0]["command"]

    plain = command(render())
    assert plain[:2] == ["lion-client", "embed"] and "--target=dns:///rel-lion-serve.search.svc:50051" in plain
    locked = values("tls-keys")
    assert command(locked)[1] == "embed" and "--tls_server_name=rel-lion-serve.search.svc" in command(locked)
    (env,) = locked["Pod", "rel-lion-serve-test"]["spec"]["containers"][0]["env"]
    assert env == {"name": "LION_API_KEY", "valueFrom": {"secretKeyRef": {"name": "lion-test-key", "key": "key"}}}
    assert command(render("--set=apiKeys.secretName=k"))[1] == "health"  # nobody gave it a key


def test_autoscalers():
    plain, hpa, scaled = render(), values("cpu"), values("keda")
    assert plain["Deployment", "rel-lion-serve"]["spec"]["replicas"] == 2
    for objects in (hpa, scaled):
        assert "replicas" not in objects["Deployment", "rel-lion-serve"]["spec"]  # or each upgrade would undo the autoscaler
    metrics = {m["pods"]["metric"]["name"]: m["pods"]["target"]["averageValue"] for m in hpa["HorizontalPodAutoscaler", "rel-lion-serve"]["spec"]["metrics"]}
    assert metrics == {"lion_queue_tokens": "16384", "lion_compute_busy": "800m"}
    triggers = scaled["ScaledObject", "rel-lion-serve"]["spec"]["triggers"]
    assert [t["metadata"]["threshold"] for t in triggers] == ["16384", "0.75"]
    assert all(t["authenticationRef"] == {"name": "prometheus"} for t in triggers)


def test_the_network_policy_lets_in_callers_and_scrapes_alone():
    spec = values("cpu")["NetworkPolicy", "rel-lion-serve"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"] and spec["egress"] == []
    assert [[p["port"] for p in rule["ports"]] for rule in spec["ingress"]] == [["grpc", "http"], ["metrics"]]
    without = render(f"--values={SETS['cpu']}", "--set=http.enabled=false")["NetworkPolicy", "rel-lion-serve"]["spec"]
    assert [[p["port"] for p in rule["ports"]] for rule in without["ingress"]] == [["grpc"], ["metrics"]]


def test_http_is_off_unless_asked_for():
    plain, http = render(), values("cpu")
    assert not [a for a in server(plain)["args"] if "http_listen" in a]
    assert [p["name"] for p in server(plain)["ports"]] == ["grpc", "metrics"]
    assert [p["name"] for p in plain["Service", "rel-lion-serve"]["spec"]["ports"]] == ["grpc", "metrics"]
    assert "--http_listen=0.0.0.0:8080" in server(http)["args"]
    assert {"name": "http", "containerPort": 8080} in server(http)["ports"]
    port = {"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}
    assert port in http["Service", "rel-lion-serve"]["spec"]["ports"]
    secured = render("--set=http.enabled=true", "--set=tls.secretName=lion-tls")["Service", "rel-lion-serve"]["spec"]["ports"]
    assert {**port, "port": 8080, "appProtocol": "https"} in secured


def test_monitors():
    cpu, gpu = values("cpu"), values("gpu")
    for monitor in (cpu["ServiceMonitor", "rel-lion-serve"], gpu["PodMonitor", "rel-lion-serve"]):
        # job="lion-serve" whatever the release is called: the rules and the dashboard count on it.
        assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/part-of"
    service = cpu["Service", "rel-lion-serve"]
    assert service["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lion-serve"
    assert cpu["ServiceMonitor", "rel-lion-serve"]["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [p["name"] for p in service["spec"]["ports"]] == ["grpc", "http", "metrics"]
    assert "metrics" not in [p["name"] for p in cpu["Service", "rel-lion-serve-headless"]["spec"]["ports"]]  # or each pod would be scraped twice
    rules = yaml.safe_load((CHART / "files/rules.yaml").read_text())
    assert cpu["PrometheusRule", "rel-lion-serve"]["spec"] == rules
    dashboard = json.loads(cpu["ConfigMap", "rel-lion-serve-dashboard"]["data"]["lion-serve.json"])
    assert dashboard == json.loads((CHART / "files/dashboard.json").read_text())


def test_notes_name_the_way_in(tmp_path):
    # Helm shows them beside a cluster only; here they are rendered as another template's value.
    chart = shutil.copytree(CHART, tmp_path / "lion-serve")
    (chart / "templates/NOTES.txt").rename(chart / "NOTES.txt")
    (chart / "templates/notes.yaml").write_text('kind: ConfigMap\nmetadata: {name: notes}\ndata: {notes: {{ tpl (.Files.Get "NOTES.txt") . | quote }}}\n')
    text = run(helm(), "template", "rel", chart, "--namespace=search", f"--values={SETS['tls-keys']}", "--show-only=templates/notes.yaml")
    notes = yaml.safe_load(text)["data"]["notes"]
    for words in ("helm --namespace search test rel", "--tls_server_name rel-lion-serve.search.svc", "rel-lion-serve-headless.search.svc:50051", "LION_API_KEY"):
        assert words in notes, notes


# ------------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("flags, words", [
    (["server.dtype=int4"], "server.dtype"),
    (["server.device=gpu"], "server.device"),
    (["server.maxInputs=-1"], "server.maxInputs"),
    (["server.parallelMaxTokens=20000"], "server.parallelMaxTokens"),
    (["server.maxImagePixels=2147483649"], "server.maxImagePixels"),
    (["sever.mode=auto"], "sever"),
    (["models[0].name=unknown", "models[0].path=/m"], "models.0.name"),
    (["models[0].name=a b", "models[0].path=/m"], "models.0.name"),
    (["models[0].name=a", "models[0].path=m"], "models.0.path"),
    (["image.tag=latest"], "image.tag"),
    (["image.digest=sha256:12"], "image.digest"),
    (["gpu.count=1.5"], "gpu.count"),
    (["autoscaling.type=vpa"], "autoscaling.type"),
    (["autoscaling.computeBusy=80"], "autoscaling.computeBusy"),
    (["autoscaling.keda.prometheusAddress=prometheus:9090"], "prometheusAddress"),
    (["service.port=70000"], "service.port"),
    (["tls.secretName=Not_A_Name"], "tls.secretName"),
    (["resources.limits.memory=lots"], "resources.limits.memory"),
    (["drain.delaySeconds=30"], "drain.timeoutSeconds: 30 is not above drain.delaySeconds, 30"),
    (["modelSource.type=pvc"], "modelSource.pvc.claimName"),
    (["modelSource.type=init"], "modelSource.init.image"),
    (["modelSource.type=imageVolume"], "modelSource.imageVolume.reference"),
    (["tls.clientCaSecretName=ca"], "need tls.secretName"),
    (["http.port=0"], "http.port"),
    (["http.enabled=true", "http.port=9464"], "http.port: 9464 is service.port or metrics.port"),
    (["http.enabled=true", "tls.secretName=t", "tls.clientCaSecretName=ca"], "HTTP asks callers for no certificate"),
    (["metrics.serviceMonitor.enabled=true", "metrics.podMonitor.enabled=true"], "scraped twice"),
    (["autoscaling.type=hpa", "autoscaling.minReplicas=9"], "autoscaling.minReplicas: 9 is above"),
    (["rollout.maxSurge=0"], "no pod could ever be replaced"),
])
def test_a_value_that_it_refuses(flags, words):
    said = run(helm(), "template", "rel", CHART, *(f"--set={flag}" for flag in flags), code=1)
    assert words.replace(".0.", ".") in said.replace("/", ".").replace(".0.", "."), said


def test_every_value_is_described():
    """values.schema.json closes every object, so it must know exactly what values.yaml has."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def known(node):
        return schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    def compare(node, value, path):
        node = known(node)
        if isinstance(value, dict) and node.get("additionalProperties") is False:
            assert set(value) == set(node["properties"]) - {"global"}, path
            for key, child in value.items():
                compare(node["properties"][key], child, f"{path}.{key}")

    compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "values")
