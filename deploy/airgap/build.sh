#!/usr/bin/env bash
# Builds the base images of deploy/Dockerfile and deploy/compose.yml without an image registry: from
# Debian's packages, by debootstrap, and Kafka's jars, by Maven. They get the tags of the original
# images, so nothing else has to change.
#
#   sudo deploy/airgap/build.sh images            all four base images
#   sudo deploy/airgap/build.sh images redis      only this one: python, mariadb, redis or kafka
#   deploy/airgap/build.sh wheels                 Python packages, if containers reach no index
#
# This machine's configuration decides where packages come from; DEBIAN_MIRROR, if set, is the
# address of Debian's packages for debootstrap. Needs debootstrap, Docker, Maven (kafka) and pip.
# To take images elsewhere: docker save IMAGE... | gzip > images.tar.gz, and there docker load.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() { printf 'frontrow: %s\n' "$*" >&2; exit 2; }

# tag FILE IMAGE: the tag of an image in FILE, so that it stands in one place.
tag() { sed -nE "s|^(FROM\|    image:) ($2:[^ ]+).*|\2|p" "$1" | head -n 1; }

# image NAME: builds frontrow-airgap:NAME from packages of Debian, and the stand-in on top of it.
image() {
    local name=$1 file=../compose.yml image=$1 suite=trixie packages tag root
    case $name in
        python) file=../Dockerfile packages=python3,python3-venv ;;
        mariadb) packages=mariadb-server-core,mariadb-client ;;
        redis) suite=bookworm packages=redis-server ;;
        kafka) image=apache/kafka packages=openjdk-21-jre-headless ;;
        *) fail "there is no image $name: python, mariadb, redis or kafka." ;;
    esac
    if [ "$name" = kafka ]; then
        command -v mvn >/dev/null || fail "Maven is needed for Kafka's jars: install it."
        rm -rf kafka/libs
        mvn --batch-mode --quiet --file ../config/kafka/pom.xml \
            -DoutputDirectory="$PWD/kafka/libs" dependency:copy-dependencies >>"$LOG" 2>&1 ||
            fail "Maven could not fetch Kafka: see $LOG."
    fi
    root=$(mktemp -d /var/tmp/frontrow-airgap.XXXXXX)
    # shellcheck disable=SC2064
    trap "rm -rf '$root'" EXIT
    printf 'Building %s from Debian %s (log: %s)\n' "$name" "$suite" "$LOG"
    debootstrap --variant=minbase --include="$packages" "$suite" "$root/system" \
        ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >>"$LOG" 2>&1 || fail "debootstrap failed: see $LOG."
    rm -rf "$root"/system/var/cache/apt/* "$root"/system/var/lib/apt/lists/* \
        "$root"/system/usr/share/{doc,man,locale}/* "$root"/system/var/log/*.log
    tar --create --directory "$root/system" --numeric-owner --one-file-system . |
        docker import --change 'CMD ["bash"]' - "frontrow-airgap:$name" >>"$LOG"
    rm -rf "$root"
    tag=$(tag "$file" "$image")
    DOCKER_BUILDKIT=0 docker build --quiet --tag "$tag" "$name" >>"$LOG" 2>&1 ||
        fail "docker build failed: see $LOG."
    printf 'Built %s\n' "$tag"
}

images() {
    command -v debootstrap >/dev/null || fail "debootstrap is needed: install it."
    [ "$(id -u)" = 0 ] || fail "debootstrap needs root: run this with sudo."
    docker info >/dev/null 2>&1 || fail "no Docker engine responds: start it."
    LOG=$(mktemp /var/tmp/frontrow-airgap-log.XXXXXX)
    [ $# -gt 0 ] || set -- python mariadb redis kafka
    local name
    for name in "$@"; do image "$name"; done
    rm -f "$LOG"
}

# For the Python of the image, not the one that runs here.
wheels() {
    local python
    python=$(tag ../Dockerfile python | sed -E 's/^python:([0-9]+\.[0-9]+).*/\1/')
    rm -f wheels/*.whl
    "${PYTHON:-python3}" -m pip download --quiet --dest wheels --no-deps --only-binary :all: \
        --python-version "$python" --implementation cp --platform manylinux_2_28_x86_64 \
        --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
        --require-hashes --requirement ../../requirements.lock
    printf 'Fetched %d wheels for Python %s\n' "$(find wheels -name '*.whl' | wc -l)" "$python"
}

case ${1:-} in
    images | wheels) "$@" ;;
    *) fail "usage: deploy/airgap/build.sh images [NAME...] | wheels" ;;
esac
