#!/usr/bin/env bash
# Exec and port-forward of Gantry beside those of Debian's containerd, by the same crictl, in one run.
# docs/streaming.md has the numbers of one.
#
# Run as root: benches/streaming.sh. GANTRY_DIST=dir takes the programs from there, STREAM_MIB=1024 is how
# much goes through each stream, STREAM_EXECS=200 how many commands run at once, STREAM_CYCLES=1000 how often
# a client comes and goes, BENCH_SIDES="containerd gantry" who is measured, STREAM_ROUNDS=3 how often.
# GANTRY_CRICTL=file is another crictl.
#
# Everything happens in namespaces of its own, as in side-by-side.sh, which this uses.
set -euo pipefail

source "$(dirname "$0")/side-by-side.sh"
programs=(gantry gantry-monitor gantry-runtime)
crictl=${GANTRY_CRICTL:-$here/e2e/tools/bin/crictl}
mib=${STREAM_MIB:-1024} execs=${STREAM_EXECS:-200} cycles=${STREAM_CYCLES:-1000} rounds=${STREAM_ROUNDS:-3}
# A file of this size is sent as often as needed.
unit=64

inside() {
  work=$BENCH_WORK
  mount -t tmpfs -o mode=755 tmpfs /run
  mount -t tmpfs -o mode=755 tmpfs /var/lib/cni
  ip link set lo up
  sysctl -q -w net.ipv4.ip_forward=1
  local registry=127.0.0.1:5000 side round
  local sides=${BENCH_SIDES:-containerd gantry}
  images "$registry"
  mkdir -p "$work/data"
  mount -t tmpfs -o size=80m tmpfs "$work/data"
  head -c $((unit << 20)) /dev/urandom >"$work/data/unit"
  echo "i=0; while [ \$i -lt $((mib / unit)) ]; do cat /data/unit; i=\$((i+1)); done" >"$work/data/send"
  wanted=$(stream "$work/data/unit" | sha256sum | cut -d' ' -f1)

  for side in $sides; do
    case $side in
      containerd)
        containerd_files "$registry"
        start containerd 'successfully booted' "$work/start-containerd"
        ;;
      *) start_gantry ;;
    esac
    pods "$side" "$registry"
  done
  say "load $(cut -d' ' -f1-3 /proc/loadavg); $mib MiB each, peak memory of the daemon in brackets"
  printf '%-12s %-16s %10s %12s\n' side what MB/s 'peak MiB'
  for ((round = 0; round < rounds; round++)); do
    for side in $sides; do throughput "$side"; done
  done
  for side in $sides; do many "$side"; done
  for side in $sides; do leaks "$side"; done
  for side in $sides; do
    ctl "$side" rmp --force "$(<"$work/$side.pod")" >/dev/null
    kill -TERM "$(pid "$side")"
    timeout 20 tail --pid="$(pid "$side")" -s 0.1 -f /dev/null || { echo "$side does not end" >&2; return 1; }
  done
}

images() {
  local registry=$1 root=$work/busybox applet
  say "a registry, a busybox image and a pause image"
  printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:5000"}\n' \
    "$work/registry" >"$work/registry.yml"
  start registry 'listening on' docker-registry serve "$work/registry.yml"
  mkdir -p "$root"/{bin,data,etc,tmp,root,var/run,proc,sys,dev}
  cp /bin/busybox "$root/bin/busybox"
  for applet in sh sleep cat true nc sha256sum mkfifo; do ln -s busybox "$root/bin/$applet"; done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  tar --sort=name --owner=0 --group=0 --numeric-owner -C "$root" -cf "$work/layer.tar" .
  push "$registry/bench/busybox:1" "$work/layer.tar" '{"Env": ["PATH=/bin"], "Cmd": ["sh"]}'
  mkdir "$work/pause"
  gcc -static -O2 -s -o "$work/pause/pause" "$here/benches/pause.c"
  tar --owner=0 --group=0 --numeric-owner -C "$work/pause" -cf "$work/layer.tar" .
  push "$registry/bench/pause:1" "$work/layer.tar" '{"Entrypoint": ["/pause"]}'
}

start_gantry() {
  cat >"$work/start-gantry" <<END
#!/bin/sh
echo \$\$ >"$work/gantry.pid"
exec "$work/gantry" serve --root "$work/gantry-root" --run-dir "$work/gantry-run" --cri-network builtin \
  --runtime runc=$(command -v runc) --listen "unix://$work/gantry.sock" \
  --local-listen "unix://$work/local.sock" >>"$work/gantry.log" 2>&1
END
  chmod +x "$work/start-gantry"
  start gantry ready "$work/start-gantry"
}

pid() { cat "$work/$1.pid"; }

ctl() {
  local side=$1
  shift
  "$crictl" --config /dev/null --timeout 300s --runtime-endpoint "unix://$work/$side.sock" \
    --image-endpoint "unix://$work/$side.sock" "$@"
}

# pods SIDE REGISTRY: a pod with a container that sends the data on port 7 and sleeps.
pods() {
  local side=$1 registry=$2 pod container dir=$work/$1.d
  mkdir -p "$dir"
  ctl "$side" pull "$registry/bench/busybox:1" >/dev/null
  jq -n --arg dir "$dir" --arg parent "/$BENCH_CGROUP" --arg uid "uid-$side" \
    '{metadata: {name: "p", namespace: "default", uid: $uid}, log_directory: $dir,
      linux: {cgroup_parent: $parent}}' >"$dir/pod.json"
  jq -n --arg image "$registry/bench/busybox:1" --arg data "$work/data" \
    '{metadata: {name: "c"}, image: {image: $image}, log_path: "c.log", linux: {},
      mounts: [{container_path: "/data", host_path: $data, readonly: true}],
      command: ["sh", "-c", "nc -ll -p 7 -e sh /data/send & exec sleep 1000000"]}' >"$dir/container.json"
  local handler=()
  [[ $side == containerd ]] || handler=(--runtime runc)
  pod=$(ctl "$side" runp "${handler[@]}" "$dir/pod.json")
  container=$(ctl "$side" create "$pod" "$dir/container.json" "$dir/pod.json")
  ctl "$side" start "$container" >/dev/null
  echo "$pod" >"$work/$side.pod"
  echo "$container" >"$work/$side.container"
}

# stream FILE: the file as often as it takes.
stream() {
  local i
  for ((i = 0; i < mib / unit; i++)); do cat "$1"; done
}

# timed SIDE WHAT COMMAND...: prints how fast it was; the command prints the checksum.
timed() {
  local side=$1 what=$2 begun ended sum
  shift 2
  # The peak is counted anew.
  echo 5 >"/proc/$(pid "$side")/clear_refs"
  begun=$(date +%s%N)
  sum=$("$@" | cut -d' ' -f1)
  ended=$(date +%s%N)
  [[ $sum == "$wanted" ]] || { echo "$side: $what: checksum $sum is not $wanted" >&2; return 1; }
  printf '%-12s %-16s %10s %12s\n' "$side" "$what" \
    $((mib * 1048576 * 1000 / (ended - begun))) \
    "$(awk '/VmHWM/ { printf "%.1f", $2 / 1024 }' "/proc/$(pid "$side")/status")"
}

throughput() {
  local side=$1
  container=$(<"$work/$side.container")
  timed "$side" "exec stdout" from_exec "$side"
  timed "$side" "exec stdin" to_exec "$side"
  timed "$side" port-forward from_port "$side"
}

from_exec() {
  ctl "$1" exec "$container" sh /data/send | sha256sum
}

to_exec() { stream "$work/data/unit" | ctl "$1" exec -i "$container" sha256sum; }

from_port() {
  local line port forward
  coproc FORWARD { exec "$crictl" --config /dev/null --runtime-endpoint "unix://$work/$1.sock" \
    port-forward "$(<"$work/$1.pod")" :7 2>&1; }
  forward=$FORWARD_PID
  while IFS= read -r -u "${FORWARD[0]}" line && [[ $line != Forwarding* ]]; do echo "$1: $line" >&2; done
  port=${line#Forwarding from 127.0.0.1:}
  port=${port%% *}
  exec 9<>"/dev/tcp/127.0.0.1/$port"
  head -c $((mib << 20)) <&9 | sha256sum
  exec 9<&-
  # It may have ended with its only connection.
  kill "$forward" 2>/dev/null || true
}

# Commands that all run at the same time: each says so and waits for a gate that is opened when all are there.
many() {
  local side=$1 i failed=0 begun all ended out=$work/$1.many
  container=$(<"$work/$side.container")
  : >"$out"
  ctl "$side" exec "$container" mkfifo /tmp/gate
  echo 5 >"/proc/$(pid "$side")/clear_refs"
  begun=$(date +%s%N)
  local clients=()
  for ((i = 0; i < execs; i++)); do
    ctl "$side" exec "$container" sh -c 'echo there; cat /tmp/gate' >>"$out" 2>&1 &
    clients+=($!)
  done
  exec 8< <(exec tail -n +1 -s 0.1 -f "$out")
  for ((i = 0; i < execs; i++)); do
    IFS= read -r -u 8 line
    [[ $line == there ]] || { echo "$side: an exec says: $line" >&2; return 1; }
  done
  all=$(date +%s%N)
  exec 8<&-
  ctl "$side" exec "$container" sh -c 'exec 3>/tmp/gate'
  for i in "${clients[@]}"; do wait "$i" || failed=$((failed + 1)); done
  ended=$(date +%s%N)
  printf '%-12s %s execs at once: %s s until all run, %s s until all have ended, %s failed, peak %s MiB\n' "$side" \
    "$execs" $(((all - begun) / 1000000000)) $(((ended - begun) / 1000000000)) "$failed" \
    "$(awk '/VmHWM/ { printf "%.1f", $2 / 1024 }' "/proc/$(pid "$side")/status")"
}

# What a daemon holds: descriptors, threads, memory, processes of the container.
held() {
  local side=$1 process
  process=$(pid "$side")
  printf '%s descriptors, %s threads, %s MiB, %s processes' "$(ls "/proc/$process/fd" | wc -l)" \
    "$(ls "/proc/$process/task" | wc -l)" "$(awk '/VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$process/status")" \
    "$(ctl "$side" exec "$container" sh -c 'set -- /proc/[0-9]*; echo $#' | tr -d '\r')"
}

# Half of the clients come to their end, the others are killed once their command runs.
leaks() {
  local side=$1 i before after client
  container=$(<"$work/$side.container")
  # What the daemon allocates once is there before the first look.
  for ((i = 0; i < 20; i++)); do ctl "$side" exec "$container" true; done
  before=$(held "$side")
  for ((i = 0; i < cycles; i += 2)); do
    ctl "$side" exec "$container" true
    coproc KILLED { exec "$crictl" --config /dev/null --runtime-endpoint "unix://$work/$side.sock" \
      exec -i "$container" sh -c 'echo there; exec cat'; }
    client=$KILLED_PID
    IFS= read -r -u "${KILLED[0]}" line
    kill -KILL "$client"
    wait "$client" 2>/dev/null || true
  done
  after=$(held "$side")
  printf '%-12s %s clients came and went\n  before: %s\n  after:  %s\n' "$side" "$cycles" "$before" "$after"
}

if [[ ${1:-} == --inside ]]; then
  inside
else
  outside "$@"
fi
