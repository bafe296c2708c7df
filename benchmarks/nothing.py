"""The yardstick: a FastAPI route that does nothing, served the way the gateway is served.

Run as `python -m benchmarks.nothing PORT`.
"""

import sys

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import SecretStr

from gateway.server import server_config
from gateway.settings import Settings
from servicekit.server import tune_garbage_collector

app = FastAPI()


@app.get("/nothing")
async def nothing() -> dict[str, str]:
    return {}


async def main(port: int) -> None:
    # The options of the gateway, so that the application is all that differs.
    settings = Settings(listen=f"127.0.0.1:{port}", token_keys={"unused": SecretStr("-" * 32)})
    config = server_config(settings, app)
    tune_garbage_collector()
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
