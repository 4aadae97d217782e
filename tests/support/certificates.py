"""A certificate for 127.0.0.1, made for a test, and the authority that a client has to trust for it."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.key_pairs import P256, P384, private_pem


class Certificate(NamedTuple):
    """Files in PEM: what the server shows, the key to it, and who has signed it."""

    certificate: Path
    key: Path
    authority: Path


def make_certificate(directory: Path) -> Certificate:
    """Write one to `directory`; it is good for a day."""
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of the tests")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    begins = datetime.now(UTC) - timedelta(hours=1)

    def named(name: x509.Name, public_key: object) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public_key)  # type: ignore[arg-type]
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(begins).not_valid_after(begins + timedelta(days=1))

    authority = named(issuer, P384.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    certificate = named(subject, P256.public_key()).add_extension(address, critical=False)
    made = Certificate(directory / "redis.pem", directory / "redis.key", directory / "authority.pem")
    made.certificate.write_bytes(certificate.sign(P384, SHA256()).public_bytes(Encoding.PEM))
    made.key.write_bytes(private_pem(P256))
    made.authority.write_bytes(authority.sign(P384, SHA256()).public_bytes(Encoding.PEM))
    return made
