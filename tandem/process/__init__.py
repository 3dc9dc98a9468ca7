"""What every service process does alike: logs, signals, its gRPC server, its end."""
