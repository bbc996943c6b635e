"""Files that messages refer to: read from allowed folders and hosts for the call of a model, and kept nowhere.

What is refused before there is a turn decides ``turnlog_streams.files``; here is what goes wrong when one is read.
"""
