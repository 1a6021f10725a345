"""OpenAI's HTTP API in front of the gRPC service: its JSON in and out, the same messages and methods between."""
