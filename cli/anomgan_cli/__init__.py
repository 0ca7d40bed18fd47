"""The command line of anomgan."""
