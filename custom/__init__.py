"""Your own code: sources in `custom/sources/`, models in `custom/models/`; see README.md."""
