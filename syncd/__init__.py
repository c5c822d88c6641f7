"""syncd keeps e-mail-marketing providers in step with the contacts in PostgreSQL."""

__version__ = "0.1.0"
