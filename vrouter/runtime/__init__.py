"""The only floor of a control with clock, sockets and segments."""
