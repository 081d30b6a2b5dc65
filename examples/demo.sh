#!/usr/bin/env bash
# Gantry in a minute: two pods on one machine, from an image in a local registry.
#
# Run as root: make demo. Everything lives in a directory of its own, and everything is taken away again,
# however this ends. DEMO_IMAGE=<reference> uses another image (it needs sh, httpd, wget and sleep).
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
dist=$(cd "${GANTRY_DIST:-$here/target/dist-ci}" && pwd)
[[ $(id -u) == 0 ]] || { echo "the demo makes pods: run it as root" >&2; exit 1; }
for program in "$dist/gantry" jq ip nft curl; do
  command -v "$program" >/dev/null || { echo "$program is missing: run make setup build-ci" >&2; exit 1; }
done

step() { printf '\n\e[1m== %s\e[0m\n' "$*"; }
# Shows a command, then runs it.
show() { printf '\e[2m$ %s\e[0m\n' "$*"; "$@"; }

# What could be left behind: one line each.
host_state() {
  awk '{print "mount", $5}' /proc/self/mountinfo
  find /sys/fs/cgroup -type d -name '*gantry*' -printf 'cgroup %p\n' 2>/dev/null || true
  ip -o link | awk -F ': ' '{print "link", $2}'
  nft list ruleset | sed 's/^/nftables /'
  ls -d /run/gantry* /run/netns/* /var/lib/gantry /var/tmp/gantry-demo.* 2>/dev/null | sed 's/^/file /' || true
  # An orphan that has ended waits for the init process of the machine.
  ps -e -o pid=,ppid=,stat=,comm= |
    awk '$4 ~ /^(gantry|docker-registry)/ && !($2 == 1 && $3 ~ /^Z/) {print "process", $1, $4}'
}

before=$(host_state | sort)
work=$(mktemp -d /var/tmp/gantry-demo.XXXXXX)
registry_pid=
daemon_pid=
gantry() { "$dist/gantry" --socket "unix://$work/local.sock" "$@"; }

cleanup() {
  local status=$?
  trap - EXIT INT TERM
  set +e
  step "Cleaning up: pods, daemon, registry, files"
  if [[ -n $daemon_pid ]]; then
    # One that died leaves its pods running; another takes them over.
    kill -0 "$daemon_pid" 2>/dev/null || start_daemon || status=1
    local pods
    mapfile -t pods < <(gantry pods --output json | jq -r '.. | .id? // empty')
    ((${#pods[@]} == 0)) || gantry rm --force "${pods[@]}" >/dev/null || status=1
    kill -TERM "$daemon_pid"
    wait "$daemon_pid" || status=1
  fi
  if [[ -n $registry_pid ]]; then
    kill "$registry_pid" 2>/dev/null
    wait "$registry_pid" 2>/dev/null
  fi
  ((status == 0)) || { echo "the demo failed (status $status); end of the daemon's log:"; tail -n 25 "$work/daemon.log"; } >&2
  rm -rf --one-file-system "$work" || status=1
  local left
  left=$(comm -13 <(echo "$before") <(host_state | sort))
  if [[ -n $left ]]; then
    printf 'LEFT BEHIND on this machine:\n%s\n' "$left" >&2
    status=1
  else
    echo "Nothing is left behind: no mount, control group, link, firewall rule, file or process."
  fi
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME PATTERN COMMAND...: runs it in the background until it has printed a line with PATTERN,
# which is left in $line; its output goes to $work/NAME.log. Its process id is left in $started.
start() {
  local name=$1 pattern=$2 fd
  shift 2
  mkfifo "$work/$name.pipe"
  # In a session of its own: ^C is for this script, which then ends it in its turn.
  setsid "$@" >"$work/$name.pipe" 2>&1 &
  local pid=$!
  exec {fd}<"$work/$name.pipe"
  rm "$work/$name.pipe"
  while IFS= read -r -u "$fd" line; do
    echo "$line" >>"$work/$name.log"
    if [[ $line == *$pattern* ]]; then
      cat <&"$fd" >>"$work/$name.log" &
      exec {fd}<&-
      started=$pid
      return
    fi
  done
  echo "$name ended before it was ready:" >&2
  cat "$work/$name.log" >&2
  return 1
}

start_daemon() {
  start daemon 'ready' "$dist/gantry" serve --root "$work/root" --run-dir "$work/run" \
    --listen "unix://$work/gantry.sock" --local-listen "unix://$work/local.sock" --pid-file "$work/pid" || return
  daemon_pid=$started
}

image=${DEMO_IMAGE:-}
if [[ -z $image ]]; then
  step "An image, made from this machine's busybox"
  root=$work/image/root
  mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/www" "$work/image/archive"
  cp /bin/busybox "$root/bin/busybox"
  for applet in sh httpd wget sleep ls cat hostname ip ps echo; do ln -s busybox "$root/bin/$applet"; done
  echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
  echo 'Hello from a pod: this page came out of a container.' >"$root/www/index.html"
  archive=$work/image/archive
  tar --sort=name --owner=0 --group=0 --numeric-owner -C "$root" -cf "$archive/layer.tar" .
  diff_id=sha256:$(sha256sum "$archive/layer.tar" | cut -d' ' -f1)
  architecture=$(dpkg --print-architecture)
  jq -n --arg id "$diff_id" --arg arch "$architecture" '{
    architecture: $arch, os: "linux", config: {Env: ["PATH=/bin"], Cmd: ["sh"]},
    rootfs: {type: "layers", diff_ids: [$id]}}' >"$archive/config.json"
  echo '[{"Config": "config.json", "RepoTags": ["demo:1"], "Layers": ["layer.tar"]}]' >"$archive/manifest.json"
  tar -C "$archive" -cf "$work/image/demo.tar" .
  echo "$(stat -c %s "$work/image/demo.tar") bytes, one layer $diff_id"

  step "A registry on this machine, and the image in it"
  printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:0"}\n' \
    "$work/registry" >"$work/registry.yml"
  start registry 'listening on' docker-registry serve "$work/registry.yml"
  registry_pid=$started
  port=$(grep -o 'listening on 127.0.0.1:[0-9]*' <<<"$line" | sed 's/.*://')
  image=127.0.0.1:$port/demo/busybox:1
  show skopeo copy --quiet --insecure-policy --dest-tls-verify=false \
    "docker-archive:$work/image/demo.tar" "docker://$image"
fi

step "The daemon, with directories and sockets of its own and no configuration"
start daemon 'ready' "$dist/gantry" serve --root "$work/root" --run-dir "$work/run" \
  --listen "unix://$work/gantry.sock" --local-listen "unix://$work/local.sock" --pid-file "$work/pid"
daemon_pid=$started
show gantry version
show gantry doctor

step "Pulling the image over HTTP"
show gantry pull "$image"
show gantry images

step "First pod: a web server, its port 80 published on this machine"
# The first port that nobody listens on.
taken=$(ss -Hltn | awk '{print $4}' | sed 's/.*://')
host_port=18080
while grep -qx "$host_port" <<<"$taken"; do host_port=$((host_port + 1)); done
show gantry run --name page --publish "$host_port:80" "$image" \
  sh -c 'httpd -h /www -p 80; echo serving /www on port 80; exec sleep 100000' | tee "$work/page.txt"
pod=$(awk '$1 == "pod" {print $2}' "$work/page.txt")
# Follows the log until the server says that it listens.
exec {follow}< <(gantry logs --follow page)
IFS= read -r -u "$follow" line
exec {follow}<&-
show gantry run --pod page --name neighbour "$image" sleep 100000

step "Second pod: a visitor, which fetches the page by the first pod's address"
show gantry run --name visitor "$image" sleep 100000
address=$(gantry inspect "$pod" | jq -r '.status.network.ip')
show gantry exec visitor wget -q -O - "http://$address/"

step "The same page from this machine, by the published port"
show curl -sS --max-time 10 "http://127.0.0.1:$host_port/"

step "What runs"
show gantry pods
show gantry ps
show gantry logs page

step "Shared namespaces, by inode: page and neighbour are one pod, visitor is another"
printf '%-10s %12s %12s %12s %12s %12s\n' container net ipc uts pid mnt
declare -A net
for name in page neighbour visitor; do
  inspected=$(gantry inspect "$name")
  jq -r --arg name "$name" '[$name, (.info.namespaces | .net, .ipc, .uts, .pid, .mnt)] | @tsv' <<<"$inspected" |
    xargs printf '%-10s %12s %12s %12s %12s %12s\n'
  net[$name]=$(jq -r .info.namespaces.net <<<"$inspected")
done
[[ ${net[page]} == "${net[neighbour]}" && ${net[page]} != "${net[visitor]}" ]]
echo "page and neighbour share net, ipc and uts; each has its own processes and files."
