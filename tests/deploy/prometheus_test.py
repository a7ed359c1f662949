# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Rules, dashboard and autoscalers against a real Prometheus that scrapes a real server under load: every query parses, names only
metrics that are there, and answers something."""

import json
import math
import re
import shutil
import threading
import time

import grpc
import pytest
import yaml

from chart_test import values
from harness import DEMO, HANG_SECONDS, ROOT, STREAMS, UNARY, Server, pb, text_input
from tools import CHART, DEPLOY, PROMTOOL, Prometheus, run, until

RULES = CHART / "files/rules.yaml"
DASHBOARD = json.loads((CHART / "files/dashboard.json").read_text())
NAMESPACE, POD = "search", "rel-lion-serve-7d9c6b5f4-x2x9z"  # what a monitor would add
# Beside the server's own: of Prometheus itself, and of kube-state-metrics (LionNoReadyReplica).
ON_A_GPU = {"lion_device_busy_seconds_total"}
FOREIGN = {"up", "kube_deployment_status_replicas_available", "kube_deployment_spec_replicas"}


def metric_names(expression):
    """The metrics that an expression asks for."""
    bare = re.sub(r'"(?:\\.|[^"\\])*"', '""', expression)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    return set(re.findall(r"\b(?:lion[\w:]*|process_\w+|kube_\w+|up)\b(?!\s*\()", bare))


def expand(expression):
    """As Grafana does it: all of everything, and a minute's rate (it takes four scrapes at least)."""
    for name in ("namespace", "instance", "model"):
        expression = expression.replace(f"${name}", ".*")
    expression = expression.replace("$__rate_interval", "1m")
    assert "$" not in expression, expression
    return expression


def panels():
    return [p for p in DASHBOARD["panels"] if p["type"] != "row"]


# ------------------------------------------------------------------------------------------------------------------ load


class Load:
    """Calls of every kind while `with` is entered: all RPCs, all three forms, refusals and failures among them."""

    FORMS = (pb.COMPUTE_MODE_PARALLEL, pb.COMPUTE_MODE_CHUNKED, pb.COMPUTE_MODE_RECURRENT)

    def __init__(self, server):
        self._server, self._stop = server, threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(4)]
        self.text = " ".join((DEMO / "texts/sentences.txt").read_text().split())
        self.outcomes = set()

    def __enter__(self):
        self._server.stub  # made once, by one thread
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(HANG_SECONDS)

    def _work(self, number):
        for form in self._forever():
            rows = [text_input(self.text[i * 10:i * 10 + 10 * 4 ** (i % 5)]) for i in range(number, number + 8)]
            options = pb.EncodeOptions(mode=form, truncation=pb.TRUNCATION_RIGHT)
            self._call("Embed", pb.EmbedRequest(inputs=rows, options=options))
            self._call("Classify", pb.ClassifyRequest(inputs=rows[:2], options=options, top_k=3))
            self._call("Tokenize", pb.TokenizeRequest(inputs=rows[:1]))
            self._call("ListModels", pb.ListModelsRequest())
            for method, kind in STREAMS.items():
                list(getattr(self._server.stub, method)(iter([kind(inputs=rows[:1])] * 2), timeout=HANG_SECONDS))
            self._call("Embed", pb.EmbedRequest(model="nobody", inputs=rows))
            self._call("Embed", pb.EmbedRequest())
            self._call("Embed", pb.EmbedRequest(inputs=[text_input(self.text * 40)] * 8), timeout=0.05)  # too late, or too much to wait

    def _forever(self):
        while not self._stop.is_set():
            yield from self.FORMS

    def _call(self, method, request, timeout=HANG_SECONDS):
        assert isinstance(request, UNARY[method])
        try:
            getattr(self._server.stub, method)(request, timeout=timeout)
            self.outcomes.add("OK")
        except grpc.RpcError as error:
            self.outcomes.add(error.code().name)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """(server, Prometheus) after half a minute of load, and under it still."""
    folder = tmp_path_factory.mktemp("prometheus")
    # As they are, but evaluated each second.
    (folder / "rules.yaml").write_text(RULES.read_text().replace("interval: 30s", "interval: 1s"))
    with Server([f"demo={DEMO / 'model'}"], "--parallel_max_tokens=128") as server:
        config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["rules.yaml"],
                  "scrape_configs": [{"job_name": "lion-serve", "static_configs": [
                      {"targets": [server.metrics_address], "labels": {"namespace": NAMESPACE, "pod": POD}}]}]}
        with Prometheus(folder, config) as prometheus, Load(server) as load:
            until(lambda: {"OK", "NOT_FOUND", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED"} <= load.outcomes, "every outcome")
            scrapes = f'count_over_time(up{{instance="{server.metrics_address}"}}[5m])'
            until(lambda: (prometheus.query(scrapes) or [({}, 0)])[0][1] >= 30, "30 scrapes")
            yield server, prometheus


@pytest.fixture(scope="module")
def shown(watched):
    """Names of the metrics that the server's /metrics declares, histograms by their parts, and of those that a GPU adds."""
    assert all(f'"{name}"' in (ROOT / "server/metrics.cc").read_text() for name in ON_A_GPU)
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", watched[0].metrics_text(), re.M)
    return ON_A_GPU | {name + part for name, kind in kinds for part in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))}


# ----------------------------------------------------------------------------------------------------------------- rules


def test_promtool_checks_the_rules():
    assert "SUCCESS" in run(PROMTOOL, "check", "rules", "--lint-fatal", RULES)


def test_promtool_tests_the_rules(tmp_path):
    shutil.copy(RULES, tmp_path)
    shutil.copy(DEPLOY.parent / "tests/deploy/rules_test.yaml", tmp_path)
    assert "SUCCESS" in run(PROMTOOL, "test", "rules", "rules_test.yaml", cwd=tmp_path)


def test_every_alert_has_a_test():
    alerts = {r["alert"] for g in yaml.safe_load(RULES.read_text())["groups"] for r in g["rules"] if "alert" in r}
    tests = (DEPLOY.parent / "tests/deploy/rules_test.yaml").read_text()
    assert all(re.search(rf'\b{alert}\b', tests) for alert in alerts), alerts


def test_rules_name_metrics_that_are_there(shown):
    rules = [r for g in yaml.safe_load(RULES.read_text())["groups"] for r in g["rules"]]
    recorded = {r["record"] for r in rules if "record" in r}
    for rule in rules:
        unknown = metric_names(rule["expr"]) - shown - recorded - FOREIGN
        assert not unknown, (rule, unknown)


def test_recording_rules_record(watched):
    _, prometheus = watched
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
            if rule["type"] == "recording":
                assert any(math.isfinite(value) for _, value in prometheus.query(rule["name"])), rule
    (_, busy), = prometheus.query("lion:compute_busy:ratio_rate2m")
    assert 0 < busy <= 1.5, busy  # above 1 by a batch that began before the first scrape and is counted at its end


def test_a_healthy_server_alerts_nobody(watched):
    firing = watched[1].query('ALERTS{alertstate="firing",severity="critical"}')
    assert firing == [], firing


# ------------------------------------------------------------------------------------------------------------- dashboard


def test_the_dashboard_is_whole():
    ids = [p["id"] for p in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) and all(p["title"] for p in DASHBOARD["panels"])
    taken = set()
    for panel in DASHBOARD["panels"]:
        g = panel["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert g["x"] + g["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert all(t["datasource"]["uid"] == "${datasource}" for t in panel["targets"]), panel["title"]
        assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])


def test_the_dashboard_names_metrics_that_are_there_and_shows_them_all(shown):
    asked = set()
    for panel in panels():
        for target in panel["targets"]:
            names = metric_names(target["expr"])
            assert names and not names - shown - {"up"}, (panel["title"], names - shown)
            asked |= names
    families = {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in shown if name.startswith("lion_")}
    assert families == {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in asked if name.startswith("lion_")}


@pytest.mark.parametrize("title, expression", [(p["title"], t["expr"]) for p in panels() for t in p["targets"]])
def test_a_panel_has_something_to_show(watched, title, expression):
    _, prometheus = watched
    now = time.time()

    def drawn():
        result = prometheus.ask("query_range", query=expand(expression), start=now - 60, end=now + 60, step="1s")["result"]
        return [v for series in result for _, v in series["values"] if math.isfinite(float(v))]

    until(drawn, f"a value of {title}: {expand(expression)}")


def test_the_dashboards_variables_find_their_values(watched):
    _, prometheus = watched
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            assert prometheus.ask(f"label/{label}/values", **{"match[]": expand(selector)}), variable["name"]


# ----------------------------------------------------------------------------------------------------------- autoscalers


def test_kedas_queries(watched):
    for trigger in values("keda")["ScaledObject", "rel-lion-serve"]["spec"]["triggers"]:
        (_, value), = watched[1].query(trigger["metadata"]["query"])
        assert value >= 0
    assert value > 0  # the last one: busy


def test_kedas_queries_are_0_while_nothing_runs(watched):
    for trigger in values("keda")["ScaledObject", "rel-lion-serve"]["spec"]["triggers"]:
        assert watched[1].query(trigger["metadata"]["query"].replace('"search"', '"elsewhere"')) == [({}, 0)]


def test_prometheus_adapters_queries(watched, shown):
    wanted = {m["pods"]["metric"]["name"] for m in values("cpu")["HorizontalPodAutoscaler", "rel-lion-serve"]["spec"]["metrics"]}
    rules = yaml.safe_load((CHART / "files/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert {rule["name"]["as"] for rule in rules} == wanted
    for rule in rules:
        series = rule["seriesQuery"].partition("{")[0]
        assert series in shown and re.match(rule["name"]["matches"], series)
        query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
        query = query.replace("<<.LabelMatchers>>", f'namespace="{NAMESPACE}",pod=~"{POD}|other"')
        assert [labels for labels, _ in watched[1].query(query)] == [{"pod": POD}], query
