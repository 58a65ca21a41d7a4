"""Addresses and prefixes as plain values."""
