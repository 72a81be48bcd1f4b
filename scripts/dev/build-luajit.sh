#!/usr/bin/env bash
# Builds LuaJIT as llmlua wants it into .cache/luajit/, where CMake looks first; does nothing, fast, if it is there.
# The distributions' packages differ from it in two ways: Debian 12's is of March 2022, before four years of corrections
# to its compiler; and none checks hooks in compiled code (LUAJIT_ENABLE_CHECKHOOK), without which a compiled endless
# loop cannot be stopped. The source is LuaJIT's v2.1 branch at commit 18b087cd of 30 March 2026, as the Python package
# lupa 2.8 carries it. Needs a C compiler, make and pip.
set -euo pipefail
cd "$(dirname "$0")/../.."

package=lupa-2.8.tar.gz
sum=d8022641b9ec8ecf2c5ecbe9f47e5a70e0b87c4b5ae921b92cb02a638e0acd08
released=1774896198 # the commit's time, which LuaJIT makes its version number of
build=2.1.$released-checkhook-1
out=.cache/luajit/$build
packages=.cache/packages # shared with fetch-vocabs.sh

[ -e "$out/libluajit.a" ] && exit 0
mkdir -p .cache/luajit "$packages"

right() { echo "$sum  $packages/$package" | sha256sum --check --status 2>/dev/null; }
for attempt in 1 2 3; do
  right && break
  [ $attempt = 3 ] && { echo "build-luajit: could not fetch lupa 2.8 from PyPI; check the network" >&2; exit 1; }
  rm -f "$packages/$package"
  # pip asks the package for its metadata, whose setup would build the Luas in it, were it not told to leave them.
  LUPA_NO_BUNDLE=true python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary lupa \
    --dest "$packages" lupa==2.8 >&2 || sleep 2
done

tmp=$(mktemp -d -p .cache/luajit)
trap 'rm -rf "$tmp"' EXIT
tar -xzf "$packages/$package" -C "$tmp" --strip-components 3 lupa-2.8/third-party/luajit21
rm -f "$tmp/.git" # names a repository that is not here
echo "$released" >"$tmp/.relver"

# PREFIX and MULTILIB: where the distribution's Lua modules lie. -fPIC: it also becomes part of shared libraries.
# Without BUILDMODE the Makefile would compile everything twice.
multiarch=$(${CC:-cc} -print-multiarch)
make -C "$tmp/src" -j"$(nproc)" libluajit.a BUILDMODE=static CFLAGS=-fPIC XCFLAGS=-DLUAJIT_ENABLE_CHECKHOOK \
  CC="${CC:-cc}" PREFIX=/usr MULTILIB="lib${multiarch:+/$multiarch}" >"$tmp/log" 2>&1 ||
  { tail -n 20 "$tmp/log" >&2; echo "build-luajit: the build failed" >&2; exit 1; }

mkdir -p "$tmp/done/include"
cp "$tmp"/src/{lua,luaconf,lualib,lauxlib,luajit}.h "$tmp/done/include/"
cp "$tmp/COPYRIGHT" "$tmp/src/libluajit.a" "$tmp/done/"
# Several may build at once (work trees that share a cache): the first to finish wins.
mv -T "$tmp/done" "$out" 2>/dev/null || [ -e "$out/libluajit.a" ]
