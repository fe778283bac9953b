"""Linters find nothing in the document of a baked service, and the clients made from it work under strict settings."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import TIME_LIMIT, Service, environment

NPM = shutil.which("npm")
PACKAGES = [
    "@redocly/cli@2.77.0",
    "@stoplight/spectral-cli@6.16.3",
    "openapi-fetch@0.17.0",
    "openapi-typescript@7.13.0",
    "typescript@5.9.3",
]
GENERATOR = ["openapi-python-client==0.29.1", "mypy==2.4.1", "ruff==0.17.6"]
# Of a service that a template has made, nobody knows the licence, or whom to ask. A probe has no client's errors.
REDOCLY = {"extends": ["recommended"], "rules": {"info-license": "off"}}
PROBES = {
    "openapi.json": {
        "operation-4xx-response": [f"#/paths/~1health~1{name}/get/responses" for name in ("live", "ready")]
    }
}
SPECTRAL = {"extends": ["spectral:oas"], "rules": {"info-contact": "off"}}
# The generator writes this file alike for every document, and httpx' types find fault with it.
MYPY = "[mypy]\nstrict = True\n[mypy-my_service_client.client]\nignore_errors = True\n"
TSCONFIG = {
    "compilerOptions": {
        "strict": True,
        "noUncheckedIndexedAccess": True,
        "exactOptionalPropertyTypes": True,
        "module": "nodenext",
        "target": "es2022",
        "lib": ["es2022", "dom"],
        "types": [],
    },
    "files": ["client.ts"],
}
TYPESCRIPT = """\
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Item = components["schemas"]["ItemCreate"];
type Problem = components["schemas"]["Problem"];
declare const process: { argv: [string, string, string] };
const client = createClient<paths>({ baseUrl: process.argv[2] });

function found<T>(answer: { data?: T; error?: Problem }): T {
  if (answer.data === undefined) throw new Error(answer.error?.detail);
  return answer.data;
}

const body: Item = { name: "of TypeScript", price: "19.90", status: "draft", tags: ["bright"] };
const item = found(await client.POST("/api/v1/items", { body }));
found(await client.POST("/api/v1/items", { body: { ...body, name: "of TypeScript, too" } }));
const first = found(await client.GET("/api/v1/items", { params: { query: { limit: 1 } } }));
const second = found(await client.GET("/api/v1/items", { params: { query: { limit: 1, cursor: first.next_cursor! } } }));
const path = { item_id: item.id };
const changed = found(await client.PATCH("/api/v1/items/{item_id}", { params: { path }, body: { price: 5 } }));
const taken = await client.POST("/api/v1/items", { body });
const problem: Problem | undefined = taken.error;
console.log([second.items[0]?.id === item.id, changed.price, problem?.status, problem?.detail].join("|"));
"""
PYTHON = """\
import sys

from my_service_client import Client
from my_service_client.api.items import create_item, list_items, update_item
from my_service_client.models import ItemCreate, ItemRead, ItemUpdate, PageItemRead, Problem

client = Client(base_url=sys.argv[1])
body = ItemCreate(name="of Python", price="19.90")
item = create_item.sync(client=client, body=body)
assert isinstance(item, ItemRead)
assert isinstance(create_item.sync(client=client, body=ItemCreate(name="of Python, too", price=1)), ItemRead)
first = list_items.sync(client=client, limit=1)
assert isinstance(first, PageItemRead) and first.next_cursor
second = list_items.sync(client=client, limit=1, cursor=first.next_cursor)
assert isinstance(second, PageItemRead)
changed = update_item.sync(item.id, client=client, body=ItemUpdate(price="5"))
assert isinstance(changed, ItemRead)
problem = create_item.sync(client=client, body=body)
assert isinstance(problem, Problem)
print(second.items[0].id == item.id, changed.price, problem.status, problem.detail, sep="|")
"""


@dataclass
class Workshop:
    """A folder with the document of a service that runs at `url`, and npm's packages."""

    folder: Path
    url: str

    def run(self, *command: str | Path) -> str:
        env = {name: value for name, value in environment().items() if name != "NODE_OPTIONS"}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=env | {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def tool(self, name: str, *arguments: str) -> str:
        suffix = ".cmd" if os.name == "nt" else ""
        return self.run(self.folder / f"node_modules/.bin/{name}{suffix}", *arguments)

    def write(self, name: str, content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (self.folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def workshop(service: Service, tmp_path: Path) -> Iterator[Workshop]:
    service.alembic("upgrade", "head")
    with service.serve() as client:
        workshop = Workshop(tmp_path / "workshop", str(client.base_url))
        workshop.folder.mkdir()
        workshop.write("openapi.json", client.get("/openapi.json").json())
        yield workshop


@pytest.mark.skipif(not NPM, reason="there is no npm")
def test_linters_and_a_typescript_client_find_no_fault_with_the_document(workshop: Workshop) -> None:
    assert NPM
    workshop.write("package.json", {"type": "module"})
    workshop.run(NPM, "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES)
    for name, content in {
        "redocly.yaml": REDOCLY,
        ".redocly.lint-ignore.yaml": PROBES,
        ".spectral.yaml": SPECTRAL,
        "tsconfig.json": TSCONFIG,
        "client.ts": TYPESCRIPT,
    }.items():
        workshop.write(name, content)
    totals = json.loads(workshop.tool("redocly", "lint", "--format=json", "openapi.json"))["totals"]
    assert (totals["errors"], totals["warnings"]) == (0, 0)
    workshop.tool("spectral", "lint", "--fail-severity=hint", "openapi.json")
    workshop.tool("openapi-typescript", "openapi.json", "--output", "api.d.ts")
    workshop.tool("tsc", "--project", ".")
    assert workshop.run("node", "client.js", workshop.url).strip() == "true|5.00|409|name already exists"


def test_a_python_client_has_one_class_of_errors_and_works(workshop: Workshop) -> None:
    tools = [argument for package in GENERATOR for argument in ("--with", package)]
    uv = ["uv", "run", "--no-project", *tools]
    workshop.run(
        *uv, "openapi-python-client", "generate", "--path", "openapi.json", "--output-path", "client", "--meta=none"
    )
    (workshop.folder / "client").rename(workshop.folder / "my_service_client")
    models = {path.stem for path in (workshop.folder / "my_service_client/models").glob("*.py")} - {"__init__"}
    assert models == {"health", "item_create", "item_read", "item_status", "item_update", "page_item_read", "problem"}
    workshop.write("use.py", PYTHON)
    workshop.write("mypy.ini", MYPY)
    workshop.run(*uv, "mypy", "my_service_client", "use.py")
    assert workshop.run(*uv, "python", "use.py", workshop.url).strip() == "True|5.00|409|name already exists"
