"""The keys of a test cluster: an authority, what it signs, and the key of ServiceAccount tokens."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives for a day."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def path(self) -> Path:
        """Its certificate."""
        return self.folder / "ca.crt"

    @classmethod
    def create(cls, folder: Path) -> Authority:
        """A new one, whose certificate is written to the folder."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("cryoscale test cluster", None)
        unsigned = _begin(name, name, key).add_extension(x509.BasicConstraints(True, None), critical=True)
        made = cls(folder, key, unsigned.sign(key, hashes.SHA256()))
        made.path.write_bytes(made.certificate.public_bytes(serialization.Encoding.PEM))
        return made

    def issue(self, file: str, user: str, group: str | None = None, addresses: tuple[str, ...] = ()) -> Path:
        """``FILE.crt`` and ``FILE.key`` of a server at the addresses, or of a client; the first's path."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(one)) for one in addresses)]
        unsigned = _begin(_name(user, group), self.certificate.subject, key)
        unsigned = unsigned.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = unsigned.sign(self.key, hashes.SHA256())
        path = self.folder / f"{file}.crt"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        write_key(path.with_suffix(".key"), key)
        return path


def token_key(folder: Path) -> tuple[Path, Path]:
    """The private and the public key by which ServiceAccount tokens are signed and known."""
    key = rsa.generate_private_key(65537, 2048)
    write_key(folder / "tokens.key", key)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "tokens.pub").write_bytes(public)
    return folder / "tokens.key", folder / "tokens.pub"


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    """A private key in the old form, which Go 1.19 and OpenSSL both read."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def _name(user: str, group: str | None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
    if group:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    return x509.Name(parts)


def _begin(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
