"""Routes leak between the routers of a patch link, where both ends are configured so."""
