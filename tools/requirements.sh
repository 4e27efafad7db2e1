#!/bin/bash
# Make sure that the programs which pip cannot install are there: on Debian and its children, install what is missing.
#
#   tools/requirements.sh venv PYTHON    what PYTHON needs to make a virtual environment
#   tools/requirements.sh test           what the tests need: nasm, Chromium, a C compiler for 32-bit x86
#
# As root, or where sudo asks for no password, missing packages are installed. Elsewhere one line says what to run.
set -euo pipefail

has() { command -v "$1" >/dev/null 2>&1; }

has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

has_chromium() {
    [ -n "${VMLAB_CHROMIUM:-}" ] || has chromium || has chromium-browser || has google-chrome
}

# A whole link, with a 64-bit division: gcc takes that from its 32-bit runtime library, which is a package of its own.
has_compiler() {
    local folder result=1
    folder=$(mktemp -d)
    printf '%s\n' 'unsigned long long n = 9, d = 2;' 'void _start(void) { n /= d; for (;;); }' >"$folder/probe.c"
    for compiler in "gcc -m32" i686-linux-gnu-gcc; do
        # shellcheck disable=SC2086  # the compiler and its option are two words
        if $compiler -ffreestanding -nostdlib -static -no-pie -o "$folder/probe" "$folder/probe.c" -lgcc \
            >/dev/null 2>&1; then
            result=0
            break
        fi
    done
    rm -rf "$folder"
    return "$result"
}

packages=()
case "${1:-}" in
venv)
    has_venv "$2" || packages+=("python$("$2" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv")
    ;;
test)
    has nasm || packages+=(nasm)
    has_chromium || packages+=(chromium fonts-dejavu-core fonts-liberation)
    if ! has_compiler; then
        case "$(uname -m)" in
        x86_64 | i?86) packages+=(gcc gcc-multilib) ;;
        *) packages+=(gcc-i686-linux-gnu) ;;
        esac
    fi
    ;;
*)
    echo "usage: $0 venv PYTHON | test" >&2
    exit 2
    ;;
esac

if [ "${#packages[@]}" -eq 0 ]; then
    exit 0
elif [ -n "${VMLAB_INSTALLED:-}" ]; then
    echo "vmlab: ${packages[*]}: installed, and yet what they should give does not work here." >&2
    exit 1
fi

if ! has apt-get; then
    echo "vmlab: missing here; by the names of Debian's packages: ${packages[*]}. Install them and try again." >&2
    exit 1
elif [ "$(id -u)" -eq 0 ]; then
    as_root=(env)
elif has sudo && sudo -n true 2>/dev/null; then
    as_root=(sudo env)
else
    echo "vmlab: missing packages; run: sudo apt-get update && sudo apt-get install -y ${packages[*]}" >&2
    exit 1
fi

echo "vmlab: installing ${packages[*]}"
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get update -qq
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" </dev/null >/dev/null
VMLAB_INSTALLED=yes exec "$0" "$@" # true only if what was installed serves
