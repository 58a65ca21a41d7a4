"""The control process of one virtual router."""
