#!/usr/bin/env bash
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
#
# Lays out what the container image holds, from a finished build on Debian:
#
#   tools/image_root.sh BUILD_DIR OUT        e.g. build/release build/image
#
# OUT/libraries  the C library, every library that the two programs load (stripped), CA certificates, users, licences; of
#                no shell and no package manager. It changes with the dependencies alone, so it is a layer of its own.
# OUT/programs   lion-server and lion-client, stripped, without the build's library paths.
#
# Times of files are set to a constant, so the same contents make the same layer. The closing lines are the sizes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[[ $# == 2 && -x $1/bin/lion-server && -x $1/bin/lion-client ]] ||
  { echo "usage: tools/image_root.sh BUILD_DIR OUT, after lion-server and lion-client are built in BUILD_DIR" >&2; exit 2; }
readonly BUILD=$1 LIBRARIES=$2/libraries PROGRAMS=$2/programs
readonly SYSTEM=usr/lib/$(uname -m)-linux-gnu  # where Debian's loader looks first

rm -rf "$LIBRARIES" "$PROGRAMS"
mkdir -p "$LIBRARIES"/{etc/ssl/certs,models,proc,sys,dev,usr/{bin,lib,lib64,local/lib,share/doc},var/lib/dpkg/status.d} "$LIBRARIES/$SYSTEM"
mkdir -pm 1777 "$LIBRARIES/tmp"
ln -s usr/lib "$LIBRARIES/lib"
ln -s usr/lib64 "$LIBRARIES/lib64"

# The package that owns a file. Debian's lists may name it with or without the /usr in front.
package_of() {
  local path
  for path in "$1" "/usr$1" "${1#/usr}" "$(realpath "$1")"; do
    dpkg-query -S "$path" 2> /dev/null | sed -n '1s/:.*//p' && return
  done
}

# What scanners read to know which Debian package in which version is inside, and its licence.
record_package() {
  [[ -n $1 && ! -e $LIBRARIES/var/lib/dpkg/status.d/$1 ]] || return 0
  dpkg-query -s "$1" > "$LIBRARIES/var/lib/dpkg/status.d/$1"
  mkdir -p "$LIBRARIES/usr/share/doc/$1"
  cp -L "/usr/share/doc/$1/copyright" "$LIBRARIES/usr/share/doc/$1/"
}

# Python's wheels keep theirs beside the package: torch-2.11.0.dist-info and the like.
record_wheel() {
  local site=${1%%/site-packages/*}/site-packages info record=${1#*/site-packages/}
  info=$(grep -lF "$record," "$site"/*.dist-info/RECORD | head -n 1)
  [[ -n $info ]] || { echo "no wheel owns $1" >&2; return 1; }
  info=${info%/RECORD}
  [[ -e $LIBRARIES/usr/share/doc/${info##*/} ]] && return
  mkdir -p "$LIBRARIES/usr/share/doc/${info##*/}"
  find "$info" -type f \( -iname '*licen[cs]e*' -o -iname '*notice*' \) -exec cp -t "$LIBRARIES/usr/share/doc/${info##*/}/" {} +
}

# ldd's own lines: NAME => PATH (ADDRESS), and the loader's path alone.
list_libraries() { ldd "$BUILD/bin/lion-server" "$BUILD/bin/lion-client" | awk '$2 == "=>" { print $1, $3 } $1 ~ /^\/lib/ { print $1, $1 }' | sort -u; }

while read -r name path; do
  [[ -e $path ]] || { echo "$name is not found on this machine" >&2; exit 1; }
  case $path in
    /lib64/ld-*) destination=usr/lib64/${name##*/} ;;
    /lib/* | /usr/lib/*) destination=$SYSTEM/$name ;;
    *) destination=usr/local/lib/$name ;;  # of a wheel
  esac
  cp -L "$path" "$LIBRARIES/$destination"
  if [[ $path == */site-packages/* ]]; then
    record_wheel "$(realpath "$(dirname "$path")")/${path##*/}"
    strip --strip-unneeded "$LIBRARIES/$destination"  # Debian's are stripped already
  else
    record_package "$(package_of "$path")"
  fi
done < <(list_libraries)

# Who runs, and how names are looked up.
printf 'root:x:0:0:root:/:/sbin/nologin\nlion:x:65532:65532:LION Serve:/:/sbin/nologin\n' > "$LIBRARIES/etc/passwd"
printf 'root:x:0:\nlion:x:65532:\n' > "$LIBRARIES/etc/group"
printf 'hosts: files dns\n' > "$LIBRARIES/etc/nsswitch.conf"
# What the NVIDIA container runtime looks at to find the place of the driver's libraries, and scanners the release.
cp -L /etc/debian_version /etc/os-release "$LIBRARIES/etc/"
# Debian's own authorities, not this machine's additions to them.
find /usr/share/ca-certificates/mozilla -name '*.crt' | LC_ALL=C sort | xargs cat > "$LIBRARIES/etc/ssl/certs/ca-certificates.crt"
record_package ca-certificates
printf '/usr/local/lib\n/%s\n' "$SYSTEM" > "$LIBRARIES/etc/ld.so.conf"
ldconfig -r "$LIBRARIES"

mkdir -p "$PROGRAMS/usr/share/doc/lion-serve"
cmake --install "$BUILD" --prefix "$PROGRAMS/usr/local" --strip --component programs > /dev/null
cp LICENSE "$PROGRAMS/usr/share/doc/lion-serve/"

find "$LIBRARIES" "$PROGRAMS" -exec touch -hd @0 {} +
size() { du -cm --apparent-size "$@" | awk 'END { print $1 }'; }
wheels=$(size "$LIBRARIES/usr/local/lib") all=$(size "$LIBRARIES")
printf 'image: %d MB: %d of wheels, %d of Debian, %d of programs\n' $((all + $(size "$PROGRAMS"))) "$wheels" $((all - wheels)) "$(size "$PROGRAMS")"
du -m --apparent-size "$LIBRARIES"/usr/local/lib/* | sort -rn | awk '{ sub(".*/", "", $2); printf "image:   %4d MB %s\n", $1, $2 }'
