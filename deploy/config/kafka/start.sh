#!/bin/sh
# Starts the one Kafka node in its container; formats its storage at the first start.
set -eu
settings=/tmp/server.properties
{
    cat /etc/frontrow/server.properties
    # Containers reach the broker by its name; the host (load tests) only by its address, which may
    # change at each start.
    echo "advertised.listeners=CONTAINERS://kafka:9092,HOST://$(hostname -i):9094"
} >$settings
# By default the distribution's scripts write logs beside the program, which is read-only.
export LOG_DIR=/tmp/kafka-logs EXTRA_ARGS=
export KAFKA_LOG4J_OPTS=-Dlog4j2.configurationFile=/etc/log4j2.properties
# The cheapest to start and to run at this size; nobody reads the counters of UsePerfData, which
# would be updated 20 times per second.
export KAFKA_JVM_PERFORMANCE_OPTS='-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData'
[ -e /var/lib/kafka/data/meta.properties ] ||
    /opt/kafka/bin/kafka-storage.sh format --cluster-id "$KAFKA_CLUSTER_ID" --config $settings
exec /opt/kafka/bin/kafka-server-start.sh $settings
