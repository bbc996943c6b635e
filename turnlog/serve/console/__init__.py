"""The console: pages that look into sessions, made on the server, and what may be done from them.

Read models (the snapshot and the log, as pages need them) → pages (pure, templates) → endpoints. Scripts and styles are
files beside them: no build step, and nothing comes from another host.
"""
