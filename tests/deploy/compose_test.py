# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""deploy/compose.yaml and what it mounts: the Compose specification, pinned images, flags that the programs know, files that are there."""

import re
import shutil

import compose_spec
import pytest
import yaml

from harness import ROOT, run_server
from tools import CHART, CLIENT, DEPLOY, PROMTOOL, run

FILES = ("compose.yaml", "compose.gpu.yaml")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


@pytest.mark.parametrize("name", FILES)
def test_it_is_compose(name):
    # This reader of the specification wants a tag or a digest; docker and podman take both, and the tag is for people.
    text = re.sub(r":v?[\d.]+@sha256:", "@sha256:", (DEPLOY / name).read_text())
    parsed = compose_spec.PyCompose.from_yaml(text)
    assert set(parsed.service_names()) == set(yaml.safe_load((DEPLOY / name).read_text())["services"])


def test_the_specification_sees_a_mistake():
    with pytest.raises(Exception, match="(?i)imagee|unknown|invalid"):
        compose_spec.PyCompose.from_yaml("services: {a: {imagee: b}}")


def test_every_image_is_pinned():
    """Ours by its version, others by their digest."""
    version = re.search(r"project\(.* VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
    for name in FILES:
        for service, said in yaml.safe_load((DEPLOY / name).read_text())["services"].items():
            image = said["image"]
            assert re.fullmatch(rf"lion-serve:{re.escape(version)}(-cuda)?|[\w./-]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{{64}}", image), (service, image)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == version


def test_what_it_mounts_is_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume


def test_ports_are_those_of_this_machine_alone():
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_containers_are_locked_down():
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name


def test_the_targets_are_in_the_dockerfile():
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    for name in FILES:
        for service in yaml.safe_load((DEPLOY / name).read_text())["services"].values():
            if "build" in service:
                assert service["build"]["target"] in stages


def test_the_programs_know_their_flags(tmp_path):
    # With a model that is not there a server refuses the model, not a flag.
    code, lines = run_server(*[a for a in SERVICES["lion-server"]["command"] if a.startswith("--")], f"demo={tmp_path / 'none'}")
    assert code == 2 and str(tmp_path / "none") in lines[-1], lines
    program, command, *flags = SERVICES["load"]["entrypoint"]
    assert program == "lion-client"
    said = run(CLIENT, command, *flags, "--duration=200ms", "--target=127.0.0.1:1", "--deadline=1s", code=1)
    assert "UNAVAILABLE" in said


def test_prometheus_takes_its_configuration(tmp_path):
    shutil.copy(DEPLOY / "prometheus/prometheus.yaml", tmp_path)
    shutil.copy(CHART / "files/rules.yaml", tmp_path)
    assert "SUCCESS" in run(PROMTOOL, "check", "config", "prometheus.yaml", cwd=tmp_path)
    jobs = [c["job_name"] for c in yaml.safe_load((tmp_path / "prometheus.yaml").read_text())["scrape_configs"]]
    assert "lion-serve" in jobs  # which the rules and the dashboard count on


def test_grafana_finds_its_parts():
    grafana = SERVICES["grafana"]
    mounts = dict(reversed(v.removesuffix(":ro").split(":", 1)) for v in grafana["volumes"])
    assert mounts[grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]] == "./helm/lion-serve/files/dashboard.json"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/lion-serve.yaml").read_text())["providers"]
    assert any(target.startswith(provider["options"]["path"] + "/") for target in mounts)
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus" and source["isDefault"] and source["url"] == "http://prometheus:9090"
