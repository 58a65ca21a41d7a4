"""BGP-4 on the wire: messages, capabilities, path attributes and NLRI as frozen values."""
