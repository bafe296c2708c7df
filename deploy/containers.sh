#!/usr/bin/env bash
# Frontrow in containers (deploy/compose.yml). Needs Docker, with docker-compose 1.29 or Compose v2.
#
#   deploy/containers.sh up        builds the image, starts everything, waits until all is healthy
#   deploy/containers.sh down      ends and removes containers and networks; DATA=delete: data too
#   deploy/containers.sh roll      replaces the programs with what is here now, one kind at a time,
#                                  new ones first; with two of each nobody notices
#   deploy/containers.sh backup FILE    dumps the databases, all as of one moment, gzipped
#   deploy/containers.sh restore FILE   puts them back as they are in the file, and starts all
#   deploy/containers.sh compose … docker compose with these settings, as in: compose logs -f
#
# All but up take the settings that up was last given:
#
# CAP       the total of all containers, a file of deploy/caps: 2c4g (default) or 6c8g
# SCALE     how many of each program, sharing its cap: 1 (default) or more
# SEED      full (default), small or none: what is put on sale where nothing is yet
# PORT      the gateway's port, 8080; the second gateway has the next one, and so on
# FRONTROW_BIND  the address that port is published on, 127.0.0.1
# PROJECT   the name before all containers, networks and volumes, frontrow
# Exit status 2: something is missing or wrong, which one sentence says.
set -euo pipefail
readonly CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

PROJECT=${PROJECT:-frontrow}
readonly STATE=../.local/containers
readonly WAIT_SECONDS=600
# Who is inside MariaDB's container may do anything; nobody else can be its administrator.
readonly AS_ADMINISTRATOR=--socket=/tmp/mariadb.sock
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
    local file=$STATE/$PROJECT.env
    if [ ! -e "$file" ]; then
        mkdir -p $STATE
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

# Everything that compose.yml asks for, from what the caller wants (or wanted last) and the secrets.
settle() {
    local program cpus megabytes remembered=$STATE/$PROJECT.settings
    # shellcheck disable=SC1090
    if [ "$1" != up ] && [ -e "$remembered" ]; then . "$remembered"; fi
    CAP=${CAP:-2c4g} SCALE=${SCALE:-1} PORT=${PORT:-8080}
    [ -e "caps/$CAP.env" ] || fail "there is no cap $CAP: choose $(cd caps && echo *.env | sed 's/\.env//g')."
    [[ $SCALE =~ ^[1-9]$ ]] || fail "SCALE must be 1 to 9, not $SCALE."
    set -a
    # shellcheck disable=SC1090
    . "caps/$CAP.env"
    make_secrets
    FRONTROW_VERSION=${FRONTROW_VERSION:-local}
    FRONTROW_PORTS=$PORT
    export FRONTROW_PORTS=$PORT-$((PORT + SCALE - 1))
    # Two of a kind share the cap of the kind, so that the total stays what was asked for.
    for program in "${PROGRAMS[@]^^}"; do
        cpus=${program}_CPUS megabytes=${program}_MB
        printf -v "$cpus" %s "$(awk -v cpus="${!cpus}" -v scale="$SCALE" 'BEGIN { print cpus / scale }')"
        printf -v "$megabytes" %s "$((${!megabytes} / SCALE))"
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

build() {
    say "Building the image frontrow:$FRONTROW_VERSION"
    docker build --quiet --tag "frontrow:$FRONTROW_VERSION" --build-arg PIP_INDEX_URL --file Dockerfile .. >/dev/null ||
        fail "the image could not be built; without --quiet: docker build -f deploy/Dockerfile ."
}

up() {
    local program name scales=()
    require_ports
    build
    for name in CAP SCALE SEED PORT FRONTROW_BIND; do
        say "$name=\${$name:-${!name:-}}"
    done >"$STATE/$PROJECT.settings"
    for program in "${PROGRAMS[@]}"; do scales+=(--scale "$program=$SCALE"); done
    say "Starting $CAP, $SCALE of each program, SEED=${SEED:-full}"
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
    if [ "${DATA:-keep}" = delete ]; then rm -f "$STATE/$PROJECT".{env,settings}; fi
}

running() { docker ps --quiet --filter "label=com.docker.compose.project=$PROJECT" --filter "label=com.docker.compose.service=$1"; }

the_mariadb() {
    local id
    id=$(running mariadb)
    [ -n "$id" ] || fail "MariaDB does not run: start it with make up."
    printf %s "$id"
}

# Up to twice as many for a moment: memory and cores beyond the cap.
roll() {
    local program old id
    the_mariadb >/dev/null
    build
    compose up --detach --no-deps migrate
    [ "$(docker wait "$(containers --quiet --filter label=com.docker.compose.service=migrate)")" = 0 ] ||
        fail "the migration failed, nothing was replaced; see deploy/containers.sh compose logs migrate."
    for program in concert reservation payment queue; do
        old=$(running $program)
        say "Replacing $program"
        compose up --detach --no-deps --no-recreate --scale $program=$((SCALE * 2)) $program
        wait_until_healthy
        for id in $old; do retire "$id"; done
    done
    # A gateway has its port to itself, so here the old one goes first.
    for id in $(running gateway); do
        say "Replacing a gateway"
        retire "$id"
        compose up --detach --no-deps --no-recreate --scale "gateway=$SCALE" gateway
        wait_until_healthy
    done
}

# Above every stop_grace_period: it drains, and ends by itself.
retire() { docker stop --time 60 "$1" >/dev/null && docker rm "$1" >/dev/null; }

backup() {
    local file=${1:-}
    [ -n "$file" ] || fail "name the file: make backup FILE=frontrow.sql.gz."
    umask 077  # it is about people
    docker exec "$(the_mariadb)" mariadb-dump $AS_ADMINISTRATOR --single-transaction --add-drop-database \
        --databases concert reservation payment | gzip >"$file.unfinished" ||
        fail "the dump failed; what there is of it is in $file.unfinished."
    mv "$file.unfinished" "$file"
    say "Wrote $file"
}

restore() {
    local file=${1:-} mariadb table next
    [ -n "$file" ] || fail "name the file: make restore FILE=frontrow.sql.gz."
    gzip --test "$file" || fail "$file is no whole gzip file; nothing was changed."
    mariadb=$(the_mariadb)
    compose stop "${PROGRAMS[@]}"
    gunzip --stdout "$file" | docker exec --interactive "$mariadb" mariadb $AS_ADMINISTRATOR ||
        fail "the restore broke off; the programs are stopped. Mend the cause and restore again."
    # Ids that were given out after the dump must not be given out again: a payment provider and
    # Kafka's topics know them.
    for table in reservation.reservation payment.payment; do
        next=$(docker exec "$mariadb" mariadb $AS_ADMINISTRATOR --skip-column-names --execute "SELECT COALESCE(MAX(id), 0) + 1000000 FROM $table")
        docker exec "$mariadb" mariadb $AS_ADMINISTRATOR --execute "ALTER TABLE $table AUTO_INCREMENT = $next"
    done
    up
}

case ${1:-} in
    up | down | roll | backup | restore | compose)
        # A file is named from where the caller is.
        if [[ $1 = backup || $1 = restore ]] && [ -n "${2:-}" ]; then set -- "$1" "$(cd "$CALLER" && realpath -m "$2")"; fi
        find_engine
        settle "$1"
        "$@"
        ;;
    *) fail "usage: deploy/containers.sh up | down | roll | backup FILE | restore FILE | compose …" ;;
esac
