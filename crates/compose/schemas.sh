#!/usr/bin/env bash
# Makes the two schemas of this crate anew from the Go module proxy, from the versions pinned here:
#   schema/compose-spec.json       what Compose files are checked with
#   tests/kubernetes/schema.json   what converted manifests are checked with, in tests
# Descriptions are left out, and definitions that no manifest of ours reaches. With --check nothing is
# written; a difference is a failure. Needs go and jq.
set -euo pipefail
cd "$(dirname "$0")"

compose=github.com/compose-spec/compose-go/v2@v2.16.2
compose_sha256=f266dcbb043229405d7cedd5aec918f9102c2b3d5e3850808fdd8edd564a43ff
kubernetes=k8s.io/kubernetes@v1.36.3
kubernetes_sha256=dcede2063da1d7ad62ecb5af8adb6d7fabd0b52385a7fa0048afb491dac90450

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The file $2 of the module $1, if its digest is $3.
fetch() {
  local folder
  folder=$(cd "$work" && go mod download -json "$1" | jq -er .Dir)
  echo "$3  $folder/$2" | sha256sum --check --quiet
  cat "$folder/$2"
}

fetch $compose schema/compose-spec.json $compose_sha256 | jq -S '
  def bare: if type == "object" then with_entries(
      select((.key
          | IN("description", "title", "deprecated", "default", "format", "$schema", "$id", "$comment") | not) or (.value | type == "object"))
      | .value |= bare)
    elif type == "array" then map(bare) else . end;
  bare' >"$work/compose-spec.json"

fetch $kubernetes api/openapi-spec/swagger.json $kubernetes_sha256 | jq -S '
  def bare: if type == "object" then with_entries(
      select(((.key == "description" and (.value | type == "string")) or (.key | startswith("x-kubernetes")))
        | not)
      | .value |= bare)
    elif type == "array" then map(bare) else . end;
  def reached($all): . as $names
    | ($names + [$all[$names[]] | .. | objects | .["$ref"]? | strings | sub(".*/"; "")] | unique) as $more
    | if $more == $names then $names else $more | reached($all) end;
  (.definitions | bare) as $all
  | ["apps.v1.Deployment", "apps.v1.StatefulSet", "batch.v1.Job", "core.v1.ConfigMap",
     "core.v1.PersistentVolumeClaim", "core.v1.Secret", "core.v1.Service", "networking.v1.NetworkPolicy"]
  | map("io.k8s.api." + .) | sort | reached($all)
  | {definitions: (map({(.): $all[.]}) | add)}' >"$work/schema.json"

if [[ ${1:-} == --check ]]; then
  diff -q "$work/compose-spec.json" schema/compose-spec.json
  diff -q "$work/schema.json" tests/kubernetes/schema.json
  echo "both schemas are what the pinned modules say"
else
  cp "$work/compose-spec.json" schema/compose-spec.json
  cp "$work/schema.json" tests/kubernetes/schema.json
  sha256sum schema/compose-spec.json tests/kubernetes/schema.json
fi
