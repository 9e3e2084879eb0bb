"""What tests stand on: real NATS servers, a proxy that breaks connections, and waiting for a condition."""
