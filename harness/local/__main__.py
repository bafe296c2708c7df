"""python -m harness.local run|stop|clean (see `make help`)."""

from __future__ import annotations

import argparse
import os
import sys

from harness.errors import UserError
from harness.local import supervisor
from harness.local.stopping import Stopped, stoppable


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.local", description=__doc__)
    parser.add_argument("action", choices=["run", "stop", "clean"])
    action = parser.parse_args().action
    with stoppable():
        try:
            match action:
                case "run":
                    return supervisor.run(os.environ)
                case "stop":
                    return supervisor.stop_running()
                case _:
                    return supervisor.clean()
        except Stopped as stopped:
            return stopped.status
        except UserError as error:
            print(f"frontrow: {error}", file=sys.stderr)
        except PermissionError as error:
            print(
                f"frontrow: No permission for {error.filename}: it probably belongs to another user"
                f" who ran this before; make {supervisor.LOCAL} yours with chown -R, or delete it.",
                file=sys.stderr,
            )
        except OSError as error:
            print(f"frontrow: {error.strerror}: {error.filename or 'the disk'}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
