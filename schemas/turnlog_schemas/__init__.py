"""The wire: commands, events and reply frames, their Avro schemas and their JSON form.

Nothing here does I/O beyond reading the packaged ``.avsc`` files, and nothing here knows what a session *means*:
that is ``streams``. See ARCHITECTURE.md for the walls between the packages.
"""
