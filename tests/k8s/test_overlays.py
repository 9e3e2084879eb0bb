"""Every overlay renders, every object is what a current cluster takes, and all of it fits the program and itself."""

from __future__ import annotations

import dataclasses
import json
import re

import click
import yaml

from roomcast import __version__
from roomcast_edge.command import edge as edge_command
from roomcast_edge.dialects.json import JsonDialect
from roomcast_edge.dialects.socketio import SocketIoDialect
from roomcast_edge.settings import Settings
from support.manifests import ROOT, Overlay, container, named

SECRETS = {f"nats-{user}/password": f"{user}-1" for user in ("edge", "service", "operator", "route")}
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
UNITS |= {"MB": 1 << 20, "GB": 1 << 30, "": 1}  # as NATS reads them
MARGIN = 15
"""Seconds that an edge may need for its last records, beside draining."""


def size(text: str) -> int:
    """Bytes."""
    found = re.fullmatch(r"(\d+)([A-Za-z]*)", text)
    assert found, text
    return int(found[1]) * UNITS[found[2]]


def edge_of(overlay: Overlay) -> dict:
    return container(overlay.get("Deployment", "roomcast-edge")["spec"]["template"], "edge")


def settings_of(overlay: Overlay, monkeypatch) -> Settings:
    """The settings that an edge of this overlay would have, read as the program reads them."""
    for name, value in overlay.environment(edge_of(overlay), SECRETS).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ROOMCAST_PAGE", "")  # the page is in the image alone
    values = edge_command.make_context("edge", []).params
    return Settings(**values)


def paths_of(overlay: Overlay) -> dict[tuple[str, str], dict]:
    return {(each["kind"], named(each)): each for each in overlay.objects}


def test_every_object_is_what_a_current_cluster_takes(each_overlay):
    import kubernetes_validate as schemas

    for each in each_overlay.objects:
        if each["kind"] not in CUSTOM:
            schemas.validate(each, schemas.latest_version(), strict=True)


def test_names_are_given_once_and_all_is_in_one_namespace(each_overlay):
    names = [(each["kind"], named(each)) for each in each_overlay.objects]
    assert len(names) == len(set(names))
    for each in each_overlay.objects:
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "roomcast", named(each)
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "roomcast", named(each)


def test_selectors_find_the_pods_they_are_for(each_overlay):
    pods = {name: template["metadata"]["labels"] for name, template in each_overlay.templates()}

    def chosen(selector: dict[str, str]) -> set[str]:
        return {name for name, labels in pods.items() if selector.items() <= labels.items()}

    for each in each_overlay.objects:
        spec, name = each.get("spec", {}), named(each)
        match each["kind"]:
            case "Deployment" | "StatefulSet":
                assert chosen(spec["selector"]["matchLabels"]) == {name}
            case "Service":
                assert chosen(spec["selector"]) == {name.removesuffix("-peers")}
            case "PodDisruptionBudget":
                assert chosen(spec["selector"]["matchLabels"]) == {name}
            case "NetworkPolicy":
                assert chosen(spec["podSelector"]["matchLabels"]) == {name}
            case "HorizontalPodAutoscaler":
                assert (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) in paths_of(each_overlay)
    for name, template in each_overlay.templates():
        for spread in template["spec"].get("topologySpreadConstraints", ()):
            assert chosen(spread["labelSelector"]["matchLabels"]) == {name}
        rules = template["spec"].get("affinity", {}).get("podAntiAffinity", {})
        for rule in rules.get("requiredDuringSchedulingIgnoredDuringExecution", ()):
            assert chosen(rule["labelSelector"]["matchLabels"]) == {name}


def test_ports_that_are_named_exist(each_overlay):
    ports = {
        name: {port["name"]: port["containerPort"] for each in template["spec"]["containers"] for port in each["ports"]}
        for name, template in each_overlay.templates()
        if all("ports" in each for each in template["spec"]["containers"])
    }
    for name, template in each_overlay.templates():
        for each in template["spec"]["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for how in ("httpGet", "tcpSocket"):
                    if how in each.get(probe, {}):
                        assert each[probe][how]["port"] in ports[name], f"{name}: {probe}"
    for service in each_overlay.of_kind("Service"):
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports[named(service).removesuffix("-peers")]
    for policy in each_overlay.of_kind("NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= set(ports[named(policy)])
    for ingress in each_overlay.of_kind("Ingress"):
        for path in ingress["spec"]["rules"][0]["http"]["paths"]:
            backend = path["backend"]["service"]
            offered = each_overlay.get("Service", backend["name"])["spec"]["ports"]
            assert backend["port"]["name"] in {port["name"] for port in offered}


def test_edges_listen_where_probes_and_services_look_for_them(each_overlay, monkeypatch):
    settings = settings_of(each_overlay, monkeypatch)
    ports = {port["name"]: port["containerPort"] for port in edge_of(each_overlay)["ports"]}
    assert {"clients": settings.listen[1], "admin": settings.admin[1]} == ports
    assert settings.listen[0] == settings.admin[0] == "0.0.0.0"
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert edge_of(each_overlay)[probe]["httpGet"] == {"path": path, "port": "admin"}


def test_edges_connect_as_the_user_edge_to_the_service_of_nats(each_overlay, monkeypatch):
    assert settings_of(each_overlay, monkeypatch).nats == ("nats://edge:edge-1@roomcast-nats:4222",)
    service = each_overlay.get("Service", "roomcast-nats")
    assert 4222 in {port["port"] for port in service["spec"]["ports"]}
    assert "publishNotReadyAddresses" not in service["spec"], "a node that is not ready gets no clients"


def test_replicas_of_the_bucket_are_the_nodes_of_nats(each_overlay, monkeypatch):
    nodes = each_overlay.get("StatefulSet", "roomcast-nats")["spec"]["replicas"]
    assert settings_of(each_overlay, monkeypatch).kv_replicas == nodes


def test_every_variable_of_an_edge_is_a_setting(each_overlay):
    known = {f"ROOMCAST_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    spec = each_overlay.get("Deployment", "roomcast-edge")["spec"]["template"]["spec"]
    given = {name for name in each_overlay.environment(edge_of(each_overlay), SECRETS) if name.startswith("ROOMCAST_")}
    assert given <= known, f"no settings: {given - known}"
    assert spec["enableServiceLinks"] is False, "they would add ROOMCAST_…_PORT and the like"


def test_the_program_takes_the_arguments_that_it_is_given(each_overlay):
    assert edge_of(each_overlay)["args"] == ["edge"]
    assert isinstance(edge_command, click.Command)


def test_pods_have_longer_to_end_than_their_programs_take(each_overlay, monkeypatch):
    settings = settings_of(each_overlay, monkeypatch)
    spec = each_overlay.get("Deployment", "roomcast-edge")["spec"]["template"]["spec"]
    needed = settings.drain_delay + settings.drain_time + settings.close_timeout
    assert spec["terminationGracePeriodSeconds"] >= needed + MARGIN

    nats = each_overlay.get("StatefulSet", "roomcast-nats")["spec"]["template"]["spec"]
    text = each_overlay.get("ConfigMap", "nats-config")["data"]["nats.conf"]
    told = {name: int(value) for name, value in re.findall(r"^lame_duck_(\w+): (\d+)s$", text, re.MULTILINE)}
    assert nats["terminationGracePeriodSeconds"] >= told["grace_period"] + told["duration"] + MARGIN


def test_an_edge_is_unready_before_its_first_socket_is_closed(prod, monkeypatch):
    """The delay covers the time in which a readiness probe and whoever balances the load find out."""
    probe = edge_of(prod)["readinessProbe"]
    assert settings_of(prod, monkeypatch).drain_delay >= probe["periodSeconds"] * probe["failureThreshold"]


def test_pods_keep_to_the_restricted_standard(each_overlay):
    labels = each_overlay.get("Namespace", "roomcast")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, template in each_overlay.templates():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for each in spec["containers"]:
            context = each["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert set(each["resources"]["requests"]) == {"cpu", "memory"}, name
            assert each["resources"]["limits"]["memory"], name


def test_images_are_pinned_and_ours_is_this_version(each_overlay):
    for name, template in each_overlay.templates():
        for each in template["spec"]["containers"]:
            image, _, tag = each["image"].rpartition(":")
            assert image, f"{name}: {each['image']} has no tag"
            assert tag != "latest"
            if image.rpartition("/")[2] == "roomcast":
                assert tag == __version__


def test_no_secret_is_written_down(each_overlay):
    assert not each_overlay.of_kind("Secret")
    for name, template in each_overlay.templates():
        for each in template["spec"]["containers"]:
            for variable in each.get("env", ()):
                if re.search("PASSWORD|SECRET|TOKEN", variable["name"]) and "value" in variable:
                    assert re.fullmatch(r'"?\$\(\w+\)"?', variable["value"]), f"{name}: {variable['name']}"


def test_stores_fit_into_their_volumes_and_heaps_into_their_limits(each_overlay):
    workload = each_overlay.get("StatefulSet", "roomcast-nats")
    nats = container(workload["spec"]["template"], "nats")
    variables = each_overlay.environment(nats, SECRETS)
    volume = workload["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    assert size(variables["JETSTREAM_MAX_FILE"]) <= 0.85 * size(volume)
    assert size(variables["GOMEMLIMIT"]) <= 0.9 * size(nats["resources"]["limits"]["memory"])
    mounts = {mount["mountPath"] for mount in nats["volumeMounts"]}
    assert {variables["JETSTREAM_DIR"], "/run/nats", "/etc/nats"} == mounts


def test_the_ports_of_nats_are_those_of_its_configuration(each_overlay):
    nats = container(each_overlay.get("StatefulSet", "roomcast-nats")["spec"]["template"], "nats")
    ports = {port["name"]: port["containerPort"] for port in nats["ports"]}
    files = each_overlay.get("ConfigMap", "nats-config")["data"]
    assert f"\nport: {ports['clients']}\n" in files["nats.conf"]
    assert f"\nhttp_port: {ports['monitor']}  " in files["nats.conf"]
    if "listen" in files["cluster.conf"]:
        assert f'listen: "0.0.0.0:{ports["routes"]}"' in files["cluster.conf"]


def test_nodes_know_each_other_by_the_names_that_their_pods_have(prod):
    workload = prod.get("StatefulSet", "roomcast-nats")
    peers = prod.get("Service", workload["spec"]["serviceName"])
    assert peers["spec"]["clusterIP"] == "None"
    assert peers["spec"]["publishNotReadyAddresses"] is True, "nodes find each other before they are ready"
    routes = prod.environment(container(workload["spec"]["template"], "nats"), SECRETS)["NATS_ROUTES"]
    assert json.loads(routes) == [
        f"nats://route:route-1@roomcast-nats-{number}.{named(peers)}:6222"
        for number in range(workload["spec"]["replicas"])
    ]


def test_what_is_referred_to_exists_or_is_a_secret_that_the_docs_say_how_to_make(each_overlay):
    maps = {named(each) for each in each_overlay.of_kind("ConfigMap")}
    secrets: set[tuple[str, str]] = set()
    for _, template in each_overlay.templates():
        for volume in template["spec"].get("volumes", ()):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            if "secret" in volume:
                secrets |= {(volume["secret"]["secretName"], item["key"]) for item in volume["secret"]["items"]}
        for each in template["spec"]["containers"]:
            assert {source["configMapRef"]["name"] for source in each.get("envFrom", ())} <= maps
            origins = [variable.get("valueFrom", {}) for variable in each.get("env", ())]
            wanted = [origin["secretKeyRef"] for origin in origins if "secretKeyRef" in origin]
            secrets |= {(reference["name"], reference["key"]) for reference in wanted}
    for ingress in each_overlay.of_kind("Ingress"):
        secrets |= {(tls["secretName"], "tls.crt") for tls in ingress["spec"]["tls"]}
    documented = (ROOT / "docs" / "kubernetes.md").read_text()
    assert secrets
    for name, key in secrets:
        assert re.search(rf"^\| `{name}` \| [^|]*`{re.escape(key)}`", documented, re.MULTILINE), f"{name}/{key}"


def test_deploys_and_scaling_take_one_edge_at_a_time(prod):
    deployment = prod.get("Deployment", "roomcast-edge")["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert "replicas" not in deployment, "the autoscaler's to say"
    scaler = prod.get("HorizontalPodAutoscaler", "roomcast-edge")["spec"]
    down = scaler["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 600
    assert [(policy["type"], policy["value"]) for policy in down["policies"]] == [("Pods", 1)]
    edge = deployment["template"]["spec"]
    assert down["policies"][0]["periodSeconds"] >= edge["terminationGracePeriodSeconds"], "one has gone before the next"
    for budget in prod.of_kind("PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1


def test_the_ingress_leads_to_the_paths_of_the_dialects(prod, monkeypatch):
    [ingress] = prod.of_kind("Ingress")
    settings = settings_of(prod, monkeypatch)
    paths = {path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]}
    dialects = [JsonDialect(), SocketIoDialect(settings.ping_interval, settings.ping_timeout, settings.message_limit)]
    assert paths == {dialect.path for dialect in dialects}
    notes = ingress["metadata"]["annotations"]
    for timeout in ("proxy-read-timeout", "proxy-send-timeout"):
        assert int(notes[f"nginx.ingress.kubernetes.io/{timeout}"]) > settings.ping_interval + settings.ping_timeout
    assert notes["nginx.ingress.kubernetes.io/enable-access-log"] == "false", "nginx's own format logs queries"
    assert settings.proxies == 1, "the ingress is the one proxy whose word on addresses is believed"
    hosts = {rule["host"] for rule in ingress["spec"]["rules"]}
    assert {f"https://{host}" for host in hosts} == set(settings.origins)
    assert {host for tls in ingress["spec"]["tls"] for host in tls["hosts"]} == hosts


def test_nats_is_reached_by_edges_and_by_pods_that_say_so(dev):
    [policy] = [each for each in dev.of_kind("NetworkPolicy") if named(each) == "roomcast-nats"]
    chat = dev.get("Deployment", "chat")["spec"]["template"]["metadata"]["labels"]
    edge = dev.get("Deployment", "roomcast-edge")["spec"]["template"]["metadata"]["labels"]
    clients = next(rule for rule in policy["spec"]["ingress"] if rule["ports"] == [{"port": "clients"}])

    def let_in(labels: dict[str, str]) -> bool:
        return any(each["podSelector"]["matchLabels"].items() <= labels.items() for each in clients["from"])

    assert let_in(edge)
    assert let_in(chat)
    assert not let_in({"app.kubernetes.io/name": "anything"})


def test_the_log_format_of_the_ingress_controller_leaves_queries_out():
    [controller] = yaml.safe_load_all((ROOT / "k8s/components/ingress-nginx/controller.yaml").read_text())
    logged = set(re.findall(r"\$(\w+)", controller["data"]["log-format-upstream"]))
    assert {"uri", "status", "remote_addr"} <= logged
    assert not logged & {"request", "request_uri", "args", "query_string", "http_referer", "is_args"}
    assert not [name for name in logged if name.startswith(("arg_", "cookie_"))]
