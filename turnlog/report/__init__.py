"""`turnlog report`: the newest days of the snapshot as one page with plots. Prints nothing."""
