"""The tables of reservation_service in a schema of their own, as the version before has them or
later."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
import pytest
from pymysql.cursors import Cursor

from harness.files import REPOSITORY
from harness.local.stack import Stack
from servicekit.migrate import migrate

#: The newest revision of the version before.
REVISION_BEFORE = "0004"
_numbers = itertools.count(1)


class Tables:
    """An empty schema."""

    def __init__(self, servers: Stack) -> None:
        self.number = next(_numbers)
        self.schema = f"upgrade{self.number}"
        servers.mariadb.create_database(self.schema, self.schema)
        self._address = servers.mariadb.address
        self.url = f"mysql://{self.schema}:{self.schema}@{self._address}/{self.schema}"

    def make_those_of_version_before(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Makes them by the same revisions, in a package in `folder`."""
        package = folder / f"{self.schema}_service"
        revisions = REPOSITORY / "reservation_service" / "migrations"
        (package / "migrations").mkdir(parents=True)
        (package / "__init__.py").touch()
        for file in revisions.glob("0*.py"):
            if file.name[:4] <= REVISION_BEFORE:
                shutil.copy(file, package / "migrations")
        patch.syspath_prepend(str(folder))
        migrate(package.name, self.url)

    def expand(self) -> None:
        migrate("reservation_service", self.url, expand=True)

    @contextmanager
    def cursor(self) -> Iterator[Cursor]:
        """A connection of its own, with autocommit, that no version has marked."""
        host, _, port = self._address.partition(":")
        connection = pymysql.connect(
            host=host,
            port=int(port),
            user=self.schema,
            password=self.schema,
            database=self.schema,
            autocommit=True,
            ssl_disabled=True,
        )
        with connection, connection.cursor() as cursor:
            yield cursor
