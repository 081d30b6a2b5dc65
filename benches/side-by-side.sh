#!/usr/bin/env bash
# Gantry beside Debian's containerd, on this machine, in one run. docs/benchmarks.md explains it.
#
# Run as root: make bench. Options go to gantry-bench: benches/side-by-side.sh --rounds 10 --pods 0.
# GANTRY_DIST=dir takes the programs from there, BENCH_JSON=file keeps the raw samples,
# BENCH_SIDES="containerd gantry-runc gantry" chooses the sides, BENCH_KEEP_LOGS=dir keeps the daemons' logs.
#
# Daemons, pods and registry live in network, mount and process namespaces of their own: links, firewall
# rules, sysctls, mounts and processes end with those. Control groups and files are taken away at the end.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
dist=$(cd "${GANTRY_DIST:-$here/target/dist}" && pwd)
programs=(gantry gantry-monitor gantry-runtime gantry-bench)

outside() {
  [[ $(id -u) == 0 ]] || { echo "the benchmark makes pods: run it as root" >&2; exit 1; }
  local program missing=()
  for program in containerd containerd-shim-runc-v2 runc docker-registry skopeo jq ip nft iptables gcc unshare; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  for program in bridge host-local portmap; do
    [[ -x /usr/lib/cni/$program ]] || missing+=("/usr/lib/cni/$program")
  done
  if ((${#missing[@]})); then
    echo "missing: ${missing[*]}; install: apt install containerd containernetworking-plugins iptables gcc" >&2
    echo "and run make setup (on Debian, keep containerd.service from starting: the benchmark has its own)" >&2
    exit 1
  fi
  for program in "${programs[@]}"; do
    [[ -x $dist/$program ]] || { echo "no $program in $dist: run make build bench-build" >&2; exit 1; }
  done

  local status=0 dir
  BENCH_WORK=$(mktemp -d /var/tmp/gantry-bench.XXXXXX)
  export BENCH_WORK BENCH_CGROUP=gantry-bench-$$
  # Programs are copied: a new build must not change what is measured.
  install -t "$BENCH_WORK" "${programs[@]/#/$dist/}"
  # libcni keeps its results here and nowhere else; it is covered with a tmpfs inside.
  local made_cni=
  [[ -d /var/lib/cni ]] || { mkdir /var/lib/cni; made_cni=yes; }
  trap 'status=130' INT TERM
  unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc \
    "$0" --inside "$@" || status=$?
  [[ -z $made_cni ]] || rmdir /var/lib/cni || status=1
  # All processes are gone with their namespace.
  for dir in /sys/fs/cgroup/{,*/}$BENCH_CGROUP; do
    if [[ -d $dir ]]; then
      find "$dir" -depth -type d -exec rmdir {} + || status=1
    fi
  done
  if [[ -n ${BENCH_KEEP_LOGS:-} ]]; then
    mkdir -p "$BENCH_KEEP_LOGS" && cp "$BENCH_WORK"/*.log "$BENCH_KEEP_LOGS/"
  fi
  rm -rf --one-file-system "$BENCH_WORK" || status=1
  exit "$status"
}

say() { echo "== $*" >&2; }

# start NAME PATTERN COMMAND...: runs it in the background until its log has PATTERN; leaves the line in $line.
start() {
  local name=$1 pattern=$2 fd pid
  shift 2
  : >>"$work/$name.log"
  setsid "$@" >>"$work/$name.log" 2>&1 &
  pid=$!
  exec {fd}< <(exec tail --pid="$pid" -s 0.1 -n +1 -f "$work/$name.log")
  while IFS= read -r -u "$fd" line; do
    if [[ $line == *$pattern* ]]; then
      exec {fd}<&-
      return
    fi
  done
  echo "$name ended before it was ready:" >&2
  tail -n 30 "$work/$name.log" >&2
  return 1
}

# push NAME LAYER.TAR CONFIG: an image of one layer into the registry.
push() {
  local dir=$work/archive
  rm -rf "$dir" && mkdir -p "$dir"
  mv "$2" "$dir/layer.tar"
  jq -n --arg id "sha256:$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)" --argjson config "$3" \
    --arg arch "$(dpkg --print-architecture)" \
    '{architecture: $arch, os: "linux", config: $config, rootfs: {type: "layers", diff_ids: [$id]}}' \
    >"$dir/config.json"
  echo '[{"Config": "config.json", "RepoTags": ["bench:1"], "Layers": ["layer.tar"]}]' >"$dir/manifest.json"
  tar -C "$dir" -cf "$work/image.tar" .
  skopeo copy --quiet --insecure-policy --dest-tls-verify=false "docker-archive:$work/image.tar" "docker://$1"
}

inside() {
  work=$BENCH_WORK
  # Sockets of shims, pinned namespaces and locks of the firewall tools: of this run only.
  mount -t tmpfs -o mode=755 tmpfs /run
  mount -t tmpfs -o mode=755 tmpfs /var/lib/cni
  ip link set lo up
  # What the network plugins of both sides need, in this namespace only.
  sysctl -q -w net.ipv4.ip_forward=1
  local sides=${BENCH_SIDES:-containerd gantry-runc gantry}

  say "a registry, a busybox image and a pause image"
  printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:5000"}\n' \
    "$work/registry" >"$work/registry.yml"
  start registry 'listening on' docker-registry serve "$work/registry.yml"
  local registry=127.0.0.1:5000 root=$work/busybox applet
  mkdir -p "$root"/{bin,etc,tmp,root,var/run,proc,sys,dev}
  cp /bin/busybox "$root/bin/busybox"
  for applet in sh sleep cat true httpd; do ln -s busybox "$root/bin/$applet"; done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  tar --sort=name --owner=0 --group=0 --numeric-owner -C "$root" -cf "$work/layer.tar" .
  push "$registry/bench/busybox:1" "$work/layer.tar" '{"Env": ["PATH=/bin"], "Cmd": ["sh"]}'
  mkdir "$work/pause"
  gcc -static -O2 -s -o "$work/pause/pause" "$here/benches/pause.c"
  tar --owner=0 --group=0 --numeric-owner -C "$work/pause" -cf "$work/layer.tar" .
  push "$registry/bench/pause:1" "$work/layer.tar" '{"Entrypoint": ["/pause"]}'

  local arguments=()
  if [[ $sides == *containerd* ]]; then
    say "containerd $(containerd --version | cut -d' ' -f3)"
    containerd_files "$registry"
    start containerd 'successfully booted' "$work/start-containerd"
    arguments+=(--side "name=containerd,socket=$work/containerd.sock,start=$work/start-containerd")
  fi
  if [[ $sides == *gantry* ]]; then
    say "gantry"
    cat >"$work/start-gantry" <<EOF
#!/bin/sh
echo \$\$ >"$work/gantry.pid"
exec "$work/gantry" serve --root "$work/gantry-root" --run-dir "$work/gantry-run" --cri-network builtin \
  --runtime runc=$(command -v runc) --listen "unix://$work/gantry.sock" --local-listen "unix://$work/local.sock" \
  >>"$work/gantry.log" 2>&1
EOF
    chmod +x "$work/start-gantry"
    start gantry ready "$work/start-gantry"
    local side
    for side in $sides; do
      case $side in
        gantry) arguments+=(--side "name=gantry,socket=$work/gantry.sock,handler=embedded,start=$work/start-gantry") ;;
        gantry-*) arguments+=(--side "name=$side,socket=$work/gantry.sock,handler=${side#gantry-},start=$work/start-gantry") ;;
      esac
    done
  fi

  say "measuring"
  local status=0 name pid
  "$work/gantry-bench" "${arguments[@]}" --image "$registry/bench/busybox:1" --dir "$work/pods" \
    --cgroup-parent "/$BENCH_CGROUP" ${BENCH_JSON:+--json "$BENCH_JSON"} "$@" || status=$?
  for name in containerd gantry; do
    [[ -e $work/$name.pid ]] || continue
    ((status == 0)) || { echo "-- end of $name's log:"; tail -n 15 "$work/$name.log"; } >&2
    # An orderly end takes control groups away, which no namespace does.
    pid=$(<"$work/$name.pid")
    kill -TERM "$pid"
    timeout 20 tail --pid="$pid" -s 0.1 -f /dev/null || { echo "$name does not end" >&2; status=1; }
  done
  return "$status"
}

# Directories, CNI network and configuration of containerd, all below $work.
containerd_files() {
  local registry=$1
  mkdir -p "$work/cni"
  cat >"$work/cni/10-bench.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "bench", "plugins": [
  {"type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$work/cni-addresses", "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "10.77.0.0/20"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
EOF
  cat >"$work/containerd.toml" <<EOF
version = 2
root = "$work/containerd-root"
state = "/run/containerd"
[grpc]
  address = "$work/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$work/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$registry/bench/pause:1"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$work/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."$registry"]
    endpoint = ["http://$registry"]
EOF
  cat >"$work/start-containerd" <<EOF
#!/bin/sh
echo \$\$ >"$work/containerd.pid"
exec containerd --config "$work/containerd.toml" >>"$work/containerd.log" 2>&1
EOF
  chmod +x "$work/start-containerd"
}

# Another benchmark takes the functions and brings its own `inside`.
[[ ${BASH_SOURCE[0]} == "$0" ]] || return 0
if [[ ${1:-} == --inside ]]; then
  shift
  inside "$@"
else
  outside "$@"
fi
