"""Codecs of protocols: bytes to frozen values and back, without I/O."""
