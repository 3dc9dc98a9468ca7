"""The face of Tandem: HTTP and gRPC in, batches for the workers out."""
