"""Frontrow in containers (deploy/compose.yml); from the top of the repository:

    python3 -m harness.containers up              builds the image, starts everything, waits until
                                                 all is healthy
    python3 -m harness.containers down            ends and removes containers and networks;
                                                 DATA=delete: data and passwords too
    python3 -m harness.containers roll            replaces the programs with what is here now, one
                                                 kind at a time, new ones first
    python3 -m harness.containers backup FILE     dumps the databases, all as of one moment, gzipped
    python3 -m harness.containers restore FILE    puts them back as they are in the file, starts all
    python3 -m harness.containers exec SERVICE COMMAND...    runs a command in one of its containers
    python3 -m harness.containers compose ...     Docker Compose with these settings

What can be set is in settings.py. Exit status 2: something is missing or wrong, which one sentence
says. Needs Docker 20.10 with docker-compose 1.29 or Compose v2, and Python 3.9 with nothing but
its standard library: a host has no virtual environment.
"""

import sys

# In words that much older ones understand.
if sys.version_info < (3, 9):  # noqa: UP036
    sys.stderr.write("frontrow: Python 3.9 or newer is needed: have `python3` be one.\n")
    sys.exit(2)
