"""Frontrow in containers (deploy/compose.yml); from the top of the repository:

    python3 -m harness.containers up              builds the image, starts everything, waits until
                                                  all containers are healthy
    python3 -m harness.containers down            removes containers and networks; DATA=delete: data
                                                  and passwords too
    python3 -m harness.containers roll            replaces the programs by those of this checkout,
                                                  one kind at a time, new ones first
    python3 -m harness.containers backup FILE     dumps the databases of one moment, gzipped
    python3 -m harness.containers restore FILE    restores them from the file, starts everything
    python3 -m harness.containers exec SERVICE COMMAND...    runs a command in one of its containers
    python3 -m harness.containers compose ...     Docker Compose with these settings

settings.py lists the settings. Exit status 2: something is missing or wrong; one sentence names it.
Needs Docker 20.10 with docker-compose 1.29 or Compose v2, gzip, and Python 3.9 with its standard
library only, because a host has no virtual environment.
"""

import sys

# In syntax that much older versions understand.
if sys.version_info < (3, 9):  # noqa: UP036
    sys.stderr.write("frontrow: Python 3.9 or newer is needed: have `python3` be one.\n")
    sys.exit(2)
