#!/bin/sh
# Starts MariaDB in its container: prepares the data directory once, and sets the password of each
# service at every start. Arguments go to the server.
set -eu
data=/var/lib/mysql/data
if [ ! -e "$data" ]; then
    # Renamed once it is complete, so that an interrupted installation is not used.
    rm -rf "$data.unfinished"
    mariadb-install-db --no-defaults --datadir="$data.unfinished" --skip-test-db --skip-name-resolve \
        --auth-root-authentication-method=socket --auth-root-socket-user=mysql >/tmp/install.log 2>&1 ||
        { cat /tmp/install.log >&2; exit 1; }
    mv "$data.unfinished" "$data"
fi
umask 077
for schema in concert reservation payment; do
    password=$(printenv "MYSQL_$(echo $schema | tr '[:lower:]' '[:upper:]')_PASSWORD")
    # One statement on each line, as --init-file requires. The passwords are hexadecimal.
    cat <<SQL
CREATE DATABASE IF NOT EXISTS \`$schema\` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS '$schema'@'%';
ALTER USER '$schema'@'%' IDENTIFIED BY '$password';
GRANT ALL PRIVILEGES ON \`$schema\`.* TO '$schema'@'%';
SQL
done >/tmp/init.sql
# In /tmp, the only writable place.
exec mariadbd --no-defaults --datadir="$data" --socket=/tmp/mariadb.sock \
    --pid-file=/tmp/mariadb.pid --init-file=/tmp/init.sql --bind-address=0.0.0.0 \
    --skip-name-resolve --skip-log-bin --default-time-zone=+00:00 \
    --character-set-server=utf8mb4 --collation-server=utf8mb4_unicode_ci \
    --transaction-isolation=READ-COMMITTED --innodb-flush-log-at-trx-commit=1 "$@"
