# Settings of podman, for the scripts in this folder, which source this file. `work` is their temporary folder.
# shellcheck shell=bash disable=SC2154

# Machines differ in the rights of a container runtime. These settings need the fewest.
configure_podman() {
  local soft hard limits=()
  for pair in nofile:n nproc:u; do
    soft=$(ulimit -S"${pair#*:}") hard=$(ulimit -H"${pair#*:}")
    limits+=("\"${pair%:*}=${soft/unlimited/-1}:${hard/unlimited/-1}\"")
  done
  cat >"$work/containers.conf" <<CONF
[containers]
default_ulimits = [$(IFS=,; echo "${limits[*]}")]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
  export CONTAINERS_CONF=$work/containers.conf PODMAN_IGNORE_CGROUPSV1_WARNING=1
}
