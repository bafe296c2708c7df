"""What aiokafka's errors mean while a broker is lost, and how each is treated.

No request of a user waits for Kafka: events wait in the outbox, and consumers start again where
they committed. So each error ends in another attempt, with pauses of up to 5 s. aiokafka itself
first repeats a request whose error it calls retriable, within the time of the attempt.
"""

from enum import Enum

from aiokafka import errors
from aiokafka.errors import KafkaError


class Treatment(Enum):
    """How an error of Kafka is treated. Either way, the next attempt uses a new connection."""

    RETRY = "it ends by itself"
    REFUSED = "an operator must act: logged as an error too"


RETRY, REFUSED = Treatment

# Anything else is REFUSED.
MEANINGS: dict[type[KafkaError], tuple[Treatment, str]] = {
    # No broker, or no connection to one.
    errors.KafkaConnectionError: (RETRY, "the connection failed"),
    errors.KafkaTimeoutError: (RETRY, "no answer in time"),
    errors.KafkaUnavailableError: (RETRY, "no broker can be reached"),
    errors.NoBrokersAvailable: (RETRY, "no broker can be reached"),
    errors.NodeNotReadyError: (RETRY, "the broker is not connected"),
    errors.BrokerNotAvailableError: (RETRY, "the broker is not available"),
    errors.RequestTimedOutError: (RETRY, "the broker did not finish in time"),
    errors.CorrelationIdError: (RETRY, "answers are out of order"),
    errors.KafkaProtocolError: (RETRY, "an answer cannot be read"),
    errors.Cancelled: (RETRY, "the request was cancelled"),
    errors.TooManyInFlightRequests: (RETRY, "too many requests at once"),
    errors.QuotaViolationError: (RETRY, "a quota is used up"),
    # The leader of a partition, or the controller, is another broker now.
    errors.NotLeaderForPartitionError: (RETRY, "the leader is another broker"),
    errors.LeaderNotAvailableError: (RETRY, "a leader is being elected"),
    errors.ReplicaNotAvailableError: (RETRY, "the broker has no replica"),
    errors.StaleLeaderEpochCodeError: (RETRY, "the leader's epoch has passed"),
    errors.StaleControllerEpochError: (RETRY, "the controller's epoch has passed"),
    errors.NotControllerError: (RETRY, "the controller is another broker"),
    errors.UnknownTopicOrPartitionError: (RETRY, "the broker does not know the topic (yet)"),
    errors.StaleMetadata: (RETRY, "what is known of the cluster is old"),
    errors.MetadataEmptyBrokerList: (RETRY, "the cluster named no brokers"),
    errors.ListenerNotFound: (RETRY, "the leader has no listener of this kind (yet)"),
    errors.ReassignmentInProgress: (RETRY, "the partition moves to other brokers"),
    # Too few replicas, or a broken disk.
    errors.NotEnoughReplicasError: (RETRY, "fewer replicas than min.insync.replicas"),
    errors.NotEnoughReplicasAfterAppendError: (RETRY, "the same, after the record was written"),
    errors.KafkaStorageError: (RETRY, "the broker's disk failed; another broker takes over"),
    errors.LogDirNotFound: (RETRY, "the broker's disk failed"),
    errors.UnknownError: (RETRY, "the broker failed in an unexpected way"),
    # The group's coordinator changed, or the group did.
    errors.CoordinatorNotAvailableError: (RETRY, "the group has no coordinator"),
    errors.GroupCoordinatorNotAvailableError: (RETRY, "the group has no coordinator"),
    errors.NotCoordinatorError: (RETRY, "the coordinator is another broker"),
    errors.NotCoordinatorForGroupError: (RETRY, "the coordinator is another broker"),
    errors.CoordinatorLoadInProgressError: (RETRY, "the coordinator loads its data"),
    errors.GroupLoadInProgressError: (RETRY, "the coordinator loads its data"),
    errors.RebalanceInProgressError: (RETRY, "the group distributes its partitions"),
    errors.IllegalGenerationError: (RETRY, "the group went on without this member"),
    errors.UnknownMemberIdError: (RETRY, "the group does not know this member any more"),
    errors.MemberIdRequired: (RETRY, "the group gives this member an id first"),
    errors.CommitFailedError: (RETRY, "the partitions belong to other members now"),
    errors.IllegalStateError: (RETRY, "the partition is not assigned any more"),
    # Positions in the log.
    errors.OffsetOutOfRangeError: (RETRY, "the log lost its end, or was shortened"),
    errors.NoOffsetForPartitionError: (RETRY, "there is no committed offset"),
    errors.FetchSessionIdNotFound: (RETRY, "the broker forgot the fetch session"),
    errors.InvalidFetchSessionEpoch: (RETRY, "the fetch session is out of step"),
    errors.CorruptRecordException: (RETRY, "a record arrived damaged"),
    errors.InvalidMessageError: (RETRY, "a record arrived damaged"),
    # The idempotent producer. A new connection gets a new producer id.
    errors.ProducerClosed: (RETRY, "the producer was closed meanwhile"),
    errors.ProducerFenced: (RETRY, "another producer has this id"),
    errors.OutOfOrderSequenceNumber: (RETRY, "a record before this one is missing"),
    errors.DuplicateSequenceNumber: (RETRY, "the record was written already"),
    errors.InvalidProducerEpoch: (RETRY, "the producer's epoch has passed"),
    errors.InvalidProducerIdMapping: (RETRY, "the broker does not know this producer id"),
    errors.UnknownProducerId: (RETRY, "the broker forgot this producer id"),
    errors.ConcurrentTransactions: (RETRY, "the producer id is busy"),
    # What lasts until somebody changes the cluster or the settings.
    errors.AuthenticationFailedError: (REFUSED, "user or password refused"),
    errors.SaslAuthenticationFailed: (REFUSED, "user or password refused"),
    errors.AuthenticationMethodNotSupported: (REFUSED, "the broker wants another authentication"),
    errors.TopicAuthorizationFailedError: (REFUSED, "the user may not use the topic"),
    errors.GroupAuthorizationFailedError: (REFUSED, "the user may not use the group"),
    errors.ClusterAuthorizationFailedError: (REFUSED, "the user may not produce idempotently"),
    errors.InvalidTopicError: (REFUSED, "the name of the topic is not allowed"),
    errors.InvalidSessionTimeoutError: (REFUSED, "the broker allows no such session timeout"),
    errors.InvalidGroupIdError: (REFUSED, "the name of the group is not allowed"),
    errors.InconsistentGroupProtocolError: (REFUSED, "other members use another protocol"),
    errors.MessageSizeTooLargeError: (REFUSED, "the topic takes no record of this size"),
    errors.RecordTooLargeError: (REFUSED, "a record is larger than a fetch may be"),
    errors.RecordListTooLargeError: (REFUSED, "the topic takes no batch of this size"),
    errors.PolicyViolationError: (REFUSED, "a policy of the cluster forbids it"),
    errors.UnsupportedVersionError: (REFUSED, "the broker is too old or too new"),
    errors.IncompatibleBrokerVersion: (REFUSED, "the broker is too old or too new"),
    errors.UnrecognizedBrokerVersion: (REFUSED, "the broker is too old or too new"),
}


def treatment(error: BaseException) -> Treatment:
    """Returns how this error is treated. One that is not Kafka's own, such as OSError, means that
    no broker answered."""
    if not isinstance(error, KafkaError):
        return Treatment.RETRY
    return next((MEANINGS[kind][0] for kind in type(error).__mro__ if kind in MEANINGS), REFUSED)
