"""Field names of the files of the compose stack, and a check that names every unknown field.

A shape is LEAF, which has no fields of the format, or a mapping from field names to shapes. The key `*` is any name,
which the author of a file chooses. A shape of a field also holds for the elements of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LEAF = None
Shape = dict[str, Any] | None


def _leaves(names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), LEAF)


NAMED: Shape = {"*": LEAF}
RESOURCES: Shape = _leaves("cpus memory pids")
VOLUME: Shape = _leaves("type source target read_only consistency") | {
    "bind": _leaves("propagation create_host_path selinux recursive"),
    "volume": _leaves("nocopy subpath labels"),
    "tmpfs": _leaves("size mode"),
}
SERVICE: Shape = _leaves(
    "annotations attach cap_add cap_drop cgroup cgroup_parent command container_name cpu_count cpu_percent cpu_shares "
    "cpu_quota cpu_period cpu_rt_period cpu_rt_runtime cpus cpuset device_cgroup_rules dns dns_opt dns_search "
    "domainname entrypoint env_file expose external_links extra_hosts group_add hostname image init ipc isolation "
    "label_file links mac_address mem_limit mem_reservation mem_swappiness memswap_limit network_mode oom_kill_disable "
    "oom_score_adj pid pids_limit platform privileged profiles pull_policy read_only restart runtime scale "
    "security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt tmpfs tty user userns_mode uts "
    "volumes_from working_dir"
) | {
    "build": _leaves("context dockerfile target network pull no_cache tags platforms") | {"args": NAMED},
    "depends_on": {"*": _leaves("condition required restart")},
    "deploy": _leaves("mode replicas") | {"resources": {"limits": RESOURCES, "reservations": RESOURCES}},
    "environment": NAMED,
    "healthcheck": _leaves("disable interval retries test timeout start_period start_interval"),
    "labels": NAMED,
    "logging": {"driver": LEAF, "options": NAMED},
    "networks": NAMED,
    "ports": _leaves("name mode host_ip target published protocol app_protocol"),
    "sysctls": NAMED,
    "ulimits": NAMED,
    "volumes": VOLUME,
}
# Of the compose specification, without extensions, which begin with x-.
COMPOSE: Shape = {
    "name": LEAF,
    "services": {"*": SERVICE},
    "networks": {"*": _leaves("name driver internal external attachable enable_ipv6")},
    "volumes": {"*": _leaves("name driver external")},
}

STATIC: Shape = {"static_configs": {"targets": LEAF, "labels": NAMED}}
PROMETHEUS: Shape = {
    "global": _leaves("scrape_interval scrape_timeout evaluation_interval") | {"external_labels": NAMED},
    "rule_files": LEAF,
    "alerting": {"alertmanagers": {**STATIC, **_leaves("scheme path_prefix timeout api_version")}},
    "scrape_configs": {**STATIC, **_leaves("job_name scrape_interval scrape_timeout scheme metrics_path")},
}
ROUTE = _leaves("receiver group_by group_wait group_interval repeat_interval continue matchers")
ALERTMANAGER: Shape = {
    "global": _leaves("resolve_timeout"),
    "route": ROUTE | {"routes": ROUTE},
    "receivers": {"name": LEAF, "webhook_configs": _leaves("url url_file send_resolved max_alerts timeout")},
    "inhibit_rules": _leaves("source_matchers target_matchers equal"),
}
DATASOURCES: Shape = {
    "apiVersion": LEAF,
    "datasources": _leaves("name type uid access url isDefault editable") | {"jsonData": _leaves("timeInterval")},
}
DASHBOARDS: Shape = {
    "apiVersion": LEAF,
    "providers": _leaves("name type folder allowUiUpdates disableDeletion updateIntervalSeconds")
    | {"options": _leaves("path foldersFromFilesStructure")},
}


def unknown(value: Any, shape: Shape, path: str = "") -> list[str]:
    """The paths of all fields that the shape does not have."""
    if isinstance(value, list):
        return [found for at, item in enumerate(value) for found in unknown(item, shape, f"{path}[{at}]")]
    if not isinstance(value, dict):
        return []
    found = []
    for name, inner in value.items():
        if not path and name.startswith("x-"):
            continue
        if shape is not LEAF and (name in shape or "*" in shape):
            found += unknown(inner, shape.get(name, shape.get("*")), f"{path}.{name}")
        else:
            found.append(f"{path}.{name}")
    return found


def _fields(value: Any, shape: Shape) -> Iterator[tuple[Any, ...]]:
    """The places of all fields of the format, as keys and indices from the top."""
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from ((at, *rest) for rest in _fields(item, shape))
    if not isinstance(value, dict) or shape is LEAF:
        return
    for name, inner in value.items():
        if name in shape:
            yield (name,)
        yield from ((name, *rest) for rest in _fields(inner, shape.get(name, shape.get("*"))))
