# Copy a remote model repository into a folder, as whole versions.
#
#   sync.sh once | loop
#
# SYNC_REMOTE: remote folder, in the syntax of rclone. SYNC_FOLDER: local repository. SYNC_SECONDS: interval of `loop`.
# SYNC_REMOVE_ALL: true permits the removal of the last version of a model, and of more than half of the versions at once.
#
# A version is copied under a hidden name, which the server ignores, and then renamed. So the server sees complete versions.
# A complete synchronization writes the file .synchronized, whose modification time the server exports as a metric.
set -eu
incoming=$SYNC_FOLDER/.incoming

publish() { # publish SOURCE TARGET: a file or a folder, if they differ
  if [ -e "$2" ] && diff -rq "$1" "$2" >/dev/null; then return; fi
  hidden=$(dirname "$2")/.new-$(basename "$2")
  rm -rf "$hidden" "$hidden.old"
  cp -R "$1" "$hidden"
  if [ -d "$2" ]; then mv "$2" "$hidden.old"; fi
  mv "$hidden" "$2"
  rm -rf "$hidden.old"
  echo "published $2"
}

complete() { # complete SOURCE TARGET: whether the source exists, and has a manifest if the target is a version with one
  [ -e "$1" ] && { [ ! -e "$2/manifest.json" ] || [ -e "$1/manifest.json" ]; }
}

check_removals() { # fail if the remote lacks more versions than a person removes
  total=0 missing=0
  for model in "$SYNC_FOLDER"/*/; do
    before=$total left=0
    for version in "$model"[0-9]*/; do
      if [ ! -d "$version" ]; then continue; fi
      total=$((total + 1))
      if [ -e "$incoming/${version#"$SYNC_FOLDER"/}" ]; then left=$((left + 1)); else missing=$((missing + 1)); fi
    done
    if [ "$total" -gt "$before" ] && [ "$left" -eq 0 ]; then
      refuse "it has no version of the model $(basename "$model"), expected at least one"
    fi
  done
  if [ $((2 * missing)) -gt "$total" ]; then refuse "it lacks $missing of $total versions, expected at most half of them"; fi
}

refuse() { # refuse REASON
  if [ "${SYNC_REMOVE_ALL:-false}" = true ]; then return; fi
  echo "nothing removed: $SYNC_REMOTE: $1. Restore the remote folder, or set models.sync.removeAll=true" >&2
  exit 1
}

synchronize() {
  mkdir -p "$incoming"
  rclone sync --checksum "$SYNC_REMOTE" "$incoming"
  for model in "$incoming"/*/; do
    [ -d "$model" ] || continue
    name=$(basename "$model")
    mkdir -p "$SYNC_FOLDER/$name"
    for entry in "$model"*; do
      target=$SYNC_FOLDER/$name/$(basename "$entry")
      if complete "$entry" "$target"; then publish "$entry" "$target"; fi
    done
  done
  check_removals
  for entry in "$SYNC_FOLDER"/*/* "$SYNC_FOLDER"/*; do
    if [ -e "$entry" ] && [ ! -e "$incoming/${entry#"$SYNC_FOLDER"/}" ]; then
      rm -rf "$entry"
      echo "removed $entry"
    fi
  done
  : >"$SYNC_FOLDER/.synchronized"
}

case $1 in
once) synchronize ;;
loop)
  trap 'exit 0' TERM INT
  while :; do
    sleep "$SYNC_SECONDS" & wait $!
    # As another process: `||` would switch `set -e` off in a function, which would then publish what a failed copy left.
    /bin/sh "$0" once || echo "the synchronization failed; the next one is in $SYNC_SECONDS s" >&2
  done
  ;;
*)
  echo "mode: $1, expected once or loop" >&2
  exit 2
  ;;
esac
