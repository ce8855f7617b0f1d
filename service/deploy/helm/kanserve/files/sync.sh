# Copy a remote model repository into a folder, as whole versions.
#
#   sync.sh once | loop
#
# SYNC_REMOTE: remote folder, in the syntax of rclone. SYNC_FOLDER: local repository. SYNC_SECONDS: interval of `loop`.
# A version is copied under a hidden name, which the server ignores, and then renamed. So the server sees complete versions.
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

synchronize() {
  mkdir -p "$incoming"
  rclone sync --checksum "$SYNC_REMOTE" "$incoming"
  for model in "$incoming"/*/; do
    [ -d "$model" ] || continue
    name=$(basename "$model")
    mkdir -p "$SYNC_FOLDER/$name"
    for entry in "$model"*; do
      [ -e "$entry" ] && publish "$entry" "$SYNC_FOLDER/$name/$(basename "$entry")"
    done
  done
  for entry in "$SYNC_FOLDER"/*/* "$SYNC_FOLDER"/*; do
    if [ -e "$entry" ] && [ ! -e "$incoming/${entry#"$SYNC_FOLDER"/}" ]; then
      rm -rf "$entry"
      echo "removed $entry"
    fi
  done
}

case $1 in
once) synchronize ;;
loop)
  trap 'exit 0' TERM INT
  while :; do
    sleep "$SYNC_SECONDS" & wait $!
    synchronize || echo "the synchronization failed; the next one is in $SYNC_SECONDS s" >&2
  done
  ;;
*)
  echo "mode: $1, expected once or loop" >&2
  exit 2
  ;;
esac
