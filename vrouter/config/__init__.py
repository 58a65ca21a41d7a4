"""What operators write (schema), and what a control receives (router)."""
