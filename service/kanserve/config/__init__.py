"""Settings: schema, sources, reload and generated reference."""
