#!/usr/bin/env bash
# Frontrow in containers (deploy/compose.yml). Needs Docker, with docker-compose 1.29 or Compose v2.
#
#   deploy/containers.sh up        builds the image, starts everything, waits until all is healthy
#   deploy/containers.sh down      ends and removes containers and networks; DATA=delete: data too
#   deploy/containers.sh compose … docker compose with these settings, as in: compose logs -f
#
# CAP       the total of all containers, a file of deploy/caps: 2c4g (default) or 6c8g
# SCALE     how many of each program, sharing its cap: 1 (default) or more
# SEED      full (default), small or none: what is put on sale where nothing is yet
# PORT      the gateway's port, 8080; the second gateway has the next one, and so on
# FRONTROW_BIND  the address that port is published on, 127.0.0.1
# PROJECT   the name before all containers, networks and volumes, frontrow
# Exit status 2: something is missing or wrong, which one sentence says.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

PROJECT=${PROJECT:-frontrow}
SCALE=${SCALE:-1}
PORT=${PORT:-8080}
readonly SECRETS_DIR=../.local/containers
readonly WAIT_SECONDS=600
readonly PROGRAMS=(gateway queue concert reservation payment)

say() { printf '%s\n' "$*"; }
fail() { printf 'frontrow: %s\n' "$*" >&2; exit 2; }

find_engine() {
    command -v docker >/dev/null || fail "Docker is needed: install it, or use \`make run\`, which needs none."
    docker info >/dev/null 2>&1 || fail "no Docker engine answers: start it, or use \`make run\`, which needs none."
    if docker compose version >/dev/null 2>&1; then
        COMPOSE=(docker compose)
    elif command -v docker-compose >/dev/null; then
        COMPOSE=(docker-compose)
    else
        fail "Docker Compose is needed: install docker-compose, or Docker's compose plugin."
    fi
}

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# Made at the first start, for their owner alone.
make_secrets() {
    local file=$SECRETS_DIR/$PROJECT.env
    if [ ! -e "$file" ]; then
        mkdir -p $SECRETS_DIR
        (
            umask 077
            {
                for name in MYSQL_CONCERT MYSQL_RESERVATION MYSQL_PAYMENT REDIS; do
                    say "${name}_PASSWORD=$(random_hex 24)"
                done
                say "TOKEN_SIGNING_KEY_ID=k1"
                say "TOKEN_KEYS='{\"k1\": \"$(random_hex 32)\"}'"
            } >"$file.unfinished"
        )
        mv "$file.unfinished" "$file"
    fi
    # shellcheck disable=SC1090
    . "$file"
}

# Everything that compose.yml asks for, from CAP, SCALE and the secrets.
settle() {
    local cap=${CAP:-2c4g} name
    [ -e "caps/$cap.env" ] || fail "there is no cap $cap: choose $(cd caps && echo *.env | sed 's/\.env//g')."
    [[ $SCALE =~ ^[1-9]$ ]] || fail "SCALE must be 1 to 9, not $SCALE."
    set -a
    # shellcheck disable=SC1090
    . "caps/$cap.env"
    make_secrets
    FRONTROW_VERSION=${FRONTROW_VERSION:-local}
    FRONTROW_PORTS=$PORT
    FRONTROW_PORTS=$PORT-$((PORT + SCALE - 1))
    # Two of a kind share the cap of the kind, so that the total stays what was asked for.
    for name in "${PROGRAMS[@]^^}"; do
        declare -g "${name}_CPUS=$(awk "BEGIN {print $(eval "echo \$${name}_CPUS") / $SCALE}")"
        declare -g "${name}_MB=$(($(eval "echo \$${name}_MB") / SCALE))"
    done
    set +a
}

compose() { "${COMPOSE[@]}" --project-name "$PROJECT" --file compose.yml "$@"; }

# lists the containers, running or not
containers() { docker ps --all --filter "label=com.docker.compose.project=$PROJECT" "$@"; }

require_ports() {
    local port
    for ((port = PORT; port < PORT + SCALE; port++)); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null &&
            ! docker ps --filter "label=com.docker.compose.project=$PROJECT" --format '{{.Ports}}' | grep -q ":$port->"
        then
            fail "port $port is taken (by \`make run\`?): stop what listens there, or choose another with PORT."
        fi
    done
}

wait_until_healthy() {
    local deadline=$((SECONDS + WAIT_SECONDS)) ill
    while true; do
        ill=$(containers --filter health=starting --filter health=unhealthy --format '{{.Names}}')
        [ -n "$ill" ] || return 0
        [ $SECONDS -lt $deadline ] || fail "not healthy after $WAIT_SECONDS s: $ill; see deploy/containers.sh compose logs."
        sleep 1
    done
}

up() {
    local program scales=()
    require_ports
    say "Building the image frontrow:$FRONTROW_VERSION"
    docker build --quiet --tag "frontrow:$FRONTROW_VERSION" --file Dockerfile .. >/dev/null ||
        fail "the image could not be built; without --quiet: docker build -f deploy/Dockerfile ."
    for program in "${PROGRAMS[@]}"; do scales+=(--scale "$program=$SCALE"); done
    say "Starting ${CAP:-2c4g}, $SCALE of each program, SEED=${SEED:-full}"
    compose up --detach --remove-orphans "${scales[@]}" ||
        fail "not everything started; see deploy/containers.sh compose logs."
    wait_until_healthy
    say "Serving on $(docker ps --filter "label=com.docker.compose.project=$PROJECT" \
        --filter label=com.docker.compose.service=gateway --format '{{.Ports}}' |
        sed -nE 's|^([^,]*)->.*|http://\1|p' | sort | paste -sd' ')"
}

down() {
    local delete=()
    if [ "${DATA:-keep}" = delete ]; then delete=(--volumes); fi
    compose down --remove-orphans "${delete[@]}"
    if [ "${DATA:-keep}" = delete ]; then rm -f "$SECRETS_DIR/$PROJECT.env"; fi
}

find_engine
settle
case ${1:-} in
    up | down) "$1" ;;
    compose) shift && compose "$@" ;;
    *) fail "usage: deploy/containers.sh up | down | compose …" ;;
esac
