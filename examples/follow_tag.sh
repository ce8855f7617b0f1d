#!/bin/sh
# Move the version that a tag names into the repository of a running server, and make it the default version.
#
#   follow_tag.sh FETCHED REPOSITORY MODEL
#
# FETCHED has MODEL/VERSION, as a tool has fetched it. It is on the file system of REPOSITORY, so that a version appears
# in one step. KANSERVE_URL and KANSERVE_TOKEN_FILE name the server. A tag that moves back makes an older version the
# default version again.
set -eu
fetched=$1/$3 home=$2/$3 model=$3

number=
for folder in "$fetched"/[1-9]*; do
  [ -f "$folder/manifest.json" ] || continue
  if [ -n "$number" ]; then
    echo "$fetched: several versions, expected one" >&2
    exit 1
  fi
  number=${folder##*/}
done
if [ -z "$number" ]; then
  echo "$fetched: no version with a manifest.json, expected one" >&2
  exit 1
fi

mkdir -p "$home"
if [ ! -e "$home/$number" ]; then
  mv -T "$fetched/$number" "$home/$number"
elif [ "$(cat "$fetched/$number/manifest.json")" != "$(cat "$home/$number/manifest.json")" ]; then
  echo "$home/$number has other content: publish each content with its own version number" >&2
  exit 1
fi
for _ in 1 2 3 4 5 6 7 8 9; do
  if kanserve promote "$model" "$number" 2>/dev/null; then exit 0; fi
  sleep 1 # the server loads it
done
kanserve promote "$model" "$number"
