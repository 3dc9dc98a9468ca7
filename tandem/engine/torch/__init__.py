"""The engine that runs real models, on a CPU or a GPU, by plain torch."""
