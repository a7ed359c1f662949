# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Where vectors live: a table in PostgreSQL with pgvector. Without a server of one's own, the one that pgserver brings."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Iterable

import numpy as np
import pgvector.psycopg
import psycopg

from corpus import Package


@dataclasses.dataclass(frozen=True)
class Found:
    name: str
    synopsis: str
    description: str
    similarity: float  # cosine


class Store:
    """database is a PostgreSQL URI; empty = a private server whose files lie in `directory`. Use it with `with`."""

    def __init__(self, database: str, directory: pathlib.Path) -> None:
        self._server = None
        if not database:
            import pgserver

            directory.mkdir(parents=True, exist_ok=True)
            self._server = pgserver.get_server(directory)
            database = self._server.get_uri()
        self._database = database
        with psycopg.connect(database) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.cleanup()

    def _connect(self) -> psycopg.Connection:
        connection = psycopg.connect(self._database)
        pgvector.psycopg.register_vector(connection)
        return connection

    def create(self, dimensions: int) -> None:
        """The table, if it is not there. A model of another width needs a database of its own."""
        with self._connect() as connection:
            connection.execute(
                f"""CREATE TABLE IF NOT EXISTS packages (
                      name text PRIMARY KEY, synopsis text NOT NULL, description text NOT NULL,
                      digest text NOT NULL,  -- of the text that was embedded
                      model text NOT NULL,   -- the version that embedded it
                      embedding vector({int(dimensions)}) NOT NULL)"""
            )
            connection.execute("CREATE INDEX IF NOT EXISTS packages_embedding ON packages USING hnsw (embedding vector_cosine_ops)")

    def known(self, model: str) -> dict[str, str]:
        """The digest of each text that this version of the model has embedded, by name."""
        with self._connect() as connection:
            return dict(connection.execute("SELECT name, digest FROM packages WHERE model = %s", (model,)).fetchall())

    def put(self, rows: Iterable[tuple[Package, np.ndarray]], model: str) -> None:
        """Adds or replaces them, all or none."""
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """INSERT INTO packages VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (name) DO UPDATE SET synopsis = EXCLUDED.synopsis,
                     description = EXCLUDED.description, digest = EXCLUDED.digest, model = EXCLUDED.model, embedding = EXCLUDED.embedding""",
                [(p.name, p.synopsis, p.description, p.digest, model, vector) for p, vector in rows],
            )

    def count(self) -> int:
        with self._connect() as connection:
            return connection.execute("SELECT count(*) FROM packages").fetchone()[0]

    def search(self, vector: np.ndarray, limit: int) -> list[Found]:
        """The nearest by cosine, nearest first."""
        with self._connect() as connection:
            connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", (str(min(1000, max(100, 2 * limit))),))
            rows = connection.execute(
                """SELECT name, synopsis, description, 1 - (embedding <=> %(v)s) FROM packages ORDER BY embedding <=> %(v)s LIMIT %(n)s""",
                {"v": vector, "n": limit},
            ).fetchall()
        return [Found(*row) for row in rows]
