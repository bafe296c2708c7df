"""The yardstick: a FastAPI route that does nothing, on plain uvicorn with httptools and uvloop.

It stays the same whatever serves the gateway, so that results of different versions compare. The
gateway is measured through its real front, and the front's processor time counts as the gateway's.

Run as `python -m benchmarks.nothing PORT`.
"""

import sys

import uvicorn
from fastapi import FastAPI

from servicekit.server import tune_garbage_collector

app = FastAPI()


@app.get("/nothing")
async def nothing() -> dict[str, str]:
    return {}


def main(port: int) -> None:
    tune_garbage_collector()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
