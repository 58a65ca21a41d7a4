"""The api process: metrics and health over HTTP, without any privilege."""
