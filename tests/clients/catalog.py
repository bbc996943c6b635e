"""The clients: where each is pinned, how it is set up right, and what it cannot do."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients import cases
from turnlog_workers.devstack.broker_files import KAFKA_VERSION

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

_NAMES_ARE_TEXT = "its header names are text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client library and its adapter."""

    name: str
    language: str
    program: Sequence[str]  #: ``python MODULE``, ``node FILE`` or ``go PACKAGE``
    module: str  #: what it is pinned as
    partitioner: str  #: its setting, as Markdown
    default_is_java: bool  #: is what it does without a setting the Java client's way?
    codecs: str  #: what the codecs other than gzip take
    cannot: Mapping[str, str] = field(default_factory=dict)  #: what cases need, and why it is not there

    @property
    def plain(self) -> bool:
        """Do its packages install on a machine that has nothing but Python?"""
        return self.program[0] != "go"

    @property
    def pinned(self) -> str:
        """The version that is pinned."""
        match self.program[0], self.name:
            case _, "Java console tools":
                return KAFKA_VERSION
            case "python", _:
                lock = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
                found = re.search(rf"^{re.escape(self.module)}==(\S+)", lock, flags=re.MULTILINE)
            case "node", _:
                lock = json.loads((HERE / "node" / "package-lock.json").read_text(encoding="utf-8"))
                return str(lock["packages"][f"node_modules/{self.module}"]["version"])
            case _:
                text = (HERE / "go" / "go.mod").read_text(encoding="utf-8")
                found = re.search(rf"^\t{re.escape(self.module)} (\S+)$", text, flags=re.MULTILINE)
        assert found is not None, f"{self.module} is not pinned"
        return found[1]

    def reason_not(self, case: cases.Case) -> str | None:
        """Why it cannot do a case; None: it can."""
        return next((self.cannot[need] for need in case.needs if need in self.cannot), None)


CLIENTS: tuple[Client, ...] = (
    Client(
        name="kafka-python",
        language="Python",
        program=("python", "tests.clients.adapters.kafka_python"),
        module="kafka-python",
        partitioner="none needed",
        default_is_java=True,
        codecs="packages `python-snappy`, `lz4`, `zstandard`",
        cannot={cases.HEADER_BYTES: _NAMES_ARE_TEXT, cases.NULL_HEADER: "it raises"},
    ),
    Client(
        name="aiokafka",
        language="Python",
        program=("python", "tests.clients.adapters.aio_kafka"),
        module="aiokafka",
        partitioner="none needed",
        default_is_java=True,
        codecs="package `cramjam`",
        cannot={cases.HEADER_BYTES: _NAMES_ARE_TEXT},
    ),
    Client(
        name="confluent-kafka",
        language="Python, and every client on librdkafka",
        program=("python", "tests.clients.adapters.confluent"),
        module="confluent-kafka",
        partitioner='`"partitioner": "murmur2_random"`',
        default_is_java=False,
        codecs="all included",
        cannot={
            cases.HEADER_BYTES: _NAMES_ARE_TEXT,
            cases.NO_TIMESTAMP: "it puts the time in where there is none",
        },
    ),
    Client(
        name="Java console tools",
        language="Java",
        program=("python", "tests.clients.adapters.java_console"),
        module="org.apache.kafka:kafka-tools",
        partitioner="none needed",
        default_is_java=True,
        codecs="all included",
        cannot={
            cases.PARTITION: "it cannot name a partition",
            cases.TRANSACTIONS: "it has no transactions",
            cases.HEADER_BYTES: "it takes text",
            cases.ANY_BYTES: "it takes text",
            cases.LINES: "a record is a line",
            cases.TIMESTAMP: "it cannot set one",
            cases.NO_TIMESTAMP: "it cannot set one",
            cases.REFUSALS: "it does not tell",
        },
    ),
    Client(
        name="kafkajs",
        language="JavaScript",
        program=("node", "kafkajs.js"),
        module="kafkajs",
        partitioner="none needed since 2.0 (`Partitioners.DefaultPartitioner`), not `LegacyPartitioner`",
        default_is_java=True,
        codecs="packages `kafkajs-snappy`, `lz4-napi`; zstd from `node:zlib`",
        cannot={
            cases.HEADER_BYTES: _NAMES_ARE_TEXT,
            cases.NULL_HEADER: "it raises",
        },
    ),
    Client(
        name="franz-go",
        language="Go",
        program=("go", "franz"),
        module="github.com/twmb/franz-go",
        partitioner="none needed",
        default_is_java=True,
        codecs="all included; snappy unless told otherwise",
        cannot={cases.NO_TIMESTAMP: "it puts the time in where there is none"},
    ),
    Client(
        name="kafka-go",
        language="Go",
        program=("go", "kafkago"),
        module="github.com/segmentio/kafka-go",
        partitioner="`Balancer: kafka.Murmur2Balancer{}`",
        default_is_java=False,
        codecs="all included",
        cannot={
            cases.TRANSACTIONS: "its writer has none",
            cases.NO_TIMESTAMP: "it puts the time in where there is none",
        },
    ),
    Client(
        name="sarama",
        language="Go",
        program=("go", "sarama"),
        module="github.com/IBM/sarama",
        partitioner="a [partitioner of one's own](../tests/clients/go/sarama/main.go), 25 lines",
        default_is_java=False,
        codecs="all included",
        cannot={cases.NO_TIMESTAMP: "it refuses one before 1970"},
    ),
)

BY_NAME = {client.name: client for client in CLIENTS}
