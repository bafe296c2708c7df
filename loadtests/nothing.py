"""The yardstick: a FastAPI route that does nothing, served the way the gateway is served.

Run as `python -m loadtests.nothing PORT`.
"""

import sys

import uvicorn
import uvloop
from fastapi import FastAPI

from servicekit.server import tune_garbage_collector

app = FastAPI()


@app.get("/nothing")
async def nothing() -> dict[str, str]:
    return {}


async def main(port: int) -> None:
    # The options of gateway.__main__, so that the application is all that differs.
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
    )
    tune_garbage_collector()
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
