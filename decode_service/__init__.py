"""The decode service: receives KV, and generates for all running sequences in every step."""
