"""The command line: `bestiary COMMAND`, or each file run by itself."""
