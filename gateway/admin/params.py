"""Parameters that several routes have."""

from typing import Annotated

from fastapi import Query

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
