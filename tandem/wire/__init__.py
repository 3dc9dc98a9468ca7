"""Between core's types and the messages of `tandem.v1`, each message's two directions together."""
