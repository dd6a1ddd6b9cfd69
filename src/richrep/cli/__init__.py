"""The command line: reads options, calls one protocol, prints one report."""
