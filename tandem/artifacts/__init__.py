"""Model folders, tokenizers, chat templates and weight files, readable without torch."""
