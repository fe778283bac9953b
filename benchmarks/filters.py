"""Prints what each filter of the example takes among a million items: milliseconds, from the client's side.

Run it by `uv run python benchmarks/filters.py`; it takes a minute. The names have a collation like that of most databases, and
not that of the private server, in which any index finds prefixes. Each filter is asked for ten times on one connection: from the
sixth on, PostgreSQL might stop planning for the values.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from requests import ITEMS, TEMPLATE, Server, run

ROWS = """
DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE items ALTER name TYPE varchar(200) COLLATE %I', collname)
    FROM pg_collation WHERE collprovider = 'c' AND collname NOT IN ('C', 'POSIX') LIMIT 1); END $$;
INSERT INTO items (id, name, price, status)
    SELECT lpad(to_hex(n), 32, '0')::uuid, CASE n % 2 WHEN 0 THEN 'item ' || lpad(n::text, 7, '0') ELSE md5(n::text) END, 1,
        (CASE WHEN n <= 1000 THEN 'active' ELSE 'draft' END)::itemstatus FROM generate_series(1, 1000000) AS n;
VACUUM ANALYZE items;
"""
FILTERS = {
    "nothing": "",
    "a status that most have": "status=draft",
    "a status that the 1,000 oldest have": "status=active",
    "a status that none has": "status=archived",
    "a prefix of half": "name_prefix=item",
    "a prefix of 2,000": "name_prefix=ab",
    "a prefix of 50, the oldest": "name_prefix=item%2000000",
    "a prefix of none": "name_prefix=nothing",
    "both, of none": "status=draft&name_prefix=nothing",
    "a prefix of 5,000, the oldest: the worst case": "name_prefix=item%2000",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(["cookiecutter", "--no-input", "--output-dir", folder, str(TEMPLATE)], TEMPLATE)
        service = Path(folder) / "my-service"
        run(["uv", "run", "alembic", "upgrade", "head"], service)
        try:
            subprocess.run(
                ["uv", "run", "python", "-m", "devdb", "psql", "-qX"], cwd=service, input=ROWS, text=True, check=True
            )
            server = Server(["uv", "run", "uvicorn", "app.main:app"], service, dict(os.environ))
            for name, query in FILTERS.items():
                times = []
                for _ in range(10):
                    start = time.perf_counter()
                    server.get(f"{ITEMS}?{query}", 1)
                    times.append((time.perf_counter() - start) * 1000)
                print(f"{times[0]:8.1f} first {max(times[1:]):8.1f} at most then   {name}")
            server.process.terminate()
            server.process.wait()
        finally:
            run(["uv", "run", "python", "-m", "devdb", "stop"], service)


if __name__ == "__main__":
    main()
