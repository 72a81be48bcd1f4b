#!/usr/bin/env bash
# Installs what building and testing llmlua needs on Debian 12 or Ubuntu 24.04, and builds LuaJIT; does nothing, fast, if
# all is there.
# usage: scripts/dev/setup.sh [--check-tools] [--browser]
#   --check-tools   also clang, clang-format (style and fuzz checks)
#   --browser       also Chromium and its driver (the tests of the server's page)
set -euo pipefail

packages=(build-essential cmake ninja-build pkg-config
          libluajit-5.1-dev luajit lua-dkjson libedit-dev
          libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev libsentencepiece-dev
          libevent-dev libssl-dev libcmocka-dev lua-busted
          python3 python3-pip python3-venv curl unzip)
browser=0
for option in "$@"; do
  case $option in
    --check-tools) packages+=(clang clang-format libclang-rt-dev) ;;
    --browser) command -v chromedriver >/dev/null && command -v chromium >/dev/null || browser=1 ;;
    *) echo "setup: unknown option $option" >&2; exit 2 ;;
  esac
done

# Ubuntu's Chromium is a snap, which containers cannot run: there, any chromium and chromedriver in PATH do.
if [ $browser = 1 ]; then
  if grep -q '^ID=debian' /etc/os-release; then packages+=(chromium chromium-driver); else
    echo "setup: put chromium and chromedriver into PATH to test the server's page; its tests are left out" >&2
  fi
fi

missing=()
for p in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$p")
done

# Without it the system's LuaJIT serves: scripts are then stopped later, and compiled by an older compiler.
build_luajit() { "$(dirname "$0")/build-luajit.sh" || echo "setup: going on with the system's LuaJIT" >&2; }
if [ ${#missing[@]} -eq 0 ]; then
  build_luajit
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "setup: this system has no apt-get; install the equivalents of: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "setup: run as root, or install sudo, or install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "setup: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
build_luajit
