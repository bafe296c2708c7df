#!/usr/bin/env bash
# Installs on a plain Debian or Ubuntu machine what `python -m harness.cli` needs.
#
#   harness/bootstrap.sh run     system packages, runtime packages of Python, Kafka's jars
#   harness/bootstrap.sh test    the same with the development packages of Python
#   harness/bootstrap.sh check   development packages of Python only, for linting: no server
#   harness/bootstrap.sh bench   as test, and wrk
#   harness/bootstrap.sh demo    runtime packages of Python only
#
# Idempotent: with everything installed it takes a fraction of a second and calls neither apt nor
# pip nor Maven. The machine's configuration of apt, pip and Maven decides where packages come from.
# Exit code 2: the machine lacks something that this script cannot or must not install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly LOCAL_DIR=.local
readonly VENV=.venv
readonly KAFKA_DIR=$LOCAL_DIR/lib/kafka
readonly LOG_DIR=$LOCAL_DIR/setup

say() { printf '%s\n' "$*"; }
fail() { printf 'frontrow: %s\n' "$*" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }

# Shows progress as a count, because apt, pip and Maven print either nothing or too much.
# Usage: command | show_count PATTERN LABEL [TOTAL]
show_count() {
    local count=0 line of=${3:+/$3}
    while IFS= read -r line; do
        [[ $line =~ $1 ]] || continue
        count=$((count + 1))
        if [ -t 1 ]; then
            printf '\r  %s: %d%s ' "$2" "$count" "$of"
        elif [ $((count % 20)) = 0 ]; then
            printf '  %s: %d%s\n' "$2" "$count" "$of"
        fi
    done
    if [ -t 1 ]; then printf '\r\033[K'; fi
    printf '  %s: %d, done\n' "$2" "$count"
}

# mariadbd is in /usr/sbin, which an ordinary user may not have on the path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# --- system packages -----------------------------------------------------------------------

java_is_recent() {
    have java || return 1
    local major
    major=$(java -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p' | head -n 1)
    [ "${major:-0}" -ge 17 ]
}

# The default Java of the release, or Java 17 where the default is older.
java_package() {
    local ID='' VERSION_ID=''
    # shellcheck disable=SC1091
    [ -r /etc/os-release ] && . /etc/os-release
    case $ID:$VERSION_ID in
        debian:11 | debian:12 | ubuntu:2[0-4].*) printf openjdk-17-jre-headless ;;
        *) printf default-jre-headless ;;
    esac
}

# A Python that is new enough for this project; empty if there is none.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if have "$candidate" && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
        then
            printf '%s' "$candidate"
            return
        fi
    done
}

venv_is_usable() { [ -n "$1" ] && "$1" -c 'import venv, ensurepip' 2>/dev/null; }

missing_server_packages() {
    have redis-server || say redis-server
    # The core packages have only the binaries: no service, no configuration of a system server.
    # mariadb-install-db (server-core) calls my_print_defaults (client-core).
    { have mariadbd && have mariadb-install-db; } || say mariadb-server-core
    have my_print_defaults || say mariadb-client-core
    java_is_recent || say "$(java_package)"
    # Only needed to fetch Kafka's jars.
    kafka_is_current || have mvn || say maven
}

missing_python_packages() {
    local python
    # An existing environment needs neither python3-venv nor the system's Python.
    [ -x $VENV/bin/python ] && return
    python=$(find_python)
    if [ -z "$python" ]; then
        say python3
        say python3-venv
    elif ! venv_is_usable "$python"; then
        say "$python-venv"
    fi
}

# apt installs and *starts* Redis. policy-rc.d is Debian's way to prevent the start: invoke-rc.d and
# deb-systemd-invoke run it before they start anything, and status 101 means "forbidden". An existing
# file belongs to the administrator and stays; if it allows starting, Redis is not installed.
POLICY_FILE=/usr/sbin/policy-rc.d
POLICY_IS_OURS=no
REDIS_IS_NEW=no
AS_ROOT=()

hold_services_back() {
    if [ -e $POLICY_FILE ]; then
        "${AS_ROOT[@]}" $POLICY_FILE redis-server start >/dev/null 2>&1 && fail \
            "$POLICY_FILE lets services start at installation, so Redis would be started as a system service; install redis-server yourself, then run this again."
        return 0
    fi
    POLICY_IS_OURS=yes
    printf '#!/bin/sh\n# Created by frontrow while it installs packages; removed afterwards.\nexit 101\n' |
        "${AS_ROOT[@]}" tee $POLICY_FILE >/dev/null
    "${AS_ROOT[@]}" chmod 755 $POLICY_FILE
}

# Runs however the installation ends: a failure or Ctrl-C may come after Redis was set up.
release_services() {
    trap '' INT TERM HUP
    if [ $REDIS_IS_NEW = yes ]; then
        keep_redis_from_booting
        REDIS_IS_NEW=no
    fi
    if [ $POLICY_IS_OURS = yes ]; then
        "${AS_ROOT[@]}" rm -f $POLICY_FILE
        POLICY_IS_OURS=no
    fi
    trap - INT TERM HUP EXIT
}

# The package's postinst enables its unit (start at boot) without asking policy-rc.d. Disabling it
# afterwards also holds for later upgrades, which check the links, and unlike masking it lets the
# administrator enable the service later. Both commands need no running init system.
keep_redis_from_booting() {
    if have update-rc.d; then "${AS_ROOT[@]}" update-rc.d redis-server disable >/dev/null 2>&1 || true; fi
    if have systemctl; then "${AS_ROOT[@]}" systemctl disable redis-server.service >/dev/null 2>&1 || true; fi
}

install_packages() {
    [ $# -gt 0 ] || return 0
    if ! have apt-get; then
        fail "this machine lacks $* and has no apt-get; install them by its own means, or use \`make up\`, which needs Docker and little else."
    fi
    if [ "$(id -u)" = 0 ]; then
        AS_ROOT=(env)
    elif have sudo && sudo -n true 2>/dev/null; then
        AS_ROOT=(sudo -n)
    elif [ -t 0 ] && have sudo && say "This machine lacks $*; to install them, sudo may ask for your password." && sudo -v; then
        AS_ROOT=(sudo)
    else
        fail "this machine lacks $*, and neither root nor sudo is at hand: have somebody install them (apt-get install --no-install-recommends $*), or use \`make up\`, which needs Docker and little else."
    fi
    local log=$LOG_DIR/apt.log
    say "Installing with apt: $*"
    case " $* " in
        *" redis-server "*)
            trap release_services EXIT
            trap 'exit 130' INT TERM HUP
            hold_services_back
            REDIS_IS_NEW=yes
            ;;
    esac
    say "  refreshing the package lists"
    "${AS_ROOT[@]}" apt-get update >"$log" 2>&1 ||
        say "  (apt-get update failed, going on with the lists this machine has; see $log)"
    say "  downloading and unpacking (log: $log)"
    # Not a pipeline: a signal while bash starts one ends it in the middle of its EXIT trap.
    local display counting status=0
    exec {display}> >(tee -a "$log" |
        show_count '^(Get:|Unpacking |Setting up )' 'downloaded, unpacked or set up')
    counting=$!
    "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@" >&"$display" 2>&1 || status=$?
    exec {display}>&-
    wait $counting || status=$?
    if [ $status != 0 ]; then
        tail -n 5 "$log" >&2
        fail "apt could not install $*; the complete output is in $log."
    fi
    release_services
}

# --- Python ----------------------------------------------------------------------------------

# A stamp records the lock files of the environment. `dev` includes the runtime packages, so
# `make run` can use a development environment.
runtime_stamp() { sha256sum requirements.lock | cut -c1-64; }
dev_stamp() { cat requirements.lock requirements-dev.lock | sha256sum | cut -c1-64; }
stamped() { [ -x $VENV/bin/python ] && [ "$(cat "$VENV/.frontrow-$1" 2>/dev/null)" = "$2" ]; }

pip_install() {
    local kind=$1 lock=$2 log=$LOG_DIR/pip.log total
    total=$(grep -cE '^[a-zA-Z0-9].*==' "$lock")
    say "Installing Python packages ($kind, $total at most, from $lock)"
    if ! $VENV/bin/python -m pip install --no-input --disable-pip-version-check \
        --require-hashes -r "$lock" 2>&1 | tee "$log" |
        show_count '^(Collecting|Requirement already satisfied)' 'packages checked' "$total"
    then
        tail -n 5 "$log" >&2
        fail "pip could not install $lock; the complete output is in $log."
    fi
}

ensure_venv() {
    local kind=$1 python
    if stamped dev "$(dev_stamp)"; then return; fi
    if [ "$kind" = runtime ] && stamped runtime "$(runtime_stamp)"; then return; fi
    # Without pip, its creation was interrupted.
    if ! $VENV/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(find_python)
        [ -n "$python" ] || fail "Python 3.11 or newer is needed, and this system's packages only have an older one; install a newer python3 (with venv), or use \`make up\`, which needs Docker and little else."
        say "Creating a virtual environment in $VENV"
        rm -rf $VENV
        "$python" -m venv $VENV
    fi
    rm -f $VENV/.frontrow-*
    if [ "$kind" = dev ]; then
        pip_install development requirements-dev.lock
        dev_stamp >$VENV/.frontrow-dev
    else
        pip_install runtime requirements.lock
        runtime_stamp >$VENV/.frontrow-runtime
    fi
}

# --- Kafka -----------------------------------------------------------------------------------

kafka_stamp() { sha256sum deploy/config/kafka/pom.xml | cut -c1-64; }
kafka_is_current() { [ "$(cat $KAFKA_DIR/stamp 2>/dev/null)" = "$(kafka_stamp)" ]; }

ensure_kafka() {
    kafka_is_current && return
    local log=$LOG_DIR/maven.log
    say "Fetching Kafka's jars with Maven into $KAFKA_DIR"
    rm -rf $KAFKA_DIR
    mkdir -p $KAFKA_DIR
    if ! mvn --batch-mode --file deploy/config/kafka/pom.xml \
        -DoutputDirectory="$PWD/$KAFKA_DIR/libs" dependency:copy-dependencies 2>&1 | tee "$log" |
        show_count 'Downloaded from ' 'files downloaded'
    then
        grep -m 3 -E 'WARNING|ERROR' "$log" >&2 || true
        fail "Maven could not fetch Kafka; the complete output is in $log."
    fi
    kafka_stamp >$KAFKA_DIR/stamp
}

# --- steps ---------------------------------------------------------------------------------

mkdir -p $LOCAL_DIR $LOG_DIR 2>/dev/null || true
for place in . $LOCAL_DIR $LOG_DIR $LOCAL_DIR/bootstrap.lock $LOCAL_DIR/lib $VENV; do
    [ ! -e "$place" ] || [ -w "$place" ] || fail \
        "no permission to write to $PWD/$place: it probably belongs to another user who ran this before; make it yours with chown -R $(id -un), or delete it."
done
[ -d $LOG_DIR ] || fail "cannot make $PWD/$LOG_DIR: is the disk full?"
# Two at the same time (make run beside make test) must not install over each other.
exec 9>$LOCAL_DIR/bootstrap.lock
flock -n 9 || { say "Waiting for another set-up of this tree to finish"; flock 9; }

case ${1:-} in
    check)
        install_packages $(missing_python_packages)
        ensure_venv dev
        ;;
    run | test | bench)
        install_packages $(
            missing_server_packages
            missing_python_packages
            [ "$1" != bench ] || have wrk || say wrk
        )
        if [ "$1" = run ]; then ensure_venv runtime; else ensure_venv dev; fi
        ensure_kafka
        ;;
    demo)
        install_packages $(missing_python_packages)
        ensure_venv runtime
        ;;
    *)
        fail "usage: harness/bootstrap.sh run|test|check|bench|demo"
        ;;
esac
