"""Code of yours: sources in `custom/sources/`, models in `custom/models/`; see README.md."""
