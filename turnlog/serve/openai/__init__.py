"""OpenAI's protocols on sessions: Responses (a response is a turn, a conversation a session) and Chat Completions.

Pure modules: requests to commands, frames to events. The endpoints beside them do the I/O.
"""
