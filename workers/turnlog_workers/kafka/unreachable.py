"""The sentence for a broker that does not answer: which one was asked, why that one, and what to do."""

from turnlog_workers.base.config import Settings
from turnlog_workers.base.errors import BrokerRefusesError, BrokerUnreachableError
from turnlog_workers.base.json_file import read_json
from turnlog_workers.base.process_lives import process_lives
from turnlog_workers.kafka.refusal import refusal

#: Errors of aiokafka, kafka-python and the system by name: the two libraries have classes of their own.
_NO_CONNECTION = {"KafkaConnectionError", "NoBrokersAvailable", "NodeNotReadyError", "ConnectionRefusedError"}
_NO_ANSWER = {"KafkaTimeoutError", "TimeoutError", "RequestTimedOutError"}


_RIGHTS = "This user lacks a right; docs/settings.md has them by role."


def is_lack_of_right(error: BaseException) -> bool:
    """Does the broker know us and say no? The error of either library."""
    return type(error).__name__.removesuffix("Error").endswith(("AuthorizationFailed", "_AUTHORIZATION_FAILED"))


def _concerning(error: BaseException) -> str:
    names = ", ".join(str(argument) for argument in error.args)
    return f" {names}" if names else ""


def unreachable(settings: Settings, error: BaseException, what: str = "no broker answers") -> BrokerUnreachableError:
    """The error for a broker that failed us. ``what`` is the beginning of its sentence, in front of the address."""
    address = settings.bootstrap_server
    name = type(error).__name__
    if is_lack_of_right(error):
        who = settings.sasl_username if settings.security_protocol.startswith("SASL") else ""
        user = f"user {who!r}" if who else "this user"
        begin = "" if what == "no broker answers" else f"{what}: "
        right = name.removesuffix("Error").removesuffix("Failed").removesuffix("Authorization").lower()
        return BrokerUnreachableError(
            f"{begin}the broker at {address} denies {user} a right ({right}{_concerning(error)}). {_RIGHTS}"
        )
    suspect = name in _NO_CONNECTION or (settings.sasl_mechanism == "OAUTHBEARER" and name in _NO_ANSWER)
    if suspect and (sentence := refusal(settings)):
        return BrokerRefusesError(sentence)
    return BrokerUnreachableError(f"{what} at {address} ({_reason(error)}). {_advice(settings, error)}")


def broke(error: BaseException | None) -> bool:
    """Did a connection end or never come about, so that another try may do? Told by an error and its causes."""
    while error is not None:
        if isinstance(error, BrokerRefusesError):
            return False
        if type(error).__name__ in _NO_CONNECTION:
            return True
        error = error.__cause__
    return False


def _reason(error: BaseException) -> str:
    name = type(error).__name__
    if name in _NO_CONNECTION or "bootstrap" in str(error):
        return "nobody accepts a connection there"
    if name in _NO_ANSWER:
        return "no answer in time"
    text = str(error).removeprefix(f"{name}: ")  # aiokafka's errors begin with their name
    return f"{name}: {text}" if text else name


def _advice(settings: Settings, error: BaseException) -> str:
    stack = read_json(settings.data_dir / "stack.json")
    if stack.get("bootstrap_server") == settings.bootstrap_server:
        where = settings.data_dir.absolute()
        if stack.get("running") and process_lives(stack.get("supervisor_pid")):
            return f"`turnlog up` is running in {where} and starts its broker again: try once more in some seconds."
        return f"That is the stack in {where}, which is not running: start it with `turnlog up`."
    if "bootstrap_server" not in settings.model_fields_set:
        return (
            "No broker was named and no stack was started in this folder, so the default address was tried. Start a "
            "stack with `turnlog up`, or name your broker with --bootstrap-server or TURNLOG_BOOTSTRAP_SERVER."
        )
    return (
        "Is the broker running there? Start one with `turnlog up`, or name yours with --bootstrap-server or "
        f"TURNLOG_BOOTSTRAP_SERVER. {_security(settings)}"
    )


def _security(settings: Settings) -> str:
    if settings.security_protocol == "PLAINTEXT":
        return "If it wants TLS or a password, set TURNLOG_SECURITY_PROTOCOL."
    login = " or the user and password (TURNLOG_SASL_...)" if settings.security_protocol.startswith("SASL") else ""
    return f"If it runs, it may not accept TURNLOG_SECURITY_PROTOCOL={settings.security_protocol}{login}."
