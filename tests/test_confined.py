"""MemoryDenyWriteExecute and the system-call filter, with our real dependencies.

The daemon runs under the units' own settings, translated by tests/confined.py.
"""

from __future__ import annotations

import ctypes.util
import errno
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import needs
import orjson
import pytest
import service
from cryptography.fernet import Fernet
from service import Service

from syncd.secrets import Secrets, variable

TESTS = Path(__file__).parent
UNIT = TESTS.parent / "systemd" / "syncd.service"


@pytest.fixture(scope="module")
def under() -> list[str]:
    """The command that confines."""
    needs.program("systemd-analyze")
    if ctypes.util.find_library("seccomp") is None:
        needs.missing("libseccomp is not installed")
    command = [sys.executable, str(TESTS / "confined.py"), str(UNIT)]
    ran = subprocess.run([*command, sys.executable, "-c", ""], capture_output=True, timeout=180)
    if ran.returncode and b"seccomp_load" in ran.stderr:
        needs.missing("seccomp filters cannot be loaded here")
    assert ran.returncode == 0, ran.stderr
    return command


def run(under: list[str], program: str) -> str:
    ran = subprocess.run([*under, sys.executable, "-c", program], capture_output=True, text=True,
                         timeout=180)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


CALLED = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
for name, args in {calls}:
    ctypes.set_errno(0)
    getattr(libc, name)(*args)
    print(name, ctypes.get_errno())
"""
ANONYMOUS = 0x22
REFUSED = [
    ("mmap", (0, 4096, 7, ANONYMOUS, -1, 0), errno.EPERM),  # read, write, execute
    ("unshare", (0x10000000,), errno.EPERM),  # a user namespace
    ("socket", (16, 3, 0), errno.EAFNOSUPPORT),  # netlink
    ("socket", (17, 3, 0), errno.EAFNOSUPPORT),  # raw packets
    ("ptrace", (0, 0, 0, 0), errno.EPERM),
    ("mount", (0, 0, 0, 0, 0), errno.EPERM),
    ("chroot", (b"/",), errno.EPERM),
    ("init_module", (0, 0, 0), errno.EPERM),
    ("sched_setaffinity", (0, 0, 0), errno.EPERM),
]


def test_it_is_confined_indeed(under: list[str]) -> None:
    said = run(under, CALLED.format(calls=[(name, args) for name, args, _ in REFUSED]))

    assert said.split("\n")[:-1] == [f"{name} {number}" for name, _, number in REFUSED]


LIBRARIES = """
import aiohttp, apscheduler, asyncpg, cryptography, lxml.etree, orjson, prometheus_client, pydantic
import asyncio, datetime, pathlib, ssl, sys, tempfile, uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from aiohttp import web

async def main():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
            .public_key(key.public_key()).serial_number(1).not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .sign(key, hashes.SHA256()))
    pem = serialization.Encoding.PEM
    with tempfile.NamedTemporaryFile() as file:
        file.write(made.public_bytes(pem) + key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        file.flush()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(file.name)
        client = ssl.create_default_context(cafile=file.name)
    async def answer(request):
        return web.Response(text=request.scheme)
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "localhost", 0, ssl_context=server)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"https://localhost:{port}/", ssl=client) as told:
            print(await told.text(), lxml.etree.fromstring("<a>1</a>").text, orjson.loads("[2]"))
    await runner.cleanup()

uvloop.run(main())
"""


def test_every_library_works_and_so_does_tls(under: list[str]) -> None:
    assert run(under, LIBRARIES) == "https 1 [2]\n"


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 12)
        yield made


async def test_the_daemon_serves_under_the_units_restrictions(
    syncd: Service, under: list[str]
) -> None:
    """A sealed secret, JSON and XML, changes, the admin listener, SIGTERM."""
    box = await syncd.sandbox()
    await syncd.destination("shop", box)
    xml = await syncd.sandbox("constantcontact")
    await syncd.db.execute(
        "insert into syncd.destination (name, provider, options, credential, per_second)"
        " values ('xml', 'constantcontact', $1, 'shop_xml', 50)",
        orjson.dumps({"base_url": xml.url}).decode(),
    )
    key = Fernet.generate_key().decode()
    demo = dict(xml.state.demo)
    syncd.secrets.add(demo["password"])
    kept = Secrets(await syncd.pool(), {}, [key])
    await kept.set("shop_xml", orjson.dumps(demo).decode())
    await kept.set("shop", syncd.environ.pop(variable("shop")))
    syncd.environ["SYNCD_SECRET_KEY"] = key
    syncd.under = [*under, sys.executable]

    daemon = await syncd.daemon(admin="127.0.0.1:0")
    await syncd.in_step()
    await syncd.db.execute("update syncd.contact set company = 'Confined' where id < 'c00005'")
    await syncd.in_step()

    await syncd.same("shop")
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert await daemon.terminated() == 0
