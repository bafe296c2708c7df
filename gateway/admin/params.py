"""Parameters that several routes have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Query

from gateway.errors import FieldError, InvalidFields
from servicekit.errors import InvalidRequest
from servicekit.rpc_errors import RemoteError

Version = Annotated[
    int,
    Query(
        ge=0,
        le=2**63 - 1,
        description="The version that you have seen; another one is refused with what has changed."
        " 0: any.",
    ),
]
DryRun = Annotated[
    bool, Query(alias="dryRun", description="Say what would change, and change nothing.")
]
PageSize = Annotated[int, Query(alias="pageSize", ge=1, le=100)]
PageToken = Annotated[
    str, Query(alias="pageToken", max_length=256, description="nextPageToken of the page before.")
]


@contextmanager
def listing() -> Iterator[None]:
    """Surrounds the call for a page. Raises InvalidFields for a token that the service did not
    make: everything else of the request is checked before."""
    try:
        yield
    except RemoteError as error:
        if error.code != InvalidRequest.code:
            raise
        problem = FieldError("pageToken", "is not a nextPageToken of this API")
        raise InvalidFields([problem]) from None
