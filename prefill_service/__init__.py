"""The prefill service: runs prompts in whole batches, and pushes their KV to decode workers."""
