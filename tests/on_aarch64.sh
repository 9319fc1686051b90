#!/usr/bin/env bash
# Tests on an emulated 64-bit Arm processor: tests/on_aarch64.sh [PYTEST ARGUMENTS]
#
# On Debian as root with qemu-user-static: fetches Python of this Debian, and wheels, for arm64 into a folder
# (MINICAFFE_AARCH64, default ~/.cache/minicaffe-aarch64), and runs pytest there. Compiling is some ten times as slow as
# on a real processor: without arguments only the functions of maths and the layers that use them are tested.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${MINICAFFE_AARCH64:-$HOME/.cache/minicaffe-aarch64}
library="libc6 libgcc-s1 libstdc++6 libgomp1 zlib1g libssl3 libffi8 libexpat1 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1
         libncursesw6 libtinfo6 libreadline8 libcrypt1"
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ ! -e "$work/site/numba" ]; then
    mkdir -p "$work/debs" "$work/system" "$work/site" "$work/wheels"
    dpkg --add-architecture arm64
    apt-get update -qq
    (
        cd "$work/debs"
        python="python$version python$version-minimal libpython$version-minimal libpython$version-stdlib"
        apt-get download -qq $(printf '%s:arm64 ' $library $python)
    )
    dpkg --remove-architecture arm64
    for package in "$work"/debs/*.deb; do dpkg -x "$package" "$work/system"; done
    platforms=$(printf -- '--platform manylinux_2_%s_aarch64 ' 17 26 27 28 31 34)
    "$root/.venv/bin/python" -m pip download --quiet --dest "$work/wheels" --only-binary=:all: $platforms \
        --platform manylinux2014_aarch64 --python-version "$version" --implementation cp \
        numpy numba threadpoolctl protobuf h5py lmdb pillow click rich pooch pytest hypothesis
    for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/site"; done
fi

# the package as an installation would lay it out
rm -rf "$work/package"
mkdir -p "$work/package/minicaffe"
ln -s "$root"/minicaffe/* "$work/package/minicaffe/"
ln -s "$root"/{kernels,proto,models,tools} "$work/package/minicaffe/"

[ $# -gt 0 ] || set -- "$root/tests/test_kernels_maths.py" "$root/tests/test_layers_golden.py" \
    -k "last_places or ((Softmax or Sigmoid or Infogain) and not strict)"
cd "$work"
export PYTHONPATH=$work/site:$work/package PYTHONDONTWRITEBYTECODE=1 NUMBA_CACHE_DIR=$work/cache
exec qemu-aarch64-static -L "$work/system" "$work/system/usr/bin/python$version" -m pytest \
    -p no:cacheprovider -c "$root/setup.cfg" --rootdir "$root" -o pythonpath="$root/tests" "$@"
