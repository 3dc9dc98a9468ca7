"""The Llama family in one decoder: weights, layers, rotary embedding. Knows nothing of engines."""
