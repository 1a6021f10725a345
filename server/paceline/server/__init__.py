"""The Paceline server: Hugging Face text generation over gRPC, batched by one step engine."""
