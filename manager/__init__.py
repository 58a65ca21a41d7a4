"""The privileged part: couples devices to virtual routers, starts and supervises them."""
