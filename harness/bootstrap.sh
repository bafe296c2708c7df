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

# Creates an empty log that only its owner can read: it may name a proxy with its password.
new_log() { (umask 077 && rm -f "$1" && : >"$1"); }

# Runs a command with its output in a log, and shows progress as a count of the lines that match,
# because apt, pip and Maven print either nothing or too much. Fails with WHAT and the first errors.
# Usage: run_logged LOG PATTERN LABEL WHAT COMMAND...
run_logged() {
    local log=$1 pattern=$2 label=$3 what=$4 line count=0
    shift 4
    new_log "$log"
    if ! "$@" 2>&1 | tee "$log" | while IFS= read -r line; do
        [[ $line =~ $pattern ]] || continue
        count=$((count + 1))
        [ $((count % 20)) != 0 ] || say "  $label: $count"
    done
    then
        grep -m 3 -E 'WARNING|ERROR|^E:' "$log" >&2 || tail -n 5 "$log" >&2
        fail "$what; the complete output is in $log."
    fi
}

# mariadbd is in /usr/sbin, which an ordinary user may not have on the path.
PATH=$PATH:$PWD/$LOCAL_DIR/bin:/usr/local/sbin:/usr/sbin:/sbin

# --- system packages -----------------------------------------------------------------------

java_is_recent() {
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

missing_server_packages() {
    # The package redis-server starts a service of the system, now and at boot. See link_redis.
    have redis-server || have redis-check-rdb || say redis-tools
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
    [ -n "$python" ] || say python3
    "${python:-false}" -c 'import venv, ensurepip' 2>/dev/null || say "${python:-python3}-venv"
}

install_packages() {
    [ $# -gt 0 ] || return 0
    if ! have apt-get; then
        fail "this machine lacks $* and has no apt-get; install them by its own means, or use \`make up\`, which needs Docker and little else."
    fi
    local as_root log=$LOG_DIR/apt.log
    if [ "$(id -u)" = 0 ]; then
        as_root=(env)
    elif have sudo && sudo -n true 2>/dev/null; then
        as_root=(sudo -n env)
    elif [ -t 0 ] && have sudo && say "This machine lacks $*; to install them, sudo may ask for your password." && sudo -v; then
        as_root=(sudo env)
    else
        fail "this machine lacks $*, and neither root nor sudo is at hand: have somebody install them (apt-get install --no-install-recommends $*), or use \`make up\`, which needs Docker and little else."
    fi
    say "Installing with apt: $* (log: $log)"
    new_log $LOG_DIR/apt-update.log
    "${as_root[@]}" apt-get update >$LOG_DIR/apt-update.log 2>&1 ||
        say "  (apt-get update failed, going on with the lists this machine has; see $LOG_DIR/apt-update.log)"
    run_logged "$log" '^(Get:|Unpacking |Setting up )' 'downloaded, unpacked or set up' \
        "apt could not install $*" "${as_root[@]}" DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@"
}

# redis-tools has the same program as the package redis-server, under the name that makes it check a
# file: the name decides what the program does.
link_redis() {
    have redis-server && return
    mkdir -p $LOCAL_DIR/bin
    ln -sf "$(command -v redis-check-rdb)" $LOCAL_DIR/bin/redis-server
    redis-server --version 2>/dev/null | grep -q '^Redis server' || {
        rm $LOCAL_DIR/bin/redis-server
        fail "the redis-check-rdb of this machine is no Redis server; install a redis-server."
    }
}

# --- Python ----------------------------------------------------------------------------------

# A stamp records the lock files of the environment. `dev` includes the runtime packages, so
# `make run` can use a development environment.
runtime_stamp() { sha256sum requirements.lock | cut -c1-64; }
dev_stamp() { cat requirements.lock requirements-dev.lock | sha256sum | cut -c1-64; }
stamped() { [ -x $VENV/bin/python ] && [ "$(cat "$VENV/.frontrow-$1" 2>/dev/null)" = "$2" ]; }

ensure_venv() {
    local kind=$1 lock=requirements.lock python
    if stamped dev "$(dev_stamp)"; then return; fi
    if [ "$kind" = runtime ] && stamped runtime "$(runtime_stamp)"; then return; fi
    # Without pip, its creation was interrupted.
    if ! $VENV/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(find_python)
        [ -n "$python" ] || fail "Python 3.11 or newer is needed, and this system's packages only have an older one; install a newer python3 (with venv), or use \`make up\`, which needs Docker and little else."
        say "Creating a virtual environment in $VENV"
        rm -rf $VENV
        new_log $LOG_DIR/venv.log
        "$python" -m venv $VENV 2>$LOG_DIR/venv.log ||
            fail "$python cannot create a virtual environment; the reason is in $LOG_DIR/venv.log."
    fi
    rm -f $VENV/.frontrow-*
    [ "$kind" = runtime ] || lock=requirements-dev.lock
    say "Installing Python packages ($kind, $(grep -c == $lock) at most, from $lock)"
    run_logged $LOG_DIR/pip.log '^(Collecting|Requirement already satisfied)' 'packages checked' \
        "pip could not install $lock" $VENV/bin/python -m pip install --no-input \
        --disable-pip-version-check --require-hashes -r $lock
    "${kind}_stamp" >"$VENV/.frontrow-$kind"
}

# --- Kafka -----------------------------------------------------------------------------------

kafka_stamp() { sha256sum deploy/config/kafka/pom.xml | cut -c1-64; }
kafka_is_current() { [ "$(cat $KAFKA_DIR/stamp 2>/dev/null)" = "$(kafka_stamp)" ]; }

ensure_kafka() {
    kafka_is_current && return
    say "Fetching Kafka's jars with Maven into $KAFKA_DIR"
    rm -rf $KAFKA_DIR
    mkdir -p $KAFKA_DIR
    run_logged $LOG_DIR/maven.log 'Downloaded from ' 'files downloaded' \
        "Maven could not fetch Kafka" mvn --batch-mode --file deploy/config/kafka/pom.xml \
        -DoutputDirectory="$PWD/$KAFKA_DIR/libs" dependency:copy-dependencies
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
trap 'echo "frontrow: stopped; run it again to continue." >&2; exit 130' INT TERM HUP
flock -n 9 || { say "Waiting for another set-up of this tree to finish"; flock 9; }

case ${1:-} in
    run | demo) kind=runtime ;;
    check | test | bench) kind=dev ;;
    *) fail "usage: harness/bootstrap.sh run|test|check|bench|demo" ;;
esac
case $1 in
    run | test | bench) servers=yes ;;
    *) servers=no ;;
esac
install_packages $(
    missing_python_packages
    [ $servers = no ] || missing_server_packages
    [ "$1" != bench ] || have wrk || say wrk
)
[ $servers = no ] || link_redis
ensure_venv $kind
[ $servers = no ] || ensure_kafka
