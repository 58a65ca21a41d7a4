"""Messages to and from a control process."""
