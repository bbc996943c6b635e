"""A session whose title, model, instructions or metadata somebody changes after it was made."""

from turnlog_schemas import events as ev
from turnlog_schemas.limits import too_much_metadata
from turnlog_streams.facts import Fact
from turnlog_streams.policy import Policy
from turnlog_streams.refusals import refusal
from turnlog_streams.session.commands import Update
from turnlog_streams.session.state import Session


def update(session: Session, command: Update, policy: Policy) -> list[Fact]:
    """A request that is new. Turns that have begun go on as they are; what changes nothing is no event of its own."""
    said = command.update
    if not session.exists:
        return [refusal(command, "not_found", f"session {session.session_id} does not exist")]
    if session.archived:
        return [refusal(command, "archived", f"session {session.session_id} is archived")]
    if said.model and not policy.allows(said.model):
        return [refusal(command, "model_not_allowed", policy.not_allowed(said.model))]
    metadata = {name: value for name, value in session.metadata.items() if name not in said.remove_metadata}
    metadata |= said.set_metadata
    if (reason := too_much_metadata(metadata)) is not None:
        return [refusal(command, "too_long", f"with what session {session.session_id} has, its {reason}")]
    updated = ev.SessionUpdated(
        title=session.title if said.title is None else said.title,
        model=session.model if said.model is None else said.model or None,
        instructions=session.instructions if said.instructions is None else said.instructions or None,
        metadata=metadata,
    )
    before = ev.SessionUpdated(
        title=session.title,
        model=session.model,
        instructions=session.instructions,
        metadata=dict(session.metadata),
    )
    decided = ev.RequestDecided(
        request_id=command.request_id,
        command_hash=command.command_hash,
        session_id=session.session_id,
        created=False,
        reply=command.reply,
    )
    return [Fact(event=decided)] if updated == before else [Fact(event=updated), Fact(event=decided)]
