"""A broker with SASL/SCRAM over TLS, its own certificate authority and an authorizer."""

import datetime
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from turnlog_workers.base.config import Settings
from turnlog_workers.devstack.broker import DevBroker
from turnlog_workers.devstack.broker_ports import HOST, free_port
from turnlog_workers.kafka.kafka_python import connected

_VALID_FOR = datetime.timedelta(days=1)
_CONNECT_S = 30.0


def password(user: str) -> str:
    """The password of a user of :class:`SecuredBroker`."""
    return f"{user}-secret"


class Authority:
    """A certificate authority: ``ca_file`` is what clients trust."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._certificate(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self.ca_file = folder / f"{name}.pem"
        self.ca_file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _VALID_FOR)
            .not_valid_after(now + _VALID_FOR)
        )

    def issue(self, host: str) -> Path:
        """The key and certificate of the server at an address, in one PEM file."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._certificate(subject, key).add_extension(names, False).sign(self._key, hashes.SHA256())
        path = self._folder / "server.pem"
        pem = serialization.Encoding.PEM
        pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path.write_bytes(key.private_bytes(pem, pkcs8, plain) + certificate.public_bytes(pem))
        return path


class SecuredBroker:
    """``address`` is for those who must say who they are; on ``broker.bootstrap_server`` everybody may do everything.

    Users log in with SCRAM-SHA-512, or with a token that nobody signs (OAUTHBEARER): for tests only.
    """

    def __init__(self, folder: Path, more: Mapping[str, str] | None = None) -> None:
        """``more``: settings of Kafka's own."""
        client, controller, sasl = (free_port() for _ in range(3))
        self.authority = Authority(folder, "ca")
        self.address = f"{HOST}:{sasl}"
        modules = "org.apache.kafka.common.security"
        settings = {
            "listeners": f"PLAINTEXT://{HOST}:{client},CONTROLLER://{HOST}:{controller},SASL://{self.address}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{client},SASL://{self.address}",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_SSL",
            "listener.name.sasl.ssl.keystore.type": "PEM",
            "listener.name.sasl.ssl.keystore.location": str(self.authority.issue(HOST)),
            "listener.name.sasl.sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
            "listener.name.sasl.oauthbearer.sasl.jaas.config": (
                f'{modules}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "group.min.session.timeout.ms": "1000",
        }
        self.broker = DevBroker(folder / "broker", port=client, extra_settings={**settings, **(more or {})})

    @property
    def anybody(self) -> Settings:
        """Settings of somebody who may do everything."""
        return Settings(bootstrap_server=self.broker.bootstrap_server)

    def make_users(self, users: Sequence[str], secret: Callable[[str], str] = password) -> None:
        """What ``kafka-configs --add-config SCRAM-SHA-512=[password=...]`` does."""
        wanted = [UserScramCredentialUpsertion(user, ScramMechanism.SCRAM_SHA_512, secret(user)) for user in users]
        with connected(KafkaAdminClient, self.anybody, "test-users", _CONNECT_S) as admin:
            problems = [problem for problem in admin.alter_user_scram_credentials(wanted).values() if problem]
        assert not problems, problems

    def login(self, user: str) -> dict[str, str]:
        """The settings of a user's processes."""
        return {
            "security_protocol": "SASL_SSL",
            "ssl_ca_file": str(self.authority.ca_file),
            "sasl_username": user,
            "sasl_password": password(user),
        }
