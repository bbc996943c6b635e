"""The channel aggregate: which sessions a channel has, and which of them is the active one.

Read ``commands``, then ``state`` (what events do to a channel), then ``decide`` (what commands lead to). Stream name:
the channel. A session is a channel's because somebody said so when it was made. The active one is the session that was
opened last and is not archived, in the order of the channel's own log, never of a clock; chats change nothing.
"""
