"""Compose stack: known field names, existing files, settings of the server, safe containers."""

import re
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kanserve.config.settings import Settings
from tests.support import compose_stack
from tests.support.compose_stack import DEPLOY, FOLDER, ROOT, compose
from tests.support.tiers import full

FILES = {
    "compose.yaml": compose_stack.COMPOSE,
    "prometheus.yml": compose_stack.PROMETHEUS,
    "alertmanager.yml": compose_stack.ALERTMANAGER,
    "grafana/datasources.yml": compose_stack.DATASOURCES,
    "grafana/dashboards.yml": compose_stack.DASHBOARDS,
}
# The settings of Grafana that the stack uses: GF_, section, name.
GRAFANA = {
    "auth.anonymous": ("enabled", "org_role"),
    "auth.basic": ("enabled",),
    "auth": ("disable_login_form",),
    "security": ("disable_initial_admin_creation",),
    "analytics": ("reporting_enabled", "check_for_updates", "check_for_plugin_updates"),
    "dashboards": ("default_home_dashboard_path",),
}
SERVICES = compose()["services"]


def document(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def test_every_field_is_one_of_the_format_and_every_variable_is_a_setting() -> None:
    assert [place for name in FILES for place in compose_stack.unknown(document(name), FILES[name])] == []
    known = compose_stack.variables()
    known |= {f"GF_{section}_{name}".replace(".", "_").upper() for section in GRAFANA for name in GRAFANA[section]}
    assert {name for service in SERVICES.values() for name in service.get("environment", {})} - known == set()


def test_the_settings_are_valid_and_safe() -> None:
    environment = SERVICES["server"]["environment"]
    assert environment["KANSERVE_INSECURE"] == "false"
    given = {
        name: environment[f"KANSERVE_{name.upper()}"]
        for name in Settings.model_fields
        if f"KANSERVE_{name.upper()}" in environment
    }
    settings = Settings(**given | {"repository": str(FOLDER)})
    assert settings.exposed == ""
    waits = settings.drain_delay_seconds + settings.drain_reject_seconds + settings.drain_grace_seconds
    grace = int(SERVICES["server"]["stop_grace_period"].removesuffix("s"))
    assert waits + 5 <= grace <= waits + 15


def test_every_mounted_file_exists() -> None:
    mounted = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    paths = [mount.split(":")[0] for mount in mounted if isinstance(mount, str)]
    files = [path for path in paths if path.startswith(".")]
    assert len(files) >= 8
    assert [path for path in files if not (FOLDER / path).is_file()] == []
    named = {path for path in paths if not path.startswith(".")}
    assert named == set(compose()["volumes"])
    assert (FOLDER / SERVICES["server"]["build"]["context"] / "Dockerfile").is_file()


def test_the_files_of_the_stack_are_all_used() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    for path in FOLDER.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.name != ".env":
            assert path.relative_to(FOLDER).as_posix() in text or path.name == "compose.yaml", path
    assert document("prometheus.yml")["rule_files"] == ["rules.yml"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_restricted(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name != "grafana")
    assert not service.keys() & {"privileged", "cap_add", "pid", "ipc", "userns_mode", "devices"}
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), port
    own = service["image"].startswith("${SERVER_IMAGE")
    assert own or re.fullmatch(r"docker\.io/[\w/]+:v?\d+\.\d+\.\d+", service["image"]), service["image"]
    if own and name != "init":
        assert service["user"] == "65532:65532"


def test_only_init_writes_credentials_and_only_the_server_reads_its_key() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", ()):
            if isinstance(mount, str) and "credentials" in mount and name != "init":
                assert mount.endswith(":ro"), mount
                assert not mount.startswith("server-credentials") or name == "server"


def test_each_container_reaches_only_its_networks() -> None:
    networks = {name: set(service.get("networks", ())) for name, service in SERVICES.items()}
    assert networks.pop("server") == {"serve", "monitor"}
    assert networks.pop("demo") == {"serve"}
    assert SERVICES["init"]["network_mode"] == "none"
    assert networks.pop("init") == set()
    assert set(map(frozenset, networks.values())) == {frozenset({"monitor"})}


def test_addresses_are_services_with_their_ports() -> None:
    published = {port.rpartition(":")[2] for port in SERVICES["server"]["ports"]}
    assert published == {"8001", "8002"}
    ports = {"server": published, "receiver": {SERVICES["receiver"]["command"][1]}}
    ports |= {name: {SERVICES[name]["ports"][0].rpartition(":")[2]} for name in ("prometheus", "alertmanager")}
    texts = [(FOLDER / name).read_text() for name in FILES if name != "compose.yaml"]
    texts += SERVICES["demo"]["command"]
    addresses = re.findall(r"\b(server|receiver|prometheus|alertmanager):(\d+)", "\n".join(texts))
    assert {name for name, _ in addresses} == set(ports)
    assert [address for address in addresses if address[1] not in ports[address[0]]] == []


def test_the_example_lists_every_variable_with_its_default() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    assert text.count("${") == len(re.findall(r"\$\{\w+:-[^}]*\}", text)), "a variable has no default"
    example = (FOLDER / ".env.example").read_text()
    assert dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE)) == used


@full("package")
def test_the_versions_are_those_of_the_programs_in_the_tests() -> None:
    """The shipped image and Debian's program have the same major and minor version."""
    for name in ("prometheus", "alertmanager"):
        program = compose_stack.program(name)
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
        (version,) = re.findall(r"version (\d+\.\d+)\.", done.stdout + done.stderr)[:1]
        assert f":v{version}." in SERVICES[name]["image"]


@full("package")
def test_init_creates_credentials_once_and_a_certificate_again_for_other_names(tmp_path: Path) -> None:
    made = compose_stack.credentials(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sorted(first) == ["app.token", "ca.crt", "tls.crt", "tls.key", "tokens.toml"]
    assert all(path.stat().st_mode & 0o777 == 0o640 for path in tmp_path.rglob("*") if path.is_file())
    assert first["ca.crt"] == first["tls.crt"]
    ssl.create_default_context(cafile=made.ca)
    assert first["app.token"].startswith(b"kan_")
    compose_stack.credentials(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == first
    compose_stack.credentials(tmp_path, "localhost", "other.example")
    assert made.ca.read_bytes() != first["ca.crt"]
    assert made.token.read_bytes() == first["app.token"]


@full("package")
def test_the_stack_is_valid_for_docker_compose() -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (Debian: apt-get install docker-compose)")
    done = subprocess.run(
        [program, "--file", FOLDER / "compose.yaml", "--profile", "demo", "config", "--quiet"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=FOLDER,
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower(), done.stderr


@full("package")
def test_the_stack_is_valid_for_the_programs() -> None:
    for checker, arguments in (
        ("promtool", ("check", "config", "--syntax-only", FOLDER / "prometheus.yml")),
        ("amtool", ("check-config", FOLDER / "alertmanager.yml")),
    ):
        done = subprocess.run([compose_stack.program(checker), *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_where_grafana_reads_it() -> None:
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"] if mount.startswith("."))
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    (provider,) = document("grafana/dashboards.yml")["providers"]
    target = mounts["../monitoring/grafana/kanserve.json"]
    assert target == home
    assert target.startswith(f"{provider['options']['path']}/")
    assert (DEPLOY / "monitoring" / "grafana" / "kanserve.json").is_file()
    assert ROOT in FOLDER.parents
