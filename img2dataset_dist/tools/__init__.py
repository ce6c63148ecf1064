"""Tools on datasets that exist: one file and one line in `cli.COMMANDS` each."""
