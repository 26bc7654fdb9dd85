"""Bootstraps for other hosts: the real Envoy accepts each, and speaks mutual TLS to services elsewhere."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import re
import subprocess
from dataclasses import replace

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.common.rpc.tls import TLSMaterial
from services.edge.bootstrap import build_json, write
from services.edge.spec import Source, TlsListener, Upstream, Upstreams, UpstreamTls
from services.edge.spec_document import read_spec
from services.local.needs import required_binary
from tests.fakes.edge_specs import EXAMPLE
from tests.integration.edge_process import ASK, Echo, running_edge

pytestmark = pytest.mark.integration

ROUTER, CONFIG = "spiffe://mesh.test/router", "spiffe://mesh.test/config"


@pytest.fixture
async def edge():
    async with running_edge() as running:
        yield running


class Authority:
    """A mesh's own CA."""

    def __init__(self, folder):
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mesh")])
        ca = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self.path = folder / "ca.crt"
        self.path.write_bytes(ca.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject, key):
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    def issue(self, uri):
        name = uri.rpartition("/")[2]
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        leaf = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        leaf = leaf.add_extension(x509.SubjectAlternativeName(names), critical=False)
        material = TLSMaterial(self._folder / f"{name}.crt", self._folder / f"{name}.key", self.path)
        material.certificate_path.write_bytes(
            leaf.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        material.key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return material


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def tls_towards(authority, name):
    own = authority.issue("spiffe://mesh.test/edge")
    return UpstreamTls(
        ca=Source(file=own.ca_path),
        certificate=Source(file=own.certificate_path),
        private_key=Source(file=own.key_path),
        server_names=(name,),
    )


async def verdict(path):
    command = [str(required_binary("envoy")), "--mode", "validate", "--config-path", str(path)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)


async def accepted(path):
    done = await verdict(path)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\[(warning|error|critical)\]|deprecated", done.stderr, re.IGNORECASE), done.stderr


async def validated(spec, folder):
    for suffix in (".json", ".yaml", ".pb"):
        path = folder / f"envoy{suffix}"
        write(spec, path)
        await accepted(path)


async def test_sockets_of_one_host_are_accepted(edge, tmp_path):
    await validated(edge.spec, tmp_path)


async def test_a_name_that_envoy_does_not_know_is_refused(edge, tmp_path):
    """So that the tests here notice a field whose name is spelled as betterproto would."""
    path = tmp_path / "envoy.json"
    path.write_text(build_json(edge.spec).replace("enforcing_consecutive_5xx", "enforcing_consecutive_5_xx"))
    done = await verdict(path)
    assert done.returncode != 0
    assert "enforcing_consecutive_5_xx" in done.stderr


async def test_another_host_with_mutual_tls_is_accepted(edge, authority, tmp_path):
    pem = edge.spec.listeners.tenant

    def everywhere(port):
        return TlsListener(
            address="0.0.0.0",
            port=port,
            certificate=Source(inline=pem.certificate.file.read_text()),
            private_key=Source(inline=pem.private_key.file.read_text()),
        )

    def service(*endpoints):
        return Upstream(endpoints, tls_towards(authority, ROUTER))

    spec = replace(
        edge.spec,
        listeners=replace(edge.spec.listeners, tenant=everywhere(8443), operations=everywhere(8444)),
        upstreams=Upstreams(
            router=service("10.0.0.7:9443", "[2001:db8::7]:9443"),
            config=service("config.mesh.test:9444"),
            audit=service("10.0.0.9:9445"),
        ),
        admin="127.0.0.1:9901",
        access_log="stdout",
    )
    await validated(spec, tmp_path)


async def test_several_routers_by_name_are_accepted(edge, authority, tmp_path):
    routers = Upstream(
        tuple(f"router-{number}.mesh.test:9443" for number in range(1, 9)), tls_towards(authority, ROUTER)
    )
    await validated(replace(edge.spec, upstreams=replace(edge.spec.upstreams, router=routers)), tmp_path)


async def test_the_example_is_accepted_once_its_files_are_there(edge, authority, tmp_path):
    own = authority.issue("spiffe://mesh.test/edge")
    files = {"ca.crt": own.ca_path, "tls.crt": own.certificate_path, "edge.crt": own.certificate_path}
    files |= {"tls.key": own.key_path, "edge.key": own.key_path}
    jwks = tmp_path / "jwks.json"
    jwks.write_text(edge.config.jwks())
    text = json.dumps(EXAMPLE)
    for path in set(re.findall(r'"file": "([^"]+)"', text)):
        text = text.replace(path, str(files.get(path.rpartition("/")[2], jwks)))
    text = text.replace("/var/log/tenantry", str(tmp_path)).replace("/run/tenantry", str(tmp_path))
    await validated(read_spec(json.loads(text)), tmp_path)


async def answer_of_a_router_elsewhere(edge, authority, shows, expected):
    """A call through the edge to a router at a TCP port that demands a client certificate."""
    router, material = grpc.aio.server(handlers=[Echo("far")]), authority.issue(shows)
    port = router.add_secure_port("127.0.0.1:0", material.server_credentials())
    await router.start()
    far = Upstream((f"127.0.0.1:{port}",), tls_towards(authority, expected))
    try:
        async with edge.like_this(upstreams=replace(edge.spec.upstreams, router=far)) as remote:
            return await remote.tenant(ASK, remote.caller())
    finally:
        await router.stop(None)


async def test_a_router_elsewhere_is_reached_over_mutual_tls(edge, authority):
    answer = await answer_of_a_router_elsewhere(edge, authority, ROUTER, ROUTER)
    assert answer["by"] == "far"


async def test_another_service_of_the_same_ca_is_not_taken_for_a_router(edge, authority):
    answer = await answer_of_a_router_elsewhere(edge, authority, CONFIG, ROUTER)
    assert answer is grpc.StatusCode.UNAVAILABLE
