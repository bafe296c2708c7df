"""The whole system on one machine, without Docker.

`Stack` starts, watches and stops Redis, MariaDB, Kafka and the five programs of Frontrow on
127.0.0.1. `make run` uses it with fixed ports and data under `.local/`; tests use it with free
ports and a temporary directory:

    with Stack(tmp_path, Ports.free()) as stack:
        stack.start(seed="small")
        httpx.get(stack.gateway_url + "/health/ready")
        stack.process("payment_service").kill()
        stack.process("payment_service").start(extra_env={"PAYMENT_PROVIDER_TIMEOUT_SECONDS": "1"})

Needs what `harness/bootstrap.sh` installs.
"""

from harness.local.ports import Ports
from harness.local.process import Process
from harness.local.stack import Stack

__all__ = ["Ports", "Process", "Stack"]
