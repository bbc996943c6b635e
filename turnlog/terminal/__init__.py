"""What commands and the demo print: data on standard output, everything else on standard error. Decides nothing."""
