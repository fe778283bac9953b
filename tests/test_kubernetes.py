"""The option `kubernetes`: its manifests are valid, say what no schema asks for, and run the image as they configure it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
import yaml
from conftest import ROOT, Bake, Service
from containers import IMAGE, LOCKED_UP, NOBODY, Engine, needs_engine, wait_until

SCHEMAS = ROOT.parent / "shared/schemas"  # of CloudNativePG's objects
SECRETS = {  # what the operator puts into the Secret `db-app`, and the README has one put into `mail`
    "username": "app",
    "password": "p@ss w%rd/",
    "url": "smtps://mail.example.com",
}
SHUTDOWN = 10 + 5 + 9  # seconds: requests in flight, the database's connections, telemetry
RESERVED = 10  # connections of a PostgreSQL that are none of the service's: superusers, replication, the migration
PGBOUNCER = """\
[databases]
* = host=db-rw port=5432
[pgbouncer]
listen_addr = *
listen_port = 5432
auth_type = plain
auth_file = /tls/users.txt
pool_mode = {mode}
client_tls_sslmode = require
client_tls_cert_file = /tls/server.pem
client_tls_key_file = /tls/server.pem
server_tls_sslmode = verify-full
server_tls_ca_file = /tls/ca.crt
ignore_startup_parameters = extra_float_digits,options
unix_socket_dir =
{parameters}
"""

Manifest = dict[str, Any]


def build(path: Path, tag: str = "1") -> list[Manifest]:
    """Return what `kubectl apply` would send for the release `tag`."""
    overlay = path / "deploy/production/kustomization.yaml"
    overlay.write_text(re.sub("newTag: .* #", f'newTag: "{tag}" #', overlay.read_text()))
    text = subprocess.check_output(["kubectl", "kustomize", path / "deploy/production"], text=True)
    return list(yaml.safe_load_all(text))


@pytest.fixture(scope="module")
def manifests(path: Path) -> list[Manifest]:
    return build(path)


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    [found] = [m for m in manifests if m["kind"] == kind and name in ("", m["metadata"]["name"])]
    return found


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    for kind in ("Deployment", "Job"):
        yield one(manifests, kind)["spec"]["template"]


def container(manifest: Manifest) -> Manifest:
    [found] = manifest["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def variables(manifest: Manifest) -> dict[str, str]:
    """Return the environment that the manifest's container gets."""
    return {
        each["name"]: each["value"] if "value" in each else SECRETS[each["valueFrom"]["secretKeyRef"]["key"]]
        for each in container(manifest)["env"]
    }


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
def test_the_manifests_are_valid_for_kubernetes(manifests: list[Manifest], version: str, tmp_path: Path) -> None:
    own = [manifest for manifest in manifests if ".cnpg.io/" not in manifest["apiVersion"]]
    assert len(own) == len(manifests) - 3
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(own))
    command = ["kubernetes-validate", "--kubernetes-version", version, "--strict", str(tmp_path / "all.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed ") == len(own)


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="there are no schemas of CloudNativePG's objects")
@pytest.mark.parametrize("kind", ["Cluster", "Pooler", "ScheduledBackup"])
def test_the_manifests_are_valid_for_cloudnativepg(manifests: list[Manifest], kind: str, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(one(manifests, kind)))
    schema = SCHEMAS / f"cnpg-{kind.lower()}.json"
    subprocess.run(["check-jsonschema", "--schemafile", schema, tmp_path / "one.yaml"], check=True)


def test_each_release_has_a_migration_of_its_own(bake: Bake) -> None:
    path = bake()
    jobs = [one(build(path, tag), "Job") for tag in ("2026-11-25", "1.2.3-rc.1")]
    assert [job["metadata"]["name"] for job in jobs] == ["migrate-2026-11-25", "migrate-1.2.3-rc.1"]
    assert [container(job)["image"].rpartition(":")[2] for job in jobs] == ["2026-11-25", "1.2.3-rc.1"]


def test_all_is_in_the_service_s_own_namespace(bake: Bake) -> None:
    manifests = build(bake(project_slug="orders"))
    namespace = one(manifests, "Namespace")["metadata"]
    assert namespace["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert {m["metadata"].get("namespace", m["metadata"]["name"]) for m in manifests} == {"orders"}
    assert container(one(manifests, "Deployment"))["image"] == "registry.example.com/orders:1"


def test_the_pods_are_what_the_standard_of_restricted_pods_admits(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all(set(volume) == {"name", "secret"} for volume in spec["volumes"])
        for each in spec["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def quantity(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(\w*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}[unit]


def test_what_no_schema_knows_holds(manifests: list[Manifest]) -> None:
    app = one(manifests, "Deployment")
    spec, labels = app["spec"], app["spec"]["template"]["metadata"]["labels"]
    assert "replicas" not in spec, "each apply would undo what the autoscaler did"
    for pod in pods(manifests):
        for each in pod["spec"]["containers"]:
            limits = each["resources"]["limits"]
            assert all(quantity(each["resources"]["requests"][n]) <= quantity(limits[n]) for n in ("cpu", "memory"))
            assert all(len(port["name"]) <= 15 for port in each.get("ports", []))
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert one(manifests, "Service")["spec"]["selector"].items() <= labels.items()
    budget = one(manifests, "PodDisruptionBudget")["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert len({"minAvailable", "maxUnavailable"} & set(budget)) == 1
    autoscaler = one(manifests, "HorizontalPodAutoscaler")["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == app["metadata"]["name"]
    assert budget["maxUnavailable"] < autoscaler["minReplicas"]
    for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()
    [rule] = one(manifests, "Ingress")["spec"]["rules"]
    assert rule["host"] == variables(app)["ALLOWED_HOSTS"]
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "app", "port": {"name": "http"}}


def test_the_probes_and_the_grace_fit_the_service(manifests: list[Manifest]) -> None:
    app, job = one(manifests, "Deployment"), one(manifests, "Job")
    spec = container(app)
    ports = {port["name"] for port in spec["ports"]}
    asked = {name: spec[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startup": "/health/live",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    assert {get["port"] for get in asked.values()} <= ports
    assert spec["readinessProbe"]["timeoutSeconds"] > 2, "the endpoint says why within two seconds"
    sleep = spec["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert app["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > sleep + SHUTDOWN
    assert app["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert app["spec"]["progressDeadlineSeconds"] > job["spec"]["activeDeadlineSeconds"]


def test_the_connections_of_all_pods_fit_the_server(manifests: list[Manifest]) -> None:
    app, autoscaler = one(manifests, "Deployment"), one(manifests, "HorizontalPodAutoscaler")
    pooler, cluster = one(manifests, "Pooler")["spec"], one(manifests, "Cluster")["spec"]
    pods_at_most = autoscaler["spec"]["maxReplicas"] + app["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    clients = pods_at_most * (int(variables(app)["DATABASE_POOL_SIZE"]) + 1)
    parameters = pooler["pgbouncer"]["parameters"]
    assert clients <= int(parameters["max_client_conn"])
    pooled = pooler["instances"] * int(parameters["default_pool_size"])
    assert clients + pooled + RESERVED <= int(cluster["postgresql"]["parameters"]["max_connections"])


def test_the_database_loses_nothing_that_was_committed(manifests: list[Manifest]) -> None:
    cluster, backup = one(manifests, "Cluster")["spec"], one(manifests, "ScheduledBackup")["spec"]
    assert cluster["instances"] - 1 > cluster["postgresql"]["synchronous"]["number"]
    assert cluster["postgresql"]["synchronous"]["dataDurability"] == "required"
    assert backup["method"] == "volumeSnapshot"
    assert set(cluster["backup"]) == {backup["method"]}, "barmanObjectStore is deprecated"
    assert backup["cluster"]["name"] == one(manifests, "Cluster")["metadata"]["name"]


def test_the_network_lets_pass_what_the_service_needs(manifests: list[Manifest]) -> None:
    policy = one(manifests, "NetworkPolicy", "app")["spec"]
    [selected] = policy["podSelector"]["matchExpressions"]
    assert all(pod["metadata"]["labels"][selected["key"]] in selected["values"] for pod in pods(manifests))
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {5432, 53, 587, 465}
    [incoming] = policy["ingress"]
    assert incoming["ports"] == [{"port": container(one(manifests, "Deployment"))["ports"][0]["containerPort"]}]


def hosts(url: str) -> set[str]:
    return set(urlsplit(url).netloc.split(","))


def test_each_url_leads_where_it_should(manifests: list[Manifest]) -> None:
    app, job = variables(one(manifests, "Deployment")), variables(one(manifests, "Job"))
    cluster, pooler = (one(manifests, kind)["metadata"]["name"] for kind in ("Cluster", "Pooler"))
    assert hosts(app["DATABASE_URL"]) == {pooler}
    assert app["DATABASE_POOLER"] == one(manifests, "Pooler")["spec"]["pgbouncer"]["poolMode"]
    assert hosts(app["DATABASE_REPLICA_URL"]) == {f"{cluster}-ro", f"{cluster}-rw"}
    assert hosts(job["MIGRATION_DATABASE_URL"]) == {f"{cluster}-rw"}
    for pod in pods(manifests):
        [volume] = pod["spec"]["volumes"]
        assert volume["secret"]["secretName"] == f"{cluster}-ca"
        for each in pod["spec"]["containers"]:
            named = {v["valueFrom"]["secretKeyRef"]["name"] for v in each["env"] if "valueFrom" in v}
            assert named - {"mail"} == {f"{cluster}-app"}


def test_the_settings_take_the_environment_of_the_manifests(
    users_service: Service, manifests: list[Manifest], tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").touch()
    for kind in ("Deployment", "Job"):
        env = {
            name: value.replace("/etc/database", str(tmp_path))
            for name, value in variables(one(manifests, kind)).items()
        }
        fields = users_service.run(
            "python",
            "-c",
            "from app.settings import *; from app.auth.settings import AuthSettings\n"
            "print(*Settings.model_fields, *MigrationSettings.model_fields, *AuthSettings.model_fields)",
        ).stdout
        assert {name.lower() for name in env} - {"pguser", "pgpassword", "forwarded_allow_ips"} <= set(fields.split())
        if kind == "Deployment":
            users_service.run("python", "-c", "from app.settings import *; load_settings(Settings)", env=env)
        users_service.run("python", "-c", "from app.settings import *; load_settings(MigrationSettings)", env=env)


@needs_engine
def test_the_manifests_run_the_service(engine: Engine, manifests: list[Manifest], tmp_path: Path) -> None:
    """The image, with the user, command, environment and files that the manifests name, on a cluster's certificate."""
    app, job, pooler = (one(manifests, kind) for kind in ("Deployment", "Job", "Pooler"))
    cluster = one(manifests, "Cluster")["spec"]
    tls, ca = tmp_path / "tls", tmp_path / "ca"
    for folder in (tls, ca):
        folder.mkdir()
        folder.chmod(0o755)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tls / "ca.crt")
    authority.cert_pem.write_to_path(ca / "ca.crt")
    names = [
        f"db-{kind}" for kind in ("rw", "r", "ro")
    ]  # what the operator writes into a certificate of its own accord
    certificate = authority.issue_cert(*names, *cluster["certificates"]["serverAltDNSNames"])
    certificate.private_key_and_cert_chain_pem.write_to_path(tls / "server.pem")
    (tls / "users.txt").write_text('"{username}" "{password}"\n'.format_map(SECRETS))
    settings = pooler["spec"]["pgbouncer"]
    lines = "\n".join(f"{name} = {value}" for name, value in settings["parameters"].items())
    (tls / "pgbouncer.ini").write_text(PGBOUNCER.format(mode=settings["poolMode"], parameters=lines))
    for file in tls.iterdir():
        shutil.chown(file, NOBODY, NOBODY)
        file.chmod(0o600)

    with ExitStack() as stack:
        engine("network", "create", "cluster")
        stack.callback(engine, "network", "rm", "cluster")

        def start(*arguments: str) -> str:
            name = engine("run", "--detach", "--network=cluster", *arguments).stdout.strip()
            stack.callback(engine, "rm", "--force", "--volumes", name)
            return name

        def sql(query: str, user: str = "postgres") -> str:
            return engine("exec", db, "psql", "--host=127.0.0.1", f"--username={user}", "-XAtc", query).stdout.strip()

        files = [f"--mount=type=bind,source={tls},target=/tls,readonly"]
        ssl = [f"ssl_{name}_file=/tls/server.pem" for name in ("cert", "key")]
        more = [f"{name}={value}" for name, value in cluster["postgresql"]["parameters"].items()]
        options = [word for setting in ("ssl=on", *ssl, *more) for word in ("-c", setting)]
        aliases = [f"--network-alias={name}" for name in names]
        db = start(*files, *aliases, "--env=POSTGRES_PASSWORD=x", "--env=PGPASSWORD=x", "postgres:18", *options)
        wait_until(lambda: engine("exec", db, "pg_isready", "--host=127.0.0.1", check=False).returncode == 0)
        sql("CREATE ROLE {username} LOGIN PASSWORD '{password}'".format_map(SECRETS))
        sql("CREATE DATABASE app OWNER app")
        pgbouncer = start(
            *files,
            "--network-alias=db-pooler",
            f"--user={NOBODY}",
            "--entrypoint=pgbouncer",
            "postgres:18",
            "/tls/pgbouncer.ini",
        )

        def arguments(manifest: Manifest) -> list[str]:
            [mount] = container(manifest)["volumeMounts"]
            user = manifest["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
            memory = container(manifest)["resources"]["limits"]["memory"].removesuffix("i")
            return [
                *LOCKED_UP,
                f"--memory={memory}",
                f"--user={user}",
                f"--mount=type=bind,source={ca},target={mount['mountPath']},readonly",
                *(f"--env={name}={value}" for name, value in variables(manifest).items()),
                IMAGE,
                *container(manifest).get("command", []),
            ]

        engine("run", "--rm", "--network=cluster", *arguments(job))
        service = start("--publish=127.0.0.1:8000:8000", *arguments(app))
        host = variables(app)["ALLOWED_HOSTS"]
        wait_until(lambda: engine.inspect(service, ".State.Health.Status") == "healthy")
        status, said = engine.request("GET", "/health/ready")
        assert status == 200, said + engine("logs", service).stdout + engine("logs", pgbouncer).stderr
        status, item = engine.request("POST", "/api/v1/items", json.dumps({"name": "Lamp", "price": 20}), host)
        assert status == 201, item
        read = f"/api/v1/items/{json.loads(item)['id']}"
        assert engine.request("GET", read, host=host) == (200, item)
        assert engine.request("GET", read)[0] == 400, "for no other host"
        encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'app'"
        assert sql(encrypted) == "t"
        engine("rm", "--force", pgbouncer)
        assert engine.request("POST", "/api/v1/items", json.dumps({"name": "Desk", "price": 20}), host)[0] == 503
        assert engine.request("GET", read, host=host) == (200, item), "reads do not pass the pooler"
