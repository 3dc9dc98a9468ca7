"""Other servers on the same machine, each started as its own documentation has it."""
