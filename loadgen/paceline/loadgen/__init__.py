"""The Paceline load generator: what batching buys, measured with Locust from the client's side."""
