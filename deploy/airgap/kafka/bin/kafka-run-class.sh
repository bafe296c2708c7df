#!/bin/bash
# Runs a class of Kafka, as the script of this name in Kafka's distribution does.
# shellcheck disable=SC2086  # options are words
exec java ${KAFKA_HEAP_OPTS:--Xmx256M} ${KAFKA_JVM_PERFORMANCE_OPTS:-} ${KAFKA_LOG4J_OPTS:-} \
    ${KAFKA_OPTS:-} -cp '/opt/kafka/libs/*' "$@"
