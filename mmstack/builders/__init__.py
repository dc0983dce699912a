"""How a source tree becomes a wheel."""
