"""The data plane: the C core, its shared segments, and typed handles on both."""
