"""BFD as protocols are: the sessions that nobody but the operator asks for, and the state machine as a reference."""
