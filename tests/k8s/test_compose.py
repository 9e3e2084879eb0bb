"""compose.yaml: the whole system on one machine, with the files of ``k8s/`` and ``dashboards/``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import yaml

from roomcast import __version__
from roomcast_edge.settings import ADDRESS, LISTED, Settings
from support.manifests import ROOT, container
from support.nats_servers import nats_server_binary

COMPOSE = ROOT / "compose.yaml"


@pytest.fixture(scope="module")
def compose() -> dict:
    """The file, with every variable at its default."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text()))


def volumes(service: dict) -> dict[str, str]:
    """Where what is mounted, of this checkout's folders."""
    parts = [each.split(":") for each in service.get("volumes", ())]
    return {part[1]: part[0] for part in parts if part[0].startswith(".")}


def test_it_is_a_compose_file():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_mounted_and_waited_for_exists(compose):
    for name, service in compose["services"].items():
        for source in volumes(service).values():
            assert (ROOT / source).is_dir(), f"{name} mounts {source}"
        named = {each.split(":")[0] for each in service.get("volumes", ()) if not each.startswith(".")}
        assert named <= set(compose["volumes"])
        assert set(service.get("depends_on", ())) <= set(compose["services"])


def test_nothing_is_published_beyond_this_machine_nor_twice(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_images_are_pinned_and_those_of_the_manifests(compose, prod):
    nats = prod.get("StatefulSet", "roomcast-nats")["spec"]["template"]
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert all(re.search(r":v?\d+\.\d+", image) for image in images.values())
    assert {images[f"nats-{number}"] for number in (1, 2, 3)} == {container(nats, "nats")["image"]}
    assert images["nats-exporter"] == container(nats, "exporter")["image"]
    assert {images["edge-1"], images["edge-2"], images["chat"]} == {f"roomcast:{__version__}"}


@pytest.mark.parametrize("node", ["nats-1", "nats-2", "nats-3"])
def test_nats_takes_its_configuration(compose, node):
    service = compose["services"][node]
    assert service["environment"]["POD_NAME"] == node
    assert service["command"] == ["nats-server", "--config", "/etc/nats/nats.conf"]
    configuration = ROOT / volumes(service)["/etc/nats"] / "nats.conf"
    command = [nats_server_binary(), "-t", "-c", str(configuration)]
    done = subprocess.run(command, env=service["environment"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    routes = [urlsplit(route) for route in json.loads(service["environment"]["NATS_ROUTES"])]
    assert [route.hostname for route in routes] == ["nats-1", "nats-2", "nats-3"]
    assert {f'"{route.password}"' for route in routes} == {service["environment"]["NATS_ROUTE_PASSWORD"]}


@pytest.mark.parametrize(("name", "user"), [("edge-1", "edge"), ("edge-2", "edge"), ("chat", "service")])
def test_edges_and_the_chat_know_the_nodes_and_their_password(compose, name, user):
    urls = [urlsplit(url) for url in LISTED.convert(compose["services"][name]["environment"]["NATS_URL"], None, None)]
    assert {url.hostname for url in urls} == {"nats-1", "nats-2", "nats-3"}
    assert {url.username for url in urls} == {user}
    password = compose["services"]["nats-1"]["environment"][f"NATS_{user.upper()}_PASSWORD"]
    assert {f'"{url.password}"' for url in urls} == {password}


def test_edges_begin_at_different_nodes(compose):
    first = [compose["services"][name]["environment"]["NATS_URL"].split("@")[1] for name in ("edge-1", "edge-2")]
    assert first[0] != first[1]


def test_every_variable_of_an_edge_is_a_setting(compose):
    for name in ("edge-1", "edge-2"):
        given = {key for key in compose["services"][name]["environment"] if key.startswith("ROOMCAST_")}
        assert given <= {f"ROOMCAST_{field.upper()}" for field in Settings.__dataclass_fields__}
        assert given >= {"ROOMCAST_KV_REPLICAS"}


def test_prometheus_scrapes_what_runs_here(compose):
    service = compose["services"]["prometheus"]
    mounted = volumes(service)["/etc/prometheus/roomcast"]
    scraped = yaml.safe_load((ROOT / mounted / "prometheus.yaml").read_text())
    assert "--config.file=/etc/prometheus/roomcast/prometheus.yaml" in service["command"]
    assert all((ROOT / mounted / name).is_file() for name in scraped["rule_files"])
    targets = [
        target for job in scraped["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]
    assert {ADDRESS.convert(target, None, None)[0] for target in targets} == {"edge-1", "edge-2", "nats-exporter"}
    ports = {"edge-1": 9001, "edge-2": 9001, "nats-exporter": 7777}
    assert {ADDRESS.convert(target, None, None) for target in targets} == set(ports.items())
    assert "-port=7777" in compose["services"]["nats-exporter"]["command"]


def test_grafana_finds_its_datasource_and_the_dashboards(compose):
    mounts = volumes(compose["services"]["grafana"])
    provisioning = ROOT / mounts["/etc/grafana/provisioning"]
    [sources] = (provisioning / "datasources").glob("*.yaml")
    [source] = yaml.safe_load(sources.read_text())["datasources"]
    asked = urlsplit(source["url"])
    assert asked.hostname in compose["services"]
    assert any(port.endswith(f":{asked.port}") for port in compose["services"][asked.hostname]["ports"])
    [providers] = (provisioning / "dashboards").glob("*.yaml")
    [provider] = yaml.safe_load(providers.read_text())["providers"]
    assert list((ROOT / mounts[provider["options"]["path"]]).glob("*.json"))
